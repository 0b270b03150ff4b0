"""`herd plan` by names and files: known models, configs, files of weights, this machine; and what it prints."""

import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

import herd
from helpers import TINY_DENSE, hf_folder
from herd import planner
from herd.checkpoint.gguf.names import gguf_names
from herd.checkpoint.walk import walk
from herd.cli import main
from herd.config import MAVERICK, SCOUT, TINY
from herd.config.hf import to_hf
from herd.convert import convert
from herd.errors import HerdError, NotFound, UsageError
from herd.machine import probe
from herd.machine.probe import MachineRates
from herd.planning.parts import kind_of, weights_by_kind
from herd.planning.sizes import type_sizes


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads each measurement of this machine was asked for."""
    asked: list[int] = []

    def rates(threads: int, repeats: int = 3) -> MachineRates:
        asked.append(threads)
        return MachineRates(threads, 40e9, 1e12, "x", 0.5e12, "y")

    monkeypatch.setattr(probe, "rates", rates)
    return asked


def test_a_plan_in_python() -> None:
    plan = herd.plan("scout", "rtx4090+64GB", context=131072, users=4)
    assert plan.model.config == SCOUT
    assert plan.fits
    assert plan.cache_bytes == 4 * plan.cache_one
    assert herd.plan("maverick:q4_k", "h100x4").model.sizes == type_sizes(MAVERICK, "q4_k")


@pytest.mark.parametrize("text", ["scout:Q4_K_M", "SCOUT:q4_k", "scout:q4_k_m"])
def test_a_type_in_any_spelling(text: str) -> None:
    assert planner.look_at(text)[2] == type_sizes(SCOUT, "q4_k")


def test_a_form_that_can_be_fetched_has_its_own_size() -> None:
    sizes = planner.look_at("scout:UD-Q2_K_XL")[2]
    assert sizes is not None
    assert 42e9 < sizes.total < 45e9


def test_a_config_alone(tmp_path: Path) -> None:
    path = tmp_path / "own" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(to_hf(SCOUT)))
    plan = herd.plan(path, "h200", type="q4_k")
    assert (plan.model.name, plan.parts.total) == ("own", weights_by_kind(SCOUT).total)
    assert plan.placement == herd.plan("scout:q4_k", "h200").placement


@pytest.mark.parametrize("kind", ["gguf", "folder"])
def test_a_file_of_weights_has_its_own_bytes(kind: str, tmp_path: Path) -> None:
    config = TINY_DENSE if kind == "gguf" else TINY
    path = hf_folder(tmp_path / "tiny", config)
    if kind == "gguf":
        convert(path, tmp_path / "tiny.gguf", "q8_0")
        path = tmp_path / "tiny.gguf"
    plan = herd.plan(path, "rtx4090", context=256)
    files = [path] if path.is_file() else list(path.glob("*.safetensors"))
    assert plan.model.sizes.total == pytest.approx(sum(f.stat().st_size for f in files), rel=0.35)
    assert plan.model.sizes.always > plan.model.sizes.table
    assert bool(plan.model.sizes.table) == (not config.tied_embeddings)
    assert bool(plan.model.sizes.routed) == bool(plan.model.sizes.vision) == (kind == "folder")
    assert plan.fits


def test_every_tensor_of_a_gguf_is_of_its_part() -> None:
    names = [tensor for wanted in walk(TINY) for tensor in wanted.tensors]
    for name in names:
        for there in gguf_names(name):
            assert planner.gguf_kind(there) == kind_of(name), name


def test_this_machine_is_measured_once_and_kept_with_its_date(measured: list[int], home: Path) -> None:
    here = planner.this_machine()
    assert (here.read_bytes_s, here.ops_s) == (40e9, 1e12)
    assert here.memory_bytes > 0
    assert here.measured == json.loads((home / "machine.json").read_text())["date"]
    planner.this_machine()
    assert len(measured) == planner.TRIES
    planner.this_machine(again=True)
    assert len(measured) == 2 * planner.TRIES


@pytest.mark.parametrize(
    "kept",
    ["", "{", "[]", '{"date": 1}', '{"date": "x", "threads": 1, "read_bytes_s": 1, "ops_s": 1}', '{"ops_s": NaN}'],
)
def test_a_broken_measurement_is_measured_again(kept: str, measured: list[int], home: Path) -> None:
    home.mkdir()
    (home / "machine.json").write_text(kept)
    assert planner.this_machine().read_bytes_s == 40e9
    assert len(measured) == planner.TRIES


def test_cards_are_those_that_the_driver_names(
    measured: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(
        "#!/bin/sh\necho 'NVIDIA GeForce RTX 4090, 24564'\necho 'NVIDIA Something 1, 7'\n"
        "echo 'No devices were found'\necho ', 12288'\n"
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    here = planner.this_machine()
    assert [(card.name, card.memory_bytes) for card in here.cards] == [("rtx4090", 24564 << 20)]
    assert any("Something" in note for note in here.notes)
    assert not any("No devices" in note for note in here.notes)


def test_what_fits_tells_the_best_of_each(measured: list[int]) -> None:
    found = {one.name: one.fit for one in planner.what_fits("rtx4090+64GB")}
    assert found["scout"].fits
    assert not found["maverick"].fits
    assert not found["behemoth"].fits
    assert found["smollm2:135m"].sizes.type == "bf16"


WRONG = {
    "no such model": ("nowhere",), "no such machine": ("scout", "--machine", "x9"), "no such type": ("scout:q9",),
    "context": ("scout", "--context", "11M"), "a picture of many": ("--svg", "x.svg"),
    "explain nothing": ("--explain",),
    "measure another": ("scout", "--machine", "h100", "--measure"),
    "no such file": ("scout", "--machine", "none.toml"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_one_line(case: str, capsys: pytest.CaptureFixture[str], measured: list[int]) -> None:
    assert main(["plan", *WRONG[case]]) != 0
    out = capsys.readouterr()
    assert out.out == ""
    assert out.err.count("\n") == 1
    assert out.err.startswith("herd: ")


def test_errors_in_python() -> None:
    with pytest.raises(NotFound):
        herd.plan("nowhere", "h100")
    with pytest.raises(UsageError):
        herd.plan("scout", "h100", kv="q4")
    with pytest.raises(HerdError):
        herd.plan("scout", "h100", context=0)


def test_a_table_an_object_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], measured: list[int]
) -> None:
    picture = tmp_path / "plan.svg"
    assert main(["plan", "scout", "--machine", "h200", "--context", "1M", "--svg", str(picture)]) == 0
    text = capsys.readouterr().out
    words = (
        "THE LIMIT",
        "HERD TODAY",
        "keys and values",
        "it fits",
        "types that fit",
        "herd pull scout",
        "herd serve scout",
    )
    for word in words:
        assert word in text
    root = ElementTree.parse(picture).getroot()
    assert root.tag.endswith("svg")
    assert main(["plan", "scout", "--machine", "h200", "--svg", str(picture)]) == 2  # it is there
    capsys.readouterr()
    assert main(["plan", "scout", "--machine", "h200", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    plan = herd.plan("scout", "h200")
    assert data["parameters"]["total"] == plan.parts.total
    assert data["speeds"][0]["limit_s"] == plan.speeds[0].limit.seconds
    assert data["places"]["routed"]["card"] == plan.placement.row("routed").card
    assert data["parameters"] == {**asdict(plan.parts), "total": plan.parts.total}


def test_every_number_of_an_explanation_is_one_of_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "maverick", "--machine", "rtx4090+64GB", "--explain"]) == 0
    text = capsys.readouterr().out
    plan = herd.plan("maverick", "rtx4090+64GB")
    assert f"{plan.parts.routed:,}" in text
    for speed in plan.speeds:
        assert f"{speed.limit.tokens_s:,.1f} tokens/s" in text
    assert "1 - (1 - 1/128)^1" in text


def test_where_nothing_runs_the_status_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "scout:bf16", "--machine", "rtx3060"]) == 4
    assert "does not run" in capsys.readouterr().out


def test_lists(capsys: pytest.CaptureFixture[str], measured: list[int]) -> None:
    assert main(["plan", "--machines"]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ") and "GB/s" in line]
    names = [line.split("  ")[1] for line in told]
    assert "rtx4090" in names and "threadripper-pro-8ch-ddr4" in names, "two spaces behind each name, the longest too"
    assert main(["plan", "--machine", "h200"]) == 0
    assert "e+" not in capsys.readouterr().out, "thousands of tokens a second are written as people write them"
    assert main(["plan", "--machines", "--json"]) == 0
    assert "h200" in json.loads(capsys.readouterr().out)["machines"]["cards"]
    assert main(["plan"]) == 0
    date = planner.this_machine().measured
    assert f"40 GB/s, measured on {date}" in capsys.readouterr().err
    assert main(["plan", "llama3.2:1b"]) in (0, 4)
    assert f"measured on {date}; other programs make it slower" in capsys.readouterr().out
    assert main(["plan", "--json"]) == 0
    assert {row["model"] for row in json.loads(capsys.readouterr().out)["models"]} >= {"scout", "maverick", "guard"}


def test_a_model_that_is_here_goes_before_a_known_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = hf_folder(tmp_path / "tiny", TINY_DENSE)
    assert main(["import", str(path), "--name", "scout"]) == 0
    assert "fits here: yes, with up to" in capsys.readouterr().err
    assert herd.plan("scout", "h100", context=256).model.config.width == TINY_DENSE.width
    assert herd.plan("scout:q4_k", "h100").model.config == SCOUT
    assert main(["show", "scout"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("fits here   yes, with up to")


def test_whether_it_fits_here_names_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "total_bytes", lambda: 64 << 30)
    assert planner.fits_here(SCOUT, 48 * 10**9).startswith("yes, with up to")
    assert planner.fits_here(SCOUT, 70 * 10**9, "scout").startswith("no: 72")
    monkeypatch.setattr(planner, "total_bytes", lambda: None)
    assert "does not say" in planner.fits_here(SCOUT, 1)


def test_a_form_that_can_be_fetched_is_planned_for_where_no_type_is_small_enough() -> None:
    plan = herd.plan("scout", "rtx4090+16GB")
    assert plan.fits
    assert plan.model.sizes.type == "UD-IQ1_M"
    assert plan.model.pull == "scout:UD-IQ1_M"
    assert [herd.plan(name, "h200").model.pull for name in ("scout:q4_k", "scout:q5_1", "behemoth")] == [
        "scout:q4_k",
        "scout",
        "",
    ]
    with pytest.raises(UsageError, match="size of FP8 is not known"):
        herd.plan("scout:FP8", "h200")
