"""Reading the files of a tokenizer: bounded before a byte is read, every failure one line."""

import stat
from pathlib import Path
from typing import Any

import msgspec

from herd.errors import BadTokenizer, NotFound, fail


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """The whole of a regular file of at most `limit_bytes`. Raises NotFound, BadTokenizer."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            fail(BadTokenizer, f"{path} is not a regular file")
        if status.st_size > limit_bytes:
            fail(BadTokenizer, f"{path}: size", got=f"{status.st_size} bytes", expected=f"at most {limit_bytes}")
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except FileNotFoundError:
        fail(NotFound, f"{path} does not exist")
    except OSError as error:
        fail(BadTokenizer, f"{path} cannot be read", got=error.strerror)
    if len(data) > limit_bytes:
        fail(BadTokenizer, f"{path} grew while it was read", expected=f"at most {limit_bytes} bytes")
    return data


def parse_json(data: bytes | msgspec.Raw, kind: Any, where: str) -> Any:
    """JSON as a value of type `kind`. Raises BadTokenizer with the path of the wrong field."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        fail(BadTokenizer, f"{where} is not what was expected", got=str(error))
