"""One model, loaded as `herd run` and `herd serve` load it, with its cache filled: what its processes then hold.

    plan_memory_worker.py PATH CONTEXT KV ENGINE FILL   -> JSON lines: loaded, filled, answered

FILL is `prompt` (one prompt as long as the context, then eight that together are longer) or `pages` (every page of
every pool written as passes write them). Then it answers a prompt that is longer than a pass and eight side by side,
reads random ids and looks all of them up: the work beside the cache, and all weights in use. Each line says what
the process and its children hold, in bytes: `anonymous` a process, `files` the pages of each mapped file that their
tables have.
"""

import json
import sys
import threading
from pathlib import Path

import numpy as np

import herd
from herd.engine.runner import Chunk
from herd.planning.layers import layer_caches
from herd.planning.pools import pools_for

PIECE = 512
LONG = 560
"""Tokens of a prompt that is longer than a pass, and alone."""
ROWS, PASSES = 16, 16
"""Of random ids, all different as a rule: enough that each of 16 experts has rows in every layer."""


def processes(pid):
    """A process and its children's children."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from processes(child)


def held(files):
    """What this process and its children hold."""
    anonymous, of_files = [], [0] * len(files)
    for pid in processes("self"):
        mine, name = 0, ""
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            key, *rest = line.split(None, 5)
            if not key.endswith(":"):
                name = rest[4] if len(rest) > 4 else ""
            elif key == "Anonymous:":
                mine += int(rest[0]) << 10
            elif key == "Rss:" and name in files:
                of_files[files.index(name)] += int(rest[0]) << 10
        anonymous.append(mine)
    return {"anonymous": anonymous, "files": of_files}


def text_of(llm, rng, count):
    """A text of about as many ids, and no more."""
    text = "".join(rng.choice(list("abcdefgh ijklm nopq"), 4 * count))
    return llm.tokenizer.decode(llm.tokenizer.encode(text)[: int(count * 0.97)])


def answers(llm, rng, lengths, tokens=12):
    """Answers side by side to prompts of about so many ids, drawn with all that a draw may want."""

    def one(i):
        options = {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.1, "logprobs": 5, "ignore_eos": True}
        llm.complete(text_of(llm, rng, lengths[i]), max_tokens=tokens, **options)

    asked = [threading.Thread(target=one, args=(i,)) for i in range(len(lengths))]
    for thread in asked:
        thread.start()
    for thread in asked:
        thread.join()


def fill_pages(llm, kv_dtype, rng):
    """Write each page of each pool."""
    runner = llm._engine.runner
    c, ops, size = runner.config, runner.ops, runner.pager.page_size
    pools = pools_for(c, runner.context, kv_dtype, PIECE, 8)
    rows = rng.standard_normal((size, c.num_kv_heads, c.head_size), np.float32)
    for layer, kv in zip(layer_caches(c, kv_dtype), runner.kv, strict=True):
        pages = pools.chunk if layer.chunked else pools.full
        for page in range(pools.exact if layer.exact else pages):
            ops.kv_write(kv, np.arange(page * size, (page + 1) * size), rows, rows)
        if layer.exact:
            ops.close_pages(kv, np.zeros(pages, np.int64), np.arange(pages))


def use_all(llm, rng):
    """Have every expert and every row of the table in use."""
    runner = llm._engine.runner
    for _ in range(PASSES):
        lease = runner.lease()
        runner.run([Chunk(lease, rng.integers(0, runner.vocab_size, ROWS).tolist())])
        runner.drop(lease)
    for first in range(0, runner.vocab_size, ROWS):
        runner.ops.embed(np.arange(first, min(first + ROWS, runner.vocab_size)), runner.weights.embed)


def tell(stage, files, **more):
    print(json.dumps({"stage": stage, **held(files), **more}), flush=True)


def main():
    path, context, kv, engine, fill = sys.argv[1:]
    rng = np.random.default_rng(1)
    llm = herd.load(path, context=int(context), kv=kv, engine=engine, threads=1)  # more take some 100 KiB each
    llm.warm_up()
    files = [str(m.path.resolve()) for m in llm._checkpoint.mapped]
    tell("loaded", files, names=files)
    if fill == "pages":
        fill_pages(llm, kv, rng)
    else:
        llm.complete(text_of(llm, rng, llm.context - 8), max_tokens=1)
        answers(llm, rng, [llm.context // 8 + 150] * 8, tokens=64)
    tell("filled", files)
    llm.complete(text_of(llm, rng, LONG), max_tokens=1)
    answers(llm, rng, [16] * 8)
    if engine == "thread":  # of one in a child, answers alone
        use_all(llm, rng)
    tell("answered", files)


if __name__ == "__main__":
    main()
