"""Chat templates run in a process that can be killed: limits, and what a model with one says."""

import contextlib
from collections.abc import Iterator

import pytest

from herd.errors import UsageError
from herd.llm.dialog_writing import DialogWriting
from herd.text.templates import Task, Templates

SAID = Task([{"role": "user", "content": "a<|x|>" * 1000}])
SLOW = "{% for i in range(90000) %}{% set x = messages | tojson %}{% endfor %}"
LARGE = "{% set ns = namespace(x='abcdefgh') %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"


@contextlib.contextmanager
def writing(source: str, **limits: float) -> Iterator[DialogWriting]:
    found = DialogWriting(Templates({"default": source}, ["<|x|>"], ["<|x|>"]), **limits)
    try:
        yield found
    finally:
        found.close()


def kind(task: Task, of: str) -> Task:
    return Task(task.messages, variables={"kind": of})


def test_what_takes_too_long_is_refused_by_name_and_the_next_dialog_is_written() -> None:
    with writing("{% if kind == 'slow' %}" + SLOW + "{% endif %}<|x|>{{ messages[0].content }}", seconds=1.0) as found:
        with pytest.raises(UsageError, match=r"the chat template takes over 1 s for this dialog; .*--chat-format"):
            found.write("default", kind(SAID, "slow"), "a")
        assert found.write("default", kind(SAID, "quick"), "a") == ["", "<|x|>", "a<|x|>" * 1000]


def test_what_takes_too_much_memory_is_refused_by_name_and_the_next_dialog_is_written() -> None:
    with writing("{% if kind == 'large' %}" + LARGE + "{% endif %}<|x|>", memory_bytes=64 << 20) as found:
        with pytest.raises(UsageError, match="the chat template takes over 64 MiB for this dialog"):
            found.write("default", kind(SAID, "large"), "a")
        assert found.write("default", kind(SAID, "small"), "a") == ["", "<|x|>", ""]


def test_one_clock_tells_every_date() -> None:
    times = iter([1e9, 1.2e9])
    source = "{{ strftime_now('%Y') }}{{ strftime_now('%Y') }}"
    with writing(source) as found:
        found._clock = lambda: next(times)
        assert [found.write("default", SAID, "a") for _ in range(2)] == [["20012001"], ["20082008"]]


def test_a_refusal_is_the_templates_own_line() -> None:
    with writing("{{ raise_exception('only users') }}") as found, pytest.raises(UsageError, match="got only users"):
        found.write("default", SAID, "a")
