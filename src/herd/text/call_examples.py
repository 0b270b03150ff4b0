"""The form of calls that a chat template writes, learnt from answers that it writes: examples of calls.

Nothing is known of any model: what stands before a name, between a name and its arguments, how arguments are written
and what ends a call is what stands there in the examples. What it is not: the writing of examples
(`herd.text.chat_template`), what a form is (`herd.text.call_form`).
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from herd.messages import ToolCall
from herd.text.call_arguments import Arguments
from herd.text.call_form import CONTROL, EXAMPLE_ID, ID, MOST, TOKENS, CallForm, Parameters
from herd.text.call_values import WORDS
from herd.text.message_checks import in_name
from herd.text.own_calls import ALL_TYPES, write

NAME, KEY, OTHER = "look_up", "subject", "whereabouts"
"""Names in the examples: of a tool, and of two of its parameters."""
FIRST, SECOND = "rain", "snow"
"""Values in them, of one parameter."""
_TEXT = 'a "b"\n<c> \\ {d}'
"""A text that JSON writes in another way."""
_VALUES = (12, -1.5, [1, "a"], {"b": [None, True]})
Says: TypeAlias = Callable[[Sequence[ToolCall]], str | None]
"""What an answer of some calls is written as, from behind its header up to its end token, TOKENS for control tokens;
None: it is not written."""


def call_of(arguments: Mapping[str, Any]) -> ToolCall:
    """A call in an example."""
    return ToolCall(NAME, dict(arguments), id=EXAMPLE_ID)


def in_json(header: str, one: str, two: str | None, name: str, arguments: tuple[str, str]) -> CallForm | None:
    """A form whose arguments are JSON, without its control tokens; None where it cannot be told from what was written.

    header: what stands before an answer. one: a dialog whose answer is one call; two: with two of them; None: the
    template writes no two. CONTROL stands in them for each control token. name: of each call, whose id is EXAMPLE_ID.
    arguments: of the first and the second, in JSON.
    """
    call = one.removeprefix(header).replace(EXAMPLE_ID, ID)
    head, _, rest = call.partition(name)
    between, found, tail = rest.partition(arguments[0])
    if not one.startswith(header) or call.count(name) != 1 or not found or CONTROL in between:
        return None
    join, again, rest = (two or "").replace(EXAMPLE_ID, ID).partition(arguments[0])[2].partition(name)
    several = again and arguments[1] in rest and CONTROL not in join
    head, tail = head.rpartition(CONTROL)[2].lstrip(), tail.partition(CONTROL)[0].rstrip()
    form = CallForm(head, between, join if several else None, tail)
    around = "".join(part or "" for part in form[:4])
    # arguments that stand anywhere else would be those of every call
    return form if len(around) <= MOST and not any(said in around for said in arguments) else None


def with_its_own(says: Says, ids: Callable[[str], int | None]) -> CallForm | None:
    """A form of other signs than those that are always read; None where it cannot be told. ids: which control token
    one of TOKENS stands for in what was said."""
    one = _said(says, {KEY: FIRST})
    if one is None or one.count(NAME) != 1:
        return None
    head, _, rest = one.partition(NAME)
    form = _whole(says, head, rest) or _one_by_one(says, head, rest)
    if form is None or not _can_be_found(form):
        return None
    return _numbered(form._replace(head=form.head.lstrip(), tail=form.tail.rstrip(), own=True), ids)


def _numbered(form: CallForm, ids: Callable[[str], int | None]) -> CallForm:
    """The form with its own control tokens alone, in their order."""
    found = {char: i for text in form.texts() for char in text if (i := ids(char)) is not None}
    table = {ord(sign): one for sign, one in zip(found, TOKENS, strict=False)}
    return form.changed(lambda text: text.translate(table))._replace(tokens=tuple(found.values()))


def _said(says: Says, *arguments: Mapping[str, Any]) -> str | None:
    """An answer of calls with these arguments."""
    found = says([call_of(one) for one in arguments])
    return None if found is None else found.replace(EXAMPLE_ID, ID)


def _whole(says: Says, head: str, rest: str) -> CallForm | None:
    """A form whose arguments are one JSON object. rest: what an example says behind the name."""
    for separators in ((", ", ": "), (",", ":")):
        first, second = (json.dumps({KEY: value}, separators=separators) for value in (FIRST, SECOND))
        between, found, tail = rest.partition(first)
        if found and KEY not in between + tail:
            two = _said(says, {KEY: FIRST}, {KEY: SECOND}) or ""
            start, end = head + NAME + between + first, between + second + tail
            return CallForm(head, between, *_several(two, start, end, tail))
    return None


def _one_by_one(says: Says, head: str, rest: str) -> CallForm | None:
    """A form whose arguments are written one by one: open name middle value close."""
    before, found, rest = rest.partition(KEY)
    middle, again, behind = rest.partition(FIRST)
    none = _said(says, {})
    two = _said(says, {KEY: FIRST, OTHER: SECOND})
    if not (found and again) or none is None or two is None:
        return None
    start, end = f"{head}{NAME}{before}{KEY}{middle}{FIRST}", f"{OTHER}{middle}{SECOND}{behind}"
    if not two.startswith(start) or not two.endswith(end):
        return None
    among = two[len(start) : len(two) - len(end)]
    split = _split(before, among, behind, none.removeprefix(head + NAME))
    if split is None:
        return None
    between, open_, close, tail = split
    parameters = _values(
        says, f"{head}{NAME}{before}{KEY}{middle}", behind, Parameters(open_, middle, close, *_UNKNOWN)
    )
    if parameters is None:
        return None
    pair = _said(says, {KEY: FIRST}, {KEY: SECOND}) or ""
    joined = _several(pair, start + close, f"{before}{KEY}{middle}{SECOND}{behind}", tail)
    return CallForm(head, between, *joined, parameters)


def _several(two: str, start: str, end: str, tail: str) -> tuple[str | None, str]:
    """(join, tail) of a form, by what is said of two calls: what stands up to where one ends, and behind the second
    name. A template may end several calls by more than one, which is read behind one, too."""
    join, found, last = two.removeprefix(start).partition(NAME)
    if not (found and two.startswith(start) and last.startswith(end)):
        return None, tail
    return join, tail + last[len(end) :]


_UNKNOWN = (False, (None, None, None))


def _split(before: str, among: str, behind: str, none: str) -> tuple[str, str, str, str] | None:
    """(between, open, close, tail) of what stands before the first parameter, among two, behind the last one, and in a
    call without any. Of all that fit, which say the same, the one with the shortest `close` that ends with a sign."""
    for at in range(1, len(among)):
        close, open_ = among[:at], among[at:]
        if not behind.startswith(close) or not before.endswith(open_):
            continue
        between, tail = before[: len(before) - len(open_)], behind[at:]
        if none == between + tail and not close[-1].isspace() and not in_name(close[-1]):
            return between, open_, close, tail
    return None


def _values(says: Says, start: str, behind: str, form: Parameters) -> Parameters | None:
    """The form with how values are written; None where they are not read so."""

    def said(value: Any) -> str | None:
        whole = _said(says, {KEY: value})
        fits = whole is not None and whole.startswith(start) and whole.endswith(behind)
        return whole[len(start) : len(whole) - len(behind)] if whole is not None and fits else None

    text = said(_TEXT)
    if text != _TEXT and _json(text) != _TEXT:
        return None
    if any(_read(said(value)) != value for value in _VALUES):
        return None
    true, false, null = (word if (word := said(v)) in WORDS and WORDS[word] is v else None for v in (True, False, None))
    return form._replace(raw=text == _TEXT, words=(true, false, null))


def _json(text: str | None) -> Any:
    """What a text of JSON says; the text where it is none."""
    try:
        return json.loads(text or "")
    except (ValueError, RecursionError):
        return text


def _read(text: str | None) -> Any:
    """As what a value is read, in JSON or as Python prints it."""
    out = Arguments()
    write(text or "", ALL_TYPES, out)
    out.settle()
    return json.loads(out.take())


def _can_be_found(form: CallForm) -> bool:
    """Whether calls in a form can be told from text, their names and parameters from what stands around them."""
    said = "".join(form.texts())
    behind_names = [form.between.strip() or " "]
    if form.parameters is not None:
        open_, middle, close = (text.strip() for text in form.parameters[:3])
        behind_names = [form.between.strip() or open_, form.between.strip() or form.tail.strip(), middle]
        if not (open_ and close and form.tail.strip()):
            return False
    return (
        bool(form.head.strip())
        and len(said) <= MOST
        and not any(one in said for one in (NAME, KEY, FIRST, SECOND))
        and all(one and not in_name(one[0]) for one in behind_names)
    )
