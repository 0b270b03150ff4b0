"""Turns as OpenAI's and Ollama's clients hold them, and a small image."""

import base64

ASSISTANT = {
    "role": "assistant",
    "content": None,
    "refusal": None,
    "annotations": [],
    "audio": None,
    "function_call": None,
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "clock", "arguments": ""}},
    ],
}
"""As `ChatCompletionMessage.model_dump()` of the openai package gives it."""
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "12 degrees"}
OLLAMA_ASSISTANT = {
    "role": "assistant",
    "content": "",
    "thinking": None,
    "images": None,
    "tool_name": None,
    "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Rome"}}}],
}
"""As `Message.model_dump()` of the ollama package gives it."""
OLLAMA_RESULT = {"role": "tool", "tool_name": "weather", "content": "12 degrees"}

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR4nGPk5ORkYGBgYmBgYGBgAAABbgAfXn6dLgAAAABJRU5ErkJggg=="
)
BASE64 = base64.b64encode(PNG).decode()
DATA = "data:image/png;base64," + BASE64


def in_lines(text: str, end: str = "\r\n") -> str:
    """An image as text, its base64 in lines of 76 characters, as mail and many encoders have it."""
    comma = text.find(",") + 1
    inside = text[comma:]
    return text[:comma] + "".join(inside[at : at + 76] + end for at in range(0, len(inside), 76))
