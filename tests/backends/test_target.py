"""Where requests may go, and a key that shows itself nowhere."""

import copy
import logging
import pickle
import ssl
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from herd.backends.target import Secret, Target
from herd.backends.transport import Transport
from herd.errors import UsageError

KEY = "sk-canary-0123456789"


def target(**fields: object) -> Target:
    return Target(**{"name": "there", "base_url": "https://host.example/v1", "model": "m", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "show",
    [repr, str, "{}".format, "{!r:>40}".format, lambda s: "%s" % s, lambda s: repr([s, {"key": s}])],  # noqa: UP031
)
def test_a_key_shows_itself_nowhere(show: object) -> None:
    for one in (Secret(KEY), target(key=Secret(KEY))):
        assert KEY not in show(one) and "canary" not in show(one)  # type: ignore[operator]


def test_a_key_is_neither_logged_nor_copied_out(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger().warning("%s %r", Secret(KEY), target(key=Secret(KEY)))
    assert "canary" not in caplog.text
    for steal in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match="not written down"):
            steal(Secret(KEY))


@pytest.mark.parametrize("key", ["", "a b", "a\nHost: evil", "schlüssel", "x" * 8193])
def test_a_key_that_no_header_carries_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(UsageError) as caught:
        Secret(key)
    assert not key or key not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "", "host", "ftp://host/v1", "file:///etc/passwd", "http://", "https://u:p@host/v1", "https://host/v1#part",
        "https://host:0/v1", "https://host:99999/v1", "https://ho st/v1", "https://host\\@evil/v1", "https://[::1/v1",
        "https://höst/v1", "https://host/" + "x" * 2048, "https://u:p q@host/v1", "https://u:pä@host/v1",
        "ftp://u:p@p@host/v1", "https://u:p@host\\/v1", "https://u:p@host/v1#part", "https://u:p@host:0/v1",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError) as caught:
        target(base_url=address)
    assert "u:p" not in str(caught.value) and "p@host" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["https", "HTTPS", "Https", "hTTps"])
def test_certificates_are_verified_however_the_scheme_is_spelt(scheme: str) -> None:
    found = target(base_url=f"{scheme}://host.example/V1")
    assert found.base_url == "https://host.example/V1"
    object.__setattr__(found, "base_url", f"{scheme}://host.example/V1")  # nor does the transport rely on it
    made: dict[str, Any] = {}
    transport = Transport(found)
    transport._http = SimpleNamespace(Timeout=httpx.Timeout, AsyncClient=lambda **given: made.update(given))
    transport._client()
    assert made["verify"].verify_mode is ssl.CERT_REQUIRED and made["verify"].check_hostname


@pytest.mark.parametrize(
    "host", ["host.example", "10.0.0.1", "192.168.1.2", "localhost.evil.example", "127.0.0.1.nip.io"]
)
def test_a_key_never_goes_over_plain_http_beyond_this_machine(host: str) -> None:
    with pytest.raises(UsageError, match="plain http"):
        target(base_url=f"http://{host}/v1", key=Secret(KEY))
    assert target(base_url=f"http://{host}/v1").key is None
    assert target(base_url=f"https://{host}/v1", key=Secret(KEY)).key is not None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]"])
def test_on_this_machine_it_may(host: str) -> None:
    assert target(base_url=f"http://{host}:8080/v1", key=Secret(KEY)).key == Secret(KEY)


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil"}, {"authorization": "x"}, {"X A": "b"}, {"X": "a\r\nHost: evil"}, {"Cookie": "a"}, {"X": "ü"}],
)
def test_headers_that_are_not_the_targets_own_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="headers"):
        target(headers=headers)


def test_a_query_of_the_address_stays_behind_the_path() -> None:
    azure = target(base_url="https://r.services.ai.azure.com/models?api-version=2024-05-01-preview")
    assert azure.url("/chat/completions").endswith("/models/chat/completions?api-version=2024-05-01-preview")
    assert target(base_url="https://host/v1/").url("/models") == "https://host/v1/models"
