"""No test hangs on a moment: what a page, a thread or a process does is waited for, on a slow and busy machine too.

The rules are read off the tests themselves. What stands in a table beside a rule is right for the reason that it gives.
"""

import ast
import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import PATIENCE_S

HERE = Path(__file__).parent

READS = {
    "all", "all_inner_texts", "all_text_contents", "bounding_box", "count", "evaluate", "evaluate_all", "get_attribute",
    "inner_html", "inner_text", "input_value", "is_checked", "is_disabled", "is_editable", "is_enabled", "is_hidden",
    "is_visible", "text_content",
}  # fmt: skip
"""Methods of Playwright's that say what is on a page now, not what will be there in a moment."""

AT_ONCE = {
    "say": "counts the answers that are there before anything is asked",
    "violations": "axe looks at a page as it is; whoever calls it has waited for that page",
    "do": "the simulated day: what it compares, it compares again until it is so",
    "colour": "the colour of a page that has been drawn",
    "test_a_stream_is_shown_as_the_whole_text_is": "a script that gives what it has made itself",
    "test_no_text_is_slow_to_read": "a script that gives what it has made itself",
}
"""Functions of tests in a browser that read at once, and why they may."""

SLEEPS = {
    "cli/talker.py:speak": "a model that takes its time",
    "engine/child_model.py:next_id": "a model that takes its time",
    "llm/test_llm.py:leave_one": "readers leave at any time: all are right",
    "quantize/test_quantize.py:test_a_run_that_was_killed_is_taken_up_and_gives_the_same_bytes": "it is killed",
    "server/http/test_event_loop.py:main": "a loop that has nothing to do",
    "server/requests/test_admission.py:slowly_x": "a model that takes its time",
    "server/test_garbage.py:ask": "a connection that says nothing for a while",
    "server/test_garbage.py:collected": "less garbage is right as well",
    "server/test_holders.py:_bodies_of": "an upper bound, which holds at any time",
    "server/test_holders.py:_connections": "an upper bound, which holds at any time",
    "server/test_loaded_models.py:__call__": "a loader that takes its time",
    "server/test_loaded_models.py:run": "a model that is used stays for as long as one looks",
    "server/test_page_in_browser.py:next_id": "a model that takes its time",
    "server/test_page_keeps.py:endless": "a model that takes its time",
    "server/test_response_endings.py:__call__": "a model that takes its time",
    "server/test_response_endings.py:test_each_ending_is_told": "an ending is one at any time",
    "server/test_response_store.py:slowly": "a model that takes its time",
    "backends/test_replicate.py:slowly": "a host that takes its time",
}
"""Functions that sleep outside a loop that looks again, and why nothing hangs on how long."""

BOUNDS = {
    "cli/test_interactive.py:wait_for": "a hang",
    "containers/test_torch_hostile.py:test_a_table_that_is_more_than_tensors_is_refused": "a hang",
    "engine/test_grammar_trial.py:check_hostile": "a hang: a hundred times the limit of a trial",
    "grammar/test_json_schema.py:test_no_grammar_takes_long_to_compile_or_to_refuse": "of a processor; else minutes",
    "helpers.py:until": "a hang",
    "server/http/test_host_check.py:test_slow_headers_and_slow_bodies_are_cut": "by the limits given, not by others",
    "server/test_machine_faults.py:test_without_descriptors_idle_connections_make_room": "it grows with the time",
}
"""Functions that compare a clock, and why no busy machine breaks that."""

SHORT = {
    "engine/executors/test_wire.py:test_a_process_that_does_not_read_can_be_closed": "it is closed then or later",
    "server/http/test_host_check.py:test_a_body_that_drips_is_cut_in_all": "between two drops",
    "server/http/test_system_calls.py:test_epoll_waits_for_what_comes": "nothing comes, however long one waits",
    "test_lanes.py:give_up": "it gives up",
    "server/test_hostile.py:test_readers_that_leave_at_any_byte_leave_nothing_behind": "readers leave at any time",
}
"""Functions that wait for less than PATIENCE_S, and why they may."""

CLOCKS = {"monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "process_time", "thread_time"}
WAITS = {"join", "result", "settimeout", "wait", "wait_for"}


class Source:
    """A file of tests as a tree in which every node knows what it stands in."""

    def __init__(self, text: str) -> None:
        self.tree = ast.parse(text)
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self.all_calls = [node for node in self.parents if isinstance(node, ast.Call)]

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """What a node stands in, from the inside out."""
        while node in self.parents:
            node = self.parents[node]
            yield node

    def function(self, node: ast.AST) -> str:
        """The name of the innermost function that a node stands in; "": in none."""
        names = (above.name for above in self.above(node) if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef))
        return next(names, "")

    def calls(self, names: set[str]) -> Iterator[ast.Call]:
        """Calls of functions and methods of these names."""
        yield from (call for call in self.all_calls if called(call) in names)

    def is_tried_again(self, node: ast.AST) -> bool:
        """Whether it stands in a function that `until` calls until it holds."""
        above = [node, *self.above(node)]
        return any(
            isinstance(inner, ast.Lambda) and isinstance(outer, ast.Call) and called(outer) == "until"
            for inner, outer in itertools.pairwise(above)
        )

    def is_in_a_loop(self, node: ast.AST) -> bool:
        """Whether it stands in a `while` of its own function."""
        for above in self.above(node):
            if isinstance(above, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                return False
            if isinstance(above, ast.While):
                return True
        return False


def called(node: ast.Call) -> str:
    """The last name of what is called."""
    return getattr(node.func, "attr", "") or getattr(node.func, "id", "")


def reads_at_once(text: str) -> list[str]:
    """Tests of a page that read it at once, themselves or through functions of theirs: name and line."""
    source, names = Source(text), set(READS)
    while True:
        found = [call for call in source.calls(names) if is_read(source, call)]
        readers = {source.function(call) for call in found} - AT_ONCE.keys()
        helpers = {name for name in readers if not name.startswith("test_")}
        if helpers <= names:
            tests = [(source.function(call), call.lineno) for call in found]
            return sorted(f"{name}:{line}" for name, line in tests if name in readers - helpers)
        names |= helpers


def is_read(source: Source, call: ast.Call) -> bool:
    """Whether something is made of what this call says now. `text.count("a")` counts in a text."""
    if called(call) in READS and (not isinstance(call.func, ast.Attribute) or (called(call) == "count" and call.args)):
        return False
    return not isinstance(source.parents[call], ast.Expr) and not source.is_tried_again(call)


@functools.cache
def files() -> dict[str, str]:
    """All of Python here: name -> text."""
    return {str(file.relative_to(HERE)): file.read_text() for file in sorted(HERE.rglob("*.py"))}


@functools.cache
def sources() -> dict[str, Source]:
    """The same, as trees."""
    return {name: Source(text) for name, text in files().items()}


def rows(calls: dict[str, list[str]]) -> set[str]:
    """The table that a rule would have: FILE:FUNCTION."""
    return {f"{file}:{function}" for file, functions in calls.items() for function in functions}


def is_of_a_page(text: str) -> bool:
    """Whether tests of a file drive a browser."""
    arguments = {arg.arg for node in ast.walk(ast.parse(text)) if isinstance(node, ast.arguments) for arg in node.args}
    return "page_visits" in text or bool(arguments & {"visit", "browser"})


def test_what_a_page_does_is_waited_for() -> None:
    """`seen.expect(...)` and `until(..., lambda: ...)` look again; an assertion on what is read once does not."""
    of_pages = {name: text for name, text in files().items() if is_of_a_page(text)}
    assert len(of_pages) >= 4
    assert {name: found for name, text in of_pages.items() if (found := reads_at_once(text))} == {}


SEEN = """
def shown(seen):
    return seen.page.locator("a").count()

def both(seen):
    return [shown(seen)]

def test_right(visit):
    seen.page.evaluate("() => act()")
    until("some", lambda: shown(seen) == 1)
    until("one", lambda: seen.page.locator("a").inner_text() == "x")
    assert "text".count("x") == all([])

def test_wrong(visit):
    assert seen.page.locator("a").inner_text() == "x"
    text = seen.page.locator("a").get_attribute("b")
    assert both(seen) == [1]
"""


def test_the_rule_sees_what_is_read_at_once_through_functions_too() -> None:
    assert reads_at_once(SEEN) == [f"test_wrong:{line}" for line in (15, 16, 17)]


def test_nothing_hangs_on_how_long_a_sleep_takes() -> None:
    found: dict[str, list[str]] = {}
    for name, source in sources().items():
        for call in source.calls({"sleep", "wait_for_timeout"}):
            if not (source.is_in_a_loop(call) or number(call, 0) == 0):
                found.setdefault(name, []).append(source.function(call))
    assert rows(found) == SLEEPS.keys()


def number(call: ast.Call, place: int) -> float | None:
    """The number that is an argument; None: none is."""
    given = call.args[place] if len(call.args) > place else None
    value = given.value if isinstance(given, ast.Constant) else None
    return value if isinstance(value, int | float) else None


def test_nothing_has_to_be_done_by_a_time() -> None:
    """Ratios of times that one run has measured are compared elsewhere, by name."""
    found: dict[str, list[str]] = {}
    for name, source in sources().items():
        for call in source.calls(CLOCKS):
            compared = [node for node in source.above(call) if isinstance(node, ast.Compare)]
            asserted = any(isinstance(node, ast.Assert) for node in source.above(call))
            if asserted and any(isinstance(op, ast.Lt | ast.LtE) for node in compared for op in node.ops):
                found.setdefault(name, []).append(source.function(call))
    assert rows(found) == BOUNDS.keys()


def test_who_waits_has_patience() -> None:
    """A time-out ends a hang: on a busy machine nothing else takes as long as PATIENCE_S."""
    found: dict[str, list[str]] = {}
    for name, source in sources().items():
        for call in source.all_calls:
            if shortest(call) < PATIENCE_S and not source.is_in_a_loop(call):
                found.setdefault(name, []).append(source.function(call))
    assert rows(found) == SHORT.keys()


def shortest(call: ast.Call) -> float:
    """Seconds that a call waits at most, where a number says so."""
    given = [word.value for word in call.keywords if word.arg == "timeout"]
    if called(call) in WAITS and isinstance(call.func, ast.Attribute):
        given += call.args[-1:] if called(call) == "wait_for" else call.args[:1]
    numbers = [one.value for one in given if isinstance(one, ast.Constant) and isinstance(one.value, int | float)]
    return min(numbers, default=PATIENCE_S)


@pytest.mark.parametrize("table", [SLEEPS, BOUNDS, SHORT])
def test_every_row_says_why(table: dict[str, str]) -> None:
    assert all(table.values())
