"""Chat templates run in a process that can be killed: limits, and what a model with one says."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import herd
from helpers import PATIENCE_S, TINY_TEXT, hf_folder
from herd.errors import UsageError
from herd.lanes import computing
from herd.llm.dialog_writing import DialogWriting
from herd.llm.side_processes import SideProcesses
from herd.safety.policy import Layers, Settings
from herd.text.template_task import Task, Templates

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
        found._seconds = PATIENCE_S
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


# -- a model with one --------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|header_start|>{{ m.role }}<|header_end|>{{ m.content }}<|eot|>{% endfor %}"
    "{% if tone is defined %}{{ tone }}<|eom|>{% endif %}"
    "{% if add_generation_prompt %}<|header_start|>assistant<|header_end|>{% endif %}"
)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[herd.LLM]:
    folder = hf_folder(tmp_path_factory.mktemp("models") / "own", TINY_TEXT, **{"chat_template.jinja": TEMPLATE})
    with herd.load(folder, threads=1, context=256) as found:
        yield found


def test_a_model_s_own_template_writes_what_is_said_to_it(llm: herd.LLM) -> None:
    assert (llm.chat_format, llm.chat_note, llm.capabilities.template) == ("template", "", True)
    ids = llm.tokenize([{"role": "user", "content": "a<|eot|>"}])
    start, stop, end = (llm.tokenizer.specials[f"<|{name}|>"] for name in ("header_start", "header_end", "eot"))
    assert ids == [256, start, *b"user", stop, *b"a<|eot|>", end, start, *b"assistant", stop]
    assert llm.chat("a<|eot|>", max_tokens=1).usage.prompt_tokens == len(ids)


def test_what_the_template_is_told_is_in_the_prompt_and_few_plain_values(llm: herd.LLM) -> None:
    plain = llm.chat("a", max_tokens=1).usage.prompt_tokens
    told = llm.chat("a", max_tokens=1, chat_template_kwargs={"tone": "warm"}).usage.prompt_tokens
    assert told == plain + len("warm") + 1
    for wrong in ({"messages": "x"}, {"bos_token": "x"}, {"a": [1]}, {"a": "x" * 65}, {"a b": 1}, "tone"):
        with pytest.raises(UsageError, match="chat_template_kwargs"):
            llm.chat("a", chat_template_kwargs=wrong)  # type: ignore[arg-type]


def test_dialogs_that_are_counted_wait_behind_their_owners_own(llm: herd.LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    owners: list[str] = []
    in_turn = SideProcesses.in_turn

    def seen(self: Any, owner: str, *rest: Any) -> Any:
        owners.append(owner)
        return in_turn(self, owner, *rest)

    monkeypatch.setattr(SideProcesses, "in_turn", seen)
    turns = [{"role": "user", "content": "a"}]
    for make in (llm.tokenize, llm.count):
        assert computing().submit("somebody", lambda make=make: make(turns)).result()  # type: ignore[misc]
    assert llm.tokenize(turns)
    assert owners == ["somebody", "somebody", ""]


@pytest.mark.parametrize("mode", ["redact", "block"])
def test_a_policy_reads_what_the_template_is_told(mode: Any, llm: herd.LLM) -> None:
    """No mark may stand there, so that redact is block."""
    told = {"tone": "jane.doe@mail.example.org"}
    policy = Settings(mode, kinds=("personal",))  # what random weights say may be hidden
    reply = llm.chat("a", policy=Layers(policy), max_tokens=1, chat_template_kwargs=told)
    assert reply.finish_reason == "policy"
    assert llm.chat("a", policy=Layers(policy), max_tokens=1).finish_reason != "policy"


def test_a_form_that_stands_in_for_a_broken_template_is_told(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "m", TINY_TEXT, **{"chat_template.jinja": "{#<|header_start|>#}{% for %}"})
    with herd.load(folder, threads=1, context=64) as found:
        assert found.chat_format == "llama4"
        assert found.chat_note.startswith("chat format llama4 stands in for the model's own: the chat template")
        assert found.capabilities.template is False
