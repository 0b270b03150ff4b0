"""What callers may write as a dialog -> messages and image tiles.

A dialog is a user's text, or turns: `Message`, or what OpenAI's and Ollama's clients hold (`herd.turns`), whose content
is a text or a list of {"type": "text", "text": ...} and {"type": "image", "image": Path or bytes}. Text stays text:
what looks like a control token in it is encoded as the characters it is made of (`herd.text`), and no text names a
file: a path is a `pathlib.Path`, which nothing that came as JSON can hold.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from herd.config import VisionConfig
from herd.errors import NoVision, UsageError, fail
from herd.events import Reply
from herd.media.encoded import encoded_bytes
from herd.messages import ImagePart, Message, TextPart
from herd.text.message_checks import check_begun, check_messages
from herd.turns import Turn, images_of, message_of, opened
from herd.value_checks import shown
from herd.value_checks import text as check_text

ImageLike: TypeAlias = os.PathLike[str] | bytes | bytearray | memoryview | npt.NDArray[np.uint8]
"""A `pathlib.Path`, a file's bytes, or pixels as an array of uint8. Never a text."""
Dialog: TypeAlias = str | Sequence[Turn]

_IMAGES = (os.PathLike, bytes, bytearray, memoryview, np.ndarray)


def read_dialog(
    dialog: Dialog, *, system: str | None, images: Sequence[ImageLike], vision: VisionConfig | None
) -> list[Message]:
    """Messages of a dialog; `images` go before the text of the last user turn, `system` before everything.

    Image parts come back with their tiles as `data`. Raises UsageError naming the place, BadMedia for an image.
    """
    turns = _turns(dialog)
    given = [*images, *_raw_images(turns)]
    _check_images(given)
    if given:
        _check_vision(vision)
    messages = [message_of(turn, f"messages[{i}]", partial(_tiled, vision=vision)) for i, turn in enumerate(turns)]
    if images:
        messages = _with_images(messages, images, vision)
    if system is not None:
        if messages[0].role == "system":
            fail(UsageError, "system", got="a system text and a system turn", expected="one of them")
        check_text("system", system)
        messages = [Message("system", system), *messages]
    return messages


def turns_of(dialog: Dialog) -> list[Message]:
    """Messages of a dialog for a model elsewhere: an image stays what it was, as `data` of a part without tiles. Raises
    UsageError naming the place."""
    turns = _turns(dialog)
    _check_images(list(_raw_images(turns)))
    return [message_of(turn, f"messages[{i}]", _untouched) for i, turn in enumerate(turns)]


def begun_in(messages: Sequence[Message], goes_on: bool = True) -> str | None:
    """The text of a begun answer: the last turn's, where it is the assistant's and not over; None where there is none.
    goes_on: False: whoever asks wants another turn after it. Raises UsageError for what is no dialog, or where it is
    one with calls of tools."""
    check_messages(messages)
    last = messages[-1]
    if not goes_on or last.role != "assistant" or last.end_of_message:
        return None
    check_begun(messages)
    return last.text


def tiles_of(messages: Sequence[Message]) -> Any | None:
    """All tiles of all images, in order: [I, 3, S, S], or None without images."""
    parts = [p for m in messages if not isinstance(m.content, str) for p in m.content if isinstance(p, ImagePart)]
    for part in parts:
        tiles = part.data
        count = len(tiles) if isinstance(tiles, np.ndarray) and tiles.ndim else None
        if count != part.num_tiles:
            got = "no data" if tiles is None else type(tiles).__name__ if count is None else f"{count} tiles"
            fail(UsageError, "an image part", got=got, expected=f"{part.num_tiles} tiles as data")
    return np.concatenate([p.data for p in parts]) if parts else None


def read_image(image: ImageLike, vision: VisionConfig | None, where: str = "image") -> ImagePart:
    """An image, cut into tiles. Raises UsageError on a text model or for another type, BadMedia, NotFound."""
    seen = _check_vision(vision)
    if not isinstance(image, _IMAGES):
        got, do = type(image).__name__, "for a file: pathlib.Path(...)"
        fail(UsageError, where, got=got, expected="a pathlib.Path, a file's bytes, or an array of pixels", do=do)
    from herd.media import load_image

    loaded = load_image(image, image_size=seen.image_size)
    return ImagePart(loaded.tiles_wide, loaded.tiles_high, loaded.tiles_I3SS)


def _check_vision(vision: VisionConfig | None) -> VisionConfig:
    if vision is None:
        fail(NoVision, "an image was given to a text model", do="choose a model with vision")
    return vision


def _tiled(image: Any, where: str, *, vision: VisionConfig | None) -> ImagePart:
    return read_image(image, vision, where)


def _untouched(image: Any, where: str) -> ImagePart:
    return ImagePart(0, 0, image)


def _turns(dialog: Dialog) -> list[Message | Mapping[str, Any]]:
    turns = [Message("user", dialog)] if isinstance(dialog, str) else dialog
    if not isinstance(turns, Sequence) or isinstance(turns, bytes | bytearray) or not turns:
        fail(UsageError, "messages", got=shown(dialog), expected="a text, or a list of at least one turn")
    return [_opened(turn, f"messages[{i}]") for i, turn in enumerate(turns)]


def _opened(turn: object, where: str) -> Message | Mapping[str, Any]:
    found = opened(turn)
    if not isinstance(found, Message | Mapping):
        expected = "a Message, or an object with role and content"
        do = "of a Reply, append `reply.message`" if isinstance(found, Reply) else ""
        fail(UsageError, where, got=type(found).__name__, expected=expected, do=do)
    return found


def _raw_images(turns: Sequence[Message | Mapping[str, Any]]) -> Iterator[Any]:
    for turn in turns:
        yield from images_of(turn)


def _check_images(images: Sequence[Any]) -> None:
    """The limits of one request, before any image is read. What is no image has no size, and fails where it is read."""
    if not images:
        return
    from herd.media import IMAGE_LIMITS

    IMAGE_LIMITS.check_request([_size(image) for image in images])


def _size(image: Any) -> int:
    if isinstance(image, os.PathLike):
        return os.stat(image).st_size if os.path.isfile(image) else 0
    if isinstance(image, str):
        return encoded_bytes(image)
    return int(getattr(image, "nbytes", 0)) or (len(image) if isinstance(image, bytes | bytearray) else 0)


def _with_images(messages: list[Message], images: Sequence[ImageLike], vision: VisionConfig | None) -> list[Message]:
    last = max((i for i, m in enumerate(messages) if m.role == "user"), default=None)
    if last is None:
        fail(UsageError, "images", got="no user turn to show them in", expected="at least one")
    turn = messages[last]
    rest = (TextPart(turn.content),) if isinstance(turn.content, str) else turn.content
    seen = Message(
        "user", (*(read_image(x, vision, f"images[{i}]") for i, x in enumerate(images)), *rest), context=turn.context
    )
    return [*messages[:last], seen, *messages[last + 1 :]]
