"""Records what a real engine answers to token ids, for tests/backends (`engines.py record`): what it tells of itself,
and answers to requests as Herd's wire forms write them, beside the engine's own whole answer's ids.

Ids are those of SmolLM2's vocabulary; what they spell does not matter to the wire.
"""

import asyncio
import http.client
import json
from urllib.parse import urlsplit

from engines_record import KEPT, Relay, same, target

from herd.backends.ids_engines import ENGINES, asked
from herd.backends.ids_facts import Facts
from herd.engine.request import Request, SamplingOptions, Want
from herd.text.tokenizer import Tokenizer

PROMPT = (1, 9690, 198, 2683, 359, 253, 5356, 5646)
SHEEP = (10813, 234, 235) * 5
GREEDY = {"temperature": 0.0, "top_p": 1.0}
CASES = (
    ("greedy", PROMPT, GREEDY, 6, "answer"),
    ("characters of several tokens", SHEEP, GREEDY, 6, "answer"),
    ("log-probabilities", PROMPT, {**GREEDY, "logprobs": 2}, 4, "answer"),
    ("stop ids", PROMPT, {**GREEDY, "stop_ids": (2, 260, 253)}, 12, "answer"),
    ("sampling", PROMPT, {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "repetition_window": 0}, 6, "answer"),
    ("scores", PROMPT, GREEDY, 1, "scores"),
    ("an id that it has not", (1, 99_999_999), GREEDY, 4, "unfit"),
    ("no ids", (), GREEDY, 4, "unfit"),
    ("too long", (19556,) * 2100, GREEDY, 4, "context"),
    ("wrong key", PROMPT, GREEDY, 4, "refused"),
)


def request_of(ids, options, expects):
    want = Want(what="logprobs", start=1, top=1) if expects == "scores" else Want()
    return Request(tuple(ids), SamplingOptions(**options), seed=5, want=want)


def wire_of(engine, url, model, key):
    facts = Facts(2048, places=2)
    return ENGINES[engine].over(target(engine, url, model, key), facts, Tokenizer.bytes_only())


def rows(engine, root, model, key):
    """What it tells of itself, and rows."""
    relay = Relay(root)
    facts = asyncio.run(asked(target(engine, relay.url, model, key), ENGINES[engine]))
    told = [_kept(one) for one in relay.kept]
    print(f"{engine}: {facts}")
    found = []
    for name, ids, options, most, expects in CASES:
        if expects == "scores" and engine != "vllm":
            continue
        wire = wire_of(engine, relay.url, model, key)
        body = wire.body(request_of(ids, options, expects), 5, most)
        relay.kept.clear()
        _post(relay.url, wire.path, body, "wrong-key-0123456789" if expects == "refused" else key)
        row = {
            "name": name,
            "ids": list(ids[:8]) if expects == "context" else list(ids),
            "options": options,
            "most": most,
        }
        row |= {"expects": expects, "path": wire.path, "asked": None if expects == "context" else body}
        row |= _kept(relay.kept[-1])
        if expects == "answer":
            row["whole"] = _whole(engine, root, wire.path, body, key)
        found.append(row)
        print(f"{engine:<13}{name:<32}{row['status']} {row.get('whole', '')}")
    return {"told": told, "ids": found}


def _kept(kept):
    headers = {name: value for name, value in kept.headers.items() if name in KEPT}
    pieces = [same(piece).decode("utf-8", "surrogateescape") for piece in kept.pieces]
    return {"status": kept.status, "headers": headers, "cut": kept.cut, "pieces": pieces, "at": kept.path}


def _post(root, path, body, key):
    parts = urlsplit(root)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=300)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}", "Connection": "close"}
    connection.request("POST", path, json.dumps(body), headers)
    return connection.getresponse().read()


def _whole(engine, root, path, body, key):
    """The ids of the engine's own whole answer."""
    found = json.loads(_post(root, path, {**body, "stream": False}, key))
    assert "error" not in found, (body, found)
    return found["choices"][0]["token_ids"] if engine == "vllm" else found["tokens"]
