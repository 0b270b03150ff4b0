"""lm-evaluation-harness over a model of Herd, in this process: its `LM` class, and its own command line with it.

    herd eval smollm2 --lm-eval capitals.yaml          a task of one's own, or the name of one of the harness's
    python -m herd.evals.harness run --model herd --model_args model=smollm2 --tasks ...

Its tasks take their data from a hub unless they name local files, and may hold Python that runs: whoever names one
trusts it. Conventions are the harness's: which tokens are a continuation's, windows of long texts. What it is not:
Herd's own tasks (`herd.evals.tasks`). Wants the extra `lm-eval`.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from herd.chat_model import ChatModel
from herd.errors import BadFile, MissingExtra, NotFound, UsageError, fail

TOGETHER = 16
"""Answers that are under way at once."""
MAX_TOKENS = 256
"""The most tokens of an answer where a task does not say: the harness's own number."""
MAX_FILE = 1 << 20
"""Characters of a task's file in which its name is looked for."""
KNOWN = ("until", "max_gen_toks", "max_tokens", "temperature", "do_sample", "top_p", "top_k", "seed")
"""What of a task's generation_kwargs is understood; any other is refused."""


class Harnessed:
    """A model of Herd as lm-evaluation-harness asks one: what its `LM` leaves to be defined (`lm_class`)."""

    def __init__(self, model: str | ChatModel, **options: Any) -> None:
        """model: a name or path that `herd.load` takes, with its options, or a model that is loaded already. The
        harness's own batch_size, max_batch_size and device mean nothing here: passes are filled as they come. Raises
        what `herd.load` raises, Unsupported where the model cannot score."""
        super().__init__()
        for name in ("batch_size", "max_batch_size", "device"):
            options.pop(name, None)
        if isinstance(model, str):
            from herd.llm import load

            model = load(model, **options)
        elif options:
            fail(UsageError, "options", got=", ".join(options), expected="none, of a model that is loaded")
        model.capabilities.require(model.name, "scores")
        model.capabilities.require(model.name, "ids")
        self._model: Any = model
        self._prefix = _first_id(model)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(log-probability of the continuation, whether a greedy answer would be it) of each (context, continuation).
        Raises ContextTooLong: nothing is cut off."""
        pairs: list[Any] = []
        for context, continuation in (request.args for request in requests):
            if context == "":
                pairs.append(([self._prefix], self._model.tokenize(continuation)))
            else:
                pairs.append((context, continuation))
        return [(score.logprob, score.is_greedy) for score in self._model.score(pairs)]

    def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
        """The log-probability of each whole text, in windows as long as the context where it is longer."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        pairs: list[Any] = []
        counts: list[int] = []
        for (text,) in (request.args for request in requests):
            windows = [
                make_disjoint_window(window)
                for window in get_rolling_token_windows(
                    self._model.tokenize(text), self._prefix, self._model.context, 1
                )
            ]
            pairs += windows
            counts.append(len(windows))
        scores = iter(self._model.score(pairs))
        return [sum(next(scores).logprob for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """An answer to each (context, generation_kwargs). Raises UsageError for a kwarg that is not understood."""
        asked = [(context, _options(given)) for context, given in (request.args for request in requests)]
        with ThreadPoolExecutor(TOGETHER, "herd-harness") as threads:
            return list(threads.map(lambda one: self._model.complete(one[0], **one[1]).text, asked))


@cache
def lm_class() -> Any:
    """The class of a model of Herd, known to the harness as `herd`. Raises MissingExtra where the harness is not
    installed."""
    try:
        from lm_eval.api.model import LM
        from lm_eval.api.registry import register_model
    except ImportError as error:
        raise MissingExtra("lm-evaluation-harness is not installed; pip install 'llama-herd[lm-eval]'") from error
    return register_model("herd")(type("HerdLM", (Harnessed, LM), {"__doc__": Harnessed.__doc__}))


def _first_id(model: ChatModel) -> int:
    """What stands before a text that begins: the vocabulary's first token, else its last one."""
    tokenizer = getattr(model, "tokenizer", None)
    found = [i for name in ("bos_id", "eos_id") if (i := getattr(tokenizer, name, None)) is not None]
    if not found:
        fail(UsageError, model.name, got="a vocabulary without a first or last token", expected="one")
    return int(found[0])


def _options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `complete` from a task's generation_kwargs."""
    for name in given:
        if name not in KNOWN:
            fail(UsageError, f"generation_kwargs: {name}", expected=", ".join(KNOWN))
    until = given.get("until") or []
    temperature = given.get("temperature") or 0.0
    options: dict[str, Any] = {
        "stop": [until] if isinstance(until, str) else [stop for stop in until if stop],
        "max_tokens": given.get("max_gen_toks", given.get("max_tokens", MAX_TOKENS)),
        "temperature": temperature if given.get("do_sample", temperature > 0) else 0.0,
    }
    return options | {name: given[name] for name in ("top_p", "top_k", "seed") if name in given}


def evaluate(model: ChatModel, tasks: Sequence[str], *, limit: int | None = None) -> dict[str, dict[str, Any]]:
    """Results of lm-evaluation-harness by task: metrics by name. tasks: names of its own, or paths of .yaml files.

    Raises MissingExtra, NotFound for a file that is not there or a task that it does not know, BadFile for a file that
    is no task.
    """
    lm = lm_class()(model)
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    files = [Path(name) for name in tasks if name.endswith((".yaml", ".yml"))]
    for path in files:
        if not path.is_file():
            fail(NotFound, f"no file {path}")
    folders = sorted({str(path.absolute().parent) for path in files})
    manager = TaskManager(include_path=folders or None, include_defaults=len(files) < len(tasks))
    names = [_name_in(Path(name)) if Path(name) in files else name for name in tasks]
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        fail(NotFound, f"lm-evaluation-harness knows no task {unknown[0]}", do="give the path of a .yaml file")
    found = simple_evaluate(model=lm, tasks=names, task_manager=manager, limit=limit, log_samples=False)
    return {name: dict(row) for name, row in found["results"].items()}


def _name_in(path: Path) -> str:
    """The name of the task in a file. Its other fields are the harness's to read."""
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = file.read(MAX_FILE).splitlines()
    named = (line.partition(":")[2].strip().strip("\"'") for line in lines if line.startswith("task:"))
    found = next(filter(None, named), None)
    if found is None:
        fail(BadFile, path.name, got="no line `task: NAME`", expected="a task of lm-evaluation-harness")
    return found


def main() -> None:
    """lm-evaluation-harness's own command line, which knows `--model herd` then."""
    lm_class()
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
