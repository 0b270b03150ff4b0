"""`herd pull` by name and by form: what is taken here, what is refused before a byte is fetched, what is said."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from fake_hub import Hub, placed, running_hub

from herd.cli import main
from herd.errors import DoesNotFit, NetworkError, NotFound, UsageError
from herd.server.catalogue import StoreCatalogue
from herd.store import hub as hub_room
from herd.store import known_models, pulling, registry, stored
from herd.store.choosing import Room
from herd.store.hub_files import RemoteFile
from herd.store.registry import FileRecord, Version
from herd.store.spelling import spelled

pytest.importorskip("huggingface_hub")

UNSLOTH = "unsloth/Llama-4-Scout-17B-16E-Instruct-GGUF"
SCOUT = "Llama-4-Scout-17B-16E-Instruct"
SECRET = "hf_SECRETSECRETSECRET"


class Done(NamedTuple):
    """What a command did."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    return tmp_path / "home"


@pytest.fixture(scope="module")
def running() -> Iterator[Hub]:
    with running_hub() as server:
        yield server


@pytest.fixture
def hub(running: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """A hub as it was at its start; the library of this process asks it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", running.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", running.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    running.forget()
    return running


@pytest.fixture
def herd(hub: Hub, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(*words: str, token: str = "") -> Done:
        monkeypatch.setenv("HF_TOKEN", token)
        capsys.readouterr()
        status = main(words)
        return Done(status, *capsys.readouterr())

    return run


def ggufs(hub: Hub, repo: str, *names: str) -> None:
    hub.repo, hub.files = repo, {name: name.encode() for name in (*names, "README.md")}


# -- a hub ------------------------------------------------------------------------------------------------------------


def test_a_split_form_of_the_table_comes_whole_with_its_vision_part(hub: Hub, herd: Run, home: Path) -> None:
    """--anyway: the table says 62 GB, which not every machine has."""
    parts = [f"UD-Q4_K_XL/{SCOUT}-UD-Q4_K_XL-0000{i}-of-00002.gguf" for i in (1, 2)]
    ggufs(hub, UNSLOTH, f"{SCOUT}-Q2_K.gguf", "mmproj-F16.gguf", "mmproj-BF16.gguf", *parts)
    done = herd("pull", "scout:ud-q4_k_xl", "--anyway")
    assert done.returncode == 0, done.stderr
    assert placed(home) == {n.rpartition("/")[2]: n.encode() for n in (*parts, "mmproj-F16.gguf")}
    assert "licence: Llama 4 Community License Agreement, https://" in done.stderr
    name, version = stored.find("scout")
    assert name == "scout" and version.source.startswith(f"hub {UNSLOTH}@")
    assert stored.find("scout:UD-Q4_K_XL") == stored.find("llama4:scout") == (name, version)
    hub.fetched.clear()
    again = herd("pull", "llama4:scout:q4_k_xl", "--anyway", "-q", "--json")
    assert again.returncode == 0 and again.stderr == "" and hub.fetched == []
    assert json.loads(again.stdout)["name"] == "scout"


def test_without_a_form_the_table_s_best_that_fits_is_taken_and_said(hub: Hub, herd: Run, home: Path) -> None:
    hub.repo = "HuggingFaceTB/SmolLM2-135M-Instruct"
    done = herd("pull", "smollm2:135m")
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("smollm2:135m:BF16, 0.3 GB: the largest that fits ")
    assert sorted(placed(home)) == ["README.md", "config.json", "model.safetensors"]
    assert stored.find("smollm2:135m") == stored.find("smollm2-135m") == stored.find("smollm2:135m:bf16")


def test_of_several_gguf_models_the_largest_that_fits_is_taken_and_said(hub: Hub, herd: Run, home: Path) -> None:
    ggufs(hub, "some-org/Tiny-GGUF", "a-Q4_K_M.gguf", "a-Q8_0.gguf", "a-IQ1_S.gguf")
    hub.claimed["a-Q8_0.gguf"] = 10**15
    done = herd("pull", "hf.co/some-org/Tiny-GGUF")
    assert done.returncode == 0, done.stderr
    assert "some-org/Tiny-GGUF:Q4_K_M, 0.0 MB: the largest that fits " in done.stderr
    assert "some-org/Tiny-GGUF:Q8_0 (needs " in done.stderr
    assert placed(home) == {"a-Q4_K_M.gguf": b"a-Q4_K_M.gguf"}
    assert herd("pull", "some-org/Tiny-GGUF:iq1_s").returncode == 0
    forms = [stored.find(f"some-org/Tiny-GGUF:{q}")[1] for q in ("q4_k", "iq1_s")]
    assert [list(v.files) for v in forms] == [["a-Q4_K_M.gguf"], ["a-IQ1_S.gguf"]]
    assert stored.find("hf.co/some-org/Tiny-GGUF")[1] == forms[1]
    with pytest.raises(NotFound, match=r"not here in this form: got q2_k; herd pull some-org/Tiny-GGUF:q2_k"):
        stored.find("some-org/Tiny-GGUF:q2_k")


def test_a_form_that_does_not_fit_is_refused_before_a_byte_is_fetched(hub: Hub, herd: Run) -> None:
    ggufs(hub, UNSLOTH, f"{SCOUT}-UD-IQ1_M.gguf", f"{SCOUT}-Q2_K.gguf")
    hub.claimed = dict.fromkeys(hub.files, 10**15)
    for name in ("scout:q2_k", f"{UNSLOTH}:q2_k", UNSLOTH):  # in the table without a size: the hub tells it
        done = herd("pull", name)
        assert done.returncode == 4, done.stderr
        last = done.stderr.splitlines()[-1]
        assert "does not fit here" in last and "what fits here: " in last and "--anyway" in last
    assert hub.fetched == []


def test_a_token_opens_what_is_gated_and_is_never_said(hub: Hub, herd: Run, home: Path) -> None:
    hub.repo, hub.wanted = "meta-llama/Llama-3.2-1B-Instruct", SECRET
    for token in ("", "hf_wrong"):
        done = herd("pull", "llama3.2:1b", token=token)
        assert done.returncode == 5, done.stderr
        last = done.stderr.splitlines()[-1]
        assert f"sign in at {hub.url}/{hub.repo}, fill in the form there, and set HF_TOKEN" in last
        assert "hf_wrong" not in done.stderr and "Traceback" not in done.stderr
    done = herd("pull", "llama3.2:1b", token=SECRET)
    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert stored.find("llama3.2:1b")[0] == "llama3.2-1b"
    assert not any(SECRET.encode() in path.read_bytes() for path in home.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("status", "token"), [(401, "hf_wrong"), (403, "hf_wrong"), (200, "hf\x01wrong"), (200, "hf\xfcwrong")]
)
def test_a_hub_that_refuses_a_token_is_one_line_without_it(hub: Hub, herd: Run, status: int, token: str) -> None:
    hub.status, hub.error = status, ""
    done = herd("pull", hub.repo, token=token)
    assert done.returncode in (2, 3, 5), done.stderr
    assert done.stderr.count("\n") == 1 and "HF_TOKEN" in done.stderr
    assert token not in done.stderr and "wrong" not in done.stderr


# -- what is asked for ------------------------------------------------------------------------------------------------


class Asked(Exception):
    """The hub would be asked."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None]]:
    """Which repository would be asked, for which name; with a machine of 64 GB and a large disk."""
    calls: list[tuple[str, str | None]] = []

    def pull_hub(repo: str, select: object, *, name: str | None = None, **_: object) -> Version:
        calls.append((repo, name))
        raise Asked

    monkeypatch.setattr(hub_room, "pull_hub", pull_hub)
    monkeypatch.setattr(pulling, "room_here", lambda: Room(64 * 10**9, 10**13, token=True))
    return calls


@pytest.mark.parametrize("model", known_models.models())
def test_every_form_of_the_table_asks_the_first_repository_that_has_it(
    model: str, asked: list[tuple[str, str | None]]
) -> None:
    listed = known_models.models()[model]
    for quant in listed.quants:
        with pytest.raises(Asked):
            stored.pull(f"{model}:{quant.lower()}", anyway=True)
        assert asked[-1] == (next(s.repo for s, q, _ in listed.forms if q.name == quant), listed.store_name)


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("scout", ("scout", "scout", None)),
        ("Scout:Q4_K", ("scout", "scout", "Q4_K")),
        ("llama4:maverick:fp8", ("maverick", "maverick", "fp8")),
        ("llama3.2:1b", ("llama3.2-1b", "llama3.2:1b", None)),
        ("llama3.2-1b:bf16", ("llama3.2-1b", "llama3.2:1b", "bf16")),
        ("org/name", ("org/name", None, None)),
        ("org/name:Q4_K_M", ("org/name", None, "Q4_K_M")),
        ("hf.co/org/name:Q4_K_M", ("org/name", None, "Q4_K_M")),
        ("https://huggingface.co/org/name", ("org/name", None, None)),
    ],
)
def test_what_names_mean(name: str, means: tuple[str, str | None, str | None]) -> None:
    found = spelled(name)
    assert found is not None
    assert (found.name, found.model.name if found.model else None, found.quant) == means


@pytest.mark.parametrize("name", ["", "llama3.2", "a/b/c", "hf.co/name", "org/name:", "../x", "a/..", "./scout", "x:y"])
def test_names_that_mean_nothing_here(name: str) -> None:
    assert spelled(name) is None


@pytest.mark.parametrize(
    ("name", "options", "error", "says"),
    [
        ("scout:q4", {}, UsageError, "which form.*got q4, expected one of Q4_1, Q4_K_S, Q4_K_M, UD-Q4_K_XL"),
        ("scout:q9", {}, UsageError, "which form.*got q9, expected one of UD-IQ1_S, "),
        (
            "scout:ud-q4_k_xl",
            {},
            DoesNotFit,
            r"needs 6\d\.\d GB of memory, 64.0 GB are available; what fits here: scout:UD-Q3",
        ),
        ("maverick", {}, DoesNotFit, "the smallest, maverick:UD-IQ1_S.*what fits here: scout:UD-Q3_K_XL"),
        ("scout", {"file": "*"}, UsageError, "--file"),
        ("scout", {"revision": "main"}, UsageError, "--revision"),
        ("org/name:q4_0", {"file": "*"}, UsageError, "none beside :q4_0"),
    ],
)
def test_what_is_refused_before_the_hub_is_asked(
    name: str, options: dict[str, str], error: type[Exception], says: str, asked: list[tuple[str, str | None]]
) -> None:
    with pytest.raises(error, match=says):
        stored.pull(name, **options)  # type: ignore[arg-type]
    assert asked == []


def test_a_gate_without_a_token_is_told_before_the_hub_is_asked(
    asked: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulling, "room_here", lambda: Room(64 * 10**9, 10**13, token=False))
    with pytest.raises(NetworkError, match=r"meta-llama/Llama-Guard-4-12B.*fill in the form.*HF_TOKEN"):
        stored.pull("guard")
    assert asked == []


def test_the_disk_counts_what_is_there_already(
    asked: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """A pull that was stopped takes the same form again, though the disk has less room by now."""
    lines: list[str] = []
    monkeypatch.setattr(pulling, "room_here", lambda: Room(64 * 10**9, 10**9, token=True))
    with pytest.raises(DoesNotFit, match=r"on the disk, 1.0 GB are free"):
        stored.pull("scout")
    begun = home / "partial" / "scout-0123456789ab" / f"{SCOUT}-UD-Q3_K_XL.gguf"
    begun.parent.mkdir(parents=True)
    with begun.open("wb") as file:
        file.truncate(54_000_000_000)  # a hole: it takes no room
    with pytest.raises(Asked):
        stored.pull("scout", tell=lines.append)
    assert lines[0].startswith("scout:UD-Q3_K_XL, 54.6 GB: here already, or begun, and it fits")


def test_the_disk_counts_what_is_there_of_a_repository(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "room_here", lambda: Room(64 * 10**9, 10**9))
    files = [RemoteFile(f"a-{q}.gguf", size * 10**9, None, None) for q, size in (("Q4_0", 4), ("Q8_0", 8))]
    found, named = spelled("org/name"), spelled("org/name:q8_0")
    assert found is not None and named is not None
    for one in (found, named):
        with pytest.raises(DoesNotFit, match=r"on the disk, 1.0 GB are free"):
            pulling._select(one, pulling.Pull(), files)
    begun = home / "partial" / "org--name-0123456789ab" / "a-Q8_0.gguf"
    begun.parent.mkdir(parents=True)
    with begun.open("wb") as file:
        file.truncate(7_500_000_000)
    for one in (found, named):
        assert [f.name for f in pulling._select(one, pulling.Pull(), files)] == ["a-Q8_0.gguf"]


def test_a_version_is_found_by_its_form(home: Path) -> None:
    for digit, file in enumerate(("a-Q4_K_M-00001-of-00002.gguf", "a-UD-Q2_K_XL.gguf")):
        version = Version(id=str(digit) * 12, path=file, files={file: FileRecord(1, 0)}, source="import", in_place=True)
        registry.add("scout", version)
    assert stored.find("scout:q4_k")[1].id == "0" * 12
    assert stored.find("scout:q2_k_xl")[1].id == stored.find("scout")[1].id == "1" * 12
    assert stored.use(f"scout@{'0' * 12}")[1].id == stored.find("llama4:scout")[1].id == "0" * 12
    stored.rm("scout:q4_k")
    assert [v.id for v in stored.entries()["scout"].versions] == ["1" * 12]


def test_a_service_finds_what_was_pulled_by_the_name_it_was_pulled_by(home: Path) -> None:
    """Clients of Ollama's dialect pull llama3.2:1b and then ask for it."""
    for name, digit, file in (
        ("llama3.2-1b", "0", "model.safetensors"),
        ("scout", "1", "a-Q2_K.gguf"),
        ("scout", "2", "a-Q4_K_M.gguf"),
    ):
        version = Version(id=digit * 12, path=file, files={file: FileRecord(1, 0)}, source="import", in_place=True)
        registry.add(name, version)
    catalogue = StoreCatalogue()
    for asked_for in ("llama3.2:1b", "llama3.2-1b", "LLAMA3.2:1B", "llama3.2:1b:latest"):
        assert catalogue.find(asked_for).name == "llama3.2-1b"
    for asked_for in ("scout", "llama4:scout", "scout:q4_k", "scout:latest"):
        assert catalogue.find(asked_for).name == "scout"
    for absent in ("scout:q2_k", "scout:q8_0", "guard", "llama3.2:3b"):  # not in use, not here
        with pytest.raises(NotFound):
            catalogue.find(absent)


def test_a_repository_whose_forms_have_no_names_wants_one_named(
    asked: list[tuple[str, str | None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = spelled("org/name")
    assert found is not None
    files = [RemoteFile(name, 1, None, None) for name in ("first.gguf", "second.gguf")]
    with pytest.raises(UsageError, match=r"2 GGUF models; choose: --file first\.gguf"):
        pulling._select(found, pulling.Pull(), files)
