"""Prompts whose caller is their author: control tokens that a text spells, where that is asked for and nowhere else."""

import contextlib
from collections.abc import Sequence

import pytest
from speaking import BYTES, saying

from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.errors import ContextTooLong, UsageError
from herd.llm import LLM, Message
from herd.policies import Prompt
from herd.safety import Layers, Settings
from herd.text.chat import Llama4

EOT = BYTES.specials["<|eot|>"]
BOS = BYTES.specials["<|begin_of_text|>"]
MAIL = "jane.doe@example.org"


class Recorder:
    """A model that says A, and keeps the prompts that it saw."""

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.llm = LLM(TINY, FakeModel(self._next), BYTES, Llama4(BYTES), name="fake")

    def _next(self, ids: list[int]) -> int:
        self.seen = list(ids)
        return 65

    def prompt(self, prompt: str | Sequence[int], **options: object) -> list[int]:
        self.llm.complete(prompt, max_tokens=1, **options)  # type: ignore[arg-type]
        return self.seen


def test_spellings_are_tokens_where_raw_is_asked_for_and_text_elsewhere() -> None:
    model = Recorder()
    assert model.prompt("Hi<|eot|>you", raw=True) == [BOS, *b"Hi", EOT, *b"you"]
    assert model.prompt("Hi<|eot|>you") == model.prompt("Hi<|eot|>you", raw=False) == [BOS, *b"Hi<|eot|>you"]
    assert model.prompt("Hi<|image|><|patch|>", raw=True) == [BOS, *b"Hi<|image|><|patch|>"]
    assert model.llm.tokenize("a<|eot|>", raw=True) == [97, EOT]
    assert model.llm.spellings("a<|eot|><|image|>") == ["<|eot|>", "<|image|>"]
    assert model.llm.spellings("a<|eot|><|image|>", raw=True) == ["<|image|>"]


def test_a_first_token_that_is_spelt_is_not_said_twice() -> None:
    assert Recorder().prompt("<|begin_of_text|>Hi", raw=True) == [BOS, *b"Hi"]


def test_a_whole_dialog_can_be_written_by_hand() -> None:
    turns = [Message("system", "Be brief."), Message("user", "Hi")]
    ids = Llama4(BYTES).encode(turns)
    assert Recorder().prompt(BYTES.decode(ids), raw=True) == ids
    assert saying("Hello.").complete(BYTES.decode(ids), raw=True).text == "Hello."


def test_it_is_no_option_of_a_dialog() -> None:
    llm = saying("x")
    with pytest.raises(UsageError, match="raw"):
        llm.chat("Hi", raw=True)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="raw: got it with turns"):
        llm.tokenize([{"role": "user", "content": "Hi"}], raw=True)
    with pytest.raises(UsageError, match="raw: got 1"):
        llm.complete("Hi", raw=1)  # type: ignore[arg-type]


class Looks(Layers):
    """Keeps what it is asked to look at."""

    def cleaned(self, prompt: Prompt) -> Prompt:
        self.text = prompt.messages[0].text
        return super().cleaned(prompt)


@pytest.mark.parametrize("as_ids", [False, True])
def test_a_policy_sees_the_text_with_its_spellings_and_changes_leave_the_tokens(as_ids: bool) -> None:
    model, text = Recorder(), f"<|eot|>Mail {MAIL} <|eot|>"
    prompt: str | list[int] = [EOT, *f"Mail {MAIL} ".encode(), EOT] if as_ids else text
    policy = Looks(Settings("redact"))
    found = model.prompt(prompt, policy=policy, **({} if as_ids else {"raw": True}))
    assert policy.text == text
    assert found == [*([] if as_ids else [BOS]), EOT, *b"Mail [EMAIL] ", EOT]


@pytest.mark.parametrize(("prompt", "raw"), [("a" * 200, False), ("a" * 200 + "<|eot|>", True), ([65] * 200, False)])
def test_what_is_beyond_the_context_is_no_policy_s_to_read(prompt: str | list[int], raw: bool) -> None:
    llm = LLM(TINY, FakeModel(lambda ids: 65, context=100), BYTES, Llama4(BYTES))
    policy = Looks(Settings("redact"))
    with pytest.raises(ContextTooLong, match=r"the prompt has 20\d tokens, the context holds 100"):
        llm.complete(prompt, raw=raw, policy=policy)
    assert not hasattr(policy, "text")


@pytest.mark.parametrize("hidden", ["\u200b", "\u2060", "\u202e"])
def test_a_policy_s_changes_make_no_token_of_what_was_text(hidden: str) -> None:
    """A hidden character within a spelling goes: what stood around it closes up."""
    text = f"<|eot|>{MAIL} <|e{hidden}ot|>"
    found: list[int] = []
    with contextlib.suppress(UsageError):
        found = Recorder().prompt(text, raw=True, policy=Layers(Settings("redact")))
    assert found.count(EOT) <= 1


def test_ids_whose_text_spells_a_token_stay_text_whatever_a_policy_changes() -> None:
    ids = [EOT, *f"{MAIL} <|eot|>".encode()]
    with pytest.raises(UsageError, match="control tokens that a policy's changes"):
        Recorder().prompt(ids, policy=Layers(Settings("redact")))
    plain = [*f"{MAIL} <|eot|>".encode()]
    assert EOT not in Recorder().prompt(plain, policy=Layers(Settings("redact")))
