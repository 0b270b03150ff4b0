"""The whole way with a real model, as a person takes it: a file on disk, a question, an answer on stdout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import herd

MODEL = os.environ.get("HERD_SMOLLM2_GGUF", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path(MODEL).is_file(), reason="HERD_SMOLLM2_GGUF names no SmolLM2 GGUF file"),
]


def run(*words: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "herd", "run", MODEL, *words]
    return subprocess.run(command, input=stdin or "", capture_output=True, text=True, timeout=120)


def test_a_question_gets_the_right_answer_on_stdout_alone() -> None:
    done = run("What is the capital of France?", "--temperature", "0", "--max-tokens", "20")
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


def test_a_piped_question_and_json_say_the_same() -> None:
    question = ("--temperature", "0", "--max-tokens", "12")
    plain = run(*question, stdin="What is photosynthesis?")
    told = run(*question, "--json", stdin="What is photosynthesis?")
    assert "Photosynthesis" in plain.stdout
    assert json.loads(told.stdout)["text"].strip() == plain.stdout.strip()


def test_a_prompt_longer_than_the_context_tells_both_counts_and_says_nothing() -> None:
    done = run("word " * 100, "--ctx", "64")
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "64" in done.stderr


def test_text_is_less_surprising_than_its_words_in_another_order() -> None:
    text = "The quick brown fox jumps over the lazy dog, and the dog does not mind at all."
    with herd.load(MODEL) as model:
        assert model.perplexity(text).value * 3 < model.perplexity(" ".join(reversed(text.split()))).value
