"""An image is the same however a dialect's clients write it."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from herd.errors import BadMedia, Forbidden
from herd.server.anthropic import turns as anthropic
from herd.server.ollama import chat as ollama
from herd.server.openai import response_items
from herd.server.openai import turns as openai
from herd.server.requests.media import Images
from turn_forms import BASE64, DATA, PNG, in_lines

Said = Callable[[Any], list[dict[str, Any]]]


def of_openai(*parts: Any) -> list[dict[str, Any]]:
    turns = msgspec.convert([{"role": "user", "content": [*parts]}], list[openai.OpenAIMessage])
    return openai.dialog_of(turns, Images(remote=False))


def of_responses(*parts: Any) -> list[dict[str, Any]]:
    items = msgspec.convert([{"type": "message", "role": "user", "content": [*parts]}], list[response_items.Item])
    return response_items.turns_of(items, Images(remote=False))


def of_anthropic(source: Any) -> list[dict[str, Any]]:
    content = [{"type": "image", "source": source}]
    turns = msgspec.convert([{"role": "user", "content": content}], list[anthropic.AnthropicMessage])
    return anthropic.dialog_of(turns, None, Images(remote=False))


def of_ollama(image: str) -> list[dict[str, Any]]:
    return [ollama._turn(msgspec.convert({"role": "user", "images": [image]}, ollama.OllamaMessage), "a")]


PLACES: dict[str, Said] = {
    "an address of chat": lambda text: of_openai({"type": "image_url", "image_url": {"url": text}}),
    "a text of chat": lambda text: of_openai({"type": "image_url", "image_url": text}),
    "a text of responses": lambda text: of_responses({"type": "input_image", "image_url": text}),
    "an address of responses": lambda text: of_responses({"type": "input_image", "image_url": {"url": text}}),
    "base64 of messages": lambda text: of_anthropic({"type": "base64", "media_type": "image/png", "data": text}),
    "an address of messages": lambda text: of_anthropic({"type": "url", "url": text}),
    "images of Ollama": of_ollama,
}
FORMS = [form(text) for text in (BASE64, DATA) for form in (str, in_lines, lambda text: in_lines(text, "\n"))]


@pytest.mark.parametrize("place", PLACES)
def test_an_image_is_the_same_in_each_form_in_each_place(place: str) -> None:
    for form in FORMS:
        (turn,) = PLACES[place](form)
        assert [part["image"] for part in turn["content"] if part["type"] == "image"] == [PNG], form[:40]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("wrong", ["/etc/passwd", "a.png", "file:///etc/a", "ftp://x/y", "data:image/png,a", "a b c d"])
def test_what_is_no_image_in_a_text_is_none_in_any_place(place: str, wrong: str) -> None:
    with pytest.raises((BadMedia, Forbidden)):
        PLACES[place](wrong)
