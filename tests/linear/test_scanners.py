"""Every reader of strangers' text and files takes time in proportion to it; loops and searches in loops are known.

`scanner_rows` holds the readers. Which functions of the source go on `while` something, and which search or copy all of
something at each step of a loop, is found by walking the source: the former have to be run by a row, the latter be
harmless for a reason that is told here.
"""

import sys
from contextlib import suppress
from itertools import islice
from types import FrameType
from typing import Any

import pytest
from scanner_rows import ROWS
from sources import loops, searches

from costs import grows
from fillers import FEW_UNITS, JSON, UNITS
from herd.errors import HerdError

ROOMS = (
    *("herd.text", "herd.media", "herd.server", "herd.safety", "herd.checkpoint", "herd.config", "herd.cli"),
    *(
        "herd.dialogs",
        "herd.turns",
        "herd.llm.answers",
        "herd.gate",
        "herd.strict_json",
        "herd.engine.stop_strings",
        "herd.grammar.lark",
    ),
    *("herd.grammar.json_schema", "herd.grammar.closing", "herd.grammar.regexes", "herd.grammars"),
)
"""Where text and files of strangers are read."""
ELSEWHERE = {
    "herd.disk.atomic._temporary": "makes a file again that somebody took",
    "herd.store.fetch._take_member": "copies a file of a known length in blocks",
    "herd.store.fetch.watch": "tells how far a download is",
    "herd.disk.hashing.sha256": "reads a file in blocks",
    "herd.store.hub._Capped.write": "writes what a disk did not take at once",
    "herd.store.hub._checked": "reads a file in blocks",
    "herd.checkpoint.strip_pieces.strip_pieces": "numbers in pieces of a fixed size",
    "herd.checkpoint.tokenizer_files.hf_tokenizer_texts": "takes unused tokens off the end, each once",
    "herd.cli.interactive.Session.loop": "waits for a person",
    "herd.safety.guard.Guard._prompt": "halves the turns until they fit",
    "herd.server.http.body.read_body": "waits for bytes",
    "herd.server.batches.files.content": "reads a file in blocks",
    "herd.server.batches.worker.Worker.run": "waits for what is new",
    "herd.server.batches.worker.Worker._answered": "waits for answers",
    "herd.server.file_store.Upload.write": "writes what a disk did not take at once",
    "herd.server.batches.index._lines": "reads a file of lines, what is too long in blocks",
    "herd.server.batches.results.Results._write": "waits for the disk",
    "herd.server.batches.results._File.add": "writes what a disk did not take at once",
    "herd.server.batches.running.Queue.take": "takes each group once",
    "herd.server.batches.running.Run._row": "asks a model again, at most 30 times",
    "herd.server.batches.running.Run.all": "waits for answers",
    "herd.server.requests.fetcher._exchange": "waits for bytes",
    "herd.server.log.Log._write": "waits for lines",
    "herd.server.response_log.ResponseLog.lines": "waits for lines, each once",
    "herd.server.models.Models.fit": "waits for memory",
    "herd.server.models.Models.watch": "waits",
    "herd.server.ollama.models._pulling": "waits for progress",
    "herd.server.response_store.ResponseStore.keep": "lets the oldest go",
    "herd.server.http.turns.Turns._turn": "starts what waits",
    "herd.server.service._gone": "waits for a message",
    "herd.server.shared.merged.merged": "waits for events",
    "herd.server.http.streams.Stream._watch": "waits for a message",
    "herd.grammar.json_schema.blame": "at most 100 tries, when a compiler has refused",
}
"""Loops that read no text of strangers by hand."""
HARMLESS = {
    "herd.server.http.accepting.Acceptor._turn: self._crowd.count": "a number that is kept",
    "herd.planning.explain._machine: machine.cards.count": "at most 1,024 cards, once for each kind",
    "herd.planning.machines._row_of: get_close_matches": "a person's own word of at most 200 characters",
    "herd.planning.machines._known: get_close_matches": "a field that is cut, among a dozen",
    "herd.text.chat_template.Templated._takes_calls: said.count": "two words, in a few dialogs of our own",
    "herd.text.chat_template.Templated._takes_calls: without.count": "two words, in a few dialogs of our own",
    "herd.store.hub._Capped.write: view[done:]": "a view, not a copy",
    "herd.server.batches.results._File.add: data[count:]": "a view, not a copy",
    "herd.evals.children.Child.tell: left[os.write(self._in, left[:_PIECE]):]": "a view, not a copy",
    "herd.server.file_store.Upload.write: left[count:]": "a view, not a copy",
    "herd.store.names.unknown: get_close_matches": "a name that may be one, among this machine's models",
    "herd.store.pulling.unknown: get_close_matches": "a name that is cut, among a few dozen",
    "herd.store.stored.rm: packed_copies.remove": "removes a folder, searches nothing",
    "herd.checkpoint.strip_pieces.strip_pieces: flat[room:]": "a view, not a copy",
    "herd.containers.torch_file.TorchFile._only_folder: name.count": "of each name once",
    "herd.cli.group.LazyGroup.resolve_command: get_close_matches": "a person's own words",
    "herd.engine.sampler._prefix: np.partition(weight, -k)[-k:]": "k doubles",
    "herd.engine.scheduler.Scheduler._expire: self.remove": "among the places of a batch",
    "herd.engine.scheduler.Scheduler._fit: self.remove": "among the places of a batch",
    "herd.safety.guard.Guard._prompt: said[(len(said) + 1) // 2:]": "halves each time",
    "herd.server.catalogue._unknown: get_close_matches": "a name that is cut, among a few that are like it",
    "herd.server.http.framing.Framing: self._expected += b',' + value": "of a head, whose bytes and fields are bounded",
    "herd.server.http.framing.Framing: self.credentials += value": "of a head, whose bytes and fields are bounded",
    "herd.strict_json.count: data.count": "each byte once for each of a few kinds",
    "herd.value_checks.nearest: get_close_matches": "a name that is cut, among a few dozen",
    "herd.text.call_values.json_text: ''.join(found).rstrip()[-1:]": "at the end alone",
    "herd.text.calls._Head: self._seen += char": "no longer than the longest name of a tool",
}
"""What looks like a search or a copy at each step, and why it is none that grows."""
FEW_JSON = (
    "digits",
    "escaped quotes",
    "escaped quotes without end",
    "brackets",
    "names",
    "a name twice, late",
    "texts",
)
SHARED = {*JSON, *map(ascii, UNITS)}


def makes(row: str, few: bool) -> dict[str, Any]:
    """What a reader is timed with. few: of what all readers get, some."""
    found = dict(ROWS[row].makes)
    if not few or len(found) <= 60:
        return found
    kept = {*FEW_JSON, *map(ascii, FEW_UNITS)}
    return {name: make for name, make in found.items() if _place(name) in kept or _place(name) not in SHARED}


def _place(name: str) -> str:
    return name.rpartition(": ")[2]


def run(row: str, most: int, few: bool) -> dict[str, list[float]]:
    """Inputs that cost more than their length, three of them: name -> seconds of one and of one four times as long."""
    worse = ((name, grows(ROWS[row].run, make, most=most)) for name, make in makes(row, few).items())
    return dict(islice(((name, times) for name, times in worse if times), 3))


@pytest.mark.brief
@pytest.mark.parametrize("row", ROWS)
def test_a_reader_takes_time_in_proportion_to_what_it_reads(row: str) -> None:
    worse = run(row, ROWS[row].most, few=True)
    assert not worse, f"{row}: seconds for an input and for one four times as long: {worse}"


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS)
def test_a_reader_takes_time_in_proportion_to_more_of_it(row: str) -> None:
    worse = run(row, 8 * ROWS[row].most, few=False)
    assert not worse, f"{row}: seconds for an input and for one four times as long: {worse}"


@pytest.fixture(scope="module")
def called() -> set[str]:
    """Functions of the source that rows run, by module and name."""
    found: set[str] = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            found.add(f"{frame.f_globals.get('__name__')}.{frame.f_code.co_qualname.replace('.<locals>', '')}")

    sys.setprofile(note)
    try:
        for row in ROWS:
            for make in makes(row, few=True).values():
                for size in (64, 512):
                    with suppress(HerdError):
                        ROWS[row].run(make(size))
    finally:
        sys.setprofile(None)
    return found


def test_every_loop_by_hand_is_run_by_a_row(called: set[str]) -> None:
    unknown = loops(ROOMS) - called - ELSEWHERE.keys()
    do = "add a row to tests/linear/scanner_rows.py that runs them, or say in ELSEWHERE what they read"
    assert not unknown, f"{sorted(unknown)}: {do}"


def test_every_search_in_a_loop_is_known() -> None:
    unknown = searches() - HARMLESS.keys()
    do = "use a set, a list that is joined at the end, or an index; or say in HARMLESS why it does not grow"
    assert not unknown, f"{sorted(unknown)}: {do}"
