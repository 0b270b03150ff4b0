"""What went wrong at the other side, as errors of a kind: each says what to do next, none holds a key.

    Full       it has no place or quota now (429, 503)
    Absent     nobody answers there, or not in time
    Withdrawn  it has no such model any more
    TooLong    the prompt is longer than its context
    Denied     it takes neither this key nor this account
    Blocked    its own rules keep the text from the model
    Lacks      it cannot do what the request asks for: images, tools
    Broken     what it sent is no answer: HTML, a cut stream, a second answer
    Unfit      it refuses the request as it is

`reason_of` names the kind of any error, those of models in the house included, for whoever falls over to another
one. What it is not: what is sent again (`herd.backends.transport`).
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Literal, TypeAlias

from herd.backends.target import Secret, Target
from herd.errors import (
    WORDS,
    Busy,
    ContextTooLong,
    EngineDied,
    HerdError,
    LimitReached,
    NetworkError,
    NotFound,
    NotReady,
    StaysHere,
    Unsupported,
    UsageError,
    Withheld,
    printable,
)

Reason: TypeAlias = Literal[
    "full", "absent", "withdrawn", "context", "refused", "broken", "unfit", "private", "unsupported"
]
LOOKED_AT = 4096
"""Characters of a strange text that are looked at to make a line of it."""


class Full(Busy):
    """The other side has no place or quota for it now."""

    reason: ClassVar[Reason] = "full"


class Absent(NetworkError):
    """Nobody answers there, or not in time."""

    reason: ClassVar[Reason] = "absent"


class Withdrawn(NotFound):
    """The other side does not have the model, or not any more. Asking again does not help."""

    reason: ClassVar[Reason] = "withdrawn"


class TooLong(ContextTooLong):
    """The prompt is longer than the context at the other side."""

    reason: ClassVar[Reason] = "context"


class Denied(NetworkError):
    """The other side takes neither this key nor this account."""

    reason: ClassVar[Reason] = "refused"


class Blocked(Withheld):
    """Rules of the other side keep the text from the model."""

    reason: ClassVar[Reason] = "refused"


class Lacks(Unsupported):
    """The model or the engine at the other side cannot do what the request asks for. Asking again does not help."""

    reason: ClassVar[Reason] = "unsupported"


class Broken(NetworkError):
    """What the other side sent is no answer."""

    reason: ClassVar[Reason] = "broken"


class Unfit(UsageError):
    """The other side refuses the request as it is."""

    reason: ClassVar[Reason] = "unfit"


_KINDS: tuple[tuple[type[HerdError], Reason], ...] = (
    (StaysHere, "private"),
    (LimitReached, "refused"),
    (Busy, "full"),
    (ContextTooLong, "context"),
    (Withheld, "refused"),
    (Unsupported, "unsupported"),
    (NotReady, "absent"),
    (EngineDied, "absent"),
    (NotFound, "withdrawn"),
    (NetworkError, "absent"),
)
"""Reasons of errors that are not of this module, models in the house being backends of a route, too."""
_GONE = (
    "model_not_found",
    "model_decommissioned",
    "model_not_available",
    "deploymentnotfound",
    "unknown_model",
    "model_not_supported",
)
_LONG = ("context_length_exceeded", "context_window_exceeded", "exceed_context_size_error", "string_above_max_length")
_POLICY = ("content_filter", "content_policy_violation", "contentfilter", "moderation_blocked")
_SPENT = ("insufficient_quota", "quota_exceeded", "billing_hard_limit_reached")
_NAMED: Mapping[str, type[HerdError]] = {
    **dict.fromkeys(("throttlingexception", "servicequotaexceededexception", "modelnotreadyexception"), Full),
    "serviceunavailableexception": Full,
    **dict.fromkeys(("internalserverexception", "modelstreamerrorexception", "modelerrorexception"), Absent),
    "modeltimeoutexception": Absent,
    "resourcenotfoundexception": Withdrawn,
    **dict.fromkeys(("accessdeniedexception", "unrecognizedclientexception", "expiredtokenexception"), Denied),
}
"""What Bedrock names its errors, in its answers and in its streams alike."""
_LONG_WORDS = (
    *("maximum context length", "context length", "context window", "exceeds the available context"),
    *("input is too long", "prompt is too long"),
    "cannot be greater than max_model_len",  # vLLM, of max_tokens
)
_GONE_WORDS = ("model identifier is invalid", "on-demand throughput isn")
"""Bedrock's: no model of that name, or one that only a profile such as us.NAME reaches."""
_LACKS_WORDS = (
    *("image input is not supported", "is not a multimodal model", "support image input"),
    *("this model doesn't support", "this model does not support"),
    *("choice requires --enable-auto-tool-choice", "requires --jinja flag", "support tool use", "not support tools"),
)
"""What llama-server (with a 500), vLLM, OpenRouter, Ollama and Bedrock say of what they cannot take."""
_AGAIN = frozenset({408, 409, 425, 429})
_DO: Mapping[type[HerdError], str] = {
    Full: "ask again later, or another one",
    Absent: "see whether it runs and its address is right: herd backend test",
    Withdrawn: "choose a model that it has: herd backend test",
    TooLong: "shorten it, or choose a backend with a larger context",
    Denied: "give it another key: herd backend add",
    Blocked: "change the text, or ask another one",
    Lacks: "leave it out, or choose a backend that has it",
    Broken: "see whether its address is right: herd backend test",
    Unfit: "change the request, or ask another one",
}


def reason_of(error: BaseException) -> Reason | None:
    """Why a backend did not answer; None: the error is of the request itself, or a fault of ours."""
    known: Reason | None = getattr(error, "reason", None)
    if known is not None:
        return known
    return next((reason for kind, reason in _KINDS if isinstance(error, kind)), None)


def failure(kind: type[HerdError], target: Target, what: str, words: str = "") -> HerdError:
    """An error of a kind on one line: who, what, its first words if there are any, and what to do next."""
    told = f": {told_words(words, target.key)!r}" if words else ""
    return kind(f"{target.name}: {what}{told}; {_DO[kind]}")


def told_words(words: str, key: Secret | None) -> str:
    """The first words of a strange text on a line: without the key, should they repeat it, and with nothing that does
    not print."""
    words = words[:LOOKED_AT]
    words = " ".join((words if key is None else key.hide_in(words)).split())
    return printable(words if len(words) <= WORDS else words[: WORDS - 1] + "…")


def of_status(target: Target, status: int, body: Any, words: str, name: str = "") -> HerdError:
    """The failure that a status tells, and what came with it. body: its JSON, or None. words: its text otherwise. name:
    what a header calls it."""
    names, said = _told(body, name)
    said = said or words
    kind = _kind(status, names, said)
    return failure(kind, target, f"answered {status}", said)


def of_event(target: Target, body: Mapping[str, Any]) -> HerdError:
    """The failure that an event of a stream, or a whole answer that should be one, tells in place of an answer."""
    names, said = _told(body)
    told = (int(name) for name in names if name.isascii() and name.isdigit() and len(name) == 3)
    status = next(told, 400 if "validationexception" in names else 500)
    return failure(_kind(status, names, said), target, "broke off with an error", said)


def sent_again(status: int, body: Any, name: str = "") -> bool:
    """Whether a request with an answer of this status may be sent once more: the same one could be answered then. name:
    what a header calls it."""
    names, said = _told(body, name)
    never = names & {*_SPENT, *_GONE, *_LONG} or _says(said, _LACKS_WORDS)
    return (status in _AGAIN or status >= 500) and not never


def _kind(status: int, names: frozenset[str], words: str) -> type[HerdError]:
    """What a status and the names that an error goes by stand for."""
    if _says(words, _LACKS_WORDS):
        return Lacks
    if names & {*_GONE}:
        return Withdrawn
    if names & {*_LONG} or (status in (400, 413, 422, 500) and _says(words, _LONG_WORDS)):
        return TooLong
    if names & {*_POLICY}:
        return Blocked
    if known := names & _NAMED.keys():
        return _NAMED[min(known)]
    if status == 400 and _says(words, _GONE_WORDS):
        return Withdrawn
    if status in (429, 503, 529) or names & {*_SPENT}:
        return Full
    if status in (401, 402, 403, 407):
        return Denied
    if status in (404, 410):
        return Withdrawn
    if status < 400:
        return Broken
    return Unfit if 400 <= status < 500 and status not in (408, 424) else Absent


def _says(words: str, parts: tuple[str, ...]) -> bool:
    """Whether a text of the other side says one of these, in whatever case."""
    lower = words[:LOOKED_AT].lower()
    return any(part in lower for part in parts)


def _told(body: Any, named: str = "") -> tuple[frozenset[str], str]:
    """The names that an error goes by (its code and type, in lower case), and its words. Hosts and engines put them
    into `error`, which may be a text, or beside it. named: what a header calls it, before a colon."""
    if not isinstance(body, Mapping):
        return _names([named.partition(":")[0]]), ""
    inner = body.get("error")
    places = [inner, body] if isinstance(inner, Mapping) else [body]
    names = [place.get(key) for place in places for key in ("code", "type", "error_type", "__type")]
    words = [inner, *(place.get(key) for place in places for key in ("message", "Message", "detail"))]
    said = next((one for one in words if isinstance(one, str) and one), "")
    about = inner.get("metadata") if isinstance(inner, Mapping) else None
    if isinstance(about, Mapping) and "flagged_input" in about:  # OpenRouter's way to say it
        names.append("moderation_blocked")
    return _names([named.partition(":")[0], *names]), said


def _names(told: Iterable[Any]) -> frozenset[str]:
    """Names in lower case, without the space of names that stands before some (aws.bedrock#ThrottlingException)."""
    found = {
        str(one).lower().rpartition("#")[2] for one in told if isinstance(one, str | int) and not isinstance(one, bool)
    }
    return frozenset(name for name in found if 0 < len(name) <= 64)
