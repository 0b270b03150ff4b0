"""A file of requests: what is a line, what is wrong with one, which begin alike; none of it is held."""

import json
import random
import tempfile
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from batch_lines import CHAT, request, write
from hypothesis import given
from hypothesis import strategies as st

from herd.errors import BadFile, FilesChanged, UsageError
from herd.server.batches.index import FILE_LIMITS, LEVELS, SHARED, FileLimits, Index, Problem, check_has_requests
from herd.server.batches.lines import WrongLine, read_line
from herd.server.limits import Limits

LIMITS = Limits()


def indexed(path: Path, bounds: FileLimits = FILE_LIMITS, **options: Any) -> tuple[Index, list[Problem]]:
    wrong: list[Problem] = []
    return Index(path, LIMITS, bounds, wrong=wrong.append, **options), wrong


WRONG: list[tuple[Any, str, str]] = [
    ("{broken", "invalid_json_line", "line: got "),
    ("[1]", "invalid_json_line", "a JSON object"),
    ('{"custom_id": "a", "custom_id": "b"}', "invalid_json_line", "twice the field"),
    ("[" * 100 + "]" * 100, "invalid_json_line", "deeper nesting"),
    ('{"a": NaN}', "invalid_json_line", "NaN"),
    ({"method": "POST", "url": CHAT, "body": {}}, "missing_required_parameter", "custom_id: missing"),
    ({"custom_id": "a", "url": CHAT, "body": {}}, "missing_required_parameter", "method: missing"),
    ({"custom_id": "a", "method": "POST", "body": {}}, "missing_required_parameter", "url: missing"),
    ({"custom_id": "a", "method": "POST", "url": CHAT}, "missing_required_parameter", "body: missing"),
    (request(7), "invalid_custom_id", "custom_id: expected a text"),
    (request(""), "invalid_custom_id", "1 to 512"),
    (request("x" * 513), "invalid_custom_id", "1 to 512"),
    ({**request("a"), "method": "GET"}, "invalid_method", "expected POST"),
    ({**request("a"), "method": ["POST"]}, "invalid_method", "expected POST"),
    (request("a", url="/v1/moderations"), "invalid_url", "expected one of /v1/chat/completions"),
    ({**request("a"), "body": []}, "invalid_body", "a JSON object"),
    ({**request("a"), "priority": 9}, "unknown_parameter", "'priority'"),
    (request("a", stream=True), "unsupported", "body.stream"),
    (request("a", url="/v1/responses", background=True), "unsupported", "body.background"),
]


@pytest.mark.parametrize(("line", "code", "says"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_with_a_line_is_told_with_its_number(line: Any, code: str, says: str, tmp_path: Path) -> None:
    path = write(tmp_path / "in", request("1"), line, "", request("2"))
    index, wrong = indexed(path)
    ((number, error),) = wrong
    assert (number, error.code) == (2, code) and says in str(error)
    assert len(index) == 3 and index.requests == 2 and index.model == "fake"
    reader = index.open()
    with pytest.raises(WrongLine, match=r".") as again:
        index.request(reader.read(1), 1)
    assert again.value.code == code
    assert index.request(reader.read(2), 2).custom_id == "2"
    reader.close()


def test_a_batch_of_one_url_takes_no_other(tmp_path: Path) -> None:
    path = write(tmp_path / "in", request("1"), request("2", url="/v1/completions"))
    _, wrong = indexed(path, url=CHAT)
    assert [(number, error.code) for number, error in wrong] == [(2, "mismatched_url")]
    assert indexed(path)[1] == []


def test_a_custom_id_that_stands_twice_is_an_error_of_the_later_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "in", request("a"), request("b"), request("a"), "", request("a"), request("c"))
    index, wrong = indexed(path)
    assert [(number, error.code) for number, error in wrong] == [(3, "duplicate_custom_id"), (5, "duplicate_custom_id")]
    assert "the one of line 1" in str(wrong[0].error)
    assert list(index.twice) == [0, 0, 1, 1, 0]


def test_limits_hold_before_the_work(tmp_path: Path) -> None:
    path = write(tmp_path / "in", request("a"), request("b", "x" * 10_000), request("c"))
    _, wrong = indexed(path, FileLimits(line_bytes=1000))
    assert [(number, error.code) for number, error in wrong] == [(2, "line_too_long")]
    with pytest.raises(BadFile, match="lines: got more, expected at most 2"):
        indexed(path, FileLimits(lines=2))
    blank = tmp_path / "blank"
    blank.write_bytes(b"\n" * 19 + b"x\n")
    assert len(indexed(blank, FileLimits(lines=2))[0]) == 1
    blank.write_bytes(b" \n" * 20 + b"x\n")
    with pytest.raises(BadFile, match="lines: got more, expected at most 20, blank ones counted"):
        indexed(blank, FileLimits(lines=2))
    with pytest.raises(BadFile, match=r"size: got .* expected at most 100; split it"):
        indexed(path, FileLimits(file_bytes=100))
    with pytest.raises(UsageError, match="requests: got none; line 1: what"):
        check_has_requests(indexed(write(tmp_path / "none", "x"))[0], "line 1: what")


def test_a_file_that_was_changed_meanwhile_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "in", request("a"), request("b"))
    index, _ = indexed(path)
    write(path, request("a"), request("c"))
    reader = index.open()
    assert index.request(reader.read(0), 0).custom_id == "a"
    with pytest.raises(FilesChanged, match="not what it was at the start"):
        reader.read(1)
    reader.close()


def test_the_file_is_not_held(tmp_path: Path) -> None:
    """A line costs so many bytes, however long it is."""
    path = write(tmp_path / "in", *(request(str(i), f"{i} " + "words " * 4000) for i in range(400)))
    assert path.stat().st_size > 9 << 20
    tracemalloc.start()
    index, _ = indexed(path)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(index) == 400
    assert held < 400 * 200 + 100_000 and most < 1 << 20


def order_of(path: Path, prompts: Sequence[str]) -> tuple[Index, list[int]]:
    index, _ = indexed(write(path, *(request(str(i), text) for i, text in enumerate(prompts))))
    return index, [int(i) for i in index.order]


def test_lines_that_begin_alike_follow_each_other_and_others_stay(tmp_path: Path) -> None:
    first, second = "one " * 600, "two " * 600
    prompts = ["a", first + "1", "b", second + "1", first + "2", "c", second + "2", first + "3"]
    index, order = order_of(tmp_path / "in", prompts)
    assert order == [0, 1, 4, 7, 2, 3, 6, 5]
    assert index.begins[1] == index.begins[4] == index.begins[7] != index.begins[3]


def test_tools_and_instructions_are_part_of_how_a_request_begins(tmp_path: Path) -> None:
    tools = [{"type": "function", "function": {"name": name * 400, "parameters": {}}} for name in "ab"]
    lines = [request(str(i), f"{i}", tools=[tools[i % 2]]) for i in range(6)]
    index, _ = indexed(write(tmp_path / "in", *lines))
    assert [int(i) for i in index.order] == [0, 2, 4, 1, 3, 5]


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=5), max_size=8), st.integers(0, 99))
def test_the_order_is_a_depth_first_walk_of_shared_beginnings(shape: list[list[str]], seed: int) -> None:
    """Blocks of 4096 characters, so that every level of the digests has something to tell."""
    prompts = ["".join(block * 4096 for block in blocks) for blocks in shape]
    random.Random(seed).shuffle(prompts)
    with tempfile.TemporaryDirectory() as folder:
        _, order = order_of(Path(folder) / "in", prompts)
    assert sorted(order) == list(range(len(prompts)))
    for size in LEVELS[SHARED:]:  # whoever shares so many bytes of what a prompt is made of stands together
        begins = [wire(prompts[i])[:size] for i in order]
        runs = [one for i, one in enumerate(begins) if not i or begins[i - 1] != one]
        assert len(runs) == len(set(runs))


def wire(text: str) -> str:
    """What a request of this text begins with, url and all."""
    return f"{CHAT}modelfakemessages" + json.dumps({"role": "user", "content": text})


def test_a_line_is_read_as_a_body_is() -> None:
    line = read_line(json.dumps(request("a", "é\u2028")).encode(), LIMITS)
    assert line.body["messages"][0]["content"] == "é\u2028" and line.model == "fake"
    with pytest.raises(WrongLine, match="line: got a byte order mark, expected UTF-8 without one"):
        read_line(b"\xef\xbb\xbf" + json.dumps(request("a")).encode(), LIMITS)
