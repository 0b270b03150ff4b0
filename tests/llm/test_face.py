"""What a Python user sees first: keywords that editors and checkers know, errors that name the nearest, short reprs."""

import asyncio
import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from speaking import BYTES, endless, saying

import herd
from helpers import hf_folder
from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.errors import EXPECTED, UsageError, fail
from herd.llm import LLM, ChatOptions, LoadKeywords, LoadOptions, SamplingOptions
from herd.llm.keywords import CompleteOptions, EmbedOptions, SamplesOptions, ScoreOptions
from herd.llm.options import CallOptions
from herd.request_options import DialogRequest, ScoreRequest, TextRequest, Whose

WIDER = {"stop", "stop_ids", "logit_bias", "grammar"}
"""Fields that callers may write in more ways than they are kept in."""
OF_LOAD = {"ops", "kv", "engine"}
"""Texts whose values the keywords enumerate; the struct, which is also read from bytes, checks them itself."""


def members(kind: Any) -> set[Any]:
    """The kinds that a union is made of."""
    return set(get_args(kind)) if typing.get_origin(kind) is typing.Union or "|" in str(kind) else {kind}


def test_keywords_of_a_chat_are_the_fields_of_its_structs_with_their_types() -> None:
    structs = {**get_type_hints(CallOptions), **get_type_hints(SamplingOptions)}
    names = {f.name for f in fields(CallOptions)} | set(SamplingOptions.__struct_fields__)
    keywords = get_type_hints(ChatOptions)
    assert names - set(keywords) == {"raw"}, "of a text, that goes on without a dialog"
    assert set(keywords) < names
    for name, kind in keywords.items():
        if name in WIDER:
            assert members(structs[name]) < members(kind), name
        else:
            assert kind == structs[name], name


def test_keywords_of_a_load_are_the_fields_of_its_struct_and_what_it_calls() -> None:
    structs, keywords = get_type_hints(LoadOptions), get_type_hints(LoadKeywords)
    assert keywords.keys() - structs.keys() == {"progress", "check"}
    assert set(LoadOptions.__struct_fields__) == keywords.keys() - {"progress", "check"}
    for name in LoadOptions.__struct_fields__:
        if name in OF_LOAD:
            assert structs[name] is str
            for value in get_args(keywords[name]):
                LoadOptions(**{name: value})
        else:
            assert keywords[name] == structs[name], name


def keywords_of(method: Callable[..., Any]) -> type | None:
    """The type of a call's keywords."""
    hints = get_type_hints(method)
    return get_args(hints["options"])[0] if "options" in hints else None


METHODS = {
    name: found
    for name, method in inspect.getmembers(LLM, inspect.isfunction)
    if not name.startswith("_") and (found := keywords_of(method)) is not None
}
"""Each with the type of its keywords."""


def test_every_method_has_the_keywords_of_its_kind() -> None:
    chats = {name for name in METHODS if name.endswith(("chat", "stream", "chat_many"))}
    completes = {name for name in METHODS if "complete" in name}
    assert chats == {"chat", "stream", "achat", "astream", "chat_many", "achat_many"}
    assert completes == {
        *("complete", "acomplete", "stream_complete", "astream_complete", "complete_many", "acomplete_many")
    }
    assert {name: METHODS[name] for name in METHODS if name not in chats | completes} == {
        "chat_samples": SamplesOptions,
        "score": ScoreOptions,
        "ascore": ScoreOptions,
        "embed": EmbedOptions,
        "aembed": EmbedOptions,
    }
    assert all(METHODS[name] is ChatOptions for name in chats)
    assert all(METHODS[name] is CompleteOptions for name in completes)
    of_dialogs = {"system", "images", "tools", "tool_choice", "parallel_tool_calls", "continue_final_message"}
    of_dialogs |= {"chat_template_kwargs"}
    assert set(ChatOptions.__annotations__) - set(CompleteOptions.__annotations__) == of_dialogs
    assert set(CompleteOptions.__annotations__) - set(ChatOptions.__annotations__) == {"raw"}
    assert set(ChatOptions.__annotations__) - set(SamplesOptions.__annotations__) == {"n", "progress"}


def test_what_any_model_takes_an_llm_takes() -> None:
    """The types of it: mypy compares LLM with the protocol."""
    assert DialogRequest.__annotations__.keys() <= ChatOptions.__annotations__.keys()
    assert TextRequest.__annotations__.keys() <= CompleteOptions.__annotations__.keys()
    assert ScoreRequest.__annotations__.keys() <= ScoreOptions.__annotations__.keys()
    assert Whose.__annotations__.keys() <= EmbedOptions.__annotations__.keys()


def named(doc: str | None) -> set[str]:
    """What a docstring names at the beginning of an indented line."""
    return set(re.findall(r"^ {4}(\w+),? {2,}\S", inspect.cleandoc(doc or ""), re.MULTILINE))


def test_help_of_a_chat_and_of_a_load_names_every_keyword() -> None:
    assert named(LLM.chat.__doc__) == set(ChatOptions.__annotations__)
    assert named(herd.load.__doc__) == set(LoadKeywords.__annotations__)
    assert "Unpack[ChatOptions]" in str(inspect.signature(LLM.chat))
    for name in METHODS.keys() - {"chat"}:
        assert re.search(r"`(\w+)`", getattr(LLM, name).__doc__ or "")[1] in METHODS, f"{name}: where are its options?"


def test_help_of_a_load_says_what_its_options_are_unless_said() -> None:
    lines = dict(re.findall(r"^ {4}(\w+) +(\S+?)\. ", inspect.cleandoc(herd.load.__doc__ or ""), re.MULTILINE))
    defaults = {name: getattr(LoadOptions(), name) for name in lines}
    assert lines == {name: f'"{x}"' if isinstance(x, str) else str(x) for name, x in defaults.items()}
    assert len(lines) == 13, "all but progress, grammar_s and grammar_bytes"


# -- wrong arguments -------------------------------------------------------------------------------------------------

FIRST: dict[str, Any] = {
    "chat_samples": ("Hi", 2), "chat_many": (["Hi"],), "achat_many": (["Hi"],), "complete_many": (["Hi"],),
    "acomplete_many": (["Hi"],), "score": ([("a", "b")],), "ascore": ([("a", "b")],), "embed": (["a"],),
    "aembed": (["a"],),
}  # fmt: skip


async def read(found: Any) -> Any:
    """A coroutine's value, or the events of a stream."""
    return [x async for x in found] if hasattr(found, "__anext__") else await found


def called(model: LLM, name: str, *arguments: Any, **options: Any) -> Any:
    """Call, and read what comes to its end."""
    if name.startswith("a"):

        async def within() -> Any:
            return await read(getattr(model, name)(*arguments, **options))

        return asyncio.run(within())
    found = getattr(model, name)(*arguments, **options)
    return list(found) if inspect.isgenerator(found) else found


@pytest.mark.parametrize("name", METHODS)
def test_a_misspelt_option_is_refused_with_the_nearest_and_all(name: str) -> None:
    with saying("x") as model, pytest.raises(UsageError) as raised:
        called(model, name, *FIRST.get(name, ("Hi",)), timout_s=1)
    own = ChatOptions if name == "chat_samples" else METHODS[name]  # where n has a place of its own
    places = [n for n in inspect.signature(getattr(LLM, name)).parameters if n.startswith(("per_", "return_"))]
    all_names = ", ".join((*own.__annotations__, *places))
    assert str(raised.value) == f"option: got timout_s, expected one of {all_names}; did you mean timeout_s?"


def test_a_misspelt_field_is_refused_as_well() -> None:
    wrong: list[tuple[Callable[[], Any], str]] = [
        (lambda: SamplingOptions(temprature=1), "temperature"),  # type: ignore[call-arg]
        (lambda: SamplingOptions().with_({"temprature": 1}), "temperature"),
        (lambda: LoadOptions(contxt=5), "context"),  # type: ignore[call-arg]
        (lambda: herd.load("x", contxt=5), "context"),  # type: ignore[call-arg]
        (lambda: herd.load("x", proggress=print), "progress"),  # type: ignore[call-arg]
        (lambda: CallOptions.of({"sistem": "x"}), "system"),
    ]
    for call, nearest in wrong:
        with pytest.raises(UsageError, match=f"got .*expected one of .*; did you mean {nearest}"):
            call()
    with pytest.raises(UsageError) as raised:
        SamplingOptions().with_({"zzzzzzzz": 1})
    assert "did you mean" not in str(raised.value)


def test_the_longest_list_of_names_is_told_whole_and_what_was_got_is_cut() -> None:
    with pytest.raises(UsageError) as raised:
        CallOptions.of({"x" * 1000: 1})
    assert len(", ".join(ChatOptions.__annotations__)) > 200
    assert str(raised.value).endswith("expected one of " + ", ".join(ChatOptions.__annotations__))
    assert "x" * 119 + "…" in str(raised.value)
    with pytest.raises(UsageError) as raised:
        fail(UsageError, "a file", got="x\n" * 500, expected="y\n" * 5000)
    assert len(str(raised.value)) < 120 + EXPECTED + 50
    assert "\n" not in str(raised.value)


def test_a_first_argument_of_another_kind_is_refused_in_one_line() -> None:
    with saying("x") as model:
        wrong: list[tuple[Callable[[Any], Any], str]] = [
            (model.chat, "messages: got 5, expected a text, or a list of at least one turn"),
            (model.complete, "prompt: got int, expected a text or a list of token ids"),
            (model.perplexity, "text: got int, expected a text or a list of token ids"),
            (model.embed, "texts: got int, expected a list"),
            (model.score, "pairs: got int, expected a list"),
            (herd.load, "model: got int, expected a name or a path"),
        ]
        for call, line in wrong:
            with pytest.raises(UsageError, match=f"^{line}$"):
                call(5)


def test_what_needs_a_dialog_is_refused_without_one() -> None:
    with saying("x") as model:
        for name in ChatOptions.__annotations__.keys() - CompleteOptions.__annotations__.keys():
            with pytest.raises(UsageError, match=f"{name}: got it without a chat format; use chat"):
                model.complete("x", **{name: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ["chat", "achat", "complete", "acomplete", "chat_many", "complete_many"])
def test_a_call_of_one_answer_says_which_gives_several(call: str) -> None:
    with endless() as model, pytest.raises(UsageError, match="n: got 2, expected 1; use chat_samples or stream"):
        called(model, call, *FIRST.get(call, ("Hi",)), n=2, max_tokens=1)


@pytest.mark.parametrize("name", [name for name, kind in METHODS.items() if kind not in (ScoreOptions, EmbedOptions)])
def test_progress_is_told_by_streams_and_refused_by_whole_answers(name: str) -> None:
    with endless() as model:
        arguments = FIRST.get(name, ("Hi",))
        if "stream" in name:
            found = called(model, name, *arguments, progress=True, max_tokens=1)
            assert list(dict.fromkeys(event.type for event in found)) == ["progress", "text", "done"]
            return
        with pytest.raises(UsageError, match=r"progress: got True, expected False; use stream to be told of it"):
            called(model, name, *arguments, progress=True, max_tokens=1)


# -- the package -----------------------------------------------------------------------------------------------------


def test_the_package_gives_its_names_and_no_other() -> None:
    import herd.errors
    import herd.messages

    assert set(herd.__all__) <= set(dir(herd))
    assert herd.LLM is LLM
    assert (herd.ChatOptions, herd.LoadOptions, herd.SamplingOptions) == (ChatOptions, LoadOptions, SamplingOptions)
    assert herd.Message is herd.messages.Message
    assert all(getattr(herd, name) is not None for name in herd.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Mesage'"):
        herd.Mesage  # type: ignore[attr-defined]  # noqa: B018


USE = """
import herd
from herd import errors
def use(model: herd.LLM, options: herd.ChatOptions) -> list[herd.Reply]:
    model.chat("x", temperature=0.5, stop=["a"], tools=[{"name": "f"}])
    model.chat([herd.Message("user", "x")], **options)
    both: list[herd.Reply | errors.HerdError] = model.chat_many(["x"], return_errors=True, per_dialog=[options])
    both += model.chat_many(["x"], return_errors=len(both) > 1)
    herd.load("x", context=5)
    herd.SamplingOptions(top_k=5)
    model.chat("x", temprature=0.5)
    model.embed(["x"], temperature=0.5)
    model.complete("x", tools=[])
    model.chat("x", temperature="hot")
    herd.load("x", ops="gpu")
    herd.SamplingOptions(topk=5)
    return model.chat_many(["x"], max_tokens=5) if both else [model.chat("x", max_tokens=5)]
"""


@pytest.mark.slow
def test_a_type_checker_sees_what_is_wrong_in_a_users_file_and_only_that(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    file = tmp_path / "use.py"
    file.write_text(USE)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    wrong = {USE.splitlines()[int(n) - 1].strip() for n in re.findall(r"use\.py:(\d+): error", done.stdout)}
    first, last = USE.index('model.chat("x", temprature'), USE.index("return model.chat_many")
    assert wrong == {line.strip() for line in USE[first:last].splitlines() if line.strip()}, done.stdout + done.stderr


# -- how things show themselves --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    with herd.load(hf_folder(tmp_path_factory.mktemp("models") / "tiny"), threads=1, context=64) as found:
        yield found


def test_a_model_shows_its_name_size_context_ops_and_whether_it_is_closed(tiny: LLM) -> None:
    assert re.fullmatch(r"LLM\('.*tiny', llama4 of 0.000\d+B parameters, context 64, ops native\)", repr(tiny))
    fake = LLM(TINY, FakeModel(lambda ids: 65, context=40), BYTES, UsageError("none"), name="fake")
    assert repr(fake).startswith("LLM('fake', llama4 of ")
    fake.close()
    assert repr(fake).endswith("B parameters, context 40, closed)")


def test_a_reply_shows_its_text_and_end_and_sampling_options_what_is_not_the_default() -> None:
    with saying("a" * 100) as model:
        reply = model.chat("Hi", logprobs=5)
        assert repr(reply) == f"Reply({'a' * 60 + '…'!r}, 'stop', {reply.usage.prompt_tokens} + 101 tokens)"
    assert repr(SamplingOptions(temperature=0.5, stop=("x",))) == "SamplingOptions(temperature=0.5, stop=('x',))"
    assert repr(SamplingOptions()) == "SamplingOptions()"
    assert repr(LoadOptions(context=5)) == "LoadOptions(context=5)"
