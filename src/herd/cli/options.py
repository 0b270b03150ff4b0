"""Flags of commands that run a model. One flag for each field of SamplingOptions, made from the struct itself."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import click
import msgspec

from herd.cli.counts import ContextSize, Size
from herd.engine.request import SamplingOptions
from herd.errors import UsageError, fail
from herd.planning.layers import KV_DTYPES

F = TypeVar("F", bound=Callable[..., Any])

HELP = {
    "temperature": "0: always the likeliest token; higher: more varied.",
    "top_k": "Draw from the k likeliest tokens; 0: from all.",
    "top_p": "Draw from the likeliest tokens that together have this probability.",
    "min_p": "Draw from tokens at least this fraction as likely as the likeliest.",
    "repetition_penalty": "Above 1: tokens already seen become less likely.",
    "presence_penalty": "Taken off the logit of tokens already said.",
    "frequency_penalty": "The same, once for each time they were said.",
    "repetition_window": "How many last tokens the repetition penalty looks at; 0: all.",
    "logit_bias": "Added to a token's logit; can be given several times.",
    "seed": "The same seed, prompt and options give the same text.",
    "max_tokens": "End the answer after this many tokens.",
    "stop": "End the answer before this text; can be given several times.",
    "stop_ids": "End the answer at this token id; can be given several times.",
    "logprobs": "With --json: log-probabilities, of this many alternatives too.",
    "ignore_eos": "Go on when the model ends its answer.",
    "grammar": "What the answer must be: json, schema:TEXT, lark:TEXT, regex:TEXT, or schema:@FILE and so on.",
    "speculate": "auto: guess several tokens at once where that is faster; the text is the same.",
}
"""One line for every field; a field without one is a failing test."""

_SPECIAL = {"max_tokens": ("-m",), "stop_ids": ("--stop-id",)}


class Bias(click.ParamType[tuple[int, float]]):
    """ID=VALUE."""

    name = "id=value"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, float]:
        """Read what someone typed."""
        if isinstance(value, tuple):
            return value
        left, _, right = str(value).partition("=")
        try:
            return int(left), float(right)
        except ValueError:
            self.fail(f"{value!r} is not ID=VALUE, like 42=-100", param, ctx)


class GrammarText(click.ParamType[str]):
    """json, or KIND:TEXT, or KIND:@FILE."""

    name = "kind:text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read what someone typed; a file's content takes its place."""
        kind, _, text = str(value).partition(":")
        if not text.startswith("@"):
            return str(value)
        try:
            return f"{kind}:{Path(text[1:]).read_text(encoding='utf-8')}"
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"{text[1:]}: {error}", param, ctx)


def sampling(command: F) -> F:
    """Add a flag for each field of SamplingOptions."""
    for field in reversed(msgspec.structs.fields(SamplingOptions)):
        name = field.name
        flags = (*_SPECIAL.get(name, ()), "--" + name.replace("_", "-"))
        if name == "stop_ids":
            flags = _SPECIAL[name]
        command = click.option(*flags, name, help=HELP[name], **_kind(name, field.type))(command)
    return command


def _kind(name: str, type_: Any) -> dict[str, Any]:
    """click's words for a field's type. Not given means None or (): the model's own default."""
    if name == "logit_bias":
        return {"type": Bias(), "multiple": True}
    if name == "max_tokens":
        return {"type": Size()}
    if name == "grammar":
        return {"type": GrammarText()}
    if type_ is bool:
        return {"is_flag": True, "default": None}
    if type_ == tuple[str, ...]:
        return {"type": str, "multiple": True, "metavar": "TEXT"}
    if type_ == tuple[int, ...]:
        return {"type": int, "multiple": True, "metavar": "ID"}
    if get_origin(type_) is Literal:
        return {"type": click.Choice(get_args(type_))}
    plain = {float: float, int: int, int | None: int}
    assert type_ in plain, f"SamplingOptions.{name}: no flag for the type {type_}"
    return {"type": plain[type_]}


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling options that someone typed, in the struct's own types, out of a command's arguments."""
    options = {n: values[n] for n in SamplingOptions.__struct_fields__ if values.get(n) not in (None, ())}
    if "logit_bias" in options:
        options["logit_bias"] = dict(options["logit_bias"])
    return options


def parse_setting(name: str, text: str) -> Any:
    """The value of `/set NAME TEXT`, checked as a flag's is. Raises UsageError."""
    import json

    name = name.replace("-", "_")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    if name == "logit_bias" and isinstance(value, dict):
        value = {int(k) if k.lstrip("-").isdigit() else k: v for k, v in value.items()}
    if name in ("temperature", "top_p", "min_p") and isinstance(value, str):
        fail(UsageError, name, got=text, expected="a number")
    checked = SamplingOptions().with_({name: value})
    return text if name == "grammar" else getattr(checked, name)  # a session's options are kept as JSON


def loading(command: F) -> F:
    """Add the flags of `herd.load`."""
    for option in (
        click.option(
            "--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to compute."
        ),
        click.option("--ops", type=click.Choice(["auto", "native", "torch"]), default="auto", hidden=True),
        click.option(
            "--chat-format",
            metavar="NAME",
            help="llama4, llama4-hf, llama3, chatml, plain, or template: the file's own.",
        ),
        click.option("--threads", type=click.IntRange(1, 4096), help="Threads to compute with."),
        click.option(
            "--ctx",
            "context",
            type=ContextSize(),
            help="Tokens of prompt and answer together: 8192, 32K; auto: as many as fit in memory.",
        ),
        click.option(
            "--kv",
            type=click.Choice(["auto", *KV_DTYPES]),
            default="auto",
            help="Numbers of the cache; int8 and int4 take less memory. auto: bf16.",
        ),
        click.option("--force", is_flag=True, help="Load even if the model seems not to fit."),
        click.option("--mmproj", metavar="FILE", type=click.Path(), help="The vision part of a GGUF model."),
        click.option("--no-pack", is_flag=True, help="Do not repack a quantised file into the store; slower."),
    ):
        command = option(command)
    return command


def load_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `herd.load` out of a command's, the flags of `loading`."""
    names = ("context", "chat_format", "threads", "ops", "device", "kv", "force", "mmproj")
    return {**{name: values[name] for name in names}, "pack": not values["no_pack"]}


def changing(values: Mapping[str, Any]) -> list[str]:
    """The flags of loading that change what a model says, where somebody gave them: as results tell of them."""
    flags = {"kv": values["kv"], "chat_format": values["chat_format"], "ctx": values["context"]}
    return [f"{name}={value}" for name, value in flags.items() if value not in (None, "auto")]
