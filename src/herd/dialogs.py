"""What callers may write as a dialog -> messages and image tiles.

A dialog is a user's text, or turns: `Message`, or {"role": "user", "content": ...} as the OpenAI API has them, content
a text or a list of {"type": "text", "text": ...} and {"type": "image", "image": Path or bytes}. Text stays text: what
looks like a control token in it is encoded as the characters it is made of (`herd.text`), and no text names a file: a
path is a `pathlib.Path`, which nothing that came as JSON can hold.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from herd.config import VisionConfig
from herd.errors import NoVision, UsageError, fail
from herd.messages import Content, ImagePart, Message, TextPart, ToolCall
from herd.text.message_checks import ROLES

ImageLike: TypeAlias = os.PathLike[str] | bytes | bytearray | memoryview | npt.NDArray[np.uint8]
"""A `pathlib.Path`, a file's bytes, or pixels as an array of uint8. Never a text."""
Dialog: TypeAlias = str | Sequence[Message | Mapping[str, Any]]

_IMAGES = (os.PathLike, bytes, bytearray, memoryview, np.ndarray)
_FIELDS = ("role", "content", "tool_calls", "name", "tool_call_id", "context", "end_of_message")


def read_dialog(
    dialog: Dialog, *, system: str | None, images: Sequence[ImageLike], vision: VisionConfig | None
) -> list[Message]:
    """Messages of a dialog; `images` go before the text of the last user turn, `system` before everything.

    Image parts come back with their tiles as `data`. Raises UsageError naming the place, BadMedia for an image.
    """
    turns = _turns(dialog)
    _check_images([*images, *_raw_images(turns)])
    messages = [_message(turn, f"messages[{i}]", partial(_tiled, vision=vision)) for i, turn in enumerate(turns)]
    if images:
        messages = _with_images(messages, images, vision)
    if system is not None:
        if messages[0].role == "system":
            fail(UsageError, "system", got="a system text and a system turn", expected="one of them")
        messages = [Message("system", _text(system, "system")), *messages]
    return messages


def turns_of(dialog: Dialog) -> list[Message]:
    """Messages of a dialog for a model elsewhere: an image stays what it was, as `data` of a part without tiles. Raises
    UsageError naming the place."""
    turns = _turns(dialog)
    _check_images(list(_raw_images(turns)))
    return [_message(turn, f"messages[{i}]", _untouched) for i, turn in enumerate(turns)]


def tiles_of(messages: Sequence[Message]) -> Any | None:
    """All tiles of all images, in order: [I, 3, S, S], or None without images."""
    parts = [p for m in messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart)]
    for part in parts:
        if part.data is None or len(part.data) != part.num_tiles:
            got = "no data" if part.data is None else f"{len(part.data)} tiles"
            fail(UsageError, "an image part", got=got, expected=f"{part.num_tiles} tiles as data")
    return np.concatenate([p.data for p in parts]) if parts else None


def read_image(image: ImageLike, vision: VisionConfig | None, where: str = "image") -> ImagePart:
    """An image, cut into tiles. Raises UsageError on a text model or for another type, BadMedia, NotFound."""
    if vision is None:
        fail(NoVision, "an image was given to a text model", do="choose a model with vision")
    if not isinstance(image, _IMAGES):
        got, do = type(image).__name__, "for a file: pathlib.Path(...)"
        fail(UsageError, where, got=got, expected="a pathlib.Path, a file's bytes, or an array of pixels", do=do)
    from herd.media import load_image

    loaded = load_image(image, image_size=vision.image_size)
    return ImagePart(loaded.tiles_wide, loaded.tiles_high, loaded.tiles_I3SS)


Reader: TypeAlias = Callable[[Any, str], ImagePart]
"""What makes a part of an image; it is told where that stands."""


def _tiled(image: Any, where: str, *, vision: VisionConfig | None) -> ImagePart:
    return read_image(image, vision, where)


def _untouched(image: Any, where: str) -> ImagePart:
    return ImagePart(0, 0, image)


def _turns(dialog: Dialog) -> Sequence[Message | Mapping[str, Any]]:
    turns = [Message("user", dialog)] if isinstance(dialog, str) else dialog
    if not isinstance(turns, Sequence) or not turns:
        fail(UsageError, "messages", got=dialog, expected="a text, or a list of at least one turn")
    for i, turn in enumerate(turns):
        if not isinstance(turn, Message | Mapping):
            got, expected = type(turn).__name__, "a Message, or an object with role and content"
            fail(UsageError, f"messages[{i}]", got=got, expected=expected)
    return turns


def _raw_images(dialog: Sequence[Message | Mapping[str, Any]]) -> Iterator[Any]:
    for turn in dialog:
        content = turn.get("content") if isinstance(turn, Mapping) else None
        for part in content if isinstance(content, list | tuple) else ():
            if isinstance(part, Mapping) and part.get("type") == "image":
                yield part.get("image")


def _check_images(images: Sequence[Any]) -> None:
    """The limits of one request, before any image is read. What is no image has no size, and fails where it is read."""
    if not images:
        return
    from herd.media import IMAGE_LIMITS

    IMAGE_LIMITS.check_request([_size(image) for image in images])


def _size(image: Any) -> int:
    if isinstance(image, os.PathLike):
        return os.stat(image).st_size if os.path.isfile(image) else 0
    return int(getattr(image, "nbytes", 0)) or (len(image) if isinstance(image, bytes | bytearray) else 0)


def _with_images(messages: list[Message], images: Sequence[ImageLike], vision: VisionConfig | None) -> list[Message]:
    last = max((i for i, m in enumerate(messages) if m.role == "user"), default=None)
    if last is None:
        fail(UsageError, "images", got="no user turn to show them in", expected="at least one")
    turn = messages[last]
    rest = (TextPart(turn.content),) if isinstance(turn.content, str) else turn.content
    shown = Message(
        "user", (*(read_image(x, vision, f"images[{i}]") for i, x in enumerate(images)), *rest), context=turn.context
    )
    return [*messages[:last], shown, *messages[last + 1 :]]


def _message(turn: Message | Mapping[str, Any], where: str, read: Reader) -> Message:
    if isinstance(turn, Message):
        return turn
    unknown = [key for key in turn if key not in _FIELDS]
    if unknown:
        fail(UsageError, where, got=unknown[0], expected="fields among " + ", ".join(_FIELDS))
    role = turn.get("role")
    if role not in ROLES:
        fail(UsageError, f"{where}.role", got="null" if role is None else role, expected="one of " + ", ".join(ROLES))
    calls = turn.get("tool_calls") or ()
    if not isinstance(calls, list | tuple):
        fail(UsageError, f"{where}.tool_calls", got=type(calls).__name__, expected="a list")
    content = turn.get("content")
    context = turn.get("context")
    return Message(
        role,
        _content("" if content is None and calls else content, f"{where}.content", read),
        tool_calls=tuple(_call(call, f"{where}.tool_calls[{i}]") for i, call in enumerate(calls)),
        name=_text_or_none(turn.get("name"), f"{where}.name"),
        tool_call_id=_text_or_none(turn.get("tool_call_id"), f"{where}.tool_call_id"),
        context=None if context is None else _content(context, f"{where}.context", read),
        end_of_message=turn.get("end_of_message") is True,
    )


def _call(call: object, where: str) -> ToolCall:
    if isinstance(call, ToolCall):
        return call
    if not isinstance(call, Mapping) or not isinstance(call.get("arguments"), Mapping):
        fail(UsageError, where, got=call, expected="objects with name and arguments")
    call_id = _text_or_none(call.get("id"), f"{where}.id")
    return ToolCall(_text(call.get("name"), f"{where}.name"), call["arguments"], call_id or "")


def _content(content: object, where: str, read: Reader) -> Content:
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        got = "null" if content is None else type(content).__name__
        fail(UsageError, where, got=got, expected="a text or a list of parts")
    return tuple(_part(part, f"{where}[{i}]", read) for i, part in enumerate(content))


def _part(part: object, where: str, read: Reader) -> TextPart | ImagePart:
    if isinstance(part, TextPart | ImagePart):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and kind == "text":
        return TextPart(_text(part.get("text"), f"{where}.text"))
    if isinstance(part, Mapping) and kind == "image":
        image: Any = part.get("image")
        return read(image, f"{where}.image")
    return fail(
        UsageError, where, got=part, expected='{"type": "text", "text": ...} or {"type": "image", "image": ...}'
    )


def _text(text: object, where: str) -> str:
    if not isinstance(text, str):
        fail(UsageError, where, got="null" if text is None else text, expected="a text")
    return text


def _text_or_none(text: object, where: str) -> str | None:
    return None if text is None else _text(text, where)
