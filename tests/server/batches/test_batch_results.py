"""What came of lines is on the disk before it counts; whatever a kill leaves behind is gone on with."""

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_lines import request, rows, said, write

from fake_chat_model import OnlyChats
from herd.chat_model import ChatModel
from herd.errors import DoesNotFit, EngineDied, FilesChanged, NetworkError, UsageError
from herd.messages import Message
from herd.server.batches import running
from herd.server.batches.index import Index
from herd.server.batches.offline import OneModel, answer_all
from herd.server.batches.results import Results, job_of
from herd.server.limits import Limits

LIMITS = Limits()
JOB = job_of("fake")


def echo(turns: list[Message]) -> str:
    return f"You said {turns[-1].text[-20:]}"


def answer(
    source: Path, out: Path, model: ChatModel | None = None, *, errors: Path | None = None, **options: Any
) -> Results:
    """Answer what has no result yet."""
    index = Index(source, LIMITS)
    results = Results(index, options.pop("job", JOB), out, errors)
    asked = model or OnlyChats(echo)
    try:
        answer_all(OneModel("fake", lambda: asked), index, results, limits=LIMITS, at_once=4, **options)
        results.in_order()
    finally:
        results.close()
    return results


@pytest.fixture
def source(tmp_path: Path) -> Path:
    lines: list[Any] = [request(f"r{i}", f"shared {i // 3} " + "x" * 2000 * (i % 3) + f"{i}") for i in range(7)]
    lines[3:3] = ["{broken", request("r1", "twice"), request("other", model="gpt-4o"), request("cut", n=99)]
    return write(tmp_path / "in.jsonl", *lines)


def plain(path: Path) -> list[Any]:
    """Results without what every answer has anew."""
    return [
        (row["id"], row["custom_id"], row["response"] and (row["response"]["status_code"], _words(row)), row["error"])
        for row in rows(path)
    ]


def _words(row: dict[str, Any]) -> Any:
    body = row["response"]["body"]
    return body["error"]["message"] if "error" in body else said(row)


def test_every_line_has_one_result_in_openais_form_and_each_error_is_its_own(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    totals = answer(source, out).totals
    found = rows(out)
    assert [row["custom_id"] for row in found] == [
        "r0",
        "r1",
        "r2",
        None,
        "r1",
        "other",
        "cut",
        "r3",
        "r4",
        "r5",
        "r6",
    ]
    assert all(row.keys() == {"id", "custom_id", "response", "error"} for row in found)
    assert said(found[0]) == "You said shared 0 0" and found[0]["response"]["status_code"] == 200
    assert found[0]["response"]["request_id"].startswith("req_") and found[0]["error"] is None
    broken, twice, other, cut = found[3:7]
    assert (
        broken["response"] is None and broken["error"]["code"] == "invalid_json_line" and broken["error"]["line"] == 4
    )
    message = "custom_id: got the one of line 2, expected another in each line"
    assert twice["error"] == {"code": "duplicate_custom_id", "message": message, "line": 5}
    assert other["response"]["status_code"] == 404 and "gpt-4o" in other["response"]["body"]["error"]["message"]
    assert cut["response"]["status_code"] == 400
    used = [row["response"]["body"]["usage"] for row in found if row["response"] and "usage" in row["response"]["body"]]
    assert (totals.answered, totals.failed) == (7, 4) == (len(used), len(found) - len(used))
    assert totals.prompt_tokens == sum(one["prompt_tokens"] for one in used) > 0
    assert totals.output_tokens == sum(one["completion_tokens"] for one in used) > 0
    assert len({row["id"] for row in found}) == 11


def test_failed_lines_go_to_a_file_of_their_own(source: Path, tmp_path: Path) -> None:
    out, errors = tmp_path / "out", tmp_path / "errors"
    answer(source, out, errors=errors)
    assert [row["custom_id"] for row in rows(out)] == [f"r{i}" for i in range(7)]
    assert [row["custom_id"] for row in rows(errors)] == [None, "r1", "other", "cut"]
    before = out.read_bytes(), errors.read_bytes()
    asked = OnlyChats(echo)
    assert answer(source, out, asked, errors=errors).totals.lines == 11
    assert asked.asked == [] and before == (out.read_bytes(), errors.read_bytes())


def test_one_model_may_answer_whatever_lines_name(source: Path, tmp_path: Path) -> None:
    assert answer(source, tmp_path / "out", all_by="fake").totals.failed == 3


def test_a_file_cut_at_any_byte_is_gone_on_with_to_the_same_end(tmp_path: Path) -> None:
    """What a kill, or a power cut before the sync, leaves of the file of results: each beginning of it."""
    source, out = write(tmp_path / "in", *(request(f"{i}", f"{i}") for i in range(3)), "{"), tmp_path / "out"
    answer(source, out)
    whole, data, index = out.read_bytes(), out.read_bytes(), Index(source, LIMITS)
    lines = [*data.splitlines(keepends=True)]
    ends = [sum(map(len, lines[: i + 1])) for i in range(4)]
    kept = {row["custom_id"]: row for row in rows(out)}
    for size in {*range(0, len(data), 61), *ends, *(end - 1 for end in ends), *(end + 1 for end in ends[:-1])}:
        out.write_bytes(data[:size])
        results = Results(index, JOB, out)
        assert results.done.sum() == results.totals.lines == sum(end <= size for end in ends), size
        asyncio.run(_rest(index, results, kept))
        results.in_order()
        results.close()
        assert out.read_bytes() == whole, size


async def _rest(index: Index, results: Results, kept: dict[str, dict[str, Any]]) -> None:
    """Keep what is missing, as it was."""
    for position in (int(i) for i in (~results.done).nonzero()[0]):
        row = kept[str(position) if position < 3 else None]  # type: ignore[index]
        if row["response"] is None:
            told = row["error"]
            made = running.Row(position, None, 0, code=told["code"], message=told["message"], line=told["line"])
        else:
            body = json.dumps(row["response"]["body"], separators=(",", ":")).encode()
            made = running.Row(position, row["custom_id"], 200, row["response"]["request_id"], body)
        await results.keep(made)


def test_lines_may_be_added_to_the_input_and_nothing_else_may_change(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in", request("a"), request("b")), tmp_path / "out"
    answer(source, out)
    write(source, request("a"), request("b"), request("c"))
    assert answer(source, out).totals.lines == 3
    write(source, request("a"), request("x"), request("c"))
    with pytest.raises(UsageError, match="out, line 2: got the result of a line that the input does not have"):
        answer(source, out)
    write(source, request("a"), request("b"), request("c"))
    with pytest.raises(UsageError, match="got results of another model, or of other flags"):
        answer(source, out, job=job_of("another"))
    assert len(rows(out)) == 3


@pytest.mark.parametrize("text", ["my notes", "my notes\n", '{"id":"batch_req_', '{"id":"batch_req_x"}\n', "{}\n"])
def test_what_is_no_file_of_results_is_refused_and_stays(text: str, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in", request("a")), tmp_path / "out"
    out.write_text(text)
    if text == '{"id":"batch_req_':  # the beginning of any
        answer(source, out)
        assert len(rows(out)) == 1
        return
    with pytest.raises(UsageError, match="got something else, expected results of herd batch"):
        answer(source, out)
    assert out.read_text() == text


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in", request("a")), tmp_path / "out"
    index = Index(source, LIMITS)
    first = Results(index, JOB, out)
    with pytest.raises(UsageError, match="another run writes its results there"):
        Results(index, JOB, out)
    first.close()
    assert not out.exists(), "it was made for nothing"


def test_a_result_counts_once_it_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = write(tmp_path / "in", *(request(f"{i}") for i in range(5))), tmp_path / "out"
    synced: list[int] = []
    sync = os.fsync

    def noted(file: int) -> None:
        sync(file)
        synced.append(os.fstat(file).st_size)

    monkeypatch.setattr(os, "fsync", noted)
    counted: list[int] = []
    index = Index(source, LIMITS)
    results = Results(index, JOB, out)
    told: Callable[[], None] = lambda: counted.append(results.totals.lines)  # noqa: E731
    answer_all(OneModel("fake", lambda: OnlyChats(echo)), index, results, limits=LIMITS, at_once=2, told=told)
    results.close()
    assert counted[-1] == 5 and synced[-1] == out.stat().st_size


def test_a_disk_without_room_ends_the_run_and_leaves_whole_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write(tmp_path / "in", *(request(f"{i}") for i in range(6))), tmp_path / "out"
    write_some, room = os.pwrite, 1500

    def full(file: int, data: Any, at: int) -> int:
        if at + len(data) > room:
            if at < room:
                return write_some(file, bytes(data)[: room - at], at)
            raise OSError(28, "No space left on device")
        return write_some(file, data, at)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DoesNotFit, match=r"the disk is full .* the same command goes on"):
        answer(source, out)
    assert 1 <= len(rows(out)) < 6
    monkeypatch.setattr(os, "pwrite", write_some)
    answer(source, out)
    assert [row["custom_id"] for row in rows(out)] == [f"{i}" for i in range(6)]


class Failing(OnlyChats):
    """Fails as it is told, so many times."""

    def __init__(self, error: Exception, times: int, only: str = "") -> None:
        super().__init__(self._say)
        self.error, self.times, self.only = error, times, only

    def _say(self, turns: list[Message]) -> str:
        if self.times and self.only in turns[-1].text:
            self.times -= 1
            raise self.error
        return echo(turns)


def test_a_model_that_was_gone_for_a_moment_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "WAIT_S", 0.0)
    source, out = write(tmp_path / "in", *(request(f"{i}", f"{i}") for i in range(6))), tmp_path / "out"
    assert answer(source, out, Failing(NetworkError("near: not there"), 2)).totals.answered == 6


def test_a_host_that_is_gone_ends_the_run_and_what_is_done_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WAIT_S", 0.0)
    source, out = write(tmp_path / "in", *(request(f"{i}", f"{i}") for i in range(9))), tmp_path / "out"
    with pytest.raises(NetworkError, match="near: not there"):
        answer(source, out, Failing(NetworkError("near: not there"), 10**6, "8"))
    done = len(rows(out))
    assert 5 <= done <= 8
    assert answer(source, out).totals.answered == 9


def test_a_line_that_ends_the_engine_each_time_is_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "WAIT_S", 0.0)
    source, out = write(tmp_path / "in", *(request(f"{i}", f"{i}") for i in range(3))), tmp_path / "out"
    totals = answer(source, out, Failing(EngineDied("gone"), 10**6, "1")).totals
    assert (totals.answered, totals.failed) == (2, 1)
    assert rows(out)[1]["response"]["status_code"] == 503


def test_followers_wait_for_the_first_that_begins_like_them(tmp_path: Path) -> None:
    shared = ["a" * 3000, "b" * 3000]
    source = write(tmp_path / "in", *(request(f"{i}", shared[i % 2] + str(i)) for i in range(8)))
    index = Index(source, LIMITS)
    queue = running.Queue(index, Results(index, JOB, tmp_path / "out").done)
    assert [queue.take(), queue.take(), queue.take()] == [0, 1, None], "one of each group, and nobody else yet"
    queue.over(1)
    assert [queue.take(), queue.take(), queue.take(), queue.take()] == [3, 5, 7, None]
    queue.over(0)
    assert [queue.take(), queue.take(), queue.take(), queue.take()] == [2, 4, 6, None]


def test_whoever_interrupts_keeps_what_is_done(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in", *(request(f"{i}") for i in range(20))), tmp_path / "out"
    index = Index(source, LIMITS)
    results = Results(index, JOB, out)

    def enough() -> None:
        if results.totals.lines >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answer_all(OneModel("fake", lambda: OnlyChats(echo)), index, results, limits=LIMITS, at_once=2, told=enough)
    results.close()
    assert 3 <= len(rows(out)) < 20
    assert answer(source, out).totals.answered == 20


def test_results_are_written_while_the_loop_is_gone(tmp_path: Path) -> None:
    """Whoever cancels a result that is being written does not cut it."""
    source, out = write(tmp_path / "in", request("a")), tmp_path / "out"
    results = Results(Index(source, LIMITS), JOB, out)

    async def cancelled() -> None:
        task = asyncio.create_task(results.keep(running.Row(0, "a", 200, "req_1", b"{}")))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await results.settle()

    asyncio.run(cancelled())
    results.close()
    assert len(rows(out)) == 1 and results.totals.answered == 1


@pytest.mark.parametrize("after", [b"", b"\n", b'{"id":"later\n'])
@pytest.mark.parametrize("begun", [0, 9, 60])
def test_what_a_power_cut_left_as_zeros_is_asked_anew(begun: int, after: bytes, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in", *(request(f"{i}") for i in range(4))), tmp_path / "out"
    answer(source, out)
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(lines[0] + lines[1] + lines[2][:begun] + bytes(5000) + after)
    model = OnlyChats(echo)
    answer(source, out, model)
    assert [row["custom_id"] for row in rows(out)] == ["0", "1", "2", "3"] and len(model.asked) == 2
    out.write_bytes(bytes(5000) + after)
    with pytest.raises(UsageError, match="got something else, expected results of herd batch"):
        answer(source, out)
    assert out.read_bytes() == bytes(5000) + after


def test_only_a_file_takes_results(tmp_path: Path) -> None:
    """A pipe would be read by whoever writes it, for ever; a device keeps nothing."""
    source, out = write(tmp_path / "in", request("a")), tmp_path / "out"
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(UsageError, match="is not a regular file"):
            answer(source, path)
        with pytest.raises(UsageError, match="is not a regular file"):
            answer(source, out, errors=path)
        assert not out.exists()


def test_results_that_were_deleted_end_the_run(tmp_path: Path) -> None:
    """Else it goes on for hours, and what it wrote is gone when it ends."""
    source, out = write(tmp_path / "in", *(request(f"{i}") for i in range(9))), tmp_path / "out"

    def say(turns: list[Message]) -> str:
        out.unlink(missing_ok=True)
        return echo(turns)

    with pytest.raises(FilesChanged, match="out: got it was deleted; the same command begins anew"):
        answer(source, out, OnlyChats(say))
    answer(source, out)
    assert len(rows(out)) == 9
