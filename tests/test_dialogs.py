"""Dialogs with images: files, bytes, arrays, limits."""

import builtins
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from herd.config import TINY
from herd.dialogs import read_dialog, tiles_of
from herd.errors import BadMedia, NotFound, UsageError
from herd.messages import ImagePart, Message, TextPart

VISION = TINY.vision


def picture(folder: Path, name: str, width: int, height: int) -> Path:
    from PIL import Image

    path = folder / name
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)).save(path)
    return path


def test_images_go_before_the_text_of_the_last_user_turn(tmp_path: Path) -> None:
    one, two = picture(tmp_path, "a.png", 28, 28), picture(tmp_path, "b.png", 56, 28)
    turns = [Message("user", "first"), Message("assistant", "ok"), Message("user", "and these?", context="ctx")]
    found = read_dialog(turns, system="s", images=[one, two.read_bytes()], vision=VISION)
    assert [m.role for m in found] == ["system", "user", "assistant", "user"]
    assert found[1] is turns[0]
    assert found[3].context == "ctx"
    a, b, text = found[3].content
    assert isinstance(a, ImagePart)
    assert isinstance(b, ImagePart)
    assert text == TextPart("and these?")
    assert (a.num_tiles, b.tiles_wide, b.tiles_high, b.num_tiles) == (1, 2, 1, 3)
    tiles = tiles_of(found)
    assert tiles is not None
    np.testing.assert_array_equal(tiles, np.concatenate([a.data, b.data]))
    assert tiles.shape == (4, 3, 28, 28)


def test_parts_may_be_images(tmp_path: Path) -> None:
    path = picture(tmp_path, "a.png", 28, 28)
    pixels = np.zeros((28, 28, 3), np.uint8)
    parts = [{"type": "image", "image": path}, {"type": "text", "text": "?"}, {"type": "image", "image": pixels}]
    (found,) = read_dialog([{"role": "user", "content": parts}], system=None, images=(), vision=VISION)
    assert [type(p) for p in found.content] == [ImagePart, TextPart, ImagePart]


def test_a_text_model_refuses_before_it_reads() -> None:
    with pytest.raises(UsageError, match="an image was given to a text model"):
        read_dialog("hi", system=None, images=[Path("/nowhere.png")], vision=None)


def test_seventeen_images_are_refused_before_any_is_read() -> None:
    with pytest.raises(BadMedia, match="images in one request: got 17, expected at most 16"):
        read_dialog("hi", system=None, images=[Path("/nowhere.png")] * 17, vision=VISION)
    parts = [{"type": "image", "image": Path("/nowhere.png")}] * 9
    with pytest.raises(BadMedia, match="got 18"):
        read_dialog([{"role": "user", "content": parts}] * 2, system=None, images=(), vision=VISION)


def test_the_bytes_of_all_images_have_a_limit() -> None:
    with pytest.raises(BadMedia, match="images of one request: got 75497472 bytes"):
        read_dialog("hi", system=None, images=[bytes(18 << 20)] * 4, vision=VISION)


@pytest.mark.parametrize(
    ("image", "error"),
    [(Path("/nowhere.png"), NotFound), (b"not an image", BadMedia), (Path("."), BadMedia), (5, UsageError)],
)
def test_what_is_no_image_is_refused(image: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        read_dialog("hi", system=None, images=[image], vision=VISION)


def test_no_text_is_ever_opened_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(picture(tmp_path, "a.png", 28, 28))
    touched: list[object] = []
    for module, name in ((os, "stat"), (os.path, "isfile"), (builtins, "open")):
        monkeypatch.setattr(module, name, lambda *a, **_: touched.append(a))
    refused: list[str] = []
    # whatever JSON can hold where an image stands
    for image in (path, f"file://{path}", "http://x/y.png", [path], {"path": path}, 7, True, None):
        for images, parts in (([image], []), ([], [{"type": "text", "text": "?"}, {"type": "image", "image": image}])):
            dialog: Any = [{"role": "user", "content": parts}]
            with pytest.raises(UsageError) as error:
                read_dialog(dialog, system=None, images=images, vision=VISION)
            refused.append(str(error.value))
    monkeypatch.undo()
    assert touched == []
    assert refused[0].startswith("images[0]: got str, expected a pathlib.Path, a file's bytes")
    assert refused[1].startswith("messages[0].content[1].image: got str, expected a pathlib.Path")
    assert len(refused) == 16


def test_a_dialog_as_servers_get_it() -> None:
    call = {"name": "weather", "arguments": {"city": "Rome"}, "id": "call_1"}
    dialog = [
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": None}]},
        {"role": "tool", "content": [{"type": "text", "text": "12"}], "name": "weather", "tool_call_id": "call_1"},
    ]
    user, assistant, tool = read_dialog(dialog, system=None, images=(), vision=None)
    assert user.content == (TextPart("one"), TextPart("two"))
    assert assistant.content == ""
    assert [c.id for c in assistant.tool_calls] == ["call_1", ""]
    assert assistant.tool_calls[0].arguments == {"city": "Rome"}
    assert (tool.content, tool.name, tool.tool_call_id) == ((TextPart("12"),), "weather", "call_1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 5}, r"messages\[0\].name: got 5, expected a text"),
        ({"tool_call_id": ["x"]}, r"messages\[0\].tool_call_id: got \['x'\], expected a text"),
        ({"tool_calls": "abc"}, r"messages\[0\].tool_calls: got str, expected a list"),
        (
            {"tool_calls": [{"name": "a", "arguments": {}}, {"name": "b", "arguments": []}]},
            r"tool_calls\[1\].arguments: got",
        ),
        ({"tool_calls": [{"name": "a", "arguments": {}, "id": 3}]}, r"messages\[0\].tool_calls\[0\].id: got 3"),
    ],
)
def test_a_turn_with_a_wrong_field_is_refused_by_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_dialog([{"role": "assistant", "content": "x", **change}], system=None, images=(), vision=None)


def test_images_need_a_user_turn(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="images: got no user turn"):
        read_dialog([Message("system", "s")], system=None, images=[picture(tmp_path, "a.png", 9, 9)], vision=VISION)


def test_a_dialog_without_images_has_no_tiles() -> None:
    assert tiles_of([Message("user", "hi"), Message("user", (TextPart("x"),))]) is None
