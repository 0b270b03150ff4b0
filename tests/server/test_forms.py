"""Fields that change an answer's form are done or refused by name, in every dialect, and never merely noted.

The list of what is noted is written here by hand: whoever adds a field to it says that it changes no form.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from serving import BYTES, END, client_of, fake_service
from test_hostile import GOOD

from herd.server.file_store import FileStore
from herd.server.requests.forms import FORMS, HARMLESS, SHAPES
from herd.server.tables import TABLES

TURNS = [{"role": "user", "content": "Hi"}]
ASKS: dict[str, dict[str, Any]] = {
    "POST /v1/chat/completions": {"messages": TURNS, "max_tokens": 60},
    "POST /v1/completions": {"prompt": "Hi", "max_tokens": 60},
    "POST /v1/responses": {"input": "Hi", "max_output_tokens": 60},
    "POST /api/chat": {"messages": TURNS, "stream": False},
    "POST /api/generate": {"prompt": "Hi", "stream": False},
    "POST /v1/messages": {"messages": TURNS, "max_tokens": 60},
}
"""A good request to every route that answers."""
NOTED = {
    "metadata", "store", "service_tier", "user", "safety_identifier", "prompt_cache_key",
    "prompt_cache_retention", "best_of", "prediction", "betas", "reasoning", "reasoning_effort", "verbosity",
    "text.verbosity", "think", "thinking", "output_config.effort", "truncation",
    "truncate", "shift", "context_management", "max_tool_calls", "stream_options", "insecure", "verbose",
    "options", "messages[].content[].image_url.detail", "messages[].refusal", "messages[].annotations",
    "messages[].reasoning_content", "messages[].thinking", "messages[].content[].source.media_type",
    "messages[].content[].citations", "messages[].content[].cache_control", "system[].cache_control",
    "tools[].cache_control", "tools[].type", "include[]", "personality", "container", "mcp_servers",
    "output_expires_after",
}  # fmt: skip
"""Fields that are noted and change no answer's form: who asks, what is kept, how much a model thinks, what earlier
answers were, which tools run elsewhere, how the service computes. A prompt that `truncate`, `truncation` or `shift`
would cut is an error."""
SAMPLERS = re.compile(
    r"(?:options|parameters)\.(?:num_(?:keep|batch|gpu|thread|ctx|predict)|main_gpu|use_mmap|use_mlock|numa|low_vram"
    r"|f16_kv|tfs_z|typical_p|mirostat|mirostat_eta|mirostat_tau|penalize_newline|temperature|top_k|top_p|min_p|seed"
    r"|stop|repeat_penalty|repeat_last_n|presence_penalty|frequency_penalty)"
)
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
LARK = 'start: "yes" | "no"'
JSON_TEXT, CHOSEN = re.compile(r'\{"a": ?-?[0-9]+\}'), re.compile("yes|no")


def drifting(ids: list[int]) -> list[float]:
    """Every character is as likely as another, the end a little less: without a form it is anything."""
    found = [1.0] * 320
    for i, one in enumerate(b'{"a": 12}yesno'):
        found[one] = 3.0 + ((len(ids) * 7 + i) % 5) / 10
    found[END] = 4.0
    return found


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    with client_of(fake_service(tmp_path_factory.mktemp("home"), drifting)) as found:
        yield found


def ask(client: httpx.Client, route: str, **more: Any) -> httpx.Response:
    return client.post(route.split()[1], json={"model": "fake", **ASKS[route], **more})


def text_of(reply: httpx.Response) -> str:
    assert reply.status_code == 200, reply.text
    choice = reply.json()["choices"][0]
    return str(choice["text"] if "text" in choice else choice["message"]["content"])


def test_what_is_noted_changes_no_form() -> None:
    noted = {name for table in TABLES.values() for name in table.reported}
    assert {name for name in noted if not SAMPLERS.fullmatch(name)} <= NOTED
    assert not NOTED - noted, "a row that no table has"
    assert not noted & {*FORMS, *SHAPES}


def test_every_route_that_makes_an_answer_is_asked_here() -> None:
    answering = {name for name, table in TABLES.items() if "stream" in table.honoured.__struct_fields__}
    assert answering - {"POST /api/pull", "POST /api/create"} == ASKS.keys()


@pytest.mark.parametrize("route", ASKS)
def test_a_field_of_a_form_is_honoured_or_refused_by_name_and_an_empty_one_never(
    route: str, client: httpx.Client
) -> None:
    table = TABLES[route]
    own = {one.encode_name for one in msgspec.structs.fields(table.honoured)}
    for name in {*FORMS, *SHAPES, *table.refused}:
        if name in own:
            continue
        assert name in table.refused
        if "." in name or "[" in name:
            continue
        refused = ask(client, route, **{name: "x" if name != "skip_special_tokens" else False})
        assert refused.status_code == 400, (name, refused.text)
        assert f"{name}: not supported: " in refused.text
        for empty in HARMLESS.get(name, (None, "", [], {}, False)):
            assert ask(client, route, **{name: empty}).status_code == 200, (name, empty)


def test_empty_forms_ask_for_none(client: httpx.Client) -> None:
    for route in ("POST /v1/chat/completions", "POST /v1/completions"):
        for name, empty in (
            ("response_format", {}), ("response_format", None), ("guided_json", {}), ("guided_json", ""),
            ("guided_json", None), ("guided_regex", ""), ("guided_choice", []), ("guided_grammar", ""),
            ("structured_outputs", {}), ("structured_outputs", {"json": None, "choice": []}), ("json_schema", {}),
        ):  # fmt: skip
            reply = ask(client, route, **{name: empty})
            assert reply.status_code == 200, (name, reply.text)
            assert "x-herd-ignored" not in reply.headers


@pytest.mark.parametrize("route", ["POST /v1/chat/completions", "POST /v1/completions"])
@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"guided_json": SCHEMA}, JSON_TEXT),
        ({"guided_json": json.dumps(SCHEMA)}, JSON_TEXT),
        ({"json_schema": SCHEMA}, JSON_TEXT),
        ({"guided_regex": "(yes|no)"}, CHOSEN),
        ({"guided_choice": ["yes", "no"]}, CHOSEN),
        ({"guided_choice": ['a "quoted" ü 😀\n\\ one']}, re.compile(re.escape('a "quoted" ü 😀\n\\ one'))),
        ({"guided_grammar": LARK}, CHOSEN),
        ({"structured_outputs": {"json": SCHEMA}}, JSON_TEXT),
        ({"structured_outputs": {"regex": "yes|no"}}, CHOSEN),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, CHOSEN),
        ({"structured_outputs": {"grammar": LARK}}, CHOSEN),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, JSON_TEXT),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, JSON_TEXT),
    ],
)
def test_an_answer_has_the_form_that_is_asked_for(
    route: str, form: dict[str, Any], expected: re.Pattern[str], client: httpx.Client
) -> None:
    found = text_of(ask(client, route, **form, temperature=1, seed=3))
    assert expected.fullmatch(found), found


def test_what_cannot_be_is_refused_by_name(client: httpx.Client) -> None:
    route = "POST /v1/chat/completions"
    for more, words in (
        ({"guided_json": SCHEMA, "guided_regex": "a"}, "guided_regex: got it beside guided_json; give one of them"),
        (
            {"guided_choice": ["a"], "response_format": {"type": "json_object"}},
            "guided_choice: got it beside response_format",
        ),
        ({"guided_regex": "("}, "regex"),
        ({"guided_grammar": 'root ::= "yes"'}, "lark"),
        ({"guided_json": "{"}, "schema"),
        (
            {"structured_outputs": {"structural_tag": "x"}},
            "structured_outputs.structural_tag: not supported: see tools",
        ),
        ({"response_format": {"type": "text", "schema": SCHEMA}}, "response_format.schema: not supported"),
        ({"grammar": 'root ::= "yes"'}, "grammar: not supported: use response_format, or guided_json"),
        ({"modalities": ["text", "audio"]}, "modalities: not supported: answers are text"),
        ({"skip_special_tokens": False}, "skip_special_tokens: not supported"),
    ):
        reply = ask(client, route, **more)
        assert reply.status_code == 400, (more, reply.text)
        assert words in reply.json()["error"]["message"], reply.text
    for more in ({"modalities": ["text"]}, {"skip_special_tokens": True}, {"echo": False}, {"prompt_logprobs": 0}):
        assert ask(client, route, **more).status_code == 200, more


def test_anthropic_former_name_of_its_form_is_honoured(client: httpx.Client) -> None:
    form = {"type": "json_schema", "schema": SCHEMA}
    reply = ask(client, "POST /v1/messages", output_format=form, temperature=1)
    assert JSON_TEXT.fullmatch(reply.json()["content"][0]["text"]), reply.text
    both = ask(client, "POST /v1/messages", output_format=form, output_config={"format": form})
    assert both.status_code == 400 and "output_format: got it beside output_config.format" in both.text


def test_ollamas_fields_are_refused_by_name(client: httpx.Client) -> None:
    template = ask(client, "POST /api/generate", template="{{ .Prompt }}")
    assert template.status_code == 400 and "raw" in template.json()["error"]
    context = ask(client, "POST /api/generate", context=[1, 2, 3])
    assert context.status_code == 400 and "/api/chat" in context.json()["error"]
    body = {"model": "new", "from": "fake", "template": "{{ .Prompt }}"}
    assert "template: not supported" in client.post("/api/create", json=body).text


def test_a_text_to_embed_is_cut_where_that_is_asked_for(tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path, context=40)) as client:
        long, held = "ü" * 100, "ü" * 19
        body = {"model": "fake", "input": ["short", long]}
        assert "context" in client.post("/api/embed", json=body).json()["error"]
        assert client.post("/api/embed", json={**body, "truncate": False}).status_code == 400
        cut = client.post("/api/embed", json={**body, "truncate": True})
        assert cut.status_code == 200, cut.text
        same = client.post("/api/embed", json={**body, "input": ["short", held]})
        assert cut.json()["embeddings"] == same.json()["embeddings"]
        assert cut.json()["prompt_eval_count"] == same.json()["prompt_eval_count"]
        assert len(BYTES.encode(held)) + 1 <= 40 < len(BYTES.encode(held + "ü")) + 1
        old = {"model": "fake", "prompt": "x", "truncate": True}
        assert client.post("/api/embeddings", json=old).status_code == 400
        assert client.post("/v1/embeddings", json={**body, "truncate_prompt_tokens": 5}).status_code == 400


def test_strict_refuses_what_is_noted_and_still_takes_what_is_empty(tmp_path: Path) -> None:
    with client_of(fake_service(tmp_path, strict=True)) as client:
        route = "POST /v1/chat/completions"
        assert ask(client, route, verbosity="low").status_code == 400
        assert ask(client, route, guided_json=None, response_format={}, grammar="").status_code == 200


MANAGES = {
    "POST /api/create": {"model": "made", "from": "fake"},
    "POST /api/copy": {"source": "fake", "destination": "copied"},
    "DELETE /api/delete": {"model": "copied"},
}
"""Good requests to the routes that keep what they are asked for, one after the other."""


@pytest.mark.parametrize("stream", [False, True])
def test_what_no_route_knows_is_told_by_all(stream: bool, tmp_path: Path) -> None:
    service = fake_service(tmp_path)
    service.files = FileStore(tmp_path / "files", service.limits)
    with client_of(service) as client:
        upload = {"data": {"purpose": "batch"}, "files": {"file": ("in.jsonl", b"{}\n")}}
        kept = {"POST /v1/batches": {"input_file_id": client.post("/v1/files", **upload).json()["id"]}}
        for name in TABLES:
            method, path = name.split(" ")
            more = {"stream": stream} if "stream" in {field for field, _, _ in TABLES[name].rows()} else {}
            body = {**GOOD[name], **MANAGES.get(name, {}), **kept.get(name, {}), **more, "of_the_future": 1}
            reply = client.request(method, path, json=body)
            if name == "POST /api/pull" and not stream:
                assert reply.status_code == 404, "there is nothing to pull, which a stream says later"
                continue
            assert reply.status_code == 200, reply.text
            assert "of_the_future" in reply.headers.get("x-herd-ignored", ""), name
