"""Words at the margin of a terminal: whole, streamed, wide, and on a terminal that changes its size."""

import io
import itertools
import random
import sys
import unicodedata

import pytest
import wcwidth

from herd.cli.wrapping import Wrapping, cells, for_screen, on_screen, visible, wrapped

WORDS = [
    "a",
    "the",
    "extraordinary",
    "Grüße",
    "naïve",
    "ｗｉｄｅ",
    "日本語のテキスト。",
    "한국어",
    "é",
    "👩‍👩‍👧",
    "👍🏽",
    "-",
    "end.",
]


def streamed(pieces: list[str], widths: list[int]) -> str:
    """What is written for text in pieces, the terminal as wide as it says before each."""
    out: list[str] = []
    now = [widths[0]]
    wrapping = Wrapping(out.append, lambda: now[0])
    for i, piece in enumerate(pieces):
        now[0] = widths[i % len(widths)]
        wrapping.add(piece)
    wrapping.end()
    return "".join(out)


def cut(text: str, rng: random.Random) -> list[str]:
    """The text in random pieces, as tokens come: marks apart from what they stand on, too."""
    places = sorted({0, len(text), *(rng.randrange(len(text) + 1) for _ in range(len(text) // 3))})
    return [text[a:b] for a, b in itertools.pairwise(places)]


def test_characters_are_as_wide_as_terminals_take_them() -> None:
    """Against wcwidth's tables, but for what a terminal does not show, and for what the two Unicodes do not share."""
    other = []
    for point in range(0x20, sys.maxunicode, 7):
        c = chr(point)
        if unicodedata.category(c) in ("Cc", "Cf", "Cn", "Co", "Cs", "Mc", "Zl", "Zp"):
            continue
        if cells(c) != max(0, wcwidth.wcwidth(c)):
            other.append(c)
    assert len(other) < 60, [f"{ord(c):x}" for c in other]


@pytest.mark.parametrize("width", [8, 20, 33, 80])
def test_no_word_is_broken_and_no_line_is_too_long_however_the_text_comes(width: int) -> None:
    rng = random.Random(width)
    for _ in range(30):
        paragraphs = [" ".join(rng.choice(WORDS) for _ in range(rng.randrange(30))) for _ in range(3)]
        text = "\n\n".join(paragraphs) + rng.choice(["", "\n", "  "])
        shown = streamed(cut(text, rng), [width])
        assert shown == streamed([text], [width]) == wrapped(text, width), "pieces change nothing"
        for word in text.split():
            if wcwidth.wcswidth(word) < width and all(cells(c) < 2 for c in word):
                assert word in shown.split()
        for line in shown.split("\n"):
            first = line.split(" ")[0]  # a word longer than a line, which the terminal breaks
            assert sum(map(cells, line.rstrip())) < width or sum(map(cells, first)) >= width
        assert "".join(shown.split()) == "".join(text.split()), "nothing is lost"


def test_lines_end_at_the_last_word_that_fits() -> None:
    assert wrapped("one two three four", 9) == "one two\nthree\nfour"
    assert wrapped("one  two\n\nthree", 80) == "one  two\n\nthree"
    assert wrapped("    indented code stays", 80) == "    indented code stays"
    assert (
        wrapped("label       and the rest of it", 20, 12) == "label       and the\n            rest of\n            it"
    )


def test_wide_text_breaks_between_characters_but_never_before_a_mark_or_a_full_stop() -> None:
    shown = wrapped("日本語のテキスト。か\u3099", 9)
    assert shown == "日本語の\nテキスト。\nか\u3099" or max(sum(map(cells, x)) for x in shown.split("\n")) <= 10
    assert not any(line[:1] in "。\u3099" for line in shown.split("\n"))
    assert "👩\u200d👩\u200d👧" in wrapped("xxxx 👩\u200d👩\u200d👧", 8), "a joined picture stays one"


def test_a_word_longer_than_a_line_is_left_whole_to_be_copied() -> None:
    link = "https://example.org/" + "x" * 50
    assert wrapped(f"see {link} there", 20).split() == ["see", link, "there"]
    assert wrapped(f"see {link}", 20).startswith("see\nhttps")


def test_code_between_fences_is_left_as_it_is() -> None:
    code = "```python\nprint('a line that is longer than the terminal is wide')\n```\n"
    shown = wrapped("words that wrap here\n" + code + "words that wrap again", 12)
    assert code in shown
    assert shown.startswith("words that\nwrap here\n") and shown.endswith("words that\nwrap again")


def test_a_new_size_holds_from_the_next_piece_on() -> None:
    shown = streamed(["aaa bbb ", "ccc ddd eee ", "fff ggg hhh iii"], [40, 12, 40])
    assert shown.replace("\n", " ").split() == ["aaa", "bbb", "ccc", "ddd", "eee", "fff", "ggg", "hhh", "iii"]
    assert "\n" in shown


def test_where_no_terminal_is_nothing_is_changed_or_held_back() -> None:
    out: list[str] = []
    wrapping = Wrapping(out.append, lambda: 0)
    for piece in ("a very long", " line\nand ", "more   "):
        wrapping.add(piece)
    assert out == ["a very long", " line\nand ", "more   "]


class Screen(io.StringIO):
    """A terminal that does not say its size."""

    def isatty(self) -> bool:
        return True


def test_no_control_character_reaches_a_terminal_and_none_is_lost_elsewhere() -> None:
    codes = "".join(map(chr, (*range(32), *range(0x7F, 0xA0))))
    text = f"a\x1b]52;c;aGk=\x07b\r\nc\x9b2J {codes}"
    for stream in (Screen(), io.StringIO()):
        screen = on_screen(stream)
        for character in text:
            screen.add(character)
        screen.end()
        for shown in (stream.getvalue(), for_screen(text, stream)):
            if stream.isatty():
                assert not [c for c in shown if unicodedata.category(c) == "Cc" and c not in "\t\n"]
                assert shown.startswith("a\u241b]52;c;aGk=\u2407b\nc\ufffd2J ")
            else:
                assert shown == text
    assert visible("plain\ttext\n") == "plain\ttext\n"
    assert "\x1b" not in wrapped("\x1b[2Jwords that wrap", 10)
