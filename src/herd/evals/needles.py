"""Items that ask for what stands somewhere in a long text: made from a seed, over the person's own text or a plain one.

    one         a word that the text says once
    several     three of them, spread over the text
    two_hops    a place whose word is that of another place, which stands elsewhere
    absent      a place that the text does not name; NONE is right

Each item has its `length` in characters, its `depth` (where the first needle stands, in percent) and its kind as
`group`. What it is not: a measure of understanding; a text that hides what it says is harder.
"""

import random
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import msgspec

from herd.errors import BadFile, fail
from herd.evals.templates import Item

MAX_TEXT = 16 << 20
"""Bytes of a text of one's own."""
MAX_MADE = 256 << 20
"""Characters of all items."""
PLACES = [
    "cellar",
    "attic",
    "barn",
    "tower",
    "kiosk",
    "library",
    "bakery",
    "mill",
    "pier",
    "chapel",
    "garden",
    "harbour",
]
WORDS = ["amber", "birch", "cobalt", "dune", "ember", "fjord", "garnet", "indigo", "juniper", "kelp", "opal", "quartz"]
WHO = [
    "A neighbour",
    "The postman",
    "My aunt",
    "A sailor",
    "The baker's son",
    "Somebody",
    "The teacher",
    "An old friend",
]
DID = ["walked past", "talked of", "asked about", "painted", "had forgotten", "looked for", "wrote about", "remembered"]
WHAT = ["the bridge", "a red boat", "the long winter", "an open window", "the market", "some letters", "the old clock"]

Length = Annotated[int, msgspec.Meta(ge=200, le=40_000_000)]
Depth = Annotated[float, msgspec.Meta(ge=0, le=100)]
Kind = Literal["one", "several", "two_hops", "absent"]


class Needles(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a task's file says of them."""

    lengths: Annotated[list[Length], msgspec.Meta(min_length=1, max_length=32)]
    """Characters of the texts; about four to a token of English."""
    depths: Annotated[list[Depth], msgspec.Meta(min_length=1, max_length=32)] = msgspec.field(
        default_factory=lambda: [0.0, 25.0, 50.0, 75.0, 100.0]
    )
    kinds: Annotated[list[Kind], msgspec.Meta(min_length=1, max_length=4)] = msgspec.field(
        default_factory=lambda: ["one", "several", "two_hops", "absent"]
    )
    each: Annotated[int, msgspec.Meta(ge=1, le=100)] = 1
    """Items of one kind, length and depth."""
    text: str = ""
    """A file beside the task, which they stand in; a plain text of our own without one."""


def items(needles: Needles, text: str, seed: int) -> Iterator[Item]:
    """The items. text: the person's own, or nothing. Raises BadFile for more than a run can hold."""
    count = len(needles.depths) * len(needles.kinds) * needles.each
    if count * sum(needles.lengths) > MAX_MADE:
        fail(
            BadFile, "needles", got=f"{count * sum(needles.lengths)} characters in all", expected=f"at most {MAX_MADE}"
        )
    for length in needles.lengths:
        for kind in needles.kinds:
            for depth in needles.depths:
                for number in range(needles.each):
                    draws = random.Random(f"{seed} {length} {kind} {depth:g} {number}")
                    yield _item(draws, kind, length, depth, text)


def _item(draws: random.Random, kind: Kind, length: int, depth: float, text: str) -> dict[str, Any]:
    places, words = draws.sample(PLACES, 6), draws.sample(WORDS, 6)
    said = [f"The word for the {place} is {word}." for place, word in zip(places, words, strict=True)]
    asked, answer = places[:1], words[:1]
    if kind == "one":
        placed = {depth: said[0], (depth + 50) % 100: said[4]}
    elif kind == "several":
        asked, answer = places[:3], words[:3]
        placed = {depth: said[0], (depth + 33) % 100: said[1], (depth + 66) % 100: said[2]}
    elif kind == "two_hops":
        told = f"The word for the {places[0]} is that of the {places[1]}."
        answer = words[1:2]
        placed = {depth: told, (depth + 50) % 100: said[1]}
    else:
        asked, answer = places[5:], ["NONE"]
        placed = {depth: said[0], (depth + 50) % 100: said[4]}
    lines = _sentences(draws, text, length - sum(len(one) + 1 for one in placed.values()))
    for at, needle in sorted(placed.items(), reverse=True):
        lines.insert(_place(lines, at), needle)
    never = [word for word in words if word not in answer and any(word in one for one in placed.values())]
    whole = " ".join(lines)
    return {
        "text": whole,
        "places": " and the ".join(asked),
        "answer": answer,
        "never": never + ([] if kind == "absent" else ["NONE"]),
        "length": length,
        "depth": depth,
        "group": kind,
    }


def _place(lines: list[str], depth: float) -> int:
    """The number of the sentence before which so many percent of the text stand."""
    wanted, before = depth / 100 * sum(len(line) + 1 for line in lines), 0
    for number, line in enumerate(lines):
        if before >= wanted:
            return number
        before += len(line) + 1
    return len(lines)


def _sentences(draws: random.Random, text: str, length: int) -> list[str]:
    """Sentences of a text, from a place that is drawn, around its end where it is short, up to a length in all."""
    found = []
    if text:
        given = [one.strip() + "." for one in " ".join(text.split()).split(".") if one.strip()]
        start = draws.randrange(len(given))
        numbers = iter(range(start, start + length))
        following = (given[number % len(given)] for number in numbers)
    else:
        following = (f"{draws.choice(WHO)} {draws.choice(DID)} {draws.choice(WHAT)}." for _ in range(length))
    for sentence in following:
        if len(sentence) + 1 > length:
            break
        found.append(sentence)
        length -= len(sentence) + 1
    return found or [text[: max(0, length)]]
