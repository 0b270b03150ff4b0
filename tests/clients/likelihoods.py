"""lm-eval over `herd serve` beside lm-eval over transformers: the same log-likelihoods, the same scores.

    .venv/bin/python tests/clients/likelihoods.py [MODEL]

By hand: its environment (lm_eval.lock, with the processor's build of torch) takes 1.4 GB.
MODEL (smollm2) is converted to a folder in float32, which both read; the service keeps keys and values in float32, too.
The tasks are this project's own (tasks/): nothing is fetched. Prints one JSON object; exit status 1 if a log-likelihood
is further off than BOUND, a greedy flag or a score differs.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import environments
from test_real_clients import serving

HERE = Path(__file__).parent
TASKS = ("herd_choices", "herd_endings", "herd_texts")
BOUND = 0.01
RUN_S = 1800
Answers = dict[tuple[str, int], list[Any]]


def main(model: str = "smollm2") -> int:
    """Convert, evaluate twice, compare; the exit status."""
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "model", Path(name) / "out"
        subprocess.run([sys.executable, "-m", "herd", "convert", model, str(folder), "--type", "f32"], check=True)
        with serving(Path(name) / "log", str(folder), "--kv", "f32", "--ctx", "2048") as url:
            reach = f"base_url={url}/v1/completions,model=model,tokenizer={folder},tokenized_requests=True"
            evaluate("local-completions", reach, out / "herd")
        evaluate("hf", f"pretrained={folder},dtype=float32", out / "transformers")
        found = compared(out / "herd", out / "transformers")
    print(json.dumps(found, indent=2))
    return (
        0 if found["largest difference"] <= BOUND and not found["other greedy flags"] and found["scores equal"] else 1
    )


def evaluate(kind: str, arguments: str, out: Path) -> None:
    """Run lm-eval on the tasks, each answer kept."""
    command = [environments.python_of("lm_eval"), "-m", "lm_eval", "--model", kind, "--model_args", arguments]
    tasks = ["--tasks", ",".join(TASKS), "--include_path", "tasks", "--batch_size", "1"]
    kept = ["--log_samples", "--output_path", str(out)]
    subprocess.run([*map(str, command), *tasks, *kept], cwd=HERE, check=True, timeout=RUN_S)


def compared(ours: Path, theirs: Path) -> dict[str, Any]:
    """How far two runs are apart."""
    a, b = answers(ours), answers(theirs)
    assert a.keys() == b.keys() and a, (len(a), len(b))
    pairs = [(x, y) for key in a for x, y in zip(likelihoods(a[key]), likelihoods(b[key]), strict=True)]
    scores = [{task: accuracies(out, task) for task in TASKS} for out in (ours, theirs)]
    return {
        "log-likelihoods": len(pairs),
        "largest difference": max(abs(x[0] - y[0]) for x, y in pairs),
        "other greedy flags": sum(x[1:] != y[1:] for x, y in pairs),
        "scores equal": scores[0] == scores[1],
        "scores": scores[0],
    }


def answers(out: Path) -> Answers:
    """What a run kept: by task and item, the answers as they came."""
    found: Answers = {}
    for task in TASKS:
        (file,) = out.rglob(f"samples_{task}_*.jsonl")
        for line in file.read_text(encoding="utf-8").splitlines():
            item = json.loads(line)
            found[task, item["doc_id"]] = item["filtered_resps"]
    return found


def likelihoods(answer: Any) -> Iterator[list[Any]]:
    """Every log-likelihood in an answer, with its greedy flag where there is one."""
    if isinstance(answer, list) and answer and not isinstance(answer[0], list):
        yield [float(answer[0]), *map(str, answer[1:])]
    elif isinstance(answer, list):
        for one in answer:
            yield from likelihoods(one)
    else:
        yield [float(answer)]


def accuracies(out: Path, task: str) -> dict[str, Any]:
    """The accuracies that a run tells of a task."""
    (file,) = out.rglob("results_*.json")
    return {k: v for k, v in json.loads(file.read_text())["results"][task].items() if k.startswith("acc")}


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
