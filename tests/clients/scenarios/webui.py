"""Open WebUI's backend, set by its variables: it lists the service's models and streams their answers."""

import json
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from report import MODEL, QUESTION, TIMEOUT_S, expect, run, scenario
from started import started

START_S = 300
USER = {"role": "user", "content": QUESTION}


@contextmanager
def backend(url: str) -> Iterator[str]:
    """The backend before the service; its address."""
    with tempfile.TemporaryDirectory() as folder:
        reach = {"OPENAI_API_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": "none", "OLLAMA_BASE_URL": url}
        alone = {"OFFLINE_MODE": "true", "HF_HUB_OFFLINE": "1", "RAG_EMBEDDING_MODEL_AUTO_UPDATE": "false"}
        # vectors of documents come from the service, too: else a model of its own is fetched
        vectors = {
            "RAG_EMBEDDING_ENGINE": "openai",
            "RAG_OPENAI_API_BASE_URL": f"{url}/v1",
            "RAG_OPENAI_API_KEY": "none",
        }
        own = {"DATA_DIR": folder, "WEBUI_SECRET_KEY": "secret", "WEBUI_AUTH": "false", "ENABLE_OLLAMA_API": "true"}
        quiet = {"SCARF_NO_ANALYTICS": "true", "ANONYMIZED_TELEMETRY": "false"}
        variables = {**reach, **alone, **vectors, **own, **quiet}
        with started(["open-webui", "serve"], variables, folder, "/health", START_S) as address:
            yield address


def ask(url: str, path: str, body: Any = None, token: str = "") -> str:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"content-type": "application/json"})
    if token:
        request.add_header("authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as reply:
        return reply.read().decode()


@scenario("open-webui", "the backend: models by both dialects, answers whole and streamed")
def answers(url: str) -> None:
    with backend(url) as found:
        token = json.loads(ask(found, "/api/v1/auths/signin", {"email": "", "password": ""}))["token"]
        names = {model["id"] for model in json.loads(ask(found, "/api/models", token=token))["data"]}
        expect({MODEL, f"{MODEL}:latest"} <= names, names)
        for name in (MODEL, f"{MODEL}:latest"):  # by OpenAI's dialect, by Ollama's
            asked = {"model": name, "messages": [USER], "max_tokens": 8, "stream": False}
            whole = json.loads(ask(found, "/api/chat/completions", asked, token))
            expect(whole["choices"][0]["message"]["content"], whole)
            lines = ask(found, "/api/chat/completions", {**asked, "stream": True}, token).splitlines()
            chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
            expect(any(c["choices"] and c["choices"][0]["delta"].get("content") for c in chunks), lines)


if __name__ == "__main__":
    run()
