"""What is wrong with a command's flags and files, found before anything is packed or loaded.

Some flags are wrong by themselves (`check_flags`), others for a model: `for_model` looks at them when its headers are
open. What it is not: what the parser finds, a rule of its own (`SamplingOptions`, `Grammars` and the model have those).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from herd.chat_model import refuse
from herd.cli import options
from herd.cli.replies import more_context
from herd.engine.request import SamplingOptions
from herd.errors import ContextTooLong, NotFound, UsageError, fail
from herd.grammars import Grammar

if TYPE_CHECKING:
    from herd.llm.loading import Opened
    from herd.text.tokenizer import Tokenizer

ROUTING = b'{"position": '
"""What a file of --trace begins with."""


def check_flags(values: Mapping[str, Any], images: Sequence[str] = (), *, as_json: bool = False) -> SamplingOptions:
    """Check what was typed by itself: sampling options, a grammar, the files that are read or written; returns the
    options. as_json: whether all of the answer is shown. Raises UsageError, NotFound."""
    chosen = SamplingOptions().with_(options.given(values))
    if chosen.logprobs is not None and not as_json:
        refuse_logprobs()
    if chosen.grammar is not None and not names_tokens(chosen.grammar):
        from herd.text.tokenizer import Tokenizer

        plain = Tokenizer.bytes_only()
        check_grammar(chosen.grammar, plain, plain.specials.values())
    for path in images:
        if not Path(path).is_file():
            fail(NotFound, f"no image {path}")
    if values["trace"] is not None:
        check_trace(Path(values["trace"]))
    return chosen


def names_tokens(grammar: Grammar) -> bool:
    """Whether a grammar may name tokens of a vocabulary (<|eot|>): any other one is as right over single bytes."""
    return grammar.kind == "lark" and "<" in grammar.text


def refuse_logprobs() -> NoReturn:
    """Raise UsageError: log-probabilities would be computed for nobody."""
    fail(UsageError, "logprobs: an answer as text shows none", do="herd run MODEL PROMPT --json --logprobs N")


def check_grammar(grammar: Grammar, tokenizer: "Tokenizer", end_ids: Collection[int]) -> None:
    """Compile it over a vocabulary. Raises UsageError."""
    from herd.grammar.masks import Grammars

    Grammars(tokenizer, end_ids).matcher(grammar)


def check_trace(path: Path) -> None:
    """Raise unless a trace can be written there: into a folder that is there, over nothing but an older trace."""
    if not path.parent.is_dir():
        fail(NotFound, f"--trace: no folder {path.parent}", do="make it first")
    if path.is_dir():
        fail(UsageError, f"--trace: {path} is a folder", do="name a file")
    if not path.is_file():  # not there, or a device
        return
    with path.open("rb") as file:
        begins = file.read(len(ROUTING))
    if begins not in (b"", ROUTING):
        fail(UsageError, f"--trace: {path} is there and is no trace", do="name another file")


def for_model(
    chosen: SamplingOptions,
    *,
    images: Sequence[str] = (),
    trace: str | None = None,
    text: str = "",
    raw: bool = False,
) -> "Callable[[Opened], None]":
    """What looks at the same flags, and at the prompt, beside a model's config and vocabulary (the `check` of
    `herd.load`). raw: no chat format is needed. Raises UsageError and its kinds."""

    def check(model: "Opened") -> None:
        if isinstance(model.chat, UsageError) and not raw:
            raise model.chat
        ends = model.tokenizer.eos_ids | frozenset(model.config.eos_ids)
        if chosen.grammar is not None and names_tokens(chosen.grammar) and ends:
            check_grammar(chosen.grammar, model.tokenizer, ends)
        chosen.fits(min(model.tokenizer.vocab_size, model.config.vocab_size))
        if images and model.config.vision is None:
            refuse(model.name, "images")
        if trace is not None and not any(layer.moe for layer in model.config.layers):
            fail(UsageError, "--trace", got="a dense model", expected="a model with experts")
        if chosen.max_tokens is not None and chosen.max_tokens > model.context:
            expected = f"at most the context, {model.context}"
            fail(
                UsageError,
                "max_tokens",
                got=chosen.max_tokens,
                expected=expected,
                do=more_context(model.context, model.config.max_context),
            )
        if len(text.encode()) > model.context:  # each token has a byte or more
            used = len(model.tokenizer.encode(text))
            if used > model.context:
                what = f"the prompt has {used} tokens, the context holds {model.context}"
                fail(ContextTooLong, what, do=more_context(model.context, model.config.max_context))

    return check
