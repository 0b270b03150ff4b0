"""One turn of a dialog, in any of the forms that clients hold it in -> a `Message`.

    {"role", "content", "tool_calls", ...}      OpenAI's and Ollama's, and Herd's own short one
    an object with `model_dump()`               the message that a client of theirs returned (pydantic)

What a key of a turn says is read, or nothing (null, empty), or refused by name: nothing of a dialog is lost in silence.
A call whose arguments are JSON that was cut is put in as text: so it was said, and nobody can call it.
What it is not: limits and pixels of images, which whoever reads a whole dialog brings (`herd.dialogs`).
"""

import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeAlias

from herd.errors import BadMedia, UsageError, fail
from herd.media.encoded import image_of
from herd.messages import Content, CutCall, ImagePart, Message, TextPart, ToolCall
from herd.text.message_checks import ROLES
from herd.value_checks import flag, many, nearest, shown


class Dumped(Protocol):
    """An object that tells its fields as a dict: pydantic's, which OpenAI's and Ollama's clients return."""

    def model_dump(self, *, exclude: Any = None, exclude_none: bool = False) -> dict[str, Any]:
        """Its fields, but for those that are excluded; exclude_none: those that say nothing, too."""


Turn: TypeAlias = Message | Mapping[str, Any] | Dumped
ImageReader: TypeAlias = Callable[[Any, str], ImagePart]
"""What makes a part of an image (bytes, a path, pixels); it is told where that stands."""

_TURN = (
    *("role", "content", "tool_calls", "name", "tool_name", "tool_call_id", "images"),
    *("context", "end_of_message"),
)
_CALL = ("id", "type", "function", "name", "arguments", "index")
_FUNCTION = ("name", "arguments", "index")
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of parts that are text -> the key that holds it."""
_ADDRESSES = ("image_url", "input_image")
"""Types of parts that hold an image as an address."""
_PARTS = 'a part such as {"type": "text", "text": ...} or {"type": "image", "image": ...}'
_IMAGE = 'give the bytes or a pathlib.Path: {"type": "image", "image": ...}'


def opened(value: Any) -> Any:
    """A pydantic object as a dict; anything else as it is. Images of Ollama's stay what they hold: asked for all of
    itself, such a message would open a file that a text names."""
    if not is_dumped(value):
        return value
    images = getattr(value, "images", None)
    if not isinstance(images, list | tuple):
        return value.model_dump()
    return {**value.model_dump(exclude={"images"}), "images": [_held(image) for image in images]}


def is_dumped(value: Any) -> bool:
    """Whether it is an object (no class) that tells its fields as a dict."""
    return not isinstance(value, type) and callable(getattr(value, "model_dump", None))


def _held(image: Any) -> Any:
    """What an image of Ollama's holds, unasked; anything else as it is."""
    return getattr(image, "value", None) if is_dumped(image) else image


def images_of(turn: Message | Mapping[str, Any]) -> Iterator[Any]:
    """What stands where images stand in a turn that is opened: a text holds base64, or an address."""
    if isinstance(turn, Message):
        return
    content, images = turn.get("content"), turn.get("images")
    yield from map(_held, images) if isinstance(images, list | tuple) else ()
    for given in content if isinstance(content, list | tuple) else ():
        part = opened(given)
        if isinstance(part, Mapping) and part.get("type") == "image":
            yield part.get("image")
        elif isinstance(part, Mapping) and part.get("type") in _ADDRESSES:
            yield _address(part.get("image_url"))


def message_of(turn: Message | Mapping[str, Any], where: str, read: ImageReader) -> Message:
    """A turn that is opened, as a message. Raises UsageError naming the place, BadMedia."""
    if isinstance(turn, Message):
        return _checked(turn, where)
    _check_keys(turn, where, _TURN)
    role = "system" if turn.get("role") == "developer" else turn.get("role")
    if role not in ROLES:
        fail(UsageError, f"{where}.role", got=shown(role), expected="one of " + ", ".join((*ROLES, "developer")))
    given = _list(turn.get("tool_calls"), f"{where}.tool_calls")
    calls = [_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(given)]
    cut = [_cut_text(call) for call in calls if isinstance(call, CutCall)]
    if cut and role != "assistant":
        fail(UsageError, f"{where}.tool_calls", got=f"role {role}", expected="role assistant")
    context = turn.get("context")
    return Message(
        role,
        _with_text(_whole_content(turn, where, read, may_be_null=bool(calls)), cut),
        tool_calls=tuple(call for call in calls if isinstance(call, ToolCall)),
        name=_name(turn, where),
        tool_call_id=_text_or_none(turn.get("tool_call_id"), f"{where}.tool_call_id"),
        context=None if context is None else _content(context, f"{where}.context", read),
        end_of_message=_flag(turn.get("end_of_message"), f"{where}.end_of_message"),
    )


def _checked(turn: Message, where: str) -> Message:
    """A `Message` that a caller made: nothing has looked at the types of what it holds."""
    if not isinstance(turn.role, str) or turn.role not in ROLES:
        fail(UsageError, f"{where}.role", got=shown(turn.role), expected="one of " + ", ".join(ROLES))
    for i, call in enumerate(many(f"{where}.tool_calls", turn.tool_calls)):
        if not isinstance(call, ToolCall):
            fail(UsageError, f"{where}.tool_calls[{i}]", got=type(call).__name__, expected="a ToolCall")
        _checked_call(call, f"{where}.tool_calls[{i}]")
    _check_content(turn.content, f"{where}.content")
    if turn.context is not None:
        _check_content(turn.context, f"{where}.context")
    _text_or_none(turn.name, f"{where}.name")
    _text_or_none(turn.tool_call_id, f"{where}.tool_call_id")
    _flag(turn.end_of_message, f"{where}.end_of_message")
    return turn


def _check_content(content: object, where: str) -> None:
    """As `_checked`, of a content."""
    if not isinstance(content, str | list | tuple):
        got = "null" if content is None else type(content).__name__
        fail(UsageError, where, got=got, expected="text, or text and image parts")
    for i, part in enumerate(() if isinstance(content, str) else content):
        if not isinstance(part, TextPart | ImagePart):
            fail(UsageError, f"{where}[{i}]", got=type(part).__name__, expected="a TextPart or an ImagePart")
        if isinstance(part, TextPart):
            _text(part.text, f"{where}[{i}].text")


def _checked_call(call: ToolCall, where: str) -> ToolCall:
    """As `_checked`, of a call."""
    _text(call.name, f"{where}.name")
    _text_or_none(call.id, f"{where}.id")
    if not isinstance(call.arguments, Mapping):
        fail(UsageError, f"{where}.arguments", got=type(call.arguments).__name__, expected="an object")
    return call


def call_arguments(text: str) -> dict[str, Any] | None:
    """The arguments of a call, of the JSON text that OpenAI's clients hold; an empty text or null holds none. None:
    they are no JSON object, as those of a call that was cut."""
    try:
        found = json.loads(text, parse_constant=_no_number, parse_float=_finite) if text.strip() else {}
    except (ValueError, RecursionError):
        return None
    return {} if found is None else found if isinstance(found, dict) else None


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(number: str) -> float:
    """A number, unless it is too large to be one here."""
    found = float(number)
    return found if math.isfinite(found) else _no_number(number)


def _check_keys(found: Mapping[str, Any], where: str, known: Collection[str]) -> None:
    """Raise UsageError for a key that says something which nobody here would hear."""
    for key, value in found.items():
        if key not in known and value is not None and not _is_empty(value):
            near = nearest(key, known)
            do = f"leave it out, or did you mean {near}?" if near else "leave it out"
            fail(UsageError, where, got=key, expected="keys among " + ", ".join(known), do=do)


def _is_empty(value: Any) -> bool:
    return isinstance(value, str | list | tuple | dict) and not value


def _list(value: Any, where: str) -> Sequence[Any]:
    if value is not None and not isinstance(value, list | tuple):
        fail(UsageError, where, got=type(value).__name__, expected="a list")
    return value or ()


def _name(turn: Mapping[str, Any], where: str) -> str | None:
    """`name`, or as Ollama says of a tool's result, `tool_name`."""
    name, tool = (_text_or_none(turn.get(key), f"{where}.{key}") for key in ("name", "tool_name"))
    if name and tool and name != tool:
        fail(UsageError, f"{where}.tool_name", got=tool, expected=f"{name}, as in name")
    return name or tool or name


def _whole_content(turn: Mapping[str, Any], where: str, read: ImageReader, *, may_be_null: bool) -> Content:
    """`content`, after `images` as Ollama shows them."""
    images = _list(turn.get("images"), f"{where}.images")
    content = turn.get("content")
    said = "" if content is None and (may_be_null or images) else _content(content, f"{where}.content", read)
    if not images:
        return said
    shown = tuple(_image(_held(image), f"{where}.images[{i}]", read) for i, image in enumerate(images))
    return (*shown, *((TextPart(said),) if isinstance(said, str) else said))


def _image(image: Any, where: str, read: ImageReader) -> ImagePart:
    """One that Ollama's clients hold: base64 where it is a text. A text is never the name of a file."""
    return read(image_of(image, where) if isinstance(image, str) else image, where)


def _with_text(content: Content, more: Sequence[str]) -> Content:
    """A content and some texts, on lines of their own."""
    if not more:
        return content
    text = "\n".join(more)
    if isinstance(content, str):
        return f"{content}\n{text}" if content else text
    return (*content, TextPart(f"\n{text}"))


def _cut_text(call: CutCall) -> str:
    """A call that was cut, as a model may have begun it."""
    return f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "arguments": {call.arguments}'


def _call(given: object, where: str) -> ToolCall | CutCall:
    if isinstance(given, ToolCall):
        return _checked_call(given, where)
    call = opened(given)
    if not isinstance(call, Mapping):
        fail(UsageError, where, got=call, expected="an object with a function")
    _check_keys(call, where, _CALL)
    if call.get("type") not in (None, "function"):
        fail(UsageError, f"{where}.type", got=call["type"], expected="function")
    function, at = call, where
    if call.get("function") is not None:
        function, at = opened(call["function"]), f"{where}.function"
        if not isinstance(function, Mapping):
            fail(UsageError, at, got=function, expected="an object with name and arguments")
        _check_keys(function, at, _FUNCTION)
    name = _text(function.get("name"), f"{at}.name")
    call_id = _text_or_none(call.get("id"), f"{where}.id")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        found = call_arguments(arguments)
        return CutCall(name, arguments, call_id or "") if found is None else ToolCall(name, found, call_id or "")
    if not isinstance(arguments, Mapping | None):
        fail(UsageError, f"{at}.arguments", got=shown(arguments), expected="an object, or a JSON object as text")
    return ToolCall(name, arguments or {}, call_id or "")


def _content(content: object, where: str, read: ImageReader) -> Content:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        got = "null" if content is None else type(content).__name__
        fail(UsageError, where, got=got, expected="a text or a list of parts")
    return tuple(_part(part, f"{where}[{i}]", read) for i, part in enumerate(content))


def _part(given: object, where: str, read: ImageReader) -> TextPart | ImagePart:
    if isinstance(given, TextPart):
        _text(given.text, f"{where}.text")
    if isinstance(given, TextPart | ImagePart):
        return given
    part = opened(given)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(part, Mapping) or not isinstance(kind, str):
        fail(UsageError, where, got=part, expected=_PARTS)
    if kind in _TEXTS:
        _check_keys(part, where, ("type", _TEXTS[kind]))
        return TextPart(_text(part.get(_TEXTS[kind]), f"{where}.{_TEXTS[kind]}"))
    if kind == "image":
        _check_keys(part, where, ("type", "image"))
        return read(part.get("image"), f"{where}.image")
    if kind in _ADDRESSES:
        _check_keys(part, where, ("type", "image_url", "detail"))
        return _addressed(part.get("image_url"), f"{where}.image_url", read)
    return fail(UsageError, f"{where}.type", got=kind, expected=", ".join((*_TEXTS, "image", *_ADDRESSES)))


def _addressed(given: object, where: str, read: ImageReader) -> ImagePart:
    """An image in an address; `detail` says nothing to a model that sees every image in tiles of its size."""
    if isinstance(inner := opened(given), Mapping):
        _check_keys(inner, where, ("url", "detail"))
        where = f"{where}.url"
    url = _address(given)
    if not isinstance(url, str):
        fail(UsageError, where, got=shown(url), expected="data:image/...;base64,...", do=_IMAGE)
    kind, colon, _ = url[:12].lower().partition(":")
    if not url or (colon and kind != "data"):
        got = f"an address of kind {kind!r}" if colon else "no address"
        fail(UsageError, where, got=got, expected="data:image/...;base64,...", do=_IMAGE)
    try:
        data = image_of(url, where)
    except BadMedia as error:
        raise BadMedia(f"{error}; {_IMAGE}") from None
    return read(data, where)


def _address(given: object) -> Any:
    """What stands where an address stands: OpenAI's {"url": ...}, or the text alone."""
    inner = opened(given)
    return inner.get("url") if isinstance(inner, Mapping) else inner


def _text(text: object, where: str) -> str:
    if not isinstance(text, str):
        fail(UsageError, where, got=shown(text), expected="a text")
    return text


def _flag(value: object, where: str) -> bool:
    if value is not None:
        flag(where, value)
    return value is True


def _text_or_none(text: object, where: str) -> str | None:
    return None if text is None else _text(text, where)
