"""One chat template as a program: minijinja with what transformers gives to templates, bounded.

It is somebody's program: it runs in a process that can be killed (`herd.engine.side_process`), with fuel, over copies
of plain values. minijinja does not see what callbacks do, so their arguments have bounds of their own.
"""

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any, NoReturn

import minijinja

from herd.errors import UsageError, fail
from herd.text.stand_ins import StandIns, texts_of

FUEL = 1_000_000
"""Steps that any rendering may take."""
FUEL_A_CHARACTER = 256
"""Further steps that it may take for each character of the template and of what it is given."""
MOST_INDENT = 16
MOST_FORMAT = 256
"""Characters of a format for dates."""
SHOWN = 200
"""Characters of a template's own complaint that are passed on."""
_GENERATION = re.compile(r"\{%([-+]?+)\s{0,16}+(end)?+generation\s{0,16}+([-+]?+)%\}")


class Program:
    """A template that has been compiled. For one thread. Raises UsageError for a source that is no template."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._now_s = 0.0
        self._stand_ins: StandIns | None = None
        self._environment = minijinja.Environment(
            debug=False,  # its errors would show what people said
            trim_blocks=True,
            lstrip_blocks=True,
            filters={"tojson": self._tojson},
            tests={"sequence": _is_sequence, "iterable": _is_iterable, "callable": _is_callable},
            globals={"raise_exception": _refuse, "strftime_now": self._strftime},
        )
        try:
            self._environment.add_template("chat", _GENERATION.sub(_if, source))
        except minijinja.TemplateError as error:
            fail(UsageError, "the chat template", got=_line(error), expected="what minijinja reads")

    def run(self, variables: Mapping[str, Any], now_s: float, stand_ins: StandIns | None = None) -> str:
        """What it writes. variables: plain values; they may be changed. now_s: the date it is told, in seconds since
        1970. stand_ins: of characters in them. Raises UsageError."""
        self._now_s, self._stand_ins = now_s, stand_ins
        given = sum(map(len, texts_of(dict(variables))))
        self._environment.fuel = FUEL + FUEL_A_CHARACTER * (len(self._source) + given)
        try:
            return self._environment.render_template("chat", **variables)
        except UsageError:
            raise
        except Exception as error:  # whatever methods and filters make of what the template gives them
            fail(UsageError, "the chat template cannot write this dialog", got=_line(error))

    def _tojson(
        self, value: Any, ensure_ascii: Any = False, indent: Any = None, separators: Any = None, sort_keys: Any = False
    ) -> str:
        """transformers' filter: JSON as Python's json module spaces it."""
        width = len(indent) if isinstance(indent, str) else indent or 0
        if not isinstance(width, int) or not 0 <= width <= MOST_INDENT:
            fail(UsageError, "the chat template: indent of tojson", got=indent, expected=f"at most {MOST_INDENT}")
        if separators is not None and max(map(len, separators)) > MOST_INDENT:
            fail(UsageError, "the chat template: separators of tojson", expected=f"at most {MOST_INDENT} characters")
        text = json.dumps(
            value,
            ensure_ascii=False,
            indent=indent,
            separators=None if separators is None else tuple(separators),
            sort_keys=bool(sort_keys),
        )
        return self._escaped(text, bool(ensure_ascii))

    def _escaped(self, text: str, ascii_only: bool) -> str:
        """JSON text with stand-ins for what the characters that they stand for are in JSON."""
        meant = self._stand_ins.meant if self._stand_ins else {}
        of = self._stand_ins.of if self._stand_ins else {}
        escapes: dict[int, str] = {}
        for char in set(text):
            if char in meant:
                escaped = json.dumps(meant[char], ensure_ascii=ascii_only)[1:-1]
                escapes[ord(char)] = "".join(of.get(c, c) for c in escaped)
            elif ascii_only and char >= "\x7f":
                escapes[ord(char)] = json.dumps(char)[1:-1]
        return text.translate(escapes)

    def _strftime(self, form: Any) -> str:
        if not isinstance(form, str) or len(form) > MOST_FORMAT:
            fail(
                UsageError, "the chat template: strftime_now", expected=f"a format of at most {MOST_FORMAT} characters"
            )
        return datetime.fromtimestamp(self._now_s).strftime(form)


def _if(tag: "re.Match[str]") -> str:
    """`{% generation %}` marks what training looks at: here it does nothing."""
    return f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}"


def _refuse(message: Any = "") -> NoReturn:
    fail(UsageError, "the chat template refuses this dialog", got=str(message)[:SHOWN])


def _is_sequence(value: Any) -> bool:
    return isinstance(value, str | list | tuple | dict)


def _is_iterable(value: Any) -> bool:
    """As Python sees it, to which nothing (`tools` that are not given) is none."""
    return hasattr(value, "__iter__")


def _is_callable(value: Any) -> bool:
    return callable(value)


def _line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:SHOWN]
