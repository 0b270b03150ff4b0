"""The report on this machine: every subject is there, and what is missing comes with its remedy."""

import builtins
import json
import tomllib
from pathlib import Path

from herd import doctor
from herd.cli import main

REPO = Path(__file__).parents[1]
FIXTURE = Path(__file__).parent / "fixtures/gguf/llama4-q4_k.gguf"


def test_an_unsupported_processor_gets_a_clear_line():
    found = doctor.kernels("portable", ["portable"], [], "riscv64")
    assert found.ok  # it runs
    assert found.remedy == "riscv64 without AVX2 or NEON dot products: everything runs, on slow portable kernels"


def test_a_forced_instruction_set_is_told():
    found = doctor.kernels("avx2", ["avx512", "avx2", "portable"], ["avx2", "avx512vnni"], "x86_64")
    assert found.remedy == "HERD_ISA forces avx2; unset it for avx512"


def test_what_a_processor_lacks_is_named_with_its_use():
    found = doctor.kernels("avx2", ["avx2", "portable"], ["avx2", "fma"], "x86_64")
    assert "lacks avx512vnni (integer dot products" in found.fact
    assert "asimddp" not in found.fact
    full = ["avx2", "avx512vnni", "avx512bf16", "avx512vbmi"]
    assert "lacks" not in doctor.kernels("avx512", ["avx512", "avx2", "portable"], full, "x86_64").fact


def test_the_command_prints_every_subject(capsys):
    assert main(["doctor", "--json", "--no-bandwidth"]) == 0
    told = json.loads(capsys.readouterr().out)["findings"]
    subjects = [f["subject"] for f in told]
    assert subjects == ["herd", "processor", "native", "memory", "threads", "store", *doctor.EXTRAS, "cuda"]


def test_every_extra_of_the_project_is_told_here_and_in_the_readme():
    project = tomllib.loads((REPO / "pyproject.toml").read_text("utf-8"))["project"]
    ours = set(project["optional-dependencies"]) - {"test", "dev"}
    assert set(doctor.EXTRAS) == ours
    readme = (REPO / "README.md").read_text("utf-8")
    for extra, (_, _, how) in doctor.EXTRAS.items():
        assert how in readme, f"README.md does not say how {extra} comes"


def test_an_extra_that_is_there_in_part_says_what_it_is_without(monkeypatch):
    gone = {"reasoning_gym", "lm_eval"}
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name in gone else object())
    told = {line.subject: line for line in doctor._extras()}
    assert told["evals"].fact.startswith("without reasoning_gym (") and "[evals]" in told["evals"].remedy
    assert told["lm-eval"].fact.startswith("not installed (") and not told["hub"].remedy


def test_a_missing_native_module_is_status_1_with_the_fix(monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "herd" and args[2:3] and args[2] and "_native" in args[2]:
            raise ImportError("no module herd._native")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["doctor"]) == 1
    assert "MISSING  native       no module herd._native; scripts/setup builds it" in capsys.readouterr().out
