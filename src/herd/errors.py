"""One tree of errors. The same code and meaning in Python, over HTTP and as an exit status.

    HerdError                       code               exit  http
    ├── UsageError                  invalid_request      2   400   what the caller asked for makes no sense
    │   ├── ContextTooLong          context_length_exceeded  2   400   prompt longer than the context; never truncated
    │   ├── MissingExtra            missing_extra        2   501   an optional dependency is not installed
    │   ├── Unsupported             unsupported          2   501   what this model cannot do: token ids, tools, ...
    │   │   └── NoVision            unsupported          2   400   an image for a model that sees none
    │   └── Withheld                content_filter       2   400   a policy keeps a text from the model
    ├── NotFound                    not_found            3   404   file, model or command that does not exist
    ├── DoesNotFit                  does_not_fit         4   507   memory or disk: needed, have, what would fit
    ├── NetworkError                network              5   502
    ├── BadFile                     bad_file             2   422   a file that is not what it says it is
    │   ├── BadCheckpoint           bad_checkpoint       2   422   weights: container, names, shapes
    │   │   └── FilesChanged        bad_checkpoint       2   422   replaced, cut or unreadable since they were opened
    │   ├── BadConfig               bad_config           2   422   numbers that describe no model
    │   ├── BadTokenizer            bad_tokenizer        2   422
    │   └── BadMedia                bad_media            2   400   an image or a video
    ├── Unauthorised                invalid_api_key      1   401   no key, or one that is not known
    ├── Forbidden                   forbidden            1   403   no right to it, or an origin or host not allowed
    │   └── StaysHere               stays_here           1   403   a request that may not leave the house
    ├── LimitReached                spending_limit       1   402   what a backend may cost is spent
    ├── TooLarge                    too_large            2   413   a body or a part of it over its limit
    ├── Busy                        busy                 6   429   more requests wait than the queue holds
    │   └── QuotaSpent              quota_exceeded       6   429   a key's requests or tokens of this minute are used up
    ├── NotReady                    not_ready            6   503   a model is loading, or the service is stopping
    ├── TimedOut                    timed_out            7   504   a request's own deadline passed
    ├── PassFailed                  pass_failed          1   500   computing this request failed; others go on
    ├── SomeFailed                  some_failed          1   500   of many requests of one call; others have answers
    ├── GrammarStuck                grammar_stuck        1   422   no token continues a text as its grammar demands
    ├── EngineDied                  engine_died          1   503   the process that computes is gone
    └── Interrupted                 interrupted        130   499   Ctrl-C or a cancelled request

A message is one line: what, got, expected, what to do next. `fail(...)` writes it so.
A library never exits: `cli` turns an error into its line on stderr and its exit status.
"""

from collections.abc import Sequence
from typing import Any, NoReturn

GOT = 120
"""Characters of a value that a message tells."""
WORDS = 200
"""Characters of another's error that a message tells."""
EXPECTED = 4096
"""Characters of what would have been right: every list of names of Herd's own is told whole."""


class HerdError(ValueError):
    """Base of all errors that a user, a file or a machine can cause."""

    code = "error"
    exit_status = 1
    http_status = 500


class UsageError(HerdError):
    """The request makes no sense; nothing was done."""

    code = "invalid_request"
    exit_status = 2
    http_status = 400


class ContextTooLong(UsageError):
    """A prompt does not fit the context. Nothing is ever truncated in silence."""

    code = "context_length_exceeded"


class MissingExtra(UsageError):
    """An optional dependency is needed and not installed."""

    code = "missing_extra"
    http_status = 501


class Unsupported(UsageError):
    """A model cannot do what it is asked for; another one may."""

    code = "unsupported"
    http_status = 501


class NoVision(Unsupported):
    """An image was given to a model that sees none. Over HTTP it is 400, as it is of other services: clients know it as
    a mistake in what was sent."""

    http_status = 400


class Withheld(UsageError):
    """A policy keeps a text from the model, where no reply could say so."""

    code = "content_filter"


class NotFound(HerdError):
    """A file, model or name that does not exist."""

    code = "not_found"
    exit_status = 3
    http_status = 404


class DoesNotFit(HerdError):
    """Memory or disk is too small; the message says what is needed, what there is, and what would fit."""

    code = "does_not_fit"
    exit_status = 4
    http_status = 507


class NetworkError(HerdError):
    """A download or a remote service failed."""

    code = "network"
    exit_status = 5
    http_status = 502


class BadFile(HerdError):
    """A file is not what it says it is."""

    code = "bad_file"
    exit_status = 2
    http_status = 422


class BadCheckpoint(BadFile):
    """A weights file: its container, its tensors' names or shapes."""

    code = "bad_checkpoint"


class FilesChanged(BadCheckpoint):
    """Files of weights are no longer those that were opened, or cannot be read any more: opened anew they may be."""


class BadConfig(BadFile):
    """A configuration whose numbers describe no model that Herd runs."""

    code = "bad_config"


class BadTokenizer(BadFile):
    """A vocabulary that is broken, of an unknown kind, or does not fit the model."""

    code = "bad_tokenizer"


class BadMedia(BadFile):
    """An image or video that cannot be read safely."""

    code = "bad_media"
    http_status = 400


class Unauthorised(HerdError):
    """No key was given, or none that is known."""

    code = "invalid_api_key"
    http_status = 401


class Forbidden(HerdError):
    """What is asked for is not allowed to whoever asks: a key's rights, a host name, a page of another origin."""

    code = "forbidden"
    http_status = 403


class StaysHere(Forbidden):
    """A request would have to leave the house, and may not; nothing of it was sent, not even a name looked up."""

    code = "stays_here"


class LimitReached(HerdError):
    """A request might cost more than is left of what a person lets a backend cost; nothing was sent."""

    code = "spending_limit"
    http_status = 402


class TooLarge(HerdError):
    """A body, or a part of it, is over its limit; it was not read to its end."""

    code = "too_large"
    exit_status = 2
    http_status = 413


class Busy(HerdError):
    """The queue is full, or one client has its share of it; nothing was done, the same request may be sent again."""

    code = "busy"
    exit_status = 6
    http_status = 429
    retry_after_s = 1.0
    """When it makes sense to ask again."""


class QuotaSpent(Busy):
    """A key has used up what it may ask for in a minute."""

    code = "quota_exceeded"


class NotReady(HerdError):
    """A model is still loading, or the service is stopping."""

    code = "not_ready"
    exit_status = 6
    http_status = 503


class TimedOut(HerdError):
    """A request was not done by the time that it gave. A stream has sent what it had said by then."""

    code = "timed_out"
    exit_status = 7
    http_status = 504
    text = ""
    """What had been said by then, where the call gives whole answers (`LLM.chat`, `complete` and their twins)."""


class PassFailed(HerdError):
    """An operation failed while it computed this request. The engine and all other requests go on."""

    code = "pass_failed"


class SomeFailed(HerdError):
    """Some of the requests of one call failed; all have ended."""

    code = "some_failed"

    def __init__(self, message: str, replies: Sequence[Any] = ()) -> None:
        """replies: see there."""
        super().__init__(message)
        self.replies = list(replies)
        """What came of each request, in their order: a Reply, or the HerdError that it failed with."""


class GrammarStuck(HerdError):
    """A text cannot go on: the vocabulary spells nothing that its grammar allows, or the grammar meets a limit."""

    code = "grammar_stuck"
    http_status = 422


class EngineDied(HerdError):
    """The process or thread that computes is gone, and with it every request that was under way."""

    code = "engine_died"
    http_status = 503


class Interrupted(HerdError):
    """Stopped by the user. What was made so far is kept by whoever holds it."""

    code = "interrupted"
    exit_status = 130
    http_status = 499


def fail(error: type[HerdError], what: str, *, got: object = None, expected: object = None, do: str = "") -> NoReturn:
    """Raise `error` with one line: what, got, expected, what to do next.

    Values of `got` are cut at 120 characters, those of `expected` and `what` at 4,096; all lose control characters,
    since they, and names among them, may come from a hostile file.
    """
    parts = [_shown(what, EXPECTED)]
    if got is not None:
        parts.append(f"got {_shown(got, GOT)}")
    if expected is not None:
        parts.append(f"expected {_shown(expected, EXPECTED)}")
    line = ": ".join([parts[0], ", ".join(parts[1:])]) if len(parts) > 1 else parts[0]
    raise error(f"{line}; {do}" if do else line)


def kind_and_words(error: BaseException) -> str:
    """An error that is none of this tree on one line, such as `ValueError: bad shape`; its words cut at 200
    characters."""
    return f"{type(error).__name__}: {_cut(' '.join(str(error).split()), WORDS)}"


def herd_error(error: BaseException) -> HerdError:
    """An error as one of this tree: itself, or PassFailed with its kind and first words."""
    if isinstance(error, HerdError):
        return error
    found = PassFailed(kind_and_words(error))
    found.__cause__ = error
    return found


def printable(text: str) -> str:
    """A text of strangers as part of a line: characters that do not print are replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _shown(value: object, most: int) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except Exception:  # a number of thousands of digits, a list within a list without end
        text = f"a value of {type(value).__name__}"
    return _cut(printable(text[: most + 1]), most)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
