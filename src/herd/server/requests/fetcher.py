"""Images from the network: the one door out, for services started with `--remote-media`.

A name is resolved once, every address that it has must be a public one, and the connection goes to exactly the address
that was checked: a second look-up could answer otherwise (rebinding). Redirects start over. Size and time are bounded
while bytes come. No cookies, no credentials, no proxy settings.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from urllib.parse import SplitResult, urljoin, urlsplit

import h11

from herd.errors import BadMedia, Forbidden, NetworkError, fail
from herd.lanes import waiting
from herd.media.limits import IMAGE_LIMITS

MOST_REDIRECTS = 3
WHOLE_S = 20.0
"""Seconds for all of a fetch, redirects included."""
PORTS = {"http": 80, "https": 443}


async def fetch(url: str, where: str, owner: str = "") -> bytes:
    """The content of an address. owner: the lane in which its name is looked up.

    Raises BadMedia (not an address, too large), Forbidden (not public), NetworkError.
    """
    try:
        async with asyncio.timeout(WHOLE_S):
            for _ in range(MOST_REDIRECTS + 1):
                status, location, body = await _get(url, where, owner)
                if status in (301, 302, 303, 307, 308) and location:
                    url = _joined(url, location, where)
                elif status == 200:
                    return body
                else:
                    fail(NetworkError, f"{where}: the server answered {status}")
    except TimeoutError:
        fail(NetworkError, f"{where}: no image within {WHOLE_S:.0f} s")
    except (OSError, h11.ProtocolError, EOFError) as error:
        fail(NetworkError, f"{where}: {type(error).__name__}")
    return fail(NetworkError, f"{where}: more than {MOST_REDIRECTS} redirects")


async def _get(url: str, where: str, owner: str) -> tuple[int, str, bytes]:
    """Send one request; returns (status, address that it redirects to, body)."""
    parts = _parts(url, where)
    host = parts.hostname
    assert host is not None
    address, port = await _public(host, parts.port or PORTS[parts.scheme], where, owner)
    secure = await waiting().run(owner, ssl.create_default_context) if parts.scheme == "https" else None
    reader, writer = await asyncio.open_connection(
        address, port, ssl=secure, server_hostname=host if secure is not None else None
    )
    try:
        return await _exchange(reader, writer, parts, where)
    finally:
        writer.close()


def _parts(url: str, where: str) -> SplitResult:
    """A URL that may be fetched, split. Raises BadMedia, Forbidden."""
    if not url.isascii() or not url.isprintable() or " " in url or len(url) > 8192:
        fail(BadMedia, where, got="an address with other than printable ASCII", expected="http(s)://HOST/...")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        fail(BadMedia, where, got="no address", expected="http(s)://HOST/...")
    if parts.scheme not in PORTS or not parts.hostname:
        fail(Forbidden, where, got=f"an address of kind {parts.scheme!r}", expected="http or https")
    if parts.username is not None or parts.password is not None:
        fail(Forbidden, where, got="credentials in an address", expected="none")
    if port not in (None, 80, 443, 8080, 8443):
        fail(Forbidden, f"{where}: port", got=port, expected="80, 443, 8080 or 8443")
    if not _is_host(parts.hostname):
        fail(BadMedia, where, got="an address whose host is no name", expected="http(s)://HOST/...")
    return parts


def _joined(url: str, location: str, where: str) -> str:
    """The address that a redirect leads to. Raises NetworkError."""
    try:
        return urljoin(url, location)
    except ValueError:
        fail(NetworkError, f"{where}: the server redirects to no address")


def _is_host(host: str) -> bool:
    """Whether it is an address, or a name that the DNS can have (RFC 1035: labels of 1 to 63, 253 in all)."""
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    labels = host.removesuffix(".").split(".")
    return len(host) <= 254 and all(
        0 < len(label) <= 63 and label.replace("-", "").replace("_", "").isalnum() for label in labels
    )


async def _public(host: str, port: int, where: str, owner: str) -> tuple[str, int]:
    """The first address and port of a host, if all of its addresses are public. Raises Forbidden, NetworkError."""
    try:
        found = await waiting().run(owner, lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except OSError:
        fail(NetworkError, f"{where}: no such host", got=host)
    addresses = [info[4][0] for info in found]
    for address in addresses:
        if not is_public(str(address)):
            fail(
                Forbidden, f"{where}: {host} is not a public address", do="send the image as data:image/...;base64,..."
            )
    return str(addresses[0]), port


def is_public(address: str) -> bool:
    """Whether an address is one of the whole internet: not this machine, a private network, or one in disguise."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if ip in ipaddress.ip_network("64:ff9b::/96"):  # NAT64 (RFC 6052)
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or ip.is_loopback)


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, parts: SplitResult, where: str
) -> tuple[int, str, bytes]:
    connection = h11.Connection(h11.CLIENT)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [("Host", parts.netloc), ("Accept", "image/*"), ("Connection", "close"), ("User-Agent", "herd")]
    sent = connection.send(h11.Request(method="GET", target=target, headers=headers))
    writer.write((sent or b"") + (connection.send(h11.EndOfMessage()) or b""))
    await writer.drain()
    status, location, body = 0, "", bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(1 << 16))
        elif isinstance(event, h11.Response):
            status = event.status_code
            found = dict(event.headers.raw_items())
            named = {name.lower(): value for name, value in found.items()}
            location = named.get(b"location", b"").decode("latin-1")
            declared = named.get(b"content-length", b"0")
            if status != 200:
                return status, location, b""
            if declared.isdigit() and int(declared) > IMAGE_LIMITS.file_bytes:
                fail(BadMedia, where, got=f"{int(declared)} bytes", expected=f"at most {IMAGE_LIMITS.file_bytes}")
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > IMAGE_LIMITS.file_bytes:
                fail(BadMedia, where, got="more bytes", expected=f"at most {IMAGE_LIMITS.file_bytes}")
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            return status, location, bytes(body)
