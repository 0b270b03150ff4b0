"""Models of one process compute on as many threads as each was loaded with, and give them back when they are closed."""

import subprocess
import sys
from pathlib import Path

from helpers import hf_folder

CODE = """
import sys, time
import herd
from herd import _native

def said(llm):
    return llm.complete("hello", max_tokens=1, temperature=0).text

first = herd.load(sys.argv[1], threads=3)
alone = said(first)
assert _native.threads_alive() == 2
second = herd.load(sys.argv[1], threads=1)
assert said(second) == alone == said(first)
assert _native.threads_alive() == 2
first.close()
until = time.monotonic() + 120  # threads end on their own, a moment after they are told
while _native.threads_alive() and time.monotonic() < until:
    time.sleep(0.001)
assert _native.threads_alive() == 0
assert said(second) == alone
second.close()
"""


def test_a_model_that_is_loaded_later_leaves_the_threads_of_the_first_alone(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CODE, str(hf_folder(tmp_path / "tiny"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
