"""Pulling from a hub, against a stand-in on this machine that speaks as much of the protocol as a pull needs."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_hub import COMMIT, REPO, WEIGHTS, Answer, Hub, environment_for, placed, running_hub

import herd
from helpers import PATIENCE_S, until
from herd.errors import BadFile, NotFound, UsageError
from herd.store.hub import _forget_others, _remote
from herd.store.hub_files import RemoteFile, choose, gguf_models, of_quant, quant_of

pytest.importorskip("huggingface_hub")

SOURCES = Path(herd.__file__).parent


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


@pytest.fixture
def command(hub: Hub, tmp_path: Path) -> tuple[list[str], dict[str, str]]:
    return [sys.executable, "-m", "herd", "pull", REPO], environment_for(hub, tmp_path)


def pull(command: tuple[list[str], dict[str, str]], *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command[0], *more], env=command[1], capture_output=True, text=True, timeout=PATIENCE_S)


def test_a_pull_brings_the_model_s_files_and_no_code(hub: Hub, command: Any, tmp_path: Path) -> None:
    done = pull(command, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["licence"] == "llama4"
    assert told["source"] == f"hub {REPO}@{COMMIT[:12]}"
    assert placed(tmp_path / "home") == {n: hub.files[n] for n in ("config.json", "model.safetensors", "README.md")}
    hub.fetched.clear()
    assert pull(command).returncode == 0
    assert hub.fetched == []  # all there: nothing is fetched again


def test_a_killed_pull_goes_on_where_it_stopped(hub: Hub, command: Any, tmp_path: Path) -> None:
    hub.stall_after = 15 << 20
    partial = tmp_path / "home" / "partial" / f"some-org--Tiny-Llama-{COMMIT[:12]}" / "model.safetensors"
    process = subprocess.Popen(command[0], env=command[1], stderr=subprocess.PIPE)
    try:
        until("it has begun", lambda: process.poll() is not None or (partial.exists() and partial.stat().st_size > 0))
        assert process.poll() is None, process.stderr and process.stderr.read().decode()
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    assert not (tmp_path / "home" / "models").exists()
    have = partial.stat().st_size
    assert 0 < have <= hub.stall_after

    hub.stall_after = None
    hub.stalled.set()
    done = pull(command)
    assert done.returncode == 0, done.stderr
    assert hub.ranges == [None, f"bytes={have}-"]
    assert placed(tmp_path / "home")["model.safetensors"] == WEIGHTS
    assert not partial.parent.exists()


def test_a_disk_that_runs_full_is_told_and_the_pull_goes_on_later(hub: Hub, command: Any, tmp_path: Path) -> None:
    """What was fetched stays, nothing is registered."""
    most = 5 << 20
    limited = f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({most}, {most}))"
    python = [sys.executable, "-c", f"{limited}; from herd.cli import main; sys.exit(main())"]
    done = subprocess.run([*python, "pull", REPO], env=command[1], capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 4, done.stderr
    last = done.stderr.splitlines()[-1]
    assert "model.safetensors: the disk is full (File too large); make room: the same command goes on where" in last
    assert not (tmp_path / "home" / "models").exists()
    assert not (tmp_path / "home" / "models.json").exists()
    assert pull(command).returncode == 0
    assert hub.ranges == [None, f"bytes={most}-"]
    assert placed(tmp_path / "home")["model.safetensors"] == WEIGHTS


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_other_bytes_than_promised_are_thrown_away(hub: Hub, command: Any, tmp_path: Path, name: str) -> None:
    good = hub.files[name]
    promised = Answer.listing

    def lying(self: Answer) -> dict[str, Any]:
        found = promised(self)
        for one in found["siblings"]:
            if one["rfilename"] == name:
                one["blobId"] = "0" * 40
                if "lfs" in one:
                    one["lfs"]["sha256"] = "0" * 64
        return found

    Answer.listing = lying  # type: ignore[method-assign]
    try:
        done = pull(command)
    finally:
        Answer.listing = promised  # type: ignore[method-assign]
    assert done.returncode == 2
    assert f"{name}: digest" in done.stderr
    assert not (tmp_path / "home" / "models").exists()
    assert pull(command).returncode == 0
    assert placed(tmp_path / "home")[name] == good


@pytest.mark.parametrize(
    ("status", "exit_status", "says"), [(404, 3, "no such repository"), (403, 5, "HF_TOKEN"), (500, 5, "goes on where")]
)
def test_refusals_of_the_hub_are_one_line(hub: Hub, command: Any, status: int, exit_status: int, says: str) -> None:
    hub.status = status
    if status == 404:
        hub.status = 200
        command = ([*command[0][:-1], "some-org/Other"], command[1])
    done = pull(command)
    assert done.returncode == exit_status, done.stderr
    assert says in done.stderr
    assert done.stderr.startswith("herd: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_no_hub_at_all_is_one_line(command: Any) -> None:
    command[1]["HF_ENDPOINT"] = "http://127.0.0.1:1"
    done = pull(command)
    assert done.returncode == 5, done.stderr
    assert done.stderr.count("\n") == 1


def remote(*names: str) -> list[RemoteFile]:
    return [RemoteFile(name, 1, None, None) for name in names]


def test_of_several_gguf_files_one_must_be_named() -> None:
    files = remote("a-Q4_0.gguf", "a-Q8_0.gguf", "README.md")
    with pytest.raises(UsageError, match=r"--file a-Q4_0\.gguf"):
        choose("o/n", files, None)
    assert [f.name for f in choose("o/n", files, "*Q8*")] == ["a-Q8_0.gguf"]
    with pytest.raises(UsageError, match="matches 2 models"):
        choose("o/n", files, "*")
    with pytest.raises(NotFound, match="neither"):
        choose("o/n", remote("README.md", "model.bin"), None)
    assert [f.name for f in choose("o/n", remote("a.gguf", "x.py"), None)] == ["a.gguf"]


def test_a_vision_part_comes_along_with_its_gguf() -> None:
    parts = ("mmproj-BF16.gguf", "mmproj-F16.gguf")
    files = remote("a-Q4_0.gguf", "a-Q8_0.gguf", *parts, "sub/a-IQ1.gguf")
    assert [f.name for f in choose("o/n", files, "*Q8*")] == ["a-Q8_0.gguf", "mmproj-F16.gguf"]
    assert [f.name for f in choose("o/n", files, "mmproj-B*")] == ["mmproj-BF16.gguf"]
    assert [f.name for f in choose("o/n", remote("a.gguf", *parts), None)] == ["a.gguf", "mmproj-F16.gguf"]
    with pytest.raises(UsageError, match=r"2 GGUF models.*--file a-Q4_0\.gguf"):
        choose("o/n", remote("a-Q4_0.gguf", "a-Q8_0.gguf", *parts), None)


def test_parts_of_a_split_model_are_one_model() -> None:
    parts = [f"UD-Q4_K_XL/a-UD-Q4_K_XL-0000{i}-of-00002.gguf" for i in (1, 2)]
    files = remote("a-Q2_K.gguf", "mmproj-F16.gguf", *parts[::-1], "README.md")
    assert [m.quant for m in gguf_models(files)] == ["UD-Q4_K_XL", "Q2_K"]
    wanted = [*parts, "mmproj-F16.gguf"]
    for pattern in (parts[0], "UD-Q4_K_XL/*", "UD-Q4_K_XL/a-UD-Q4_K_XL-*-of-*.gguf"):
        assert [f.name for f in choose("o/n", files, pattern)] == wanted
    assert [f.name for f in of_quant("o/n", files, "q4_k_xl")] == wanted
    assert [f.base for f in files if f.name == parts[0]] == ["a-UD-Q4_K_XL-00001-of-00002.gguf"]
    with pytest.raises(BadFile, match=r"a-UD-Q4_K_XL: got 1 parts, expected 2"):
        of_quant("o/n", [f for f in files if f.name != parts[1]], "UD-Q4_K_XL")


def test_a_form_that_no_file_or_several_have_is_told() -> None:
    files = remote("a-Q4_K_S.gguf", "a-Q4_K_L.gguf", "a-Q8_0.gguf", "b-Q8_0.gguf")
    with pytest.raises(UsageError, match="got q4_k, expected Q4_K_L, Q4_K_S"):
        of_quant("o/n", files, "q4_k")
    with pytest.raises(UsageError, match="got q5_k, expected Q4_K_L, Q4_K_S, Q8_0"):
        of_quant("o/n", files, "q5_k")
    with pytest.raises(UsageError, match=r"2 of its models.*--file PATTERN"):
        of_quant("o/n", files, "q8_0")
    with pytest.raises(NotFound, match="o/n holds no GGUF"):
        of_quant("o/n", remote("model.safetensors"), "q8_0")


@pytest.mark.parametrize(
    ("name", "quant"),
    [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("Llama-3.2-1B-Instruct-IQ3_XXS.gguf", "IQ3_XXS"),
        ("a-UD-IQ1_M-00001-of-00003.gguf", "UD-IQ1_M"),
        ("a-bf16.gguf", "BF16"),
        ("a.f16.gguf", "F16"),
        ("Llama-3.2-1B-Instruct.gguf", ""),
        ("Quill-7B.gguf", ""),
        ("model.gguf", ""),
    ],
)
def test_the_form_in_a_name(name: str, quant: str) -> None:
    assert quant_of(name) == quant


def test_what_was_begun_of_another_commit_is_forgotten(tmp_path: Path) -> None:
    names = ["a--b-0123456789ab", "a--b-ba9876543210", "a--b-c-0123456789ab", "a--b", "x--a--b-0123456789ab"]
    for name in names:
        (tmp_path / name).mkdir()
    _forget_others(tmp_path / names[0])
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[:1] + names[2:])


def names_in_sources() -> set[str]:
    """Names of small files that readers of folders, and what is copied with a model, are written with."""
    found: set[str] = set()
    for path in (*SOURCES.glob("text/**/*.py"), *SOURCES.glob("checkpoint/**/*.py"), SOURCES / "convert.py"):
        found |= set(re.findall(r'"(\w[\w.]*\.(?:json|jinja|model|txt|md))"', path.read_text(encoding="utf-8")))
    return found


def test_all_that_readers_of_folders_look_for_is_fetched() -> None:
    others = {"adapter_config.json", "params.json", "tokenizer.ggml.model"}  # no model; Meta's form; a key of GGUF
    names = names_in_sources() - others
    assert {"added_tokens.json", "hf_quant_config.json", "chat_template.jinja", "tokenizer.model"} <= names
    files = [RemoteFile(name, 1, None, None) for name in (*sorted(names), "model.safetensors")]
    assert {f.name for f in choose(REPO, files, None)} == {f.name for f in files}


@pytest.mark.parametrize(
    "name", [".", "..", ".gguf", ".\x1b[2J.gguf", "..safetensors", ".\n.safetensors", "." + "x" * 300 + ".gguf"]
)
def test_files_that_begin_with_a_dot_are_never_fetched(name: str) -> None:
    listed = SimpleNamespace(rfilename=name, size=1, lfs=None, blob_id=None)
    assert _remote(listed) is None
