"""Stop strings against the obvious implementation: look at the whole text after every piece."""

from hypothesis import given, settings
from hypothesis import strategies as st

from herd.engine.stop_strings import StopStrings


def first_hit(text: str, stops: list[str]) -> int | None:
    """Where the text is cut: the first place a stop string is complete, the longest one that ends there."""
    for end in range(1, len(text) + 1):
        starts = [end - len(s) for s in stops if text[:end].endswith(s)]
        if starts:
            return min(starts)
    return None


def could_begin(text: str, stops: list[str]) -> int:
    """Length of the longest end of the text that is the beginning of a stop string."""
    return max((n for s in stops for n in range(len(s)) if n <= len(text) and text.endswith(s[:n])), default=0)


@settings(max_examples=500, deadline=None)
@given(
    pieces=st.lists(st.text("abc", max_size=4), max_size=12),
    stops=st.lists(st.text("abc", min_size=1, max_size=5), max_size=3),
)
def test_equals_looking_at_the_whole_text(pieces: list[str], stops: list[str]) -> None:
    machine, shown, so_far = StopStrings(stops), "", ""
    for piece in pieces:
        shown += machine.push(piece)
        so_far += piece
        hit = first_hit(so_far, stops)
        if hit is not None:
            assert machine.hit is not None
            assert shown == so_far[:hit]
        else:
            assert machine.hit is None
            assert shown == so_far[: len(so_far) - could_begin(so_far, stops)], "held back too much or too little"
    shown += machine.finish()
    cut = first_hit(so_far, stops)
    assert shown == (so_far if cut is None else so_far[:cut])


def test_a_stop_string_over_three_pieces() -> None:
    machine = StopStrings(["</answer>"])
    assert [machine.push(p) for p in ("42 <", "/ans", "wer", "> and more")] == ["42 ", "", "", ""]
    assert machine.hit == "</answer>"
    assert machine.finish() == ""


def test_repeating_stop_strings_take_linear_time() -> None:
    machine = StopStrings(["a" * 255 + "b"])
    assert len(machine.push("a" * 100_000)) == 100_000 - 255
