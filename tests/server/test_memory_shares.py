"""What a request makes is counted in bytes before it is there: answers, images, ids, texts of ids, replies."""

import asyncio
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from serving import client_of, fake_llm, fake_service, running

from helpers import PATIENCE_S, until
from herd.errors import Busy, TooLarge
from herd.media.room import PixelRoom
from herd.server.http.streams import PIECE, InPieces
from herd.server.keys import Key
from herd.server.limits import Limits
from herd.server.openai import completions
from herd.server.requests.admission import Holding, InFlight
from herd.server.requests.sizes import PREPARED_BYTES, WIDE, prompt_bytes, text_size
from herd.server.service import Service

CHAT: dict[str, Any] = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}]}


def _until_all_is_free(service: Service) -> None:
    until("it is held for ever", lambda: not service.answering.held and not service.in_flight.held)


def test_a_key_may_hold_what_is_free_and_never_more_than_half() -> None:
    memory, a, b = InFlight(1000, "answers"), Key("a"), Key("b")
    mine = Holding(memory, a)
    mine.hold(500)
    with pytest.raises(Busy, match="answers that key a holds"):
        mine.hold(1)
    with pytest.raises(TooLarge, match="answers of one request"):
        Holding(memory, b).hold(501)
    Holding(memory, b).hold(250)
    mine.let_go(100)
    assert (mine.size_bytes, memory.of(a), memory.of(b), memory.held) == (400, 400, 250, 650)
    mine.let_go()
    assert memory.of(a) == 0 and memory.held == 250


@pytest.mark.parametrize("more", [{}, {"n": 2}, {"logprobs": True, "top_logprobs": 3}])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_over_its_bytes_ends_with_an_error_that_says_what_to_do(
    tmp_path: Path, stream: bool, more: dict[str, Any]
) -> None:
    limits = Limits(reply_bytes=200_000)
    service = fake_service(tmp_path, lambda ids: 65, limits=limits, context=1 << 20)
    with client_of(service) as client:
        found = client.post("/v1/chat/completions", json={**CHAT, **more, "stream": stream})
        assert found.status_code == (200 if stream else 413)
        assert "ask for fewer tokens, samples or logprobs" in found.text and "200000" in found.text
        assert "[DONE]" not in found.text
        _until_all_is_free(service)
        assert client.post("/v1/chat/completions", json={**CHAT, "max_tokens": 5}).status_code == 200


def test_a_prompt_is_counted_before_it_becomes_ids(tmp_path: Path) -> None:
    service = fake_service(tmp_path, limits=Limits(answers_bytes=10_000_000), context=1 << 20)
    with client_of(service) as client:
        long = {**CHAT, "messages": [{"role": "user", "content": "x" * 100_000}]}
        refused = client.post("/v1/chat/completions", json=long)
        assert refused.status_code == 413 and "answers of one request" in refused.text
        for path, body in (
            ("/v1/completions", {"model": "fake", "prompt": "x" * 100_000}),
            ("/v1/embeddings", {"model": "fake", "input": "x" * 100_000}),
            ("/tokenize", {"model": "fake", "prompt": "x" * 200_000}),
            ("/detokenize", {"model": "fake", "tokens": [65] * 30_000}),
            ("/v1/messages/count_tokens", long),
        ):
            found = client.post(path, json=body)
            assert found.status_code == 413 and "answers of one request" in found.text, path
        assert client.post("/v1/chat/completions", json=CHAT).status_code == 200
        _until_all_is_free(service)


def test_a_prompt_that_cannot_fit_is_told_so_however_long_it_is(tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path)) as client:
        found = client.post(
            "/v1/chat/completions", json={**CHAT, "messages": [{"role": "user", "content": "x" * 5_000_000}]}
        )
        assert found.status_code == 400 and "maximum context length" in found.text


def test_sizes_of_texts_count_wide_characters_more() -> None:
    llm = fake_llm("Hi", context=1000)
    try:
        assert text_size("abc", ["de", {"f": "g"}], None, 7) == 7
        assert text_size("\ufdfa" * 10) == 10 + WIDE * 20
        assert prompt_bytes(llm, 100) == 100 * PREPARED_BYTES
        assert prompt_bytes(llm, 1 << 40) == PREPARED_BYTES * 7 * 1000 * llm.tokenizer.longest_bytes
    finally:
        llm.close()


def test_pixels_wait_for_room_in_the_order_of_asking() -> None:
    room, order, threads = PixelRoom(100), list[int](), []
    inside = threading.Semaphore(0)

    def decode(number: int, pixels: int) -> None:
        with room.take(pixels):
            order.append(number)
            inside.release()

    with room.take(60):
        for number, pixels in enumerate((50, 10, 1_000_000)):
            thread = threading.Thread(target=decode, args=(number, pixels))
            thread.start()
            threads.append(thread)
            while len(room._waiting) <= number:
                time.sleep(0.001)
        assert not order, "the second would fit, and came after the first"
    for thread in threads:
        thread.join(PATIENCE_S)
    assert order == [0, 1, 2] and room._free == 100


@pytest.mark.parametrize("size", [0, 1, PIECE, PIECE + 1, 5 * PIECE - 1])
@pytest.mark.parametrize("more", [False, True])
def test_a_long_body_goes_out_in_pieces(size: int, more: bool) -> None:
    body, sent = bytes(i % 251 for i in range(size)), list[Any]()
    turns, between = [0], []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body, "more_body": more})

    def turn() -> None:
        turns[0] += 1
        asyncio.get_running_loop().call_soon(turn)

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            between.append(turns[0])

    async def receive() -> Any:
        raise AssertionError("nobody asks")

    async def run() -> None:
        turn()
        await InPieces(app)({"type": "http"}, receive, send)

    asyncio.run(run())
    pieces = [message for message in sent if message["type"] == "http.response.body"]
    assert b"".join(message["body"] for message in pieces) == body
    assert all(len(message["body"]) <= PIECE for message in pieces)
    assert between == sorted(set(between)), "one piece in a turn of the loop"
    assert [message.get("more_body", False) for message in pieces] == [True] * (len(pieces) - 1) + [more]


def test_a_reply_that_is_not_read_is_counted_until_it_is(tmp_path: Path) -> None:
    service = fake_service(tmp_path)
    with running(service) as address:
        host, port = address.removeprefix("http://").split(":")
        body = json.dumps({"model": "fake", "prompt": "x" * 2_000_000}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            head = f"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
            connection.sendall(head.encode() + body)
            until(
                "what was asked is read, and what is said is not",
                lambda: not service.in_flight.held and service.answering.held >= 4_500_000,
            )
        _until_all_is_free(service)


@pytest.mark.parametrize("prompt", ["a" * 3000, [97] * 3000])
def test_prompts_that_are_told_again_are_held_and_written_beside_the_loop(
    prompt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, seen = fake_service(tmp_path), []
    whole = completions.CompletionWriter.whole

    def watched(writer: Any, replies: Any) -> Any:
        seen.append((threading.current_thread().name, service.answering.held))
        return whole(writer, replies)

    monkeypatch.setattr(completions.CompletionWriter, "whole", watched)
    body = {"model": "fake", "prompt": prompt, "echo": True, "n": 16, "max_tokens": 1}
    with client_of(service) as client:
        found = client.post("/v1/completions", json=body).raise_for_status()
        assert [choice["text"][:3000] for choice in found.json()["choices"]] == ["a" * 3000] * 16
        _until_all_is_free(service)
    ((thread, held),) = seen
    assert thread.startswith("herd-prepare")
    assert held > 6 * 3000 * 16
