"""Requests that mean harm or nothing: each is refused in one line, none is a 5xx, none harms others."""

import contextlib
import json
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from serving import BYTES, client_of, fake_llm, fake_service

from helpers import PATIENCE_S, until
from herd.engine.fake import FakeModel
from herd.errors import BadMedia, Forbidden
from herd.llm import LLM
from herd.server.anthropic.messages import COUNT, MESSAGES
from herd.server.app import ROUTES
from herd.server.batches.batches import BATCHES
from herd.server.file_store import FileStore
from herd.server.keys import Key, digest_of
from herd.server.limits import Limits
from herd.server.log import Log
from herd.server.ollama.chat import CHAT as OLLAMA_CHAT
from herd.server.ollama.chat import GENERATE
from herd.server.ollama.embed import EMBED, OLD
from herd.server.ollama.models import COPY, CREATE, DELETE, PULL, SHOW
from herd.server.openai.chat import CHAT
from herd.server.openai.completions import COMPLETIONS
from herd.server.openai.embeddings import EMBEDDINGS
from herd.server.openai.moderations import MODERATIONS
from herd.server.openai.response_requests import INPUT_TOKENS, RESPONSES
from herd.server.own_routes import DETOKENIZE, TOKENIZE
from herd.server.requests.fetcher import fetch, is_public
from herd.server.requests.media import Images
from herd.server.service import Service
from herd.server.tables import TABLES
from herd.text.added import AddedToken
from herd.text.tokenizer import Tokenizer

TURNS = [{"role": "user", "content": "Hi"}]
GOOD: dict[str, dict[str, Any]] = {
    CHAT.name: {"model": "fake", "messages": TURNS},
    COMPLETIONS.name: {"model": "fake", "prompt": "Hi", "max_tokens": 3},
    EMBEDDINGS.name: {"model": "fake", "input": "Hi"},
    RESPONSES.name: {"model": "fake", "input": "Hi"},
    INPUT_TOKENS.name: {"model": "fake", "input": "Hi"},
    MODERATIONS.name: {"input": "Hi"},
    PULL.name: {"model": "none", "stream": False},
    OLLAMA_CHAT.name: {"model": "fake", "messages": TURNS, "stream": False},
    GENERATE.name: {"model": "fake", "prompt": "Hi", "stream": False},
    EMBED.name: {"model": "fake", "input": "Hi"},
    OLD.name: {"model": "fake", "prompt": "Hi"},
    SHOW.name: {"model": "fake"},
    DELETE.name: {"model": "none"},
    BATCHES.name: {"input_file_id": "file-x", "endpoint": "/v1/chat/completions", "completion_window": "24h"},
    COPY.name: {"source": "none", "destination": "x"},
    CREATE.name: {"model": "x", "from": "none"},
    MESSAGES.name: {"model": "fake", "max_tokens": 3, "messages": TURNS},
    COUNT.name: {"model": "fake", "messages": TURNS},
    TOKENIZE.name: {"model": "fake", "prompt": "Hi"},
    DETOKENIZE.name: {"model": "fake", "tokens": [72]},
}
WRONG: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 2**63, -(2**70), 1e308, "", "x", "\x00\u202e", "a" * 5000, [], [None], [[]], {},
    {"": {}},
    [{"type": "x"}], [{"role": "user"}], [1, "a", None], {"type": "function"}, {"a": 1e308}, ["a"] * 5000,
)  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(keeping_files(fake_service(tmp_path_factory.mktemp("home")), tmp_path_factory)) as found:
        yield found


def keeping_files(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Service:
    service.files = FileStore(tmp_path_factory.mktemp("files"), service.limits)
    return service


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A model whose answers without an end are short."""
    service = fake_service(tmp_path_factory.mktemp("home"), context=1024)
    with client_of(keeping_files(service, tmp_path_factory)) as found:
        yield found


def send(client: httpx.Client, table: Any, body: Any) -> httpx.Response:
    method, path = table.name.split(" ")
    return client.request(method, path, content=msgspec.json.encode(body), headers={"content-type": "text/plain"})


def test_every_table_belongs_to_a_route_and_its_request_is_good(client: httpx.Client) -> None:
    assert set(TABLES) == set(GOOD)
    assert set(TABLES) == {f"{r.method} {r.path}" for r in ROUTES if r.method == "POST" or r.path == "/api/delete"} - {
        "POST /v1/files", "POST /v1/batches/{id}/cancel",
        "POST /v1/responses/{id}/cancel", "POST /api/push", "POST /api/blobs/{digest}",
    }  # fmt: skip
    for table in TABLES.values():
        found = send(client, table, GOOD[table.name])
        assert found.status_code in (200, 404), (table.name, found.text)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
def test_a_wrong_value_of_any_field_is_no_server_error(short: httpx.Client, table: Any) -> None:
    for field in msgspec.structs.fields(table.honoured):
        name = field.encode_name
        for value in WRONG:
            found = send(short, table, {**GOOD[table.name], name: value})
            assert found.status_code < 500 or (name == "keep_alive" and found.status_code == 503), (
                name,
                value,
                found.text,
            )
            assert found.status_code in (200, 400, 404, 413, 429), (name, value, found.status_code, found.text)
            if found.status_code == 400:
                assert len(found.text) < 2000, "the error does not repeat the request"
    for name in table.refused:
        assert send(short, table, {**GOOD[table.name], name: "x"}).status_code == 400
    for name in table.reported:
        if "." not in name:
            found = send(short, table, {**GOOD[table.name], name: "x"})
            assert found.status_code in (200, 404), (name, found.text)


@pytest.mark.parametrize("table", TABLES.values(), ids=lambda t: t.name)
@pytest.mark.parametrize(
    "data",
    [
        b"", b"null", b"[]", b'"x"', b"{", b"\xff\xfe{}", b'{"model": "a", "model": "b"}', b'{"a": NaN}',
        b"[" * 100_000, b'{"a":' * 10_000, b'{"model": "\\ud800"}', b'{"n": 1' + b"0" * 100_000 + b"}",
    ],
    ids=range(12),
)  # fmt: skip
def test_a_body_that_is_no_json_object_is_400_everywhere(client: httpx.Client, table: Any, data: bytes) -> None:
    method, path = table.name.split(" ")
    found = client.request(method, path, content=data)
    assert found.status_code == 400, found.text


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("n", 0), ("n", -1), ("n", 10**9), ("max_tokens", 0), ("max_tokens", -2), ("max_tokens", 1e30),
        ("max_completion_tokens", -7), ("temperature", -1), ("temperature", 1e38), ("top_p", -0.1), ("top_p", 2),
        ("presence_penalty", 1e38), ("frequency_penalty", -3), ("repetition_penalty", 0), ("top_k", -2),
        ("logit_bias", {"-1": 1}), ("logit_bias", {"99999999": 1}), ("logit_bias", {"a": 1}),
        ("logit_bias", {"1": 1e9}),
        ("logit_bias", {str(i): 1 for i in range(2000)}), ("stop", ["x"] * 10_000), ("stop", [""] + ["x"] * 17),
        ("stop", "x" * 10**6),
        ("stop_token_ids", [10**9]), ("stop_token_ids", [-1]), ("seed", 2**63), ("seed", -2), ("top_logprobs", 10**6),
        ("messages", []), ("messages", [{"role": "king", "content": "x"}]), ("messages", TURNS * 20_000),
        ("tools", [{"type": "function", "function": {"name": "a b"}}]),
        ("tools", [{"type": "function", "function": {"name": "a\n\"'"}}]),
        ("tools", [{"type": "function", "function": {"name": "f"}}] * 10_000),
        ("tool_choice", "required"), ("tool_choice", {"type": "function", "function": {"name": "f"}}),
        ("user", "x" * 10**6), ("model", "x" * 10**6), ("model", "../../etc/passwd"), ("model", "/etc/passwd"),
    ],
)  # fmt: skip
def test_options_beyond_their_limits_are_refused_by_name(client: httpx.Client, option: str, value: Any) -> None:
    found = send(client, CHAT, {**GOOD[CHAT.name], option: value})
    assert found.status_code in (400, 404), found.text
    assert len(found.text) < 1000


@pytest.mark.parametrize(
    ("name", "many"),
    [(name, many) for name, good in GOOD.items() if "messages" in good for many in ("messages", "tools")]
    + [(TOKENIZE.name, "messages")],
)
def test_every_route_with_a_dialog_bounds_its_turns_and_tools(client: httpx.Client, name: str, many: str) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    if name in (MESSAGES.name, COUNT.name):
        tool = {"name": "f", "input_schema": {"type": "object"}}
    most = {"messages": Limits().messages, "tools": Limits().tools}[many]
    body = {**GOOD[name], "messages": TURNS, many: {"messages": TURNS, "tools": [tool]}[many] * (most + 1)}
    body.pop("prompt", None)
    method, path = name.split(" ")
    found = client.request(method, path, json=body)
    assert found.status_code == 400 and f"at most {most}" in found.text, found.text


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"}, {"$ref": "https://evil.example/x.json"}, {"type": "array", "minItems": 10**9},
        {"enum": list(range(10**5))}, {"type": "string", "pattern": "(?=a)b"}, {"not": {}}, {"type": "x"},
        {"type": "object", "properties": {"a": False}, "required": ["a"]}, {"contains": {}, "type": "array"},
    ],
    ids=range(9),
)  # fmt: skip
def test_schemas_that_cannot_be_enforced_are_refused(client: httpx.Client, schema: Any) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    found = send(client, CHAT, {**GOOD[CHAT.name], "response_format": form})
    assert found.status_code in (400, 413), found.text
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("pattern", ["(a+)+b" * 2000, "a{1,1000000000}", "(" * 10_000, "[", "a" * 70_000], ids=range(5))
def test_patterns_that_are_hard_for_others_are_followed_or_refused(client: httpx.Client, pattern: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "string", "pattern": pattern}}}
    found = send(client, CHAT, {**GOOD[CHAT.name], "response_format": form, "max_tokens": 5})
    assert found.status_code in (200, 400, 413), found.text
    assert client.get("/health").status_code == 200


# -- text is text --------------------------------------------------------------------------------------------------


def with_markers(*names: str) -> Tokenizer:
    """The vocabulary of bytes with added tokens that are not special, which its template writes."""
    specials = {text: i for text, i in BYTES.specials.items() if not 270 <= i < 270 + len(names)}
    added = {270 + i: name for i, name in enumerate(names)}
    return Tokenizer(
        lambda text, most: list(text[: most + 1].encode()),
        [added.get(i, "").encode() or BYTES.token_bytes(i) for i in range(BYTES.vocab_size)],
        specials,
        bos_id=BYTES.bos_id,
        eos_ids=BYTES.eos_ids,
        split="bytes",
        template="".join(names),
        added=[
            *(AddedToken(i, text, special=True) for text, i in specials.items()),
            *(AddedToken(i, text) for i, text in added.items()),
        ],
    )


MARKED = with_markers("<think>", "</think>", "<tool_call>", "</tool_call>", "<\uff5cUser\uff5c>", "[/INST]")


def watched(name: str, asked: list[list[int]], tokenizer: Tokenizer) -> LLM:
    """A model whose prompts are written down."""
    llm = fake_llm("ok", name, tokenizer, context=16384)
    engine = llm._running()
    submit = engine.submit_samples

    def note(request: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(list(request.ids))
        return submit(request, *arguments, **options)

    engine.submit_samples = note  # type: ignore[method-assign]
    return llm


@pytest.mark.parametrize("tokenizer", [BYTES, MARKED], ids=["special", "and written by the template"])
def test_control_tokens_in_any_field_of_any_dialect_become_none(tokenizer: Tokenizer, tmp_path: Path) -> None:
    asked: list[list[int]] = []
    forged = "".join(tokenizer.added)
    spoken = {i for i, text in enumerate(("<think>", "</think>", "<tool_call>", "</tool_call>"), 270) if text in forged}

    def bodies_with(text: str, said: str) -> list[tuple[str, Any]]:
        tool = {
            "name": "f",
            "description": text,
            "parameters": {"type": "object", "properties": {text: {"title": text}}},
        }
        calls = [{"id": text, "type": "function", "function": {"name": "f", "arguments": json.dumps({text: text})}}]
        block = {"type": "text", "text": text}
        return [
            (
                "/v1/chat/completions",
                {
                    "messages": [
                        {"role": "system", "content": text},
                        {"role": "user", "content": [block, block]},
                        {"role": "assistant", "content": said, "tool_calls": calls},
                        {"role": "tool", "tool_call_id": text, "content": text},
                        {"role": "user", "content": text},
                    ],
                    "tools": [{"type": "function", "function": tool}],
                    "user": text[:60],
                },
            ),
            ("/v1/completions", {"prompt": text, "max_tokens": 1}),
            ("/v1/responses", {"input": [{"role": "user", "content": text}], "instructions": text}),
            (
                "/api/chat",
                {
                    "messages": [
                        {"role": "user", "content": text},
                        {"role": "assistant", "content": said},
                        {"role": "tool", "content": text},
                    ],
                    "stream": False,
                },
            ),
            ("/api/generate", {"prompt": text, "system": text, "stream": False}),
            (
                "/v1/messages",
                {
                    "max_tokens": 3,
                    "system": text,
                    "messages": [
                        {"role": "user", "content": [block]},
                        {
                            "role": "assistant",
                            "content": [
                                {"type": "text", "text": said},
                                {"type": "tool_use", "id": "a", "name": "f", "input": {text: 1}},
                            ],
                        },
                        {
                            "role": "user",
                            "content": [{"type": "tool_result", "tool_use_id": "a", "content": text}, block],
                        },
                    ],
                    "tools": [{"name": "f", "description": text, "input_schema": tool["parameters"]}],
                },
            ),
        ]

    def count(path: str, body: Any) -> tuple[int, int]:
        """Control ids of a prompt: those that an assistant's text becomes, and the others."""
        found = client.post(path, json={"model": "fake", **body})
        assert found.status_code == 200, (path, found.text)
        ids = asked.pop()
        return sum(i in spoken for i in ids), sum(i in tokenizer.added.values() and i not in spoken for i in ids)

    with client_of(fake_service(tmp_path, load=lambda path: watched(Path(path).name, asked, tokenizer))) as client:
        bodies = (bodies_with("plain", "plain"), bodies_with(forged, "plain"), bodies_with(forged, forged))
        for (path, plain), (_, hostile), (_, all_hostile) in zip(*bodies, strict=True):
            expected = count(path, plain)
            assert count(path, hostile) == expected, path
            own = len(spoken) if "assistant" in json.dumps(plain) else 0
            assert count(path, all_hostile) == (own, expected[1]), path


def test_text_that_spells_a_marker_is_no_call(tmp_path: Path) -> None:
    said = "<|python_start|>print(1)<|python_end|> <tool_call>{broken"
    tools = [{"type": "function", "function": {"name": "f"}}]
    with client_of(fake_service(tmp_path, said)) as client:
        (choice,) = client.post("/v1/chat/completions", json={**GOOD[CHAT.name], "tools": tools}).json()["choices"]
        assert choice["message"] == {"role": "assistant", "content": said, "refusal": None}
        assert choice["finish_reason"] == "stop"


# -- load and leaving ----------------------------------------------------------------------------------------------


def test_readers_that_leave_at_any_byte_leave_nothing_behind(tmp_path: Path) -> None:
    loaded: list[LLM] = []

    def load(path: str) -> LLM:
        loaded.append(fake_llm(lambda ids: 65, "fake"))
        return loaded[-1]

    rng = random.Random(3)
    service = fake_service(tmp_path, load=load)
    with client_of(service) as client:
        assert client.post("/api/generate", json={"model": "fake"}).status_code == 200
        host, port = str(client.base_url).removeprefix("http://").split(":")
        num_threads = threading.active_count()
        for _ in range(100):
            path = rng.choice(["/v1/chat/completions", "/api/chat", "/v1/messages", "/v1/responses"])
            body = {"model": "fake", "messages": TURNS, "stream": rng.random() < 0.8, "max_tokens": 3000, "input": "Hi"}
            if path == "/v1/messages":
                del body["input"]
            data = json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            whole = head + data
            with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as s:
                s.sendall(whole[: rng.choice([len(whole), len(whole), rng.randrange(len(whole))])])
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                if rng.random() < 0.7:
                    s.settimeout(0.2)
                    with contextlib.suppress(TimeoutError):
                        s.recv(rng.randrange(1, 2000))
        engine = loaded[0]._running()
        until("jobs stay", lambda: not engine._table.jobs)
        until("requests stay under way", lambda: not service.keyring.find("", "").under_way)
        until("a model is held in use", lambda: [h.users for h in service.models.held] == [0])
        assert threading.active_count() <= num_threads + 6, "those that prepare, and asyncio's own"
        assert isinstance(engine.runner, FakeModel)
        _nothing_is_lost(engine.runner)
        assert client.post("/v1/chat/completions", json={**GOOD[CHAT.name], "max_tokens": 2}).status_code == 200


def _nothing_is_lost(runner: FakeModel) -> None:
    """Pages add up. The last job is gone from the post before the engine's thread has put back all that it held, so a
    look from here may come in between: what is lost stays lost."""

    def adds_up() -> bool:
        with contextlib.suppress(AssertionError):
            runner.cache.check()
            return True
        return False

    until("pages are lost", adds_up)


def test_a_reader_that_reads_nothing_is_dropped(tmp_path: Path) -> None:
    limits = Limits(unread_bytes=50 * 256, write_timeout_s=1)
    service = fake_service(tmp_path, lambda ids: 65, limits=limits, context=100_000)
    with client_of(service) as client:
        host, port = str(client.base_url).removeprefix("http://").split(":")
        data = json.dumps({**GOOD[CHAT.name], "stream": True}).encode()
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect((host, int(port)))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
        s.sendall(head.encode() + data)
        key = service.keyring.find("", "")
        until("it has not begun", lambda: key.under_way or service.models.held)
        until("it stays under way", lambda: not key.under_way)
        s.close()


def test_more_than_a_key_may_have_is_429_with_a_time(tmp_path: Path) -> None:
    keys = (Key("a", digest_of("a" * 20), at_once=1), Key("b", digest_of("b" * 20), requests_per_minute=1))
    gate = threading.Event()

    def slow(ids: list[int]) -> int:
        gate.wait(PATIENCE_S)
        return 65

    with client_of(fake_service(tmp_path, slow, keys=keys)) as client:
        first = {"authorization": "Bearer " + "a" * 20}
        body = {**GOOD[CHAT.name], "max_tokens": 1}
        found: list[int] = []
        threads = [
            threading.Thread(
                target=lambda: found.append(client.post("/v1/chat/completions", json=body, headers=first).status_code)
            )
            for _ in range(2)
        ]
        for t in threads:
            t.start()
        until("neither is answered", lambda: found)
        assert found == [429]
        gate.set()
        for t in threads:
            t.join(PATIENCE_S)
        assert sorted(found) == [200, 429]
        second = {"x-api-key": "b" * 20}
        assert client.post("/v1/chat/completions", json=body, headers=second).status_code == 200
        late = client.post("/v1/chat/completions", json=body, headers=second)
        assert (late.status_code, late.json()["error"]["code"]) == (429, "quota_exceeded")
        assert 1 <= int(late.headers["retry-after"]) <= 60


def test_stored_responses_and_cached_prompts_are_a_keys_own(tmp_path: Path) -> None:
    keys = (Key("a", digest_of("a" * 20)), Key("b", digest_of("b" * 20)))
    with client_of(fake_service(tmp_path, keys=keys)) as client:
        mine, other = ({"x-api-key": x * 20} for x in "ab")
        prompt = "x" * 200
        made = client.post("/v1/responses", json={"model": "fake", "input": prompt}, headers=mine).json()
        for path in ("", "/input_items"):
            assert client.get(f"/v1/responses/{made['id']}{path}", headers=other).status_code == 404
            assert client.get(f"/v1/responses/{made['id']}{path}", headers=mine).status_code == 200
        assert client.delete(f"/v1/responses/{made['id']}", headers=other).status_code == 404
        counts = []
        for headers in (other, mine):
            body = {"model": "fake", "messages": [{"role": "user", "content": prompt}]}
            found = client.post("/v1/chat/completions", json=body, headers=headers).json()
            counts.append(found["usage"]["prompt_tokens_details"]["cached_tokens"])
        assert counts[0] == 0
        assert counts[1] > 100


def test_no_prompt_answer_or_key_is_in_logs_metrics_or_errors(tmp_path: Path) -> None:
    import io

    out = io.StringIO()
    canary, secret = "CANARY-" + "q" * 20, "SECRET-" + "z" * 20
    log = Log("json", out)
    service = fake_service(tmp_path, canary, keys=(Key("k", digest_of(secret)),), log=log)
    with client_of(service) as client:
        headers = {"authorization": f"Bearer {secret}", "x-request-id": canary}
        for table in TABLES.values():
            for body in (
                GOOD[table.name],
                json.loads(json.dumps(GOOD[table.name]).replace("Hi", canary)),
                {**GOOD[table.name], "temperature": canary, "options": {"temperature": canary}},
            ):
                method, path = table.name.split(" ")
                client.request(method, path, json=body, headers=headers)
        client.post("/v1/chat/completions", json=GOOD[CHAT.name], headers={"authorization": f"Bearer {secret}x"})
        metrics = client.get("/metrics", headers=headers).text
    log.close()
    assert "request" in out.getvalue()
    for text in (out.getvalue(), metrics):
        assert "q" * 20 not in text
        assert "z" * 20 not in text


# -- media ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "/etc/passwd",
        "ftp://x/y",
        "gopher://x",
        "data:text/html,x",
        "data:image/png;base64,!!!!",
        "",
    ],
)
def test_addresses_of_other_kinds_are_refused(url: str) -> None:
    with pytest.raises(BadMedia):
        Images(remote=True).part(url, "image")


def test_the_network_is_closed_unless_it_was_opened() -> None:
    with pytest.raises(Forbidden, match="base64"):
        Images(remote=False).part("https://example.com/x.png", "image")


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x", "http://[::1]/x", "http://169.254.169.254/latest", "http://[::ffff:127.0.0.1]/x",
        "http://10.0.0.1/x", "http://0.0.0.0/x", "http://localhost/x", "http://user:pass@example.com/x",
        "http://127.0.0.1:22/x", "http://2130706433/x", "http://0x7f.1/x",
    ],
)  # fmt: skip
def test_private_addresses_are_refused_after_resolution(url: str) -> None:
    import asyncio

    from herd.errors import HerdError

    with pytest.raises(HerdError):
        asyncio.run(fetch(url, "image"))


def test_which_addresses_are_public() -> None:
    for address in ("8.8.8.8", "2606:4700::1111"):
        assert is_public(address)
    for address in (
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.1.1", "100.64.0.1", "0.0.0.0", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
        "fe80::1%eth0", "ff02::1",
    ):  # fmt: skip
        assert not is_public(address), address
