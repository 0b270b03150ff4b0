"""A dialog as a chat template writes it, cut at the control tokens that the template itself wrote.

No text of a dialog becomes a control token, whatever the template does with it: characters of theirs are replaced by
stand-ins first (`herd.text.stand_ins`), and what comes out, with these turned back, must be what the template writes
without them. Where a template looks at such characters, one sign of them after the other is replaced, then letters
beside what it looks for; where that does not help, the dialog is refused. What it is not: the process in which this
runs, ids, the choice of a template.
"""

import re
from collections.abc import Collection, Sequence
from typing import NoReturn

from herd.errors import HerdError, UsageError, fail
from herd.text.jinja import Program
from herd.text.stand_ins import Marker, StandIns, signs, texts_of
from herd.text.template_task import Task, Templates

_TAG = re.compile(r"[<\[][/\w]{1,40}[>\]]")
"""What templates look for in texts (`</think>`)."""
_QUOTED = re.compile(r"'([^'\\\n]{0,40})'|\"([^\"\\\n]{0,40})\"")
"""And what else they may (`/no_think`)."""
_ALNUM = re.compile(r"[^\W_]{1,64}+")


class Writers:
    """A Writer for each of some templates, made when it is needed."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates
        self._writers: dict[str, Writer] = {}

    def pieces(self, name: str, task: Task) -> list[str]:
        """See `Writer.pieces`; by the template of a name. Raises UsageError."""
        if name not in self._writers:
            asked = self._templates
            self._writers[name] = Writer(asked.sources[name], asked.control, asked.own)
        return self._writers[name].pieces(task)


class Writer:
    """Writes dialogs with one template. For one thread.

    control: spellings of all control tokens. own: those of them that an assistant's turns, too, cannot hold; the others
    (`<think>`) are the id where the assistant said them. Raises UsageError for a source that is no template.
    """

    def __init__(self, source: str, control: Collection[str], own: Collection[str]) -> None:
        self._program, self._source = Program(source), source
        self._control = frozenset(filter(str.strip, control))  # white space is text
        self._own = self._control.intersection(own)
        self._cut = _any_of(self._control)
        self._signs = {sign for spelling in self._control for sign in signs(spelling)}
        self._letters = "".join(sorted({c for text in self._control for c in text if c.isalnum()} - self._signs))
        tags, quoted = set(_TAG.findall(source)), {one or two for one, two in _QUOTED.findall(source)}
        theirs = self._control - self._own
        self._thoughts = _any_of(theirs)
        self._tags = _any_of(tags - self._control), _any_of((tags | theirs) - self._own)
        self._looked_for = (
            _any_of(_apart(quoted, self._control) | tags - self._control),
            _any_of(_apart(quoted, self._own) | (tags | theirs) - self._own),
        )

    def pieces(self, task: Task) -> list[str]:
        """Text, a control token's spelling, text, a spelling, ..., text: joined, what the template wrote.

        Raises UsageError: the template refuses the dialog or fails, or text cannot be told from control tokens.
        """
        plain = self._program.run(task.given(), task.now_s)
        texts = list(texts_of([task.messages, task.tools, task.variables]))
        stand_ins = StandIns(self._control, [*texts, self._source, *task.tokens.values()])
        text = self._marked(task, plain, stand_ins, None)
        pieces = self._split(text) if text is not None else self._by_signs(task, plain, texts, stand_ins)
        return [stand_ins.back(piece) for piece in pieces]

    def _by_signs(self, task: Task, plain: str, texts: Sequence[str], stand_ins: StandIns) -> list[str]:
        """As `pieces`, with stand-ins, where one sign after the other is replaced: a template looks for some. Letters
        are replaced, too, but in what the template may look for."""
        marked = self._marked(task, plain, stand_ins, ())
        found = _cannot_tell() if marked is None else marked
        known = self._signs.difference(*texts)

        def learns(chars: str) -> bool:
            nonlocal found
            marked = self._marked(task, plain, stand_ins, chars)
            if marked is None:
                return False
            known.update(chars)
            found = "".join(m if m in stand_ins.meant else c for m, c in zip(marked, found, strict=True))
            return True

        for sign in sorted(self._signs - known):
            learns(sign)
        folded = "\0".join(texts).casefold()
        if self._letters and not learns(self._letters):
            for word in sorted({word for spelling in self._split(found)[1::2] for word in _ALNUM.findall(spelling)}):
                if word.casefold() in folded and known.isdisjoint(word):
                    any(map(learns, word))
        pieces = self._split(found)
        if not all(_is_own(spelling, known, folded) for spelling in set(pieces[1::2])):
            _cannot_tell()
        return pieces

    def _marked(self, task: Task, plain: str, stand_ins: StandIns, replaced: str | tuple[()] | None) -> str | None:
        """What the template writes of a dialog with stand-ins, if that is the same text."""
        spared, own_spared = (None, self._thoughts) if replaced is None else self._spared(replaced)
        others = Marker(stand_ins, self._control, replaced, spared)
        own = Marker(stand_ins, self._own, replaced, own_spared)
        try:
            marked = self._program.run(task.given(others, own), task.now_s, stand_ins)
        except HerdError:  # it looked for what is replaced
            return None
        return marked if stand_ins.back(marked) == plain else None

    def _spared(self, replaced: Collection[str]) -> "tuple[re.Pattern[str] | None, re.Pattern[str] | None]":
        """What stays as it is of what others and of what the assistant said."""
        return self._tags if self._signs.issuperset(replaced) else self._looked_for

    def _split(self, text: str) -> list[str]:
        return [text] if self._cut is None else self._cut.split(text)


def _any_of(texts: Collection[str]) -> "re.Pattern[str] | None":
    """One of these, the longest first, as a group to split at."""
    longest_first = sorted(texts, key=lambda text: (-len(text), text))
    return re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if texts else None


def _apart(texts: Collection[str], spellings: Collection[str]) -> set[str]:
    """The texts that hold no spelling and are no part of one."""
    whole, each = "\0".join(spellings).casefold(), _any_of({text.casefold() for text in spellings})
    folded = ((text, text.casefold()) for text in texts)
    return {text for text, one in folded if one not in whole and not (each and each.search(one))}


def _is_own(spelling: str, known: Collection[str], said: str) -> bool:
    """Whether the template wrote a spelling: a sign of it, and a letter of each word in it but those that nobody said.
    known: characters that are the template's wherever they are; said: all that was, in small letters."""
    if not any(sign in known for sign in signs(spelling)):
        return False
    words = _ALNUM.findall(spelling)
    return all(any(c in known for c in word) or word.casefold() not in said for word in words)


def _cannot_tell() -> NoReturn:
    fail(
        UsageError,
        "the chat template changes what is said where it holds parts of control tokens",
        do="leave those out, or choose a format with --chat-format",
    )
