"""No error that leaves names a path of the machine, whatever is broken and whoever asks; other slashes stay."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import client_of
from test_hostile import GOOD

from helpers import TINY_TEXT, hf_folder
from herd.llm import load
from herd.server.app import ROUTES
from herd.server.catalogue import StoreCatalogue
from herd.server.log import Log
from herd.server.machine_paths import hide, without_paths
from herd.server.models import FOREVER, Models
from herd.server.profiles import Profiles
from herd.server.service import Service
from herd.store import registry


def junk(file: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_bytes(data) and None


def without(pattern: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        for path in folder.glob(pattern):
            path.unlink()

    return remove


def link(folder: Path) -> None:
    weights = next(folder.glob("*.safetensors"))
    weights.unlink()
    weights.symlink_to("/etc/hostname")


BROKEN: dict[str, Callable[[Path], None]] = {
    "no-config": without("config.json"),
    "empty-config": junk("config.json", b""),
    "no-json": junk("config.json", b"{"),
    "no-model": junk("config.json", b'{"model_type": "llama4", "text_config": {"hidden_size": 3}}'),
    "no-weights": without("*.safetensors"),
    "bad-weights": junk("model.safetensors", b"\xff" * 100),
    "cut-weights": lambda folder: next(folder.glob("*.safetensors")).write_bytes(b"\x10") and None,
    "bad-index": junk("model.safetensors.index.json", b'{"weight_map": {"a": "../../x.safetensors"}}'),
    "no-shard": junk("model.safetensors.index.json", b'{"weight_map": {"lm_head.weight": "gone.safetensors"}}'),
    "link": link,
    "no-tokenizer": without("tokenizer*"),
    "bad-tokenizer": junk("tokenizer.json", b"[1]"),
    "bad-settings": junk("tokenizer_config.json", b"{"),
    "bad-template": junk("chat_template.jinja", b"{% if"),
    "bad-advice": junk("generation_config.json", b"["),
    "gone": lambda folder: shutil.rmtree(folder),
}
FILES = {"empty.gguf": b"", "junk.gguf": b"\xff" * 64, "cut.gguf": b"GGUF\x03\0\0\0", "text.gguf": b"hello" * 100}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that are broken in one way each, in a folder whose name ends a word."""
    folder = tmp_path_factory.mktemp("home of models") / "My 'own' models, (all)"
    folder.mkdir()
    good = hf_folder(folder / "good", TINY_TEXT)
    found = {}
    for name, break_it in BROKEN.items():
        found[name] = shutil.copytree(good, folder / name)
        break_it(found[name])
    for name, data in FILES.items():
        found[name] = folder / name
        found[name].write_bytes(data)
    return found


@pytest.fixture(scope="module")
def client(places: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    catalogue = StoreCatalogue(places)
    models = Models(catalogue, lambda path: load(path, threads=1), keep_alive_s=FOREVER, log=Log("off"))
    with client_of(Service(models)) as found:
        yield found


def asked(client: httpx.Client, name: str) -> Iterator[tuple[str, str]]:
    """(what was asked, its answer) of each route, for one model."""
    for route in ROUTES:
        where = f"{route.method} {route.path}"
        path = re.sub(r"\{[^}]*\}", name, route.path)
        body = GOOD.get(where)
        for stream in (False, True) if body and "/v1/embeddings" not in path else (False,):
            changed = {k: name if k in ("model", "source", "from") else v for k, v in (body or {}).items()}
            found = client.request(route.method, path, json={**changed, "stream": stream} if body else None)
            yield f"{where} of {name}", found.text
    for further in ({"background": True}, {"store": True}):
        made = client.post("/v1/responses", json={"model": name, "input": "Hi", **further}).json()
        if "id" in made:
            yield f"background of {name}", client.get(f"/v1/responses/{made['id']}").text


@pytest.mark.parametrize("name", [*BROKEN, *FILES])
def test_no_route_tells_where_a_broken_model_lies(client: httpx.Client, places: dict[str, Path], name: str) -> None:
    parent = places[name].parent
    secrets = [str(parent), str(parent.parent), parent.name, parent.parent.name, str(registry.home()), str(Path.home())]
    refused = 0
    for what, text in asked(client, name):
        found = [secret for secret in secrets if json.dumps(secret)[1:-1] in text or secret in text]
        assert not found, (what, found, text[:500])
        refused += "error" in text
    assert refused > 5


def test_broken_records_of_the_store_tell_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "a home"
    home.mkdir()
    monkeypatch.setenv("HERD_HOME", str(home))
    for file in ("models.json", "profiles.json"):
        for text in ("{", '{"x": 1}', '{"version": 1, "models": {"a": {"current": "x", "versions": []}}}'):
            (home / file).write_text(text)
            models = Models(StoreCatalogue(), lambda path: load(path), keep_alive_s=FOREVER, log=Log("off"))
            with client_of(Service(models)) as client:
                for what, reply in asked(client, "a"):
                    assert str(home) not in reply and home.name not in reply, (what, reply[:500])
            (home / file).unlink()
    assert Profiles().read() == {}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("/home/me/x.gguf: no header", "x.gguf: no header"),
        ("no such file: '/var/lib/a b/c'", "no such file: 'a b/c'"),
        ("[Errno 2] No such file: '/etc/herd/keys.toml'", "[Errno 2] No such file: 'keys.toml'"),
        ("/opt/My Models/big one.gguf is cut; see /opt/My Models/README.md", "big one.gguf is cut; see README.md"),
        ("/opt/My Models is a folder", "My Models is a folder"),
        ("/opt/My Models/", "My Models"),
        ("PosixPath('/tmp/a/b')", "PosixPath('b')"),
        ("a:/mnt/x/y,/mnt/x/z;(/mnt/x/w)", "a:y,z;(w)"),
        ("/usr/lib/x.py:12", "x.py:12"),
    ],
)  # fmt: skip
def test_of_a_path_the_last_name_is_left(text: str, told: str) -> None:
    hide(Path("/opt/My Models/big one.gguf"))
    assert without_paths(text) == told


@pytest.mark.parametrize(
    "text",
    [
        "no such route; /openapi.json lists what there is",
        "use /v1/chat/completions or /api/chat",
        "http://home/tmp/x and https://a.example/home/me/x",
        "images at data:image/png;base64,AAAA/tmp/x",
        "and/or, 1/2, a/home/b, ~/home/x, ./tmp/x, ../tmp/x",
        "expected HOST/PORT, 16 bytes / s, / or //",
        "",
    ],
)
def test_other_slashes_stay(text: str) -> None:
    assert without_paths(text) == text


def test_every_error_goes_through_one_place() -> None:
    """Nothing of the server writes an error's text into a reply by itself."""
    folder = Path(without_paths.__code__.co_filename).parent
    allowed = {"error_bodies.py", "run.py", "settings_files.py", "keys.py", "models.py"}
    """The one place; the log and the terminal; files that a person edits."""
    for path in folder.rglob("*.py"):
        lines: Any = [line for line in path.read_text().splitlines() if re.search(r"str\(error\)", line)]
        lines = [line for line in lines if "partition(" not in line]  # a library's, about a field
        assert not lines or path.name in allowed, (path.name, lines)
