"""Control tokens that a text spells, as ids for whoever is its author, against the `tokenizers` package."""

import json
import random
from pathlib import Path

import pytest

from bpe_folder import SPECIALS, TEXT, write_tokenizer
from herd.errors import ContextTooLong
from herd.text.special import IMAGES, LLAMA4
from herd.text.tokenizer import Tokenizer

LONGER = ("<|eot|><|", "<|eot", "<think>", "\uff5cend\uff5c")  # one begins as another does
PLAIN = ("<|eo", "</think>", "\n\n")


def test_ids_are_those_that_tokenizers_makes_of_added_tokens_in_text(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    write_tokenizer(tmp_path / "t")
    file = tmp_path / "t" / "tokenizer.json"
    theirs = tokenizers.Tokenizer.from_file(str(file))
    theirs.add_special_tokens(list(LONGER))
    theirs.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in PLAIN])
    theirs.save(str(file))
    ours = Tokenizer.from_hf_folder(tmp_path / "t")
    assert set(LONGER) < set(ours.specials) and set(PLAIN) < set(ours.added)
    author, rng = ours.for_author(ours.image_ids), random.Random(7)
    pieces = [*SPECIALS, *LONGER, *PLAIN, *TEXT[0].split(), " ", "<|", "|>", "<|e", "ot|>", "\u00e9"]
    for _ in range(500):
        text = "".join(rng.choices(pieces, k=rng.randrange(12)))
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert author.encode(text) == ids, text
        assert ours.spelt(text) == [i for i in ids if i in ours.control_ids], text


def test_tokens_of_images_stay_text() -> None:
    tokenizer = Tokenizer.bytes_only()
    eot = tokenizer.specials["<|eot|>"]
    text = "a<|image|>b<|eot|><|patch|>"
    found = tokenizer.for_author(tokenizer.image_ids).encode(text)
    assert found == [*b"a<|image|>b", eot, *b"<|patch|>"]
    assert tokenizer.decode(tokenizer.spelt(text)) == "<|image|><|eot|><|patch|>"
    assert tokenizer.image_ids == {tokenizer.specials[name] for name in IMAGES}
    assert set(IMAGES) < set(LLAMA4)


def test_a_text_without_spellings_is_the_text_that_it_is() -> None:
    tokenizer = Tokenizer.bytes_only()
    for text in ("", "Once", "<|eot|", json.dumps({"a": "<|"})):
        assert tokenizer.for_author().encode(text) == tokenizer.encode(text)
        assert tokenizer.spelt(text) == []


def test_what_is_spelt_counts_towards_the_most_ids_too() -> None:
    within = Tokenizer.bytes_only().within(3)
    assert len(within.for_author().encode("a<|eot|>")) == 2
    with pytest.raises(ContextTooLong):
        within.for_author().encode("<|eot|><|eot|>")
