"""Weights that are cut in the middle of answers: each stream ends with one line that names the file, so does every
request after, the pages are free and the process lives."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import TINY, hf_folder

GGUF = Path(__file__).parents[1] / "fixtures" / "gguf" / "llama4-q4_0.gguf"

SCRIPT = """
import json, os, sys
from pathlib import Path
import herd
from herd.store.packed_copies import folder_of
from herd.errors import HerdError

model, engine = Path(sys.argv[1]), sys.argv[2]
said = {"lines": []}

def hear(work):
    try:
        for _ in work():
            pass
    except HerdError as error:
        said["lines"].append([type(error).__name__, str(error)])

with herd.load(model, threads=2, engine=engine, context=4096) as llm:
    weights = model / "model.safetensors" if model.is_dir() else folder_of(model) / "model-00001.safetensors"
    streams = [llm.stream_complete(p, ignore_eos=True) for p in ("one", "and two", "three of them")]
    for stream in streams:
        next(stream)
    size = weights.stat().st_size
    os.truncate(weights, 5000)
    for stream in streams:
        hear(lambda: stream)
    said["file"], said["size"] = str(weights), size
    for _ in range(2):
        hear(lambda: [llm.complete("again")])
    if engine == "thread":
        cache = llm._running().executor.runner.cache
        cache.check()
        said["leases"] = len(cache.pager.leases)
    else:
        said["alive"] = llm._running().executor._process.poll() is None
    for ask in (lambda: [llm.logits([1, 2, 3])], lambda: [llm.perplexity("text of a book")]):
        hear(ask)
print(json.dumps(said))
"""


@pytest.mark.parametrize("engine", ["thread", "child"])
@pytest.mark.parametrize("kind", ["folder", "packed from a gguf"])
def test_every_request_ends_with_the_line_of_the_file(tmp_path: Path, engine: str, kind: str) -> None:
    model = tmp_path / "m.gguf"
    if kind == "folder":
        model = hf_folder(tmp_path / "m", TINY)
    else:
        shutil.copyfile(GGUF, model)
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "HERD_HOME": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, model, engine], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    line = f"{said['file']}: changed while in use: got 5000 bytes, expected the same file as at the start, "
    line += f"{said['size']} bytes; restore the file and load the model again"
    assert said["lines"] == [["FilesChanged", line]] * 7
    assert said.get("leases", 0) == 0
    assert said.get("alive", True)
