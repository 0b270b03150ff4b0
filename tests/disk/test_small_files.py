"""Small TOML files: whatever stands in one, it is read in time that grows with its length, or is one line."""

import os
from pathlib import Path

import pytest

from herd.disk.small_files import MAX_KEY_PARTS, read_toml
from herd.errors import BadFile, NotFound

KEYS = ("a.", "a .\t", '"a".', "'a' . ", '"\\"".', '"a.".', "a-b_9.")


@pytest.mark.parametrize("part", KEYS)
@pytest.mark.parametrize("form", ["{}x = 1", "[{}x]", "[[{}x]]", "y = {{{}x = 1}}"])
def test_a_key_of_many_parts_is_refused_and_one_of_some_is_read(part: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text(form.format(part * (MAX_KEY_PARTS - 1)))
    assert read_toml(path, "it")
    path.write_text(form.format(part * 100_000))
    with pytest.raises(BadFile, match="it: a key: got more parts") as found:
        read_toml(path, "it")
    assert "\n" not in str(found.value)


def test_words_with_dots_are_no_key(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('text = """\n' + "One. Two ... " * 10_000 + '"""\nx = [' + "1.5, " * 1000 + "]\n")
    assert len(read_toml(path, "it")) == 2


def test_what_is_no_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    for path in (tmp_path, tmp_path / "pipe.toml", Path("/dev/zero")):
        with pytest.raises(BadFile, match="not a regular file"):
            read_toml(path, "it")
    with pytest.raises(NotFound):
        read_toml(tmp_path / "none.toml", "it")
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(BadFile, match="it: got 'utf-8' codec"):
        read_toml(tmp_path / "bytes.toml", "it")
