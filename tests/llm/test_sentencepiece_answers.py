"""Answers of a model with SentencePiece's vocabulary: the space before a text, parts of characters, schemas, scores."""

from collections.abc import Sequence
from typing import Any

import pytest

from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.llm import LLM
from herd.messages import Message
from herd.text.chat import choose_format
from herd.text.tokenizer import Tokenizer
from sentencepiece_bytes import BYTES, START, model

MARK = "\u2581"
WORDS = [MARK, *'abcdefghijklmnopqrstuvwxyz{}:,"1', f"{MARK}h", f"{MARK}hi", "ok", f"{MARK}ok"]
PIECES = [
    *START,
    *BYTES,
    *((text, -float(n), 1) for n, text in enumerate(WORDS)),
    ("<|im_start|>", 0.0, 3),
    ("<|im_end|>", 0.0, 3),
]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp("words")
    (folder / "tokenizer.model").write_bytes(model(PIECES))
    return Tokenizer.from_hf_folder(folder)


def saying(words: Tokenizer, answer: Sequence[int]) -> LLM:
    """Behind a prompt it says this, then the end of a turn."""
    chat = choose_format(words, None)
    asked: list[int] = []

    def next_id(ids: list[int]) -> int:
        if not asked:
            asked.append(len(ids))
        at = len(ids) - asked[0]
        return answer[at] if at < len(answer) else words.added["<|im_end|>"]

    return LLM(TINY, FakeModel(next_id, vocab_size=words.vocab_size), words, chat, name="fake")


def test_the_space_before_an_answer_is_not_shown_and_one_in_a_text_that_goes_on_is(words: Tokenizer) -> None:
    ids = words.encode("hi caf\u00e9 \U0001fae0")
    assert ids[0] == words.encode("hi")[0] and len(ids) == 12
    with saying(words, ids) as llm:
        assert llm.chat([Message("user", "a")]).text == "hi caf\u00e9 \U0001fae0"
    with saying(words, ids) as llm:
        shown = [event.text for event in llm.stream([Message("user", "a")]) if hasattr(event, "text")]
        assert "".join(shown) == "hi caf\u00e9 \U0001fae0" and "\ufffd" not in shown
    with saying(words, ids) as llm:
        assert llm.complete("a").text == " hi caf\u00e9 \U0001fae0"


def test_a_dialog_has_one_space_behind_each_control_token(words: Tokenizer) -> None:
    chat = choose_format(words, None)
    start, end = words.added["<|im_start|>"], words.added["<|im_end|>"]
    line, join = [words.encode("\n", place="text")[0]], words.encode(" ", place="text")
    expected = [start, *words.encode("user"), *line, *words.encode("hi ok", place="text"), end, *join, *line]
    expected += [start, *words.encode("assistant"), *line]
    assert chat.encode([Message("user", "hi ok")]) == expected
    plain = choose_format(words, None, "plain")
    assert plain.encode([Message("user", "hi"), Message("user", "ok")]) == [
        1,
        *words.encode("hi"),
        *words.encode("\n\n", place="text"),
        *words.encode("ok", place="text"),
    ]


def test_a_schema_holds_and_scores_are_of_a_text_that_goes_on(words: Tokenizer) -> None:
    schema: Any = {
        "type": "object",
        "properties": {"ok": {"type": "integer"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    ids = words.encode('{"ok":1}', place="text")
    with saying(words, ids) as llm:
        assert llm.chat([Message("user", "a")], schema=schema).parsed == {"ok": 1}
    with saying(words, ids) as llm:
        (score,) = llm.score([("hi", " ok")])
        assert [one.token_id for one in score.tokens] == words.encode(" ok", place="text")
