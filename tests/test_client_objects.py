"""Messages as OpenAI's and Ollama's clients return them: pydantic objects go into a dialog."""

from typing import Any

import pytest

from herd.config import TINY
from herd.dialogs import Dialog, read_dialog
from herd.errors import BadMedia
from herd.llm.function_tools import definitions
from herd.messages import ImagePart, Message, TextPart
from turn_forms import ASSISTANT, BASE64, OLLAMA_ASSISTANT, PNG

pydantic = pytest.importorskip("pydantic")


class Function(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    name: str
    arguments: str


class ToolCallOfOpenAI(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    id: str
    function: Function
    type: str = "function"


class MessageOfOpenAI(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    role: str
    content: str | None = None
    refusal: str | None = None
    annotations: list[Any] | None = None
    audio: Any = None
    function_call: Any = None
    tool_calls: list[ToolCallOfOpenAI] | None = None


class ImageOfOllama(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    """As theirs: asked for its fields, it opens the file that a text names."""

    value: Any

    @pydantic.model_serializer
    def serialized(self) -> str:
        raise AssertionError("a text was to be opened as a file")


class MessageOfOllama(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[ImageOfOllama] | None = None
    tool_name: str | None = None
    tool_calls: list[Any] | None = None


def read(*turns: Any, vision: Any = None) -> list[Message]:
    dialog: Dialog = turns
    return read_dialog(dialog, system=None, images=(), vision=vision)


def test_an_object_is_what_its_dict_is() -> None:
    openai, ollama = MessageOfOpenAI.model_validate(ASSISTANT), MessageOfOllama.model_validate(OLLAMA_ASSISTANT)
    assert read(openai, ollama) == read(ASSISTANT, OLLAMA_ASSISTANT)


def test_objects_may_stand_inside_a_dict() -> None:
    calls = MessageOfOpenAI.model_validate(ASSISTANT).tool_calls
    assert calls is not None
    assert read({"role": "assistant", "content": None, "tool_calls": calls}) == read(ASSISTANT)
    one = {"id": "call_1", "type": "function", "function": calls[0].function}
    (turn,) = read({"role": "assistant", "content": None, "tool_calls": [one]})
    assert turn.tool_calls == read(ASSISTANT)[0].tool_calls[:1]


@pytest.mark.parametrize("image", [PNG, BASE64])
def test_an_image_of_ollama_is_what_it_holds(image: Any) -> None:
    whole = MessageOfOllama(role="user", content="?", images=[ImageOfOllama(value=image)])
    for turn in (whole, {"role": "user", "content": "?", "images": whole.images}):
        (found,) = read(turn, vision=TINY.vision)
        assert [type(part) for part in found.content] == [ImagePart, TextPart]
        with pytest.raises(BadMedia, match="got 17"):
            read({"role": "user", "content": "?", "images": (whole.images or []) * 17}, vision=TINY.vision)


def test_an_image_of_ollama_that_names_a_file_is_never_opened() -> None:
    whole = MessageOfOllama(role="user", content="?", images=[ImageOfOllama(value="/etc/hostname")])
    for turn in (whole, {"role": "user", "content": "?", "images": whole.images}):
        with pytest.raises(BadMedia, match=r"messages\[0\].images\[0\]: got bad base64"):
            read(turn, vision=TINY.vision)


class FunctionOfOllama(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    name: str
    description: str | None = None
    parameters: Any = None


class ToolOfOllama(pydantic.BaseModel):  # type: ignore[name-defined,misc]
    type: str = "function"
    function: FunctionOfOllama


def test_a_tool_that_is_an_object_is_what_its_dict_is() -> None:
    schema = {"type": "object", "properties": {}}
    (found,) = definitions([ToolOfOllama(function=FunctionOfOllama(name="f", parameters=schema))])
    assert found == {"type": "function", "function": {"name": "f", "parameters": schema}}
