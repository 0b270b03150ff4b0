"""Files that the service reads of its own: a broken record, or a broken file, costs no more than itself.

FILES is the table; what the service opens while it starts and answers is looked at, so that a further file has to stand
in it.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of, fake_llm

from herd.errors import NotFound, UsageError
from herd.llm import LLM
from herd.server import catalogue as catalogues
from herd.server import profiles
from herd.server.app import ROUTES
from herd.server.catalogue import StoreCatalogue
from herd.server.keys import MOST_FILE_BYTES, Keyring, read_keys
from herd.server.log import Log
from herd.server.models import FOREVER, Models
from herd.server.profiles import Profile, Profiles
from herd.server.service import Service
from herd.store import named_records, registry

SECRETS = ("0123456789abcdef-a", "0123456789abcdef-b")


@dataclass(frozen=True)
class OwnFile:
    """One of them: its place in HERD_HOME, a broken record that can be put in, and its limit in bytes."""

    name: str
    put: Callable[[bytes], bytes]
    """The file with one broken record more."""
    most: int
    optional: bool = True
    """Whether the service can start where the whole of it is broken."""


def _into_object(at: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(at, at + b'"broken": 17,', 1)


FILES = (
    OwnFile("models.json", _into_object(b'"models": {'), registry.MAX_REGISTRY_BYTES),
    OwnFile("profiles.json", lambda data: b'{"broken": 17,' + data[1:], profiles.MAX_BYTES),
    OwnFile("keys.toml", lambda data: data + b'\n[[key]]\nname = "broken"\n', MOST_FILE_BYTES, optional=False),
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with one of each."""
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    version = registry.Version("1" * 12, "models/real/1", {}, "test")
    (tmp_path / "locks").mkdir()
    registry.add("real", version)
    Profiles().add("derived", Profile("real", system="Be brief."))
    keys = tmp_path / "keys.toml"
    keys.write_text("".join(f'[[key]]\nname = "{s[-1]}"\nsecret = "{s}"\nrights = {list(RIGHTS)}\n' for s in SECRETS))
    keys.chmod(0o600)
    return tmp_path


RIGHTS = ("chat", "embed", "models", "manage")


def _service(home: Path, said: list[str]) -> Service:
    """As herd serve makes it, but for the models."""

    def load(path: str) -> LLM:
        return fake_llm("Hello there.", Path(path).name)

    keys = read_keys(home / "keys.toml", said.append)
    catalogue = StoreCatalogue({"given": home / "given.gguf"}, {}, said.append)
    return Service(Models(catalogue, load, keep_alive_s=FOREVER, log=Log("off")), keyring=Keyring(keys))


@contextmanager
def _client(home: Path, said: list[str]) -> Iterator[httpx.Client]:
    with client_of(_service(home, said)) as client:
        client.headers["authorization"] = f"Bearer {SECRETS[0]}"
        yield client


def _ask(client: httpx.Client, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hi"}]}
    return client.post("/v1/chat/completions", json=body)


def _names(client: httpx.Client) -> list[str]:
    return [one["id"] for one in client.get("/v1/models").raise_for_status().json()["data"]]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_broken_record_costs_itself_and_is_told_once(home: Path, file: OwnFile) -> None:
    path, said = home / file.name, []
    path.write_bytes(file.put(path.read_bytes()))
    with _client(home, said) as client:
        assert _names(client) == ["derived", "given", "real"]
        for model in ("real", "derived", "given"):
            assert _ask(client, model).status_code == 200, model
        client.headers["authorization"] = f"Bearer {SECRETS[1]}"
        assert _names(client)
    assert len(said) == 1 and file.name in said[0] and ("broken" in said[0] or "number 3" in said[0])


@pytest.mark.parametrize("what", ["no such form", "not text", "too deep", "too large"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_broken_file_costs_what_is_in_it(home: Path, file: OwnFile, what: str) -> None:
    path, said = home / file.name, []
    good = path.read_bytes()
    bad = {"no such form": b"{", "not text": b"\xff\xfe", "too deep": b"[" * 100_000}
    path.write_bytes(bad.get(what, good + b" " * file.most))
    if not file.optional:
        with pytest.raises(UsageError, match=file.name):
            _service(home, said)
        return
    with _client(home, said) as client:
        assert "given" in _names(client) and _ask(client, "given").status_code == 200
        assert client.get("/api/tags").status_code == 200
        assert len(said) == 1 and file.name in said[0]
        path.write_bytes(good)
        assert _ask(client, "derived").status_code == 200, "it was mended"


def test_all_files_that_the_service_opens_are_in_the_table(home: Path) -> None:
    opened: set[Path] = set()
    watching = True

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and isinstance(arguments[0], str | bytes):
            opened.add(Path(arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()))

    sys.addaudithook(hook)
    with _client(home, []) as client:
        for route in ROUTES:
            client.request(route.method, route.path.replace("{id}", "x"), json={"model": "derived", "prompt": "x"})
    watching = False
    own = {path for path in opened if path.suffix in (".json", ".toml") and home in path.parents}
    assert {path.name for path in own if not path.name.startswith(".")} == {file.name for file in FILES}


def test_an_unknown_model_is_told_that_its_record_is_broken(home: Path) -> None:
    for file in FILES[:2]:
        path = home / file.name
        path.write_bytes(file.put(path.read_bytes()))
        with _client(home, []) as client:
            found = _ask(client, "broken")
            assert found.status_code == 404 and "its record is broken" in found.text
            assert client.request("DELETE", "/api/delete", json={"model": "broken"}).status_code == 200
            assert "broken" not in path.read_text()


# -- what is written ------------------------------------------------------------------------------------------------


def test_nothing_is_written_that_could_not_be_read_again(home: Path) -> None:
    path = home / "profiles.json"
    with _client(home, []) as client:
        before = path.read_bytes()
        huge = {"model": "huge", "from": "real", "system": "x" * (15 << 20)}
        refused = client.post("/api/create", json=huge)
        assert refused.status_code == 400 and str(profiles.MAX_PROFILE_BYTES) in refused.json()["error"]
        assert path.read_bytes() == before
        assert _ask(client, "derived").status_code == 200
        for system, status in (
            ("x" * (profiles.MAX_PROFILE_BYTES - 100), 200),
            ("é" * profiles.MAX_PROFILE_BYTES, 400),
        ):
            made = client.post("/api/create", json={"model": "long", "from": "real", "system": system})
            assert made.status_code == status
        assert client.post("/api/copy", json={"source": "long", "destination": "longer"}).status_code == 200
        assert _names(client) == ["derived", "given", "long", "longer", "real"]


def test_a_file_of_profiles_is_never_larger_than_what_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "MAX_BYTES", 100_000)
    mine = Profiles()
    for i in range(9):
        mine.add(f"p{i}", Profile("real", system="x" * 10_000))
    with pytest.raises(UsageError, match=r"profiles\.json"):
        mine.add("p9", Profile("real", system="x" * 10_000))
    assert mine.path.stat().st_size <= 100_000 and len(mine.read()) == 10, "and the one that was there"
    assert Profiles().read() == mine.read()
    monkeypatch.setattr(profiles, "MAX_PROFILES", 10)
    with pytest.raises(UsageError, match="at most 10"):
        mine.add("another", Profile("real"))
    assert mine.remove("p0") and not mine.remove("p0")


def test_profiles_are_read_once_for_each_change(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = 0
    real = named_records.parse_records

    def counted(*arguments: Any) -> Any:
        nonlocal reads
        reads += 1
        return real(*arguments)

    monkeypatch.setattr(named_records, "parse_records", counted)
    catalogue = StoreCatalogue()
    for _ in range(20):
        assert catalogue.find("derived").profile is not None
    assert reads == 1
    (home / "profiles.json").write_text(json.dumps({"later": {"base": "real"}}))
    assert "later" in catalogue.names() and "derived" not in catalogue.names() and reads == 2


def test_a_wrong_name_is_compared_with_a_few(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = home / "profiles.json"
    many = {f"{chr(97 + i % 26)}{'x' * 80}{i}": {"base": "real"} for i in range(5000)}
    path.write_text(json.dumps(many))
    compared = list[tuple[int, int]]()
    monkeypatch.setattr(
        catalogues, "get_close_matches", lambda name, names, **_: compared.append((len(name), len(names))) or []
    )
    with pytest.raises(NotFound, match="model"):
        StoreCatalogue().find("a" + "x" * 100_000)
    ((length, count),) = compared
    assert length <= 100 and 0 < count <= catalogues.MOST_ALIKE
