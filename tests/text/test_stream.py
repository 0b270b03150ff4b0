"""Streaming: the pieces joined are the whole, whatever the ids, and no piece ends inside a character."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from text_samples import random_texts

from herd.text.stream import StreamDecoder
from herd.text.tokenizer import Tokenizer

BYTES = Tokenizer.bytes_only()


def _stream(ids, **options):
    decoder = StreamDecoder(BYTES, **options)
    return [*(decoder.push(i) for i in ids), decoder.flush()]


@settings(deadline=None, max_examples=300)
@given(st.lists(st.integers(0, 319), max_size=60))
def test_any_ids_stream_to_their_decoded_text(ids):
    assert "".join(_stream(ids)) == BYTES.decode(ids, hide_specials=True)
    assert "".join(_stream(ids, hide_specials=False)) == BYTES.decode(ids)


@settings(deadline=None, max_examples=300)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=80))
def test_text_round_trips_and_no_character_is_broken(text):
    pieces = _stream(BYTES.encode(text))
    assert "".join(pieces) == text == BYTES.decode(BYTES.encode(text))
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text
    assert pieces[-1] == ""


def test_a_character_appears_with_its_last_byte():
    decoder = StreamDecoder(BYTES)
    assert [decoder.push(b) for b in "a€".encode()] == ["a", "", "", "€"]
    assert decoder.push(0xF0) == ""
    assert decoder.held_bytes == 1
    assert decoder.flush() == "\ufffd"
    assert decoder.held_bytes == 0
    assert decoder.push(0x41) == "A"


def test_specials_are_hidden_unless_asked_for():
    eot = BYTES.specials["<|eot|>"]
    assert "".join(_stream([0x41, eot, 0x42])) == "AB"
    assert "".join(_stream([0x41, eot, 0x42], hide_specials=False)) == "A<|eot|>B"


def test_random_text_streams_from_random_places():
    rng = random.Random(21)
    for text in random_texts(seed=22, count=500):
        ids = BYTES.encode(text)
        start, stop = sorted(rng.choices(range(len(ids) + 1), k=2))
        assert "".join(_stream(ids[start:stop])) == bytes(ids[start:stop]).decode("utf-8", "replace")
