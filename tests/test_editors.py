"""Policies that change what is shown (`policies.Editor`): what leaves, what is withheld with it, what it cost."""

from collections.abc import Sequence

import pytest

from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.events import Note
from herd.llm import LLM, Message, Reply, TextEvent
from herd.policies import Cut, Edit, Editor
from herd.text.chat import Llama4
from herd.text.said import Said
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()
END = BYTES.specials["<|eot|>"]
SEEN = Note("test", "digit", "number", "redact")


class Digits:
    """Shows # for digits; `stop_at`: a letter that ends the reply."""

    def __init__(self, hold_tokens: int = 0, stop_at: str = "\0") -> None:
        self.hold_tokens, self.stop_at = hold_tokens, stop_at
        self.asked: list[tuple[int, int, int]] = []

    def before(self, messages: Sequence[Message]) -> str | None:
        return None

    def window(self, text: str, shown: int) -> str | None:
        raise AssertionError("an editor is asked to edit")

    def after(self, reply: Reply) -> str | None:
        return None

    def edit(self, said: Said, shown: int, ready: int) -> Edit:
        self.asked.append((said.length, shown, ready))
        if self.stop_at in said.text:
            return Edit(shown, instead="[no]")
        cuts = tuple(Cut(i, i + 1, "#") for i in range(shown, ready) if said.text[i].isdigit())
        return Edit(ready, cuts, (SEEN,) * bool(cuts))

    def notes(self, reply: Reply, said: Said) -> tuple[Note, ...]:
        return (Note("test", "asked", "request", "observe", "input"), *reply.notes)


def say(text: str, policy: Digits) -> tuple[list[str], Reply, list[int]]:
    """The pieces shown, the reply, and the ids whose logprobs came with the pieces."""
    start = len(Llama4(BYTES).encode([Message("user", "hi")]))
    said = [*text.encode(), END]
    llm = LLM(TINY, FakeModel(lambda ids: said[min(len(ids) - start, len(said) - 1)]), BYTES, Llama4(BYTES))
    pieces, known, reply = [], [], None
    for event in llm.stream("hi", policy=policy, logprobs=0, temperature=0):
        if isinstance(event, TextEvent):
            pieces.append(event.text)
            known += [x.token_id for x in event.logprobs or ()]
        else:
            reply = event.reply
    assert reply is not None
    return pieces, reply, known


def test_an_editor_is_known_by_its_methods() -> None:
    assert isinstance(Digits(), Editor)


@pytest.mark.parametrize("hold", [0, 1, 3, 8, 64])
def test_what_an_editor_changes_leaves_changed_and_its_tokens_do_not_leave(hold: int) -> None:
    pieces, reply, known = say("ab12cd3e" * 9, Digits(hold))
    assert "".join(pieces) == reply.text == "ab##cd#e" * 9
    assert not set(reply.ids) & set(b"123")
    assert not set(known) & set(b"123")
    assert reply.logprobs is not None and not {x.token_id for x in reply.logprobs} & set(b"123")
    assert SEEN in reply.notes and reply.notes[0].rule == "asked"
    assert Reply.from_dict(reply.to_dict()) == reply


@pytest.mark.parametrize("hold", [2, 8, 16])
def test_text_leaves_only_with_that_many_tokens_behind_it(hold: int) -> None:
    policy = Digits(hold)
    _, reply, _ = say("x" * 50, policy)
    *during, (length, _, ready) = policy.asked
    assert (length, ready, reply.text) == (50, 50, "x" * 50)
    assert during and all(ready <= length - hold for length, _, ready in during)
    assert reply.held is not None and hold <= reply.held.tokens <= hold + max(1, hold // 8)
    assert reply.held.first_s > 0 and reply.held.check_s > 0


def test_an_editor_that_changes_and_delays_nothing_costs_no_id_and_no_piece() -> None:
    pieces, reply, known = say("abc", Digits())
    assert (pieces, reply.ids, known) == (["a", "b", "c"], (*b"abc", END), [*b"abc"])
    assert reply.held is None


def test_what_is_refused_leaves_neither_as_text_nor_as_ids() -> None:
    pieces, reply, known = say("abcXdef", Digits(2, "X"))
    assert (reply.text, reply.finish_reason) == ("".join(pieces), "policy")
    assert reply.text.endswith("[no]")
    assert "X" not in reply.text and ord("X") not in (*reply.ids, *known)
