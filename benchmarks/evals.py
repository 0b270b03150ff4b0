"""Four-choice items: `herd eval`, `score` one pair at a time, and lm-evaluation-harness with transformers.

All three in one run, a block of items of each in turn; ratios are medians over the blocks. lm-evaluation-harness has
its best batch size and type of numbers, chosen on the first items; it reads the same GGUF file, and only its model's
calls are timed. Items are made from a seed: a short text, a question, four answers of some words; a third cannot be
told.

    scripts/bench evals --harness PYTHON [--items 1000] [--blocks 5] [--model smollm2] [--json FILE]

PYTHON: an interpreter with lm-eval, transformers, accelerate and gguf.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from harness import Worker, machine
from quiet import Watch

import herd
from herd.evals import find, templates
from herd.evals.running import run
from herd.evals.statistics import mean

BATCHES = (1, 4, 8, 16, 32, 64, "auto")
TYPES = ("float32", "bfloat16")
"""The others are tried with the batch size that is best with the first."""
TRIED = 16
"""Items that each batch size is tried on."""
OVER_SINGLE, OVER_HARNESS = 1.3, 4.0
"""What is asked of `herd eval`."""
NAMES = ("Anna", "Ben", "Carla", "David", "Emma", "Farid", "Grace", "Hugo", "Ines", "Jonas")
PLACES = ("the market", "the library", "the harbour", "the school", "the old mill", "the station")
THINGS = ("apples", "coins", "books", "stamps", "cups", "shells", "keys", "letters")
COLOURS = ("red", "blue", "green", "yellow", "white")


def made(count, seed):
    """Items: text, question, four answers, the number of the right one."""
    rng = random.Random(seed)
    return [_item(rng, number) for number in range(count)]


def _item(rng, number):
    a, b = rng.sample(NAMES, 2)
    here, there = rng.sample(PLACES, 2)
    thing, other = rng.sample(THINGS, 2)
    colours = rng.sample(COLOURS, 4)
    x, y, z = rng.sample(range(2, 20), 3)
    text = (
        f"In the morning {a} walked to {here} with {x} {colours[0]} {thing} in a bag, and met {b}, who carried {y} "
        f"{other}. {b} gave {a} {z} more {thing}, and went on to {there}."
    )
    kind = rng.choice(("where", "how many", "unsaid"))
    if kind == "where":
        question, right = f"Where did {b} go in the end?", f"{b} went on to {there}."
        wrong = [f"{b} went on to {place}." for place in rng.sample([p for p in PLACES if p != there], 3)]
    elif kind == "how many":
        question, right = f"How many {thing} did {a} have then?", f"{a} had {x + z} {thing}."
        wrong = [f"{a} had {n} {thing}." for n in rng.sample([n for n in range(4, 40) if n != x + z], 3)]
    else:
        question, right = f"Which colour was the coat of {b}?", "The text does not say that."
        wrong = [f"The coat was {colour}." for colour in colours[1:]]
    answers = [right, *wrong]
    rng.shuffle(answers)
    prompt = f"{text}\nQuestion: {question}\nAnswer:"
    return {"number": number, "prompt": prompt, "choices": answers, "answer": answers.index(right)}


def written(folder, items):
    """The items as a task of Herd and one of lm-evaluation-harness."""
    (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    (folder / "choices.toml").write_text(
        'name = "choices"\nkind = "choices"\nitems = "items.jsonl"\nprompt = "{prompt}"\n'
    )
    (folder / "choices.yaml").write_text(
        "task: choices\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {folder / 'items.jsonl'}\ntest_split: test\noutput_type: multiple_choice\n"
        'doc_to_text: "{{prompt}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: "{{answer}}"\n'
        "metric_list:\n  - metric: acc\n"
    )
    return find(str(folder / "choices.toml"))


def timed(work):
    """(what it gave, seconds, processor seconds of this process, share that others took)."""
    before = os.times()
    with Watch() as watch:
        found = work()
    after = os.times()
    cpu_s = after.user + after.system - before.user - before.system
    return found, watch.figures["seconds"], cpu_s, watch.figures["others_s"] / watch.figures["seconds"] / os.cpu_count()


def together(model, task, items):
    """`herd eval`."""
    found = {}
    done = set(range(len(task.items))) - set(items)
    run(model, task, lambda result: found.update({result.item: result}), done=done)
    return [(found[i].value, found[i].logprobs) for i in items]


def single(model, task, items):
    """`score`, one pair at a time."""
    found = []
    for i in items:
        item = task.items[i]
        pairs = templates.choices(task.head.prompt, task.head.separator, task.shots, item)
        logprobs = tuple(model.score([pair])[0].logprob for pair in pairs)
        found.append((float(max(range(len(pairs)), key=logprobs.__getitem__) == item["answer"]), logprobs))
    return found


def best(worker, file, items):
    """The batch size and type of numbers that lm-evaluation-harness is fastest with."""
    found = {}

    def tried(dtype, batch):
        asked = {"model": str(file.parent), "file": file.name, "dtype": dtype, "batch": batch}
        worker.score(**asked, items=items[:2])
        found[dtype, batch] = worker.score(**asked, items=items)["seconds"]
        print(f"  {dtype:<9} batch {batch!s:<5}{len(items) / found[dtype, batch]:8.2f} items/s", flush=True)

    for batch in BATCHES:
        tried(TYPES[0], batch)
    quickest = min(found, key=found.__getitem__)[1]
    for dtype in TYPES[1:]:
        tried(dtype, quickest)
    return min(found, key=found.__getitem__)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--harness", help="an interpreter with lm-eval and transformers; without it Herd alone is timed"
    )
    parser.add_argument("--items", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--batch", help="of lm-evaluation-harness, with --dtype: nothing is tried then")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    a = parser.parse_args()
    print(f"{machine()}; {a.items} items, seed {a.seed}, {a.model}", flush=True)
    with tempfile.TemporaryDirectory(prefix="herd-bench-") as made_in, herd.load(a.model) as model:
        folder, file = Path(made_in), Path(model.path)
        task = written(folder, made(a.items, a.seed))
        worker = Worker(a.harness, "evals_worker.py") if a.harness else None
        if worker is not None:
            worker.start(folder=str(folder), name="choices", threads=os.cpu_count())
            if a.batch is None:
                dtype, batch = best(worker, file, list(range(min(TRIED, a.items))))
            else:
                dtype, batch = a.dtype, a.batch if a.batch == "auto" else int(a.batch)
        together(model, task, [0]), single(model, task, [0])
        sides = ("eval", "single", *(("harness",) if worker is not None else ()))
        found = {side: {"seconds": [], "cpu_s": [], "others": [], "items": []} for side in sides}
        for block in np.array_split(np.arange(a.items), a.blocks):
            items = block.tolist()
            for side, work in (("eval", together), ("single", single)):
                scored, seconds, cpu_s, others = timed(lambda work=work, items=items: work(model, task, items))
                _add(found[side], seconds, cpu_s, others, scored)
            if worker is not None:
                with Watch() as watch:
                    theirs = worker.score(model=str(file.parent), file=file.name, dtype=dtype, batch=batch, items=items)
                assert theirs["items"] == items, "they were asked for the same items"
                others = max(0.0, watch.figures["others_s"] / watch.figures["seconds"] / os.cpu_count())
                scored = list(zip(theirs["right"], theirs["logprobs"], strict=True))
                _add(found["harness"], theirs["seconds"], theirs["cpu_s"], others, scored)
            print(".", end="", flush=True)
    print()
    if worker is not None:
        print(f"lm-evaluation-harness: {dtype}, batch {batch}")
    return _tell(found, a)


def _add(side, seconds, cpu_s, others, scored):
    side["seconds"].append(seconds)
    side["cpu_s"].append(cpu_s)
    side["others"].append(others)
    side["items"] += scored


def _tell(found, a):
    ours = found["eval"]
    print(f"{'':<10}{'items/s':>9}{'seconds':>9}{'cpu s':>8}{'eval is':>9}{'by cpu':>8}{'accuracy':>10}{'others':>8}")
    told, worst = {}, 0
    for name, side in found.items():
        ratio = statistics.median(y / x for x, y in zip(ours["seconds"], side["seconds"], strict=True))
        by_cpu = statistics.median(y / x for x, y in zip(ours["cpu_s"], side["cpu_s"], strict=True))
        seconds, right = sum(side["seconds"]), [float(one) for one, _ in side["items"]]
        told[name] = {"seconds": seconds, "cpu_s": sum(side["cpu_s"]), "ratio": ratio, "cpu_ratio": by_cpu}
        told[name]["accuracy"] = statistics.fmean(right)
        print(
            f"{name:<10}{len(right) / seconds:>9.2f}{seconds:>9.1f}{sum(side['cpu_s']):>8.1f}{ratio:>8.2f}x"
            f"{by_cpu:>7.2f}x{statistics.fmean(right):>10.4f}{max(side['others']):>8.1%}"
        )
        if name == "eval":
            continue
        pairs = list(zip(ours["items"], side["items"], strict=True))
        apart_by = mean([float(x[0]) - float(y[0]) for x, y in pairs])
        low, high = apart_by.low, apart_by.high
        apart = max(abs(x - y) for one, other in pairs for x, y in zip(one[1], other[1], strict=True))
        alike = "yes" if low <= 0.0 <= high else "NO"
        print(
            f"{'':<10}accuracy, eval less {name}: {low:+.4f} to {high:+.4f} (as theirs: {alike}); "
            f"log-probabilities at most {apart:.3g} apart"
        )
        worst |= not low <= 0.0 <= high
        asked = OVER_SINGLE if name == "single" else OVER_HARNESS
        print(f"{'':<10}asked {asked}x: {'met' if ratio >= asked else 'NOT met'}")
        worst |= ratio < asked
    if a.json is not None:
        a.json.write_text(json.dumps({"benchmark": "evals", "machine": machine(), "sides": told}, indent=1) + "\n")
    return int(worst)


if __name__ == "__main__":
    began = time.monotonic()
    status = main()
    print(f"{time.monotonic() - began:.0f} s")
    sys.exit(status)
