"""Prompts with control tokens over HTTP: which key may send them, in which form, and what is told of the others."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import BYTES, client_of, fake_llm, fake_service

from herd.server.keys import RIGHTS, Key, KeyOptions, Keyring, digest_of, plain_key
from herd.server.requests.raw_prompts import raw_prompt
from herd.server.run import policies_of
from herd.text.special import IMAGES

EOT = BYTES.specials["<|eot|>"]
BOS = BYTES.specials["<|begin_of_text|>"]
TEXT = "Hi<|eot|>you"
AUTHOR = Key("author", digest_of("a" * 20), frozenset((*RIGHTS, "raw")))
PLAIN = Key("plain", digest_of("p" * 20))
SECRETS = {"author": "a" * 20, "plain": "p" * 20}


class Seen:
    """A service, and the prompt that its model saw last."""

    def __init__(self, folder: Path, *keys: Key) -> None:
        self.ids: list[int] = []
        self.service = fake_service(folder, self._next, keys=keys)

    def _next(self, ids: list[int]) -> int:
        self.ids = list(ids)
        return 65

    def ask(self, client: httpx.Client, path: str, body: dict[str, Any], who: str = "") -> httpx.Response:
        headers = {"x-api-key": SECRETS[who]} if who else {}
        return client.post(path, json={"model": "fake", "max_tokens": 1, **body}, headers=headers)


GENERATE = ("/api/generate", {"raw": True, "stream": False, "options": {"num_predict": 1}})
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "generate": (GENERATE[0], {**GENERATE[1], "prompt": TEXT}),
    "generate, streamed": (GENERATE[0], {**GENERATE[1], "prompt": TEXT, "stream": True}),
    "completions": ("/v1/completions", {"prompt": TEXT, "raw": True}),
    "completions, streamed": ("/v1/completions", {"prompt": TEXT, "raw": True, "stream": True}),
    "completions, scored": ("/v1/completions", {"prompt": TEXT, "raw": True, "echo": True, "logprobs": 0}),
    "ids": ("/v1/completions", {"prompt": [BOS, *b"Hi", EOT, *b"you"]}),
}


@pytest.fixture
def open_one(tmp_path: Path) -> Iterator[Callable[..., tuple[Seen, httpx.Client]]]:
    with contextlib.ExitStack() as stack:

        def opened(*keys: Key) -> tuple[Seen, httpx.Client]:
            seen = Seen(tmp_path, *keys)
            return seen, stack.enter_context(client_of(seen.service))

        yield opened


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("who", ["", "author", "plain"])
def test_whoever_has_the_right_says_control_tokens_in_any_form(
    form: str, who: str, open_one: Callable[..., tuple[Seen, httpx.Client]]
) -> None:
    seen, client = open_one(*((AUTHOR, PLAIN) if who else ()))
    path, body = FORMS[form]
    reply = seen.ask(client, path, body, who)
    if who != "plain":
        assert reply.status_code == 200, reply.text
        assert seen.ids == [BOS, *b"Hi", EOT, *b"you"]
        assert "x-herd-note" not in reply.headers
    elif form == "ids":
        assert reply.status_code == 403
        assert f"the id {EOT} of a control token, which key plain may not send" in reply.text
    else:
        assert reply.status_code == 200, reply.text
        assert seen.ids == [BOS, *TEXT.encode()]
        note = "prompt: <|eot|> stay text; as tokens they take a key with the right raw"
        assert reply.headers["x-herd-note"] == note


def test_what_is_not_asked_for_stays_text_and_is_told(open_one: Callable[..., tuple[Seen, httpx.Client]]) -> None:
    seen, client = open_one(AUTHOR, PLAIN)
    told = seen.ask(client, "/v1/completions", {"prompt": TEXT}, "author").headers["x-herd-note"]
    assert told == "prompt: <|eot|> stay text; as tokens they take raw: true"
    assert seen.ids == [BOS, *TEXT.encode()]
    told = seen.ask(client, "/v1/completions", {"prompt": TEXT}, "plain").headers["x-herd-note"]
    assert told.endswith("they take raw: true and a key with the right raw")
    several = "<|eom|><|eot|><|header_start|><|header_end|><|end_of_text|><|eot|>"
    told = seen.ask(client, "/v1/completions", {"prompt": ["Hi", several]}, "author").headers["x-herd-note"]
    assert told.startswith("prompt: <|eom|> <|eot|> <|header_start|> <|header_end|> and 1 more stay text;")
    for body in ({"prompt": "Hi <|e ot|>"}, {"prompt": "Hi", "raw": True}):
        assert "x-herd-note" not in seen.ask(client, "/v1/completions", body, "plain").headers
    scored = {"prompt": TEXT, "echo": True, "logprobs": 0, "max_tokens": 0}
    assert "x-herd-note" in seen.ask(client, "/v1/completions", scored, "author").headers


def test_tokens_of_images_are_said_by_nobody(open_one: Callable[..., tuple[Seen, httpx.Client]]) -> None:
    seen, client = open_one()
    for name in IMAGES:
        reply = seen.ask(client, "/v1/completions", {"prompt": f"a{name}<|eot|>", "raw": True})
        assert (reply.status_code, seen.ids) == (200, [BOS, *f"a{name}".encode(), EOT])
        assert reply.headers["x-herd-note"] == f"prompt: {name} stay text; images are shown in a dialog"
        reply = seen.ask(client, "/v1/completions", {"prompt": [97, BYTES.specials[name]]})
        assert reply.status_code == 400
        assert "of a token of images" in reply.text


def test_a_prompt_s_own_log_probabilities_are_of_the_same_tokens(
    open_one: Callable[..., tuple[Seen, httpx.Client]],
) -> None:
    seen, client = open_one()
    for text, first in ((TEXT, "H"), (f"<|begin_of_text|>{TEXT}", "<|begin_of_text|>")):
        body = {"prompt": text, "raw": True, "echo": True, "logprobs": 0, "max_tokens": 0}
        reply = seen.ask(client, "/v1/completions", body).json()
        tokens = reply["choices"][0]["logprobs"]["tokens"]
        assert tokens[0] == first
        assert tokens[-6:] == ["H", "i", "<|eot|>", "y", "o", "u"]
        assert reply["usage"]["prompt_tokens"] == 7, "the first token once"


def test_a_policy_sees_the_text_with_its_spellings(tmp_path: Path) -> None:
    for prompt in ("Mail <|eot|> jane.doe@example.org", [*b"Mail ", EOT, *b" jane.doe@example.org"]):
        seen = Seen(tmp_path)
        seen.service.policies = policies_of("block", None)
        with client_of(seen.service) as client:
            reply = seen.ask(client, "/v1/completions", {"prompt": prompt, "raw": True}).json()
        assert reply["choices"][0]["finish_reason"] == "content_filter"
        assert seen.ids == []
        start = "Mail <|eot|> jane.doe@example.org".index("jane")
        assert reply["herd"]["policy"][0]["start"] == start


def test_a_prompt_of_ids_that_a_policy_changes_is_scored_with_the_same_tokens(tmp_path: Path) -> None:
    seen = Seen(tmp_path)
    seen.service.policies = policies_of("redact", None)
    more = {"echo": True, "logprobs": 0, "max_tokens": 1}
    with client_of(seen.service) as client:
        mail = [*b"jane.doe@example.org "]
        for before in ([], [BOS]):
            reply = seen.ask(client, "/v1/completions", {"prompt": [*before, EOT, *mail], **more}).json()
            shown = [*before, EOT, *b"[EMAIL] "]
            assert seen.ids == shown
            assert reply["choices"][0]["logprobs"]["tokens"][:-1] == [BYTES.decode([i]) for i in shown]
        reply = seen.ask(client, "/v1/completions", {"prompt": [EOT, *mail, *b"<|eot|>"], **more})
        assert (reply.status_code, "would not leave as they are" in reply.text) == (400, True)


def test_what_is_told_of_a_token_is_a_line_for_a_header_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fake_llm("x")
    names = ["<|a\r\nb: c|>", "<|\u00e9\uff5c|>", "<|" + "x" * 999, "<|\x00\x7f|>"]
    monkeypatch.setattr(model, "spellings", lambda text, raw=False: names)
    note = raw_prompt(model, "x", False, AUTHOR).note
    assert note.isascii() and note.isprintable() and len(note) < 500
    assert note.startswith(r"prompt: <|a\r\nb: c|> <|\xe9\uff5c|> <|xxx")


def test_no_key_has_the_right_that_does_not_name_it() -> None:
    assert "raw" in Keyring().find("", "").rights, "without keys everybody has it"
    assert "raw" not in plain_key("x" * 20).rights
    assert "raw" not in Key("k").rights
    assert "raw" not in KeyOptions(name="k").rights


def test_a_file_of_keys_may_name_it(tmp_path: Path) -> None:
    from herd.server.keys import read_keys

    file = tmp_path / "keys.toml"
    file.write_text('[[key]]\nname = "a"\nsecret = "aaaaaaaaaaaaaaaaaaaa"\nrights = ["chat", "raw"]\n')
    file.chmod(0o600)
    (key,) = read_keys(file)
    assert key.rights == {"chat", "raw"}
