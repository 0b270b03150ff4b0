"""Where the records of an uncompressed zip archive lie, from its central directory, checked before anything is read.

Format: PKWARE's APPNOTE 6.3, with zip64; of it only what PyTorch writes: stored records, one disk, no encryption. Two
records may not share a byte, so an archive holds at most what its size is: no bombs.
"""

import struct
from dataclasses import dataclass
from typing import Any, NoReturn

from herd.errors import BadCheckpoint, fail

MAX_RECORDS = 65_536
MAX_DIRECTORY_BYTES = 32 << 20
MAX_NAME_BYTES = 512
_END, _END64, _LOCATOR, _ENTRY, _LOCAL = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", b"PK\x03\x04"


@dataclass(frozen=True)
class ZipRecord:
    """A record: `size` bytes from `start` of the file on."""

    start: int
    size: int
    crc: int


def zip_records(file_name: str, data: Any) -> dict[str, ZipRecord]:
    """Records by name of the archive in `data`, a mapped file. Raises BadCheckpoint: one line."""
    return _Directory(file_name, data).records


class _Directory:
    def __init__(self, file_name: str, data: Any) -> None:
        self.file_name, self.data = file_name, data
        self.records: dict[str, ZipRecord] = {}
        count, size, start = self._end()
        if count > MAX_RECORDS or size > MAX_DIRECTORY_BYTES:
            self._bad(f"directory of {count} records in {size} bytes", f"at most {MAX_RECORDS}")
        if start + size > len(data):
            self._bad(f"directory at byte {start}", f"within the file's {len(data)}: cut off?")
        self._entries(data[start : start + size], count)
        self._check_apart(start)

    def _end(self) -> tuple[int, int, int]:
        """Number of records, size and start of the directory."""
        data = self.data
        low = max(0, len(data) - 65_557)
        tail = data[low:]
        at = tail.rfind(_END)
        if at < 0 or len(tail) - at < 22:
            self._bad("no end of a directory", "a whole zip archive: cut off?")
        disk, first_disk, here, count, size, start, _ = struct.unpack_from("<HHHHIIH", tail, at + 4)
        at += low
        if at >= 20 and data[at - 20 : at - 16] == _LOCATOR:
            (end64,) = struct.unpack("<Q", data[at - 12 : at - 4])
            found = data[end64 : end64 + 56] if end64 < len(data) else b""
            if len(found) < 56 or not found.startswith(_END64):
                self._bad("a zip64 locator that points nowhere", "the zip64 end of the directory")
            disk, first_disk, here, count, size, start = struct.unpack_from("<IIQQQQ", found, 16)
        if disk or first_disk or here != count:
            self._bad("parts of an archive on several disks", "one file")
        return count, size, start

    def _entries(self, directory: bytes, count: int) -> None:
        at = 0
        for _ in range(count):
            if directory[at : at + 4] != _ENTRY or len(directory) - at < 46:
                self._bad(f"directory entry {len(self.records)}", "an entry: cut off or damaged")
            _, _, flags, method, _, _, crc, packed, size, n, extra, comment, disk, _, _, start = struct.unpack_from(
                "<HHHHHHIIIHHHHHII", directory, at + 4
            )
            name = self._name(directory[at + 46 : at + 46 + n])
            packed, size, start = self._zip64(directory[at + 46 + n : at + 46 + n + extra], packed, size, start)
            if flags & 1:
                self._bad(f"{name}: encrypted", "plain records")
            if method != 0 or packed != size:
                self._bad(f"{name}: compressed (method {method})", "stored records, as PyTorch writes them")
            if disk not in (0, 0xFFFF):
                self._bad(f"{name}: on disk {disk}", "one file")
            if name in self.records:
                self._bad(f"{name} twice", "one record of a name")
            self.records[name] = ZipRecord(self._data_start(name, start, n, size), size, crc)
            at += 46 + n + extra + comment
        if at != len(directory):
            self._bad(f"{len(directory) - at} bytes after the last entry of the directory", "none")

    def _name(self, raw: bytes) -> str:
        if len(raw) > MAX_NAME_BYTES:
            self._bad(f"a name of {len(raw)} bytes", f"at most {MAX_NAME_BYTES}")
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            self._bad("a name that is not UTF-8", "UTF-8")
        parts = name.split("/")
        if not name.isprintable() or "\\" in name or ":" in name or not all(parts) or ".." in parts or "." in parts:
            self._bad(f"a record called {name}", "plain names in folders")
        return name

    def _zip64(self, extra: bytes, packed: int, size: int, start: int) -> tuple[int, int, int]:
        """Sizes and start, from the zip64 field where the short ones are full."""
        values = [size, packed, start]
        if 0xFFFFFFFF not in values:
            return packed, size, start
        at = 0
        while at + 4 <= len(extra):
            kind, length = struct.unpack_from("<HH", extra, at)
            if kind == 1:
                field = extra[at + 4 : at + 4 + length]
                for i, value in enumerate(values):
                    if value == 0xFFFFFFFF:
                        if len(field) < 8:
                            self._bad("a zip64 field that is too short", "8 bytes a number")
                        values[i], field = int.from_bytes(field[:8], "little"), field[8:]
                return values[1], values[0], values[2]
            at += 4 + length
        return packed, size, start

    def _data_start(self, name: str, start: int, name_bytes: int, size: int) -> int:
        """Where a record's bytes begin: after its local header, which must tell the same name."""
        if start + 30 > len(self.data) or self.data[start : start + 4] != _LOCAL:
            self._bad(f"{name}: place {start}", "a record there: cut off or damaged")
        n, extra = struct.unpack("<HH", self.data[start + 26 : start + 30])
        if n != name_bytes or self.data[start + 30 : start + 30 + n] != name.encode():
            self._bad(f"{name}: another name in its own header", "the same name")
        begin = start + 30 + int(n) + int(extra)
        if begin + size > len(self.data):
            self._bad(f"{name}: {size} bytes at {begin}", f"within the file's {len(self.data)}: cut off?")
        return begin

    def _check_apart(self, directory_start: int) -> None:
        place, before = 0, "the start"
        for name, record in sorted(self.records.items(), key=lambda item: (item[1].start, item[1].size)):
            if record.start < place:
                self._bad(f"{name} shares bytes with {before}", "records apart")
            place, before = record.start + record.size, name
        if place > directory_start:
            self._bad(f"{before} shares bytes with the directory", "records before it")

    def _bad(self, got: str, expected: str) -> NoReturn:
        fail(BadCheckpoint, f"{self.file_name}: zip archive", got=got, expected=expected)
