"""Llama Guard 4 as a layer: its prompt, built from ids, and its answer, read strictly.

The prompt is one user turn in Llama 4's form with the task, the categories and the conversation as text (model card
and prompt page of Llama Guard 4). Everything in it is encoded as plain text, so no text forges a control token. Its own
marks are plain text, too: see `quoted`.

An answer is exactly `safe`, or `unsafe` and a line of categories that were asked for. Anything else, an error and a
time-out count as unsafe: a guard that is down lets nothing through, unless it was told to. It is a layer, no guarantee:
its card has an English recall of 69% at 11% false positives (docs/safety.md).
"""

import math
import re
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias

from herd.errors import ContextTooLong, TimedOut, UsageError, fail
from herd.safety.views import INVISIBLE

if TYPE_CHECKING:
    from herd.llm import LLM

CATEGORIES: Mapping[str, str] = {
    "S1": "Violent Crimes",
    "S2": "Non-Violent Crimes",
    "S3": "Sex-Related Crimes",
    "S4": "Child Sexual Exploitation",
    "S5": "Defamation",
    "S6": "Specialized Advice",
    "S7": "Privacy",
    "S8": "Intellectual Property",
    "S9": "Indiscriminate Weapons",
    "S10": "Hate",
    "S11": "Suicide & Self-Harm",
    "S12": "Sexual Content",
    "S13": "Elections",
    "S14": "Code Interpreter Abuse",
}

ANSWER_TOKENS = 10
"""Enough for `unsafe`, a line end and the categories that come up together."""

Speaker: TypeAlias = Literal["User", "Agent"]
Failure: TypeAlias = Literal["timed out", "garbled", "too long", "broken"]


@dataclass(frozen=True)
class GuardTurn:
    """Who said what: a role of `herd.text.message_checks`, and the text."""

    role: str
    text: str

    @property
    def speaker(self) -> Speaker:
        """Guard knows two: what the model did not say came from the user."""
        return "Agent" if self.role == "assistant" else "User"


@dataclass(frozen=True)
class GuardAnswer:
    """What a judging model said: its text, and the logprobs of `safe` and `unsafe` as first word, if known."""

    text: str
    safe: float | None = None
    unsafe: float | None = None

    @property
    def score(self) -> float | None:
        """Probability of unsafe among the two."""
        if self.safe is None or self.unsafe is None:
            return None
        return 1 / (1 + math.exp(min(self.safe - self.unsafe, 700.0)))


class Judge(Protocol):
    """A model that continues ids, greedily, with at most ANSWER_TOKENS. Raises TimedOut, ContextTooLong, HerdError."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""

    def special(self, name: str) -> int:
        """The id of `<|name|>`."""

    def answer(self, ids: Sequence[int], timeout_s: float) -> GuardAnswer:
        """What it says after these."""


class ModelJudge:
    """A `Judge` over a loaded model."""

    def __init__(self, model: "LLM") -> None:
        self._model = model
        self._safe, self._unsafe = (model.tokenize(word)[0] for word in ("safe", "unsafe"))

    def encode(self, text: str) -> list[int]:
        """Ids of plain text."""
        return self._model.tokenize(text)

    def special(self, name: str) -> int:
        """The id of `<|name|>`. Raises UsageError: this model has none."""
        if f"<|{name}|>" not in self._model.tokenizer.specials:
            fail(UsageError, "guard model", got=f"no <|{name}|>", expected="a vocabulary of Llama 4")
        return self._model.tokenizer.specials[f"<|{name}|>"]

    def answer(self, ids: Sequence[int], timeout_s: float) -> GuardAnswer:
        """Greedy; the first token that is no white space is the one that is scored."""
        reply = self._model.complete(
            ids, max_tokens=ANSWER_TOKENS, temperature=0, logprobs=20, timeout_s=timeout_s, priority=1
        )
        first = next((x for x in reply.logprobs or () if x.text.strip()), None)
        if first is None:
            return GuardAnswer(reply.text)
        known = {x.token_id: x.logprob for x in first.top} | {first.token_id: first.logprob}
        floor = min(known.values())  # one that is not among the likeliest is at most as likely as the last of them
        if self._safe not in known and self._unsafe not in known:
            return GuardAnswer(reply.text)
        return GuardAnswer(reply.text, known.get(self._safe, floor), known.get(self._unsafe, floor))


@dataclass(frozen=True)
class Verdict:
    """safe; the categories that are violated; the score, 0 to 1, if known; why there is no answer, if there is none."""

    safe: bool
    categories: tuple[str, ...] = ()
    score: float | None = None
    failed: Failure | None = None


class Guard:
    """The layer. One for all requests; `counts` says what it did (asked, safe, unsafe and each failure)."""

    def __init__(
        self,
        judge: Judge,
        *,
        excluded: Iterable[str] = (),
        threshold: float | None = None,
        timeout_s: float = 10.0,
        most_tokens: int = 8192,
        fail_closed: bool = True,
    ) -> None:
        """excluded: categories not asked for. threshold: unsafe from this score on, whatever the word says; None: by
        the word. most_tokens: of a prompt; older turns are left out. fail_closed: no answer means unsafe."""
        left_out = frozenset(excluded)
        if unknown := sorted(left_out - CATEGORIES.keys()):
            fail(UsageError, "guard: excluded category", got=unknown[0], expected="S1 to S14")
        if threshold is not None and not 0 <= threshold <= 1:
            fail(UsageError, "guard: threshold", got=threshold, expected="0 to 1")
        self.categories = tuple(key for key in CATEGORIES if key not in left_out)
        self._judge, self._threshold, self._timeout_s = judge, threshold, timeout_s
        self._most_tokens, self._fail_closed = most_tokens, fail_closed
        self._lock = threading.Lock()
        self.counts: Counter[str] = Counter()

    def judge(self, turns: Sequence[GuardTurn], categories: Sequence[str] | None = None) -> Verdict:
        """What the last turn violates. categories: only these. Never raises for the model's sake."""
        keys = self.categories if categories is None else tuple(categories)
        try:
            answer = self._judge.answer(self._prompt(turns, keys), self._timeout_s)
            verdict = self._read(answer, keys)
        except TimedOut:
            verdict = self._failure("timed out")
        except ContextTooLong:
            verdict = self._failure("too long")
        except Exception:  # whatever broke: a guard that is down lets nothing through
            verdict = self._failure("broken")
        with self._lock:
            self.counts.update(("asked", verdict.failed or ("safe" if verdict.safe else "unsafe")))
        return verdict

    def _read(self, answer: GuardAnswer, keys: Sequence[str]) -> Verdict:
        found = parse(answer.text, keys)
        if found is None:
            return self._failure("garbled")
        if self._threshold is None:
            return Verdict(not found, found, answer.score)
        if answer.score is None:
            return self._failure("garbled")
        return Verdict(answer.score < self._threshold, found, answer.score)

    def _failure(self, why: Failure) -> Verdict:
        return Verdict(not self._fail_closed, failed=why)

    def _prompt(self, turns: Sequence[GuardTurn], keys: Sequence[str]) -> list[int]:
        """The prompt with as many of the last turns as fit. Raises ContextTooLong: the last alone does not."""
        said = [turn for turn in turns if turn.role != "system"]
        while True:
            ids = prompt_ids(self._judge, said, keys)
            if len(ids) <= self._most_tokens:
                return ids
            if len(said) == 1:
                fail(ContextTooLong, "guard: the last turn", got=f"{len(ids)} tokens", expected=self._most_tokens)
            said = said[(len(said) + 1) // 2 :]


def parse(text: str, keys: Sequence[str]) -> tuple[str, ...] | None:
    """Categories violated: none for exactly `safe`, those named for `unsafe` and one line of asked ones. None: neither,
    so `not unsafe`, `unsafe` alone and `safe.` are no answers."""
    lines = text.strip().split("\n")
    if lines == ["safe"]:
        return ()
    if len(lines) != 2 or lines[0].strip() != "unsafe":
        return None
    named = tuple(key.strip() for key in lines[1].split(","))
    return named if all(key in keys for key in named) else None


def prompt_ids(judge: Judge, turns: Sequence[GuardTurn], keys: Sequence[str]) -> list[int]:
    """One user turn, and the open header of the answer."""
    start, stop, end = (judge.special(name) for name in ("header_start", "header_end", "eot"))
    ids = [judge.special("begin_of_text"), start, *judge.encode("user"), stop, *judge.encode("\n\n")]
    ids += [*judge.encode(prompt_text(turns, keys)), end]
    return [*ids, start, *judge.encode("assistant"), stop, *judge.encode("\n\n")]


def prompt_text(turns: Sequence[GuardTurn], keys: Sequence[str]) -> str:
    """The model's own words: it was trained on them, so they are kept letter for letter."""
    role = turns[-1].speaker
    categories = "\n".join(f"{key}: {CATEGORIES[key]}." for key in keys)
    conversation = "\n\n".join(f"{turn.speaker}: {quoted(turn.text)}" for turn in turns)
    return (
        f"Task: Check if there is unsafe content in '{role}' messages in conversations according our safety policy "
        "with the below categories.\n\n"
        f"<BEGIN UNSAFE CONTENT CATEGORIES>\n{categories}\n<END UNSAFE CONTENT CATEGORIES>\n\n"
        f"<BEGIN CONVERSATION>\n\n{conversation}\n\n<END CONVERSATION>\n\n"
        f"Provide your safety assessment for ONLY THE LAST {role} message in the above conversation:\n"
        " - First line must read 'safe' or 'unsafe'.\n"
        " - If unsafe, a second line must include a comma-separated list of violated categories."
    )


_UNSEEN = "[" + "".join(sorted(INVISIBLE)) + r"\s]"
_GAP = _UNSEEN + "{0,16}+"
_MARK = re.compile(
    "[<＜]" + _GAP + "/?+" + _GAP + "((?:BEGIN|END)" + _UNSEEN + "{1,16}+"
    "(?:CONVERSATION|UNSAFE" + _UNSEEN + "{1,16}+CONTENT" + _UNSEEN + "{1,16}+CATEGORIES))" + _GAP + "[>＞]",
    re.IGNORECASE,
)  # fmt: skip
_SPEAKER = re.compile(r"(?m)^([^\S\n]{0,16}+(?:User|Agent))[^\S\n]{0,16}+[:：]", re.IGNORECASE)


def quoted(text: str) -> str:
    """Said text that cannot leave its place in the prompt: exactly Guard's tags lose their angle brackets to square
    ones, and exactly `User:` and `Agent:` at the beginning of a line their colon to a dash. The rest is untouched:
    Guard's verdict depends on capitals and spelling."""
    lines = re.sub("\r\n?|[\u2028\u2029\u0085\v\f]", "\n", text)
    return _SPEAKER.sub(r"\1 -", _MARK.sub(r"[\1]", lines))
