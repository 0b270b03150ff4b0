"""Random replies with things to find in them, and what must be true of whatever leaves.

What was planted, and which calls were made, is known from how a reply was made: nothing of `herd.safety.reading` or of
the parser of calls decides what counts.
"""

import json
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any

from herd.engine.request import Finish, SamplingOptions, Step, TokenLogprob
from herd.events import (
    CallArgumentsEvent,
    CallEndEvent,
    CallStartEvent,
    DoneEvent,
    Logprob,
    Reply,
    TextEvent,
    Timings,
    Usage,
)
from herd.llm.answers import Sample
from herd.safety import RULES, Layers, Settings, scan
from herd.safety.policy import Mode
from herd.safety.rules import WHERE
from herd.text.calls import CallParser

TOOLS = ("send", "look_up", "note")
WORDS = (
    "so we go on with words", "and then", "12 of 40", "e.g. this:", "漢字とかな", "Größe 3,5 m", "a.b", "x=1;", "\n\n",
    "- item\n", '"quoted"', "C:\\new\\table", "1. ", "(see 2)", "https://docs.example/path?q=1", "½", "🙂", "v1.2.3",
)  # fmt: skip
PLANTED = tuple(sample for rule in RULES if "output" in WHERE[rule.kind] for sample in rule.positive)
HALVED = (
    "jane.doe@mail.example.org",
    "sk-" + "a1B2c3D4e5F6g7H8i9J0k1L2",
    "ghp" + "_a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
)
"""Of which half may stand in text and half in a call."""


APART = "\n\n;;\n\n;;\n\n"
"""Between texts, so that one scan reads them all; no shape of a rule goes over it."""


@dataclass
class Made:
    """A reply as it was made: what the model writes, and what that means."""

    written: str = ""
    texts: list[str] = field(default_factory=lambda: [""])
    """Between the calls."""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    halved: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.written += text
        self.texts[-1] += text

    def call(self, random: Random, arguments: dict[str, Any]) -> None:
        name = random.choice(TOOLS)
        text = json.dumps({"name": name, "parameters": arguments}, ensure_ascii=random.random() < 0.5)
        if random.random() < 0.3:
            text = text.replace("@", "\\u0040").replace("-", "\\u002d")
        self.written += text
        self.calls.append((name, arguments))
        self.texts.append("")


def words(random: Random) -> str:
    return " ".join(random.choices(WORDS, k=random.randrange(1, 8)))


def value(random: Random, planted: str | None) -> Any:
    """A value of an argument with something in it, or without."""
    text = words(random) if planted is None else f"{random.choice(('', words(random) + ' '))}{planted}"
    forms = [text, [1, text], {"inner": [{"deep": text}]}, {"a": None, "b": text}]
    if planted is not None and planted == text:
        forms.append({text: True})
    return random.choice(forms)


def made(random: Random) -> Made:
    """A random reply. Without finds in a third of the cases."""
    found = Made()
    clean = random.random() < 0.34
    for _ in range(random.randrange(1, 5)):
        planted = None if clean or random.random() < 0.5 else random.choice(PLANTED)
        match random.randrange(4):
            case 0:
                found.say(words(random) + " ")
            case 1:
                found.say(f" {words(random) if planted is None else planted} ")
            case 2:
                found.call(random, {"to": value(random, planted), "n": random.randrange(100)})
            case 3 if not clean:
                halved = random.choice(HALVED)
                cut = random.randrange(6, 12)
                found.say(f"{words(random)} {halved[:cut]}")
                found.call(random, {"to": halved[cut:]})
                found.halved.append(halved)
    return found


def finds(made: Made) -> set[tuple[str, str]]:
    """(rule, what it finds) in the texts, in what is left of them together, and in every decoded text of a call."""
    texts = [*made.texts, *(text for _, arguments in made.calls for text in decoded(arguments))]
    whole = APART.join([*texts, "".join(made.texts)])
    return {(f.rule.id, whole[f.start : f.end]) for f in scan(whole, RULES, "output")} | {
        ("halved", text) for text in made.halved
    }


def decoded(value: Any) -> list[str]:
    """All texts of a value, names too."""
    if isinstance(value, dict):
        return [text for name, member in value.items() for text in (name, *decoded(member))]
    if isinstance(value, list):
        return [text for element in value for text in decoded(element)]
    return [] if value is None or isinstance(value, bool) else [value if isinstance(value, str) else json.dumps(value)]


@dataclass
class Left:
    """What left: text of the stream, calls of the stream, everything as one, and the reply."""

    text: str
    calls: list[tuple[str, dict[str, Any]]]
    everything: str
    reply: Reply


def leave(random: Random, written: str, layers: Layers, *, reason: str = "stop", most: int | None = None) -> Left:
    """Have it leave past a policy, in random tokens. most: characters of one."""
    reading = SimpleNamespace(holding=False)
    finish = Finish(reason, Usage(1, 1, 0), Timings(0.0, 0.0, 0.0, 0.0, 0.0))  # type: ignore[arg-type]
    job: Any = SimpleNamespace(
        number=0, reading=reading, request=SimpleNamespace(options=SamplingOptions(logprobs=0), seed=1, ids=[0])
    )
    reading.finish = lambda _: finish
    spelt: list[str] = []
    sample = Sample(
        job,
        lambda x: Logprob(x.token_id, spelt[x.token_id], x.logprob),
        policy=layers,
        calls=CallParser(dict.fromkeys(TOOLS, ("to",))),
        one_call=False,
    )
    longest = most or random.choice((1, 4, 12, 60))
    out: list[Any] = []
    at = 0
    while at < len(written):
        piece = written[at : at + random.randrange(1, longest + 1)]
        at += len(piece)
        spelt.append(piece)
        out += sample.take(Step(len(spelt) - 1, piece, TokenLogprob(len(spelt) - 1, -1.0, ())))
        if sample.over:
            break
    if not sample.over:
        out += sample.take(Step(None, "", None, finish))
    return left(out, spelt)


def left(events: list[Any], spelt: list[str]) -> Left:
    text, calls, everything = "", [], []
    reply: Reply | None = None
    fragments: dict[int, str] = {}
    for event in events:
        match event:
            case TextEvent():
                text += event.text
                everything.append("".join(x.text for x in event.logprobs or ()))
            case CallStartEvent():
                everything.append(event.name)
            case CallArgumentsEvent():
                fragments[event.call_index] = fragments.get(event.call_index, "") + event.fragment
            case CallEndEvent():
                calls.append((event.call.name, dict(event.call.arguments)))
                everything += decoded(event.call.arguments)
            case DoneEvent():
                reply = event.reply
    assert reply is not None
    everything += [
        *fragments.values(),
        text,
        reply.text,
        "".join(spelt[i] for i in reply.ids),
        "".join(x.text for x in reply.logprobs or ()),
    ]
    everything += [str(reply.to_dict()), text + "".join("".join(decoded(call)) for _, call in calls)]
    return Left(text, calls, "\n".join(everything), reply)


def problems(random: Random, mode: Mode) -> list[str]:
    """What is wrong with what leaves of one random reply."""
    this = made(random)
    layers = Layers(Settings(mode))
    gone = leave(random, this.written, layers, reason=random.choice(("stop", "length")) if this.texts[-1] else "stop")
    wanted = finds(this)
    notes = gone.reply.notes
    whole = gone.text == "".join(this.texts) and gone.calls == this.calls
    wrong = []
    if not wanted and (notes or (not whole and not _trimmed(this, gone))):
        wrong.append(f"a false note or a change without a find: {[(n.rule, n.decision) for n in notes]}")
    if wanted and not notes:
        wrong.append(f"nothing noted of {sorted(wanted)}")
    if mode == "observe":
        return wrong + [f"said {n.decision}" for n in notes if n.decision != "observe"]
    for rule, text in wanted:
        if text in gone.everything if len(text) > 2 else text in gone.text:
            wrong.append(f"{rule} left: {text!r}")
    known = {rule for rule, _ in wanted}
    halves = ("personal.email", "secret.openai", "secret.github", "secret.assigned")
    wrong += [f"a note of {n.rule}, which is not there" for n in notes if n.rule not in known | set(halves)]
    blocked = [n for n in notes if n.decision == "block"]
    if bool(blocked) != (gone.reply.finish_reason == "policy") or len(blocked) > 1:
        wrong.append(f"said {[n.decision for n in notes]}, ended by {gone.reply.finish_reason}")
    if mode == "block" and len(blocked) != bool(notes):
        wrong.append("a note of something else than the end")
    if not blocked and notes and gone.text == "".join(this.texts):
        wrong.append("a note of a mark, and no mark")
    return wrong


def _trimmed(this: Made, gone: Left) -> bool:
    """White space after a call is no text where another follows, or the end."""
    return "".join(gone.text.split()) == "".join("".join(this.texts).split()) and gone.calls == this.calls
