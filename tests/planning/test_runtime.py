"""What a process of a loaded model holds, asked of the system, beside what is foretold."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import TINY_TEXT, hf_folder
from herd.checkpoint import open_checkpoint
from herd.planning.memory import need

HELD = """
import re, sys, herd
llm = herd.load(sys.argv[1], context=2048, kv="f32", threads=1, parallel=1)
llm.warm_up()
llm.complete("a" * 2000, max_tokens=1)
with open("/proc/self/smaps_rollup") as rollup:
    print(int(re.search("Anonymous: +([0-9]+)", rollup.read())[1]) << 10)
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="no /proc/self/smaps_rollup here")
def test_a_process_holds_what_was_foretold(tmp_path: Path) -> None:
    pytest.importorskip("herd._native")
    config = replace(TINY_TEXT, num_layers=8, num_heads=16, num_kv_heads=16, head_size=64, chunk=None)
    path = hf_folder(tmp_path / "tiny", config)
    with open_checkpoint(path) as checkpoint:
        foretold = need(config, checkpoint.size_bytes, 2048, "f32", sequences=1)
    assert foretold.cache_bytes == 128 << 20
    done = subprocess.run([sys.executable, "-c", HELD, str(path)], capture_output=True, text=True, check=True)
    assert abs(int(done.stdout) - foretold.anonymous_bytes) < 32 << 20
