"""Do files that `herd convert` writes mean the same to others? GGUF to llama.cpp, safetensors to transformers.

    python benchmarks/convert_check.py --peer /path/to/python-with-llama_cpp [--model PATH] [--types f32,f16,q8_0]

Without --model: two random models, a dense `llama` and a `llama4` with experts in every layer, both within what
llama.cpp's `llama4` can say. For each type the checkpoint is written as GGUF; the logits of 48 tokens are computed by
Herd's reference (float32, from the same file) and by llama.cpp in a subprocess, and compared. Then the f32 GGUF is
written back as a safetensors folder and compared with transformers. Prints one line a check; exit status 1 on a miss.

What is judged is the median over positions of the root mean square difference, over the spread of the logits: a router
whose two best experts nearly tie flips for a position or two as soon as anything is rounded, and then those logits are
others. Limits: f32 1e-5, the order of summation. Otherwise llama.cpp rounds activations before each of about 30
products in a row: to f16 or bf16 for such weights (2^-12 and 2^-9 of a value on average), to int8 with a scale for 32
or 256
values for block formats (largest of a group / 254, about 1% of a value). sqrt(30) of these, and a factor of 2.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from herd.batch import packed
from herd.checkpoint import open_checkpoint, random_model, save_hf
from herd.config import TINY, Llama4Config
from herd.convert import convert
from herd.errors import NotFound
from herd.model.text import forward
from herd.model.tree import place_weights

LIMITS = {"f32": 1e-5, "f16": 3e-3, "bf16": 2.2e-2} | dict.fromkeys(("q8_0", "q4_0", "q4_1", "q4_k", "q6_k"), 1.1e-1)
TOKENS = 48

LLAMA4 = replace(
    TINY,
    width=256,
    head_size=64,
    expert_width=256,
    dense_width=512,
    moe_interleave=1,
    chunk=8192,
    floor_scale=8192,
    norm_eps=1e-5,
    max_context=16384,
    vision=None,
)
LLAMA = replace(
    LLAMA4,
    num_experts=0,
    expert_width=0,
    moe_interleave=0,
    nope_interval=0,
    chunk=None,
    use_qk_norm=False,
    temperature_tuning=False,
)

TEXT = "It's 12345 o'clock!\n\n  Naïve café: 日本語, \U0001f600 <|eot|> <|im_end|>\tdone  "

PEER = """
import json, sys
import numpy as np
import llama_cpp
path, out, ids = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
m = llama_cpp.Llama(path, n_ctx=256, n_batch=256, n_ubatch=256, logits_all=True, type_k=0, type_v=0, n_threads=1,
                    n_threads_batch=1, flash_attn=False, verbose=False, n_gpu_layers=0)
m.eval(ids)
np.save(out, np.asarray(m.scores[: len(ids)], np.float32))
if len(sys.argv) > 4:
    print("tokens", json.dumps(m.tokenize(sys.argv[4].encode(), add_bos=False, special=False)))
"""


def ours(path: Path, ids: list[int]) -> np.ndarray:
    """Logits [T, V] by the reference op set."""
    from herd.ops.torch import TorchOps

    ops = TorchOps()
    with open_checkpoint(path) as checkpoint:
        c = checkpoint.config
        weights = place_weights(ops, checkpoint.load())
        return ops.numpy(forward(ops, c, weights, ops.array(np.array(ids)), ops.place(packed([len(ids)], c.chunk))))


def llama_cpp(python: str, path: Path, ids: list[int], text: str | None = None) -> tuple[np.ndarray, list[int] | None]:
    """Logits [T, V] by llama.cpp, KV in float32; and its tokens of `text`."""
    with tempfile.NamedTemporaryFile(suffix=".npy") as out:
        command = [python, "-c", PEER, str(path), out.name, json.dumps(ids), *([text] if text else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"llama.cpp failed on {path}: {done.stderr.strip().splitlines()[-1:]}")
        tokens = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("tokens ")]
        return np.load(out.name), tokens[0] if tokens else None


def tokens_of(path: Path) -> list[int] | None:
    """Herd's ids of TEXT by the tokenizer of a checkpoint; None when it has none."""
    with open_checkpoint(path) as checkpoint:
        try:
            return checkpoint.load_tokenizer().encode(TEXT)
        except NotFound:
            return None


def hf(path: Path, ids: list[int]) -> np.ndarray:
    """Logits [T, V] by transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def check(what: str, a: np.ndarray, b: np.ndarray, limit: float) -> bool:
    rms = float(np.median(np.sqrt(((a - b) ** 2).mean(-1))) / b.std())
    worst = float(np.abs(a - b).max() / b.std())
    same = float((a.argmax(-1) == b.argmax(-1)).mean())
    print(
        f"{what:42} median {rms:.1e} (limit {limit:.1e}), largest {worst:.1e}, same best token {same:.1%}", flush=True
    )
    return rms <= limit


def run(name: str, source: Path, c: Llama4Config, types: list[str], peer: str | None, folder: Path) -> bool:
    rng = np.random.default_rng(0)
    ids = [int(i) for i in rng.integers(0, min(c.vocab_size, 256), TOKENS)]
    good = True
    for t in types:
        path = folder / f"{name}-{t}.gguf"
        for note in convert(source, path, t).notes:
            print(f"{path.name}: {note}")
        mine = ours(path, ids)
        if peer:
            expected = tokens_of(source)
            theirs, tokens = llama_cpp(peer, path, ids, TEXT if expected else None)
            good &= check(f"{path.name}: Herd, llama.cpp", mine, theirs, LIMITS[t])
            if expected:
                good &= tokens == expected
                print(
                    f"{path.name}: llama.cpp's tokens of a text are{'' if tokens == expected else ' NOT'} the source's"
                )
        if t == "f32":
            good &= check(f"{path.name}: Herd, Herd on the source", mine, ours(source, ids), 1e-6)
            back = folder / f"{name}-back"
            convert(path, back, "f32")
            good &= check(f"{back.name}: transformers, Herd", hf(back, ids), mine, 1e-5)
    return good


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", default=os.environ.get("HERD_PEER"), help="a python that has llama_cpp")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--types", default="f32,f16,bf16,q8_0,q4_0,q4_1,q4_k,q6_k")
    args = parser.parse_args()
    types = args.types.split(",")
    good = True
    with tempfile.TemporaryDirectory() as temp:
        folder = Path(temp)
        if args.model:
            with open_checkpoint(args.model) as checkpoint:
                config = checkpoint.config
            good = run("model", args.model, config, types, args.peer, folder)
        else:
            for name, config in (("llama", LLAMA), ("llama4", LLAMA4)):
                source = save_hf(folder / name, config, random_model(config, 1), "float32")
                good &= run(name, source, config, types, args.peer, folder)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
