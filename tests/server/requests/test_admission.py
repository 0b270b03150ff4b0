"""Keys are counted before the work: places, bytes and tokens, on every route."""

import asyncio
import copy
import functools
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import BYTES, client_of, fake_llm, fake_service, running
from test_hostile import GOOD, TURNS

from helpers import PATIENCE_S, until
from herd.config import TINY
from herd.engine.fake import FakeModel
from herd.errors import Busy, QuotaSpent
from herd.llm import LLM
from herd.server.app import ROUTES, create_app
from herd.server.keys import Key, digest_of
from herd.server.limits import Limits
from herd.server.options import ServerOptions
from herd.server.requests.admission import Admission, InFlight, Spending
from herd.server.routes import Route
from herd.server.service import Service
from herd.server.tables import TABLES
from herd.text import special
from herd.text.added import AddedToken, AddedTokens
from herd.text.chat import ChatML, Llama3, Llama4, Llama4HF
from herd.text.tokenizer import Tokenizer

SECRET, OTHER = "a-secret-of-some-length", "another-secret-of-a-key"
ENTERING = [route for route in ROUTES if route.enters]


def key(name: str = "k", secret: str = SECRET, **settings: Any) -> Key:
    """A key for which time stands still."""
    found = Key(name, digest_of(secret), **settings)
    found.tokens._clock = lambda: found.tokens._at_s
    return found


def head(route: Route, more: str) -> bytes:
    path = route.path.replace("{id}", "x").replace("{digest}", "x").replace("{model:path}", "x")
    return f"{route.method} {path} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {SECRET}\r\n{more}\r\n".encode()


def status_of(address: str, sent: bytes) -> int:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        return int(connection.recv(4096).split()[1])


def settled(service: Service, *keys: Key) -> None:
    """Wait until nothing is under way, and see that nothing is held."""
    for k in keys:
        until(k, lambda k=k: (k.under_way, k.tokens._reserved) == (0, 0))
    until("it is held for ever", lambda: (service.in_flight.held, service.answering.held) == (0, 0))


# -- the parts ---------------------------------------------------------------------------------------------------------


def fill(memory: InFlight, k: Key) -> None:
    while True:
        memory.take(k, 1)


def test_there_is_always_room_for_somebody_new() -> None:
    memory, keys = InFlight(1000), [key(str(i)) for i in range(6)]
    for k in keys:
        before = memory.held
        with pytest.raises(Busy, match="as many as are free"):
            fill(memory, k)
        assert memory.held > before, "a newcomer finds room"
        assert memory.held < 1000
    assert memory.of(keys[0]) == 500


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 80), st.integers(0, 80)), max_size=30))
def test_a_quota_is_exceeded_by_the_rest_of_one_answer_at_most(asks: list[tuple[int, int, int]]) -> None:
    """All begin before any ends, each makes what it may or less."""
    k = key(tokens_per_minute=100)
    used, longest, begun = 0, 0, []
    for prompt, most, made in asks:
        try:
            spending = Spending(k, prompt, most)
        except QuotaSpent:
            continue
        begun.append((spending, min(most, made)))
        used += prompt + min(most, made)
        longest = max(longest, prompt + most)
    for spending, made in begun:
        for total in range(made + 1):
            spending.made(total)
    assert used <= 100 + longest
    for spending, _ in begun:
        spending.settle()
        spending.settle()
    assert k.tokens._reserved == 0
    assert k.tokens._left == 100 - used


def test_an_admission_ends_once() -> None:
    k, asked, made = key(), InFlight(1000), InFlight(1000)
    admission = Admission(k, 1, asked, made)
    admission.hold(100)
    with pytest.raises(Busy):
        Admission(k, 1, asked, made)
    admission.close()
    admission.close()
    assert (k.under_way, asked.held, made.held) == (0, 0, 0)


# -- every route -------------------------------------------------------------------------------------------------------


def test_what_does_not_enter_reads_no_body_and_makes_no_tokens() -> None:
    assert {(r.method, r.right) for r in ROUTES if not r.enters} <= {
        ("GET", None), ("GET", "models"), ("GET", "metrics"), ("HEAD", None), ("HEAD", "models"),
    }  # fmt: skip
    assert {f"{r.method} {r.path}" for r in ENTERING} >= set(TABLES)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Service]]:
    """A service whose key has no place left."""
    k = key(at_once=1)
    service = fake_service(tmp_path_factory.mktemp("home"), keys=(k,))
    with running(service) as address:
        k.under_way = 1
        yield address, service
        k.under_way = 0


@pytest.mark.parametrize("route", ENTERING, ids=lambda r: f"{r.method} {r.path}")
def test_a_key_without_a_place_is_refused_before_its_body_has_come(route: Route, full: tuple[str, Service]) -> None:
    address, service = full
    assert status_of(address, head(route, "content-length: 1000000\r\n")) == 429
    assert service.in_flight.held == 0


@pytest.mark.parametrize("name", TABLES)
def test_a_request_that_is_over_holds_nothing(name: str, tmp_path: Path) -> None:
    """Good ones, bad ones, and those whose body never comes whole."""
    k = key(tokens_per_minute=10**6)
    service = fake_service(tmp_path, keys=(k,))
    method, path = name.split(" ")
    bodies = [msgspec.json.encode(GOOD[name]), b"{", b"[]", msgspec.json.encode({**GOOD[name], "model": 3})]
    bodies += [msgspec.json.encode({**GOOD[name], "stream": stream}) for stream in (True, False)]
    with client_of(service) as client:
        client.headers["x-api-key"] = SECRET
        for body in bodies:
            client.request(method, path, content=body)
        settled(service, k)
        route = next(r for r in ROUTES if f"{r.method} {r.path}" == name)
        host, port = str(client.base_url).removeprefix("http://").rstrip("/").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(head(route, "content-length: 100000\r\n") + b'{"model": "fa')
            until("its body is not awaited", lambda: service.in_flight.held)
            assert service.in_flight.held == 100_000, "what is declared is held before it comes"
        settled(service, k)


COSTS: dict[str, Callable[[dict[str, Any]], int]] = {
    "POST /v1/chat/completions": lambda r: r["usage"]["total_tokens"],
    "POST /v1/completions": lambda r: r["usage"]["total_tokens"],
    "POST /v1/responses": lambda r: r["usage"]["total_tokens"],
    "POST /v1/responses/input_tokens": lambda r: r["input_tokens"],
    "POST /v1/embeddings": lambda r: r["usage"]["total_tokens"],
    "POST /v1/moderations": lambda r: 100,  # 400 characters
    "POST /api/chat": lambda r: r["prompt_eval_count"] + r["eval_count"],
    "POST /api/generate": lambda r: r["prompt_eval_count"] + r["eval_count"],
    "POST /api/embed": lambda r: r["prompt_eval_count"],
    "POST /api/embeddings": lambda r: 401,  # a byte a token, and the first one
    "POST /v1/messages": lambda r: r["usage"]["input_tokens"] + r["usage"]["output_tokens"]
    + r["usage"]["cache_read_input_tokens"],
    "POST /v1/messages/count_tokens": lambda r: r["input_tokens"],
    "POST /tokenize": lambda r: r["count"],
    "POST /detokenize": lambda r: 400,
}  # fmt: skip
"""What each route's answer says that it took."""
NAMES_ALONE = ("POST /api/show", "POST /api/create", "POST /api/copy", "DELETE /api/delete", "POST /api/pull")
"""Routes that read and make no tokens."""


@pytest.mark.parametrize(
    "name", [n for n in TABLES if (n.split(" ")[0] == "POST" and "/api/c" not in n) or "chat" in n]
)
def test_tokens_of_every_route_are_charged(name: str, tmp_path: Path) -> None:
    if name in ("POST /api/show", "POST /api/pull", "POST /v1/batches"):
        pytest.skip("it makes and reads no tokens; those of a batch are charged line by line")
    k = key(tokens_per_minute=10**6)
    body = json.loads(json.dumps(GOOD[name]).replace('"Hi"', json.dumps("a" * 400)).replace("[72]", str([72] * 400)))
    service = fake_service(tmp_path, keys=(k,))
    with client_of(service) as client:
        found = client.post(name.split(" ")[1], json=body, headers={"x-api-key": SECRET})
        assert found.status_code == 200, found.text
        settled(service, k)
    assert k.tokens._left == 10**6 - COSTS[name](found.json())


@pytest.mark.parametrize("most", [0, 2])
def test_a_prompt_told_with_log_probabilities_is_charged_once_and_not_begun_without_a_quota(
    most: int, tmp_path: Path
) -> None:
    k = key(tokens_per_minute=1000)
    service = fake_service(tmp_path, keys=(k,))
    body = {"model": "fake", "prompt": "a" * 400, "echo": True, "logprobs": 1, "max_tokens": most}
    with client_of(service) as client:
        found = client.post("/v1/completions", json=body, headers={"x-api-key": SECRET})
        assert found.status_code == 200, found.text
        settled(service, k)
        assert found.json()["usage"]["completion_tokens"] == most
        assert k.tokens._left == pytest.approx(1000 - found.json()["usage"]["total_tokens"], abs=50)
        body["prompt"] = "b" * 900
        refused = client.post("/v1/completions", json=body, headers={"x-api-key": SECRET})
        assert refused.status_code == 429
        settled(service, k)


def test_log_probabilities_of_a_prompt_have_the_bound_of_a_reply(tmp_path: Path) -> None:
    service = fake_service(tmp_path, limits=Limits(reply_bytes=100_000))
    body = {"model": "fake", "echo": True, "logprobs": 20, "max_tokens": 0}
    with client_of(service) as client:
        small = client.post("/v1/completions", json={**body, "prompt": "a" * 5})
        large = client.post("/v1/completions", json={**body, "prompt": "a" * 500})
    assert (small.status_code, large.status_code) == (200, 413)
    assert "reply: got more, expected at most 100000 bytes in memory" in large.text


# -- tokens as they are made -------------------------------------------------------------------------------------------


def slowly_x(ids: list[int]) -> int:
    time.sleep(0.001)
    return ord("x")


def test_hanging_up_early_costs_what_was_made(tmp_path: Path) -> None:
    k = key(tokens_per_minute=10**6)
    service = fake_service(tmp_path, slowly_x, keys=(k,), context=1 << 17)
    most = 100_000  # which take minutes: it is left long before, on a busy machine too
    body = {"model": "fake", "messages": TURNS, "stream": True, "max_tokens": most}
    with client_of(service) as client:
        prompt = client.post("/tokenize", json={"model": "fake", "messages": TURNS}, headers={"x-api-key": SECRET})
        used = 10**6 - k.tokens._left
        assert used == prompt.json()["count"]
        seen = 0
        with client.stream("POST", "/v1/chat/completions", json=body, headers={"x-api-key": SECRET}) as reply:
            for line in reply.iter_lines():
                seen += '"content":"x"' in line
                if seen == 98:
                    break
        settled(service, k)
    made = 10**6 - k.tokens._left - 2 * used
    assert 98 <= made < most, "no less than was seen, and nothing after it was over"


def test_parallel_requests_reserve_before_they_run(tmp_path: Path) -> None:
    k = key(tokens_per_minute=1000)
    service = fake_service(tmp_path, slowly_x, keys=(k,))
    body = {"model": "fake", "messages": TURNS, "max_tokens": 300}
    statuses: list[int] = []
    with client_of(service) as client:

        def ask() -> None:
            statuses.append(client.post("/v1/chat/completions", json=body, headers={"x-api-key": SECRET}).status_code)

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        settled(service, k)
    assert sorted(set(statuses)) == [200, 429]
    assert k.tokens._left > -400, "one answer more than the quota at most"


STREAMS = [n for n, t in TABLES.items() if "stream" in {f for f, _, _ in t.rows()} and n in COSTS]


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_whose_reader_is_gone_before_its_head_holds_nothing(name: str, tmp_path: Path) -> None:
    """Behind another reply that its reader does not take, not even the head can be sent."""
    k = key(tokens_per_minute=10**6)
    service = fake_service(tmp_path, slowly_x, keys=(k,))
    app = create_app(service, ServerOptions(keys=(k,), log="off"))
    method, path = name.split(" ")
    headers = [(b"host", b"localhost"), (b"x-api-key", SECRET.encode())]
    scope = {"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
             "headers": headers, "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1),
             "server": ("localhost", 1)}  # fmt: skip

    async def ask() -> None:
        sends, body = asyncio.Event(), [json.dumps({**GOOD[name], "stream": True}).encode()]

        async def receive() -> dict[str, Any]:
            if body:
                return {"type": "http.request", "body": body.pop(), "more_body": False}
            await sends.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            assert message.get("status", 200) == 200, message
            sends.set()
            await asyncio.Event().wait()

        await asyncio.wait_for(app(scope, receive, send), PATIENCE_S)
        settled(service, k)
        assert [held.users for held in service.models.held] == [0]
        assert all(kept.over for mine in service.responses._keys.values() for kept in mine.kept.values())
        await service.models.close()

    asyncio.run(ask())


# -- rights ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_alive", [0, -1, "0s", "1h"])
@pytest.mark.parametrize("name", [n for n, t in TABLES.items() if "keep_alive" in {f for f, _, _ in t.rows()}])
def test_how_long_a_model_stays_is_for_keys_that_manage(name: str, keep_alive: Any, tmp_path: Path) -> None:
    manager = key("m", OTHER)
    chat = key(rights=frozenset({"chat", "embed", "models"}))
    service = fake_service(tmp_path, keys=(chat, manager))
    with client_of(service) as client:
        body = {**GOOD[name], "keep_alive": keep_alive}
        found = client.post(name.split(" ")[1], json=body, headers={"x-api-key": SECRET})
        assert found.status_code == 200, found.text
        assert "keep_alive" in found.headers["x-herd-ignored"]
        (held,) = service.models.held
        assert held.keep_alive_s == service.models.keep_alive_s
        empty = {k: v for k, v in body.items() if k in ("model", "keep_alive", "stream")}
        for nothing in ({}, {"messages": []}, {"prompt": ""}):
            found = client.post(name.split(" ")[1], json={**empty, **nothing}, headers={"x-api-key": SECRET})
            of_nothing = 200 if "/api/embed" in name else 403  # no texts have no vectors, whoever asks
            assert found.status_code in (400, of_nothing), found.text
            assert [h.keep_alive_s for h in service.models.held] == [service.models.keep_alive_s]
        client.post(name.split(" ")[1], json=body, headers={"x-api-key": OTHER})
        assert [h.keep_alive_s for h in service.models.held] != [service.models.keep_alive_s] or keep_alive == -1


# -- lanes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in COSTS if n not in ("POST /detokenize", "POST /v1/moderations")])
def test_a_keys_work_waits_behind_its_own_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One key's texts take for ever to be tokenised; another key's requests, large and small, do not notice."""
    gate, entered = threading.Event(), threading.Semaphore(0)
    llm = fake_llm("Hello.")
    encode = llm.tokenizer._encode

    def slow(text: str, most: int) -> list[int]:
        if "slow" in text:
            entered.release()
            gate.wait(2 * PATIENCE_S)
        return encode(text, most)

    monkeypatch.setattr(llm.tokenizer, "_encode", slow)
    service = fake_service(tmp_path, keys=(key(), key("other", OTHER)), load=lambda path: llm)
    path = name.split(" ")[1]
    body = json.loads(json.dumps(GOOD[name]).replace('"Hi"', '"slow"'))
    with client_of(service) as client:
        threads = [
            threading.Thread(target=lambda: client.post(path, json=body, headers={"x-api-key": SECRET}))
            for _ in range(12)
        ]
        for thread in threads:
            thread.start()
        assert entered.acquire(timeout=PATIENCE_S)
        found = client.post(path, json=GOOD[name], headers={"x-api-key": OTHER})
        gate.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert found.status_code == 200, found.text


def test_names_that_nobody_answers_keep_no_other_key_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from herd.server.requests import fetcher

    gate, entered = threading.Event(), threading.Semaphore(0)

    plain = socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **named: Any) -> Any:
        if not host.endswith(".example"):
            return plain(host, *arguments, **named)
        entered.release()
        if host == "never.example":
            gate.wait(2 * PATIENCE_S)
        raise OSError("no such host")

    monkeypatch.setattr(fetcher.socket, "getaddrinfo", look_up)
    service = fake_service(tmp_path, keys=(key(), key("other", OTHER)))
    service.remote_media = True

    def ask(client: httpx.Client, host: str, secret: str) -> httpx.Response:
        parts = [{"type": "image_url", "image_url": {"url": f"http://{host}/x.png"}}]
        body = {"model": "fake", "messages": [{"role": "user", "content": parts}]}
        return client.post("/v1/chat/completions", json=body, headers={"x-api-key": secret})

    with client_of(service) as client:
        threads = [threading.Thread(target=ask, args=(client, "never.example", SECRET)) for _ in range(20)]
        for thread in threads:
            thread.start()
        assert entered.acquire(timeout=PATIENCE_S)
        assert ask(client, "quick.example", OTHER).status_code == 502
        assert client.post("/tokenize", json=GOOD["POST /tokenize"], headers={"x-api-key": SECRET}).status_code == 200
        gate.set()
        for thread in threads:
            thread.join(PATIENCE_S)


def losing(kind: str) -> Tokenizer:
    """The vocabulary of the fakes; or one of which some bytes have no token, or a token takes white space."""
    tokenizer = copy.copy(BYTES)
    if kind == "some bytes":
        tokenizer.missing_bytes = frozenset({0xC0, 0xFF, ord("~")})
    if kind == "white space":
        tokenizer._added = AddedTokens([AddedToken(300, "<a>", lstrip=True)])
    return tokenizer


@pytest.mark.parametrize("kind", ["nothing", "some bytes", "white space"])
@pytest.mark.parametrize("field", ["prompt", "content", "system", "tools"])
def test_what_cannot_fit_is_refused_before_it_is_made_tokens(
    field: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from herd.errors import ContextTooLong

    llm = fake_llm("x", context=1000, tokenizer=losing(kind))
    monkeypatch.setattr(llm.tokenizer, "_encode", lambda text, most: pytest.fail("it was tokenised"))
    text = "a" * 100_000
    turn = {"role": "user", "content": [{"type": "text", "text": text}]}
    asks: dict[str, Callable[[], Any]] = {
        "prompt": lambda: llm.complete(text),
        "content": lambda: llm.chat([turn]),
        "system": lambda: llm.chat("Hi", system=text),
        "tools": lambda: llm.chat("Hi", tools=[{"name": "t", "description": text, "parameters": {}}]),
    }
    with pytest.raises(ContextTooLong, match=r"at least 100\d\d\d tokens, the context holds 1000"):
        asks[field]()
    with pytest.raises(ContextTooLong, match=r"texts\[1\] has at least 100000 tokens"):
        llm.embed(["a", text])


def asks_of_text(llm: LLM, text: str) -> dict[str, Callable[[], Any]]:
    """Every call that has a text read within the context."""
    turns = [{"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": text}]}]
    tool = {"name": "t", "description": text, "parameters": {}}
    return {
        "chat": lambda: llm.chat(turns),
        "system": lambda: llm.chat("Hi", system=text),
        "tools": lambda: llm.chat("Hi", tools=[tool]),
        "complete": lambda: llm.complete(text),
        "tokenize": lambda: llm.tokenize(turns, fits=True),
        "count": lambda: llm.count(turns, tools=[tool], fits=True),
        "embed": lambda: llm.embed(["a", text]),
        "score: prompt": lambda: llm.score([(text, "b")]),
        "score: continuation": lambda: llm.score([([65], text)]),
    }


@pytest.mark.parametrize("kind", asks_of_text(fake_llm("x"), ""))
def test_what_is_beyond_the_context_is_not_made_tokens_to_its_end(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from herd.errors import ContextTooLong
    from herd.llm.prepare import TOLD

    llm, made = fake_llm("x", context=1000), list[int]()
    whole = llm.tokenizer._encode
    vars(llm.tokenizer)["longest_bytes"] = 1 << 20  # so that the number of characters says nothing

    def encode(text: str, most: int) -> list[int]:
        ids = whole(text, most)
        made.append(len(ids))
        return ids

    monkeypatch.setattr(llm.tokenizer, "_encode", encode)
    with pytest.raises(ContextTooLong, match=f"the prompt has more than {TOLD} tokens"):
        asks_of_text(llm, "ab" * TOLD)[kind]()
    assert sum(made) < TOLD + 2000


MANY = {
    "names": {"a" * 500 + str(i): 1 for i in range(200)},
    "numbers": {"x": [1.5] * 100_000},
    "texts": {"x": ["a"] * 100_000},
    "deep lists": {"x": functools.reduce(lambda inner, _: [inner], range(50), [1] * 1000)},
}
"""Values that are long once they are written: the last one by the blanks that set it out."""


@pytest.mark.parametrize("what", MANY)
@pytest.mark.parametrize("chat", [Llama4, Llama4HF, Llama3, ChatML])
def test_values_that_cannot_fit_are_refused_before_they_are_made_tokens(
    what: str, chat: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from herd.errors import ContextTooLong

    words = Tokenizer.bytes_only([*special.SMALL, *(name for name in chat.needs if name not in special.SMALL)])
    llm = LLM(TINY, FakeModel(lambda ids: 65, context=1000), words, chat(words))
    monkeypatch.setattr(llm.tokenizer, "_encode", lambda text, most: pytest.fail("it was tokenised"))
    tools = [{"name": "t", "parameters": MANY[what]}]
    checked_texts = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "t", "arguments": MANY[what]}]},
    ]
    asks: list[Callable[[], Any]] = [
        lambda: llm.chat(checked_texts),
        lambda: llm.tokenize(checked_texts, fits=True),
        lambda: llm.chat("Hi", tools=tools),
        lambda: llm.tokenize([{"role": "user", "content": "Hi"}], tools=tools, fits=True),
    ]
    if what == "deep lists":  # only where they are set out on lines are they long
        asks = asks[2:] if chat is not ChatML else []
    for ask in asks:
        with pytest.raises(ContextTooLong, match="at least"):
            ask()
    llm.close()
