"""Texts that a grammar allows, from models that say anything: alone, among others, in samples, guessed, in a child."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from herd.engine.engine import Engine
from herd.engine.fake import FakeModel
from herd.engine.request import Finish, Request, SamplingOptions
from herd.errors import GrammarStuck, UsageError
from herd.grammar.masks import Grammars
from herd.grammars import Grammar
from herd.text.stream import StreamDecoder
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def babble(ids: list[int]) -> Any:
    """A model that says anything, and always the same after the same ids."""
    return np.random.default_rng(ids).normal(size=BYTES.vocab_size).astype(np.float32)


def engine_for(model: Any = None, vocabulary: Any = BYTES) -> Engine:
    backend = FakeModel(babble) if model is None else model
    grammars = Grammars(vocabulary, BYTES.eos_ids)
    return Engine(backend, lambda: StreamDecoder(BYTES), BYTES.eos_ids, grammars=grammars)


def run(engine: Engine, grammar: Grammar, **options: Any) -> tuple[str, Finish, list[int]]:
    chosen = SamplingOptions(grammar=grammar, **{"max_tokens": 200, **options})
    steps = list(engine.stream(engine.submit(Request([1, 2], chosen, seed=chosen.seed or 0))))
    assert steps[-1].finish is not None
    return "".join(s.text for s in steps), steps[-1].finish, [s.token_id for s in steps if s.token_id is not None]


def schema(value: Any) -> Grammar:
    return Grammar("schema", json.dumps(value))


def test_a_schema_is_followed_and_the_text_ends_where_it_is_complete() -> None:
    engine = engine_for()
    for seed in range(8):
        text, finish, ids = run(engine, schema(PERSON), temperature=1.0, seed=seed)
        found = json.loads(text)
        assert list(found) == ["name", "age"]
        assert 0 <= found["age"] <= 150
        assert finish.reason == "stop"
        assert ids[-1] in BYTES.eos_ids
        assert finish.usage.output_tokens == len(ids) == len(text.encode()) + 1


def test_the_last_token_takes_no_pass_unless_its_logprob_is_asked_for() -> None:
    for logprobs, passes in ((None, 3), (0, 4)):
        model = FakeModel(babble)
        text, finish, ids = run(engine_for(model), Grammar("regex", "[ab]{3}"), logprobs=logprobs)
        assert (len(text), len(ids), finish.reason) == (3, 4, "stop")
        assert len(model.passes) == passes


def test_max_tokens_cut_a_text_and_say_so() -> None:
    text, finish, ids = run(engine_for(), schema(PERSON), max_tokens=5)
    assert (len(ids), finish.reason) == (5, "length")
    assert text.startswith('{"nam')


def test_a_vocabulary_that_cannot_go_on_ends_that_request_alone() -> None:
    class NoBrace:
        vocab_size = BYTES.vocab_size
        is_special = staticmethod(BYTES.is_special)
        encode = staticmethod(BYTES.encode)

        def token_bytes(self, token_id: int) -> bytes:
            return b"" if token_id == ord("}") else BYTES.token_bytes(token_id)

    engine = engine_for(vocabulary=NoBrace())
    with pytest.raises(GrammarStuck, match="no token of this model"):
        run(engine, schema({"type": "object", "additionalProperties": False}))
    assert run(engine, Grammar("regex", "ok"))[0] == "ok"


def test_what_is_no_grammar_is_refused_before_it_is_queued() -> None:
    engine = engine_for()
    for grammar, said in (
        (schema({"$ref": "#"}), "lead back to itself"),
        (Grammar("regex", "(?=a)b"), "regex"),
        (Grammar("regex", r"[^\s\S]"), "expected one that some text matches"),
        (Grammar("lark", "start: foo"), "unknown name"),
        (Grammar("lark", 'start: start "a"'), "expected one that some text matches"),
        (Grammar("schema", "{"), "no JSON"),
    ):
        with pytest.raises(UsageError, match=said):
            engine.submit(Request([1], SamplingOptions(grammar=grammar)))
    plain = Engine(FakeModel(babble), lambda: StreamDecoder(BYTES), BYTES.eos_ids)
    with pytest.raises(UsageError, match="knows no vocabulary"):
        plain.submit(Request([1], SamplingOptions(grammar=Grammar("json"))))


def test_the_vocabulary_of_llama_4_spells_json_in_its_usual_tokens_and_no_control_token() -> None:
    spec = find_spec("llama_models")
    if spec is None or spec.origin is None:
        pytest.skip("llama_models is not installed")
    tokenizer = Tokenizer.from_rank_file(Path(spec.origin).parent / "llama4" / "tokenizer.model")
    matcher = Grammars(tokenizer, tokenizer.eos_ids).matcher(
        schema({"type": "object", "properties": {"note": {"type": "string"}}, "required": ["note"]})
    )
    specials = set(tokenizer.specials.values())
    ids = tokenizer.encode('{"note": "naïve <|eot|> \\u0000 \U0001f600 <|python_start|>"}')
    assert len(ids) < 30
    for token_id in ids:
        allowed = set(matcher.allowed().tolist())
        assert token_id in allowed
        assert not allowed & specials, "a text is no control token, whatever it says"
        matcher.accept(token_id)
    assert specials & set(matcher.allowed().tolist()) == tokenizer.eos_ids
