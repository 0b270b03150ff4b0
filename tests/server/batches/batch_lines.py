"""Requests of a batch, one a line, and what came of them."""

import json
from pathlib import Path
from typing import Any

CHAT = "/v1/chat/completions"


def request(custom_id: Any, text: str = "Hello", url: str = CHAT, **body: Any) -> dict[str, Any]:
    """A request that is right unless told otherwise."""
    asked = {
        CHAT: {"messages": [{"role": "user", "content": text}]},
        "/v1/completions": {"prompt": text},
        "/v1/embeddings": {"input": text},
        "/v1/responses": {"input": text},
    }.get(url, {})
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "fake", **asked, **body}}


def write(path: Path, *lines: dict[str, Any] | str) -> Path:
    """A file of lines: objects as JSON, texts as they are."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of results."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def said(row: dict[str, Any]) -> str:
    """The text of a result of chat."""
    text: str = row["response"]["body"]["choices"][0]["message"]["content"]
    return text
