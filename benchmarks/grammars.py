"""What grammars cost: the trie of a vocabulary, compiling a schema, a mask, a draw among what it allows.

One thread; medians over the tokens of a JSON text that the schema allows, in microseconds. A step's cost is a mask, its
ids and the difference of the two draws. TOKENIZER: a rank file (Llama 4's is in the package llama_models) or a folder.

    scripts/bench grammars TOKENIZER
"""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from herd.engine.request import SamplingOptions
from herd.engine.sampler import History, sample
from herd.grammar.masks import Grammars
from herd.grammars import Grammar
from herd.text.tokenizer import Tokenizer

TEXT = {"type": "string"}
ADDRESS = {"street": TEXT, "city": TEXT, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}}
PERSON: dict[str, Any] = {
    "name": TEXT,
    "age": {"type": "integer", "minimum": 0, "maximum": 150},
    "jobs": {"type": "array", "items": TEXT},
    "address": {"type": "object", "properties": ADDRESS, "required": list(ADDRESS)},
    "kind": {"enum": ["person", "robot"]},
}
SCHEMA = {"type": "object", "properties": PERSON, "required": list(PERSON)}
VALUE = {
    "name": 'Ada Lovelace, "the first programmer"',
    "age": 36,
    "jobs": ["mathematician", "poet of science"],
    "address": {"street": "12 St James's Square", "city": "London", "zip": "12345"},
    "kind": "person",
}


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: scripts/bench grammars TOKENIZER")
    path = Path(sys.argv[1])
    tokenizer = Tokenizer.from_hf_folder(path) if path.is_dir() else Tokenizer.from_rank_file(path)
    grammars = Grammars(tokenizer, tokenizer.eos_ids)
    rows = {"trie of the vocabulary, once a model": once(grammars.prepare)}
    for name, grammar in (
        ("schema", Grammar("schema", json.dumps(SCHEMA))),
        ("any object", Grammar("json")),
    ):
        rows[f"{name}: compile"] = once(lambda grammar=grammar: grammars.matcher(grammar))
        rows[f"{name}: again"] = once(lambda grammar=grammar: grammars.matcher(grammar))
        masks = masks_us(grammars, grammar, tokenizer.encode(json.dumps(VALUE)))
        rows[f"{name}: mask and ids, median"] = statistics.median(masks)
        rows[f"{name}: mask and ids, mean"] = statistics.mean(masks)
    rows |= draws_us(tokenizer.vocab_size)
    for what, us in rows.items():
        print(f"{what:<44}{us:12,.0f} us")
    print(json.dumps({"benchmark": "grammars", "vocabulary": tokenizer.vocab_size, "us": rows}))


def masks_us(grammars: Grammars, grammar: Grammar, ids: Sequence[int]) -> list[float]:
    """Of each token of a text."""
    matcher, found = grammars.matcher(grammar), []
    for token_id in ids:
        found.append(once(matcher.allowed))
        matcher.accept(token_id)
    return found


def draws_us(vocab_size: int) -> dict[str, float]:
    """Greedy, from all ids and from what a grammar allows."""
    logits = np.random.default_rng(0).normal(size=vocab_size).astype(np.float32)
    rows = {}
    for name, allowed in (
        ("without a grammar", None),
        ("all allowed", np.arange(vocab_size)),
        ("10 allowed", np.arange(10)),
    ):
        times = [once(lambda a=allowed: sample(logits, SamplingOptions(), History(), 0, 0, a)) for _ in range(50)]
        rows[f"greedy draw, {name}"] = statistics.median(times)
    return rows


def once(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return 1e6 * (time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
