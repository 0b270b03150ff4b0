"""What a call may say beside its dialog or prompt and the sampling options; and what follows from tools and schemas."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import msgspec

from herd.dialogs import ImageLike
from herd.engine.adapters import check_name
from herd.engine.request import MAX_TOKENS
from herd.engine.request_checks import MOST_SAMPLES, check_whose
from herd.errors import HerdError, UsageError, fail
from herd.grammar.json_schema import parsed
from herd.grammars import Grammar
from herd.llm.function_tools import ToolLike, definitions
from herd.llm.keywords import ChatOptions, CompleteOptions
from herd.policies import Policy
from herd.text.call_parameters import types_of
from herd.text.calls import CallParser, call_grammar, parameters_of
from herd.text.calls_or_answer import CallsOrAnswer, calls_or_answer_grammar
from herd.text.chat import ChatFormat
from herd.text.template_turns import check_variables
from herd.text.tokenizer import Tokenizer
from herd.text.tools import function_of
from herd.value_checks import flag, known, many, shown, text, whole

CHOICES = ("auto", "none", "required")
JSON_KINDS = ("json", "schema")
"""Kinds of grammars that ask for JSON: beside tools the answer is that or calls."""
MARKERS = ("<|python_start|>", "<|python_end|>", "<|python_tag|>")
"""Control tokens that Llama models put around calls."""


@dataclass(frozen=True, kw_only=True)
class CallOptions:
    """Keyword arguments of `chat`, `stream` and their twins; all others are fields of SamplingOptions. Their types as
    callers see them stand in `herd.llm.keywords`."""

    system: str | None = None
    images: Sequence[ImageLike] = ()
    """`pathlib.Path`s or bytes, shown before the text of the last user turn."""
    tools: Sequence[ToolLike] | None = None
    """Definitions with name, description and parameters (a JSON schema), or OpenAI's form of them; or Python functions,
    whose name, hints and docstring make one (`herd.llm.function_tools`)."""
    tool_choice: str = "auto"
    """auto: the model decides; none: tools are shown and calls stay text; required: it must call; or the name of the
    one tool that it must call."""
    parallel_tool_calls: bool = True
    """Whether one answer may hold several calls."""
    chat_template_kwargs: Mapping[str, str | int | float | bool | None] | None = None
    """What the model's own chat template is told besides (`enable_thinking`); other formats have no use for it."""
    schema: Any = None
    """What the answer must be: True for any JSON object, a JSON schema, or a type that has one (dataclass, msgspec,
    pydantic). With tools, the answer is calls or fits it."""
    policy: Policy | None = None
    trace: str | Path | None = None
    """A file that gets the routing, as JSON lines."""
    n: int = 1
    """Answers to one prompt, which is computed once; answer i draws with seed + i."""
    progress: bool = False
    """Whether a stream tells how much of the prompt is read, before the answer begins."""
    client: str = ""
    """Whose it is; clients share the engine fairly."""
    tenant: str = ""
    """Cached prompts are shared within it only."""
    priority: int = 0
    """Higher goes first."""
    timeout_s: float | None = None
    """Seconds after which it fails with TimedOut."""
    adapter: str | None = None
    """Name of the adapter that answers (`LLM.add_adapter`); None: the model's own weights alone."""
    leave: bool = False
    """Whether it may leave the house: a model of files sends nobody anything, whatever is said."""
    continue_final_message: bool = True
    """Whether a last turn of the assistant's is gone on with; else it is over, and another one is opened."""
    raw: bool = False
    """Whether control tokens that a text to go on with spells become those tokens."""
    ceiling: int | None = None
    """Most tokens of prompt and answer together; None: the context. Memory grows with use in any case."""

    def __post_init__(self) -> None:
        for name in ("tool_choice", "client", "tenant"):
            text(name, getattr(self, name))
        if self.system is not None:
            text("system", self.system)
        many("images", self.images)
        if self.tools is not None:
            object.__setattr__(self, "tools", definitions(many("tools", self.tools)))
        flag("parallel_tool_calls", self.parallel_tool_calls)
        flag("raw", self.raw)
        flag("leave", self.leave)
        flag("continue_final_message", self.continue_final_message)
        if self.chat_template_kwargs is not None:
            check_variables("chat_template_kwargs", self.chat_template_kwargs)
        if self.policy is not None and not _is_policy(self.policy):
            fail(UsageError, "policy", got=type(self.policy).__name__, expected="a Policy")
        if self.trace is not None and not isinstance(self.trace, str | Path):
            fail(UsageError, "trace", got=type(self.trace).__name__, expected="the path of a file")
        whole("n", self.n, 1, MOST_SAMPLES)
        flag("progress", self.progress)
        if self.adapter is not None:
            check_name(self.adapter)
        check_whose(self.client, self.priority, self.timeout_s)
        if self.ceiling is not None:
            whole("ceiling", self.ceiling, 1, MAX_TOKENS)

    @property
    def definitions(self) -> Sequence[Mapping[str, Any]]:
        """The tools as objects, functions as their definition: so they stand in `tools` once that is checked."""
        return cast(Sequence[Mapping[str, Any]], self.tools or ())

    @classmethod
    def of(
        cls, arguments: Mapping[str, Any], names: Collection[str] = ChatOptions.__annotations__
    ) -> "tuple[CallOptions, dict[str, Any]]":
        """Arguments of a call, and those that are none of its own: sampling options, as a rule. Raises UsageError for
        one that is none of these names, with the nearest of them and all."""
        known("option", arguments, names)
        own = {name: value for name, value in arguments.items() if name in _NAMES}
        return cls(**own), {name: value for name, value in arguments.items() if name not in _NAMES}

    def grammar(self, chat: Callable[[], ChatFormat]) -> Grammar | None:
        """What the answer must be. Raises UsageError for what is too long, or a tool that is none; whether it can be
        enforced is told where it is tried."""
        names = [function_of(tool)["name"] for tool in self.definitions]
        if self.tool_choice not in (*CHOICES, *names):
            fail(UsageError, "tool_choice", got=self.tool_choice, expected=", ".join((*CHOICES, *names)))
        forced = self.tool_choice not in ("auto", "none")
        if forced and not names:
            fail(UsageError, "tool_choice", got=self.tool_choice, expected="tools to choose from")
        schema = _schema(self.schema)
        if not forced:
            return schema
        tools = [function_of(tool) for tool in self.definitions]
        only = None if self.tool_choice == "required" else self.tool_choice
        parallel = self.parallel_tool_calls and only is None
        return Grammar("lark", call_grammar(tools, chat().call_form, only=only, parallel=parallel))

    def may_call_instead(self, grammar: Grammar | None) -> bool:
        """Whether the answer may be calls in place of JSON that a grammar asks for: where the model decides."""
        return bool(self.tools) and self.tool_choice == "auto" and grammar is not None and grammar.kind in JSON_KINDS

    def calls_or(self, grammar: Grammar, chat: ChatFormat) -> Grammar:
        """What the answer must be there. Raises UsageError for what is too long, or no JSON."""
        tools = [function_of(tool) for tool in self.definitions]
        answer = parsed(grammar.text) if grammar.kind == "schema" else {"type": "object"}
        parallel = self.parallel_tool_calls
        return Grammar("lark", calls_or_answer_grammar(tools, answer, chat.call_form, parallel=parallel))

    def calls(
        self, tokenizer: Tokenizer, chat: Callable[[], ChatFormat], *, instead: bool = False
    ) -> Callable[[], CallParser | CallsOrAnswer] | None:
        """What finds calls in one answer; None where there are none to find. instead: whether the answer may be calls
        in place of JSON that a grammar asks for."""
        if not self.tools or self.tool_choice == "none":
            return None
        definitions, form = [function_of(tool) for tool in self.definitions], chat().call_form
        tools, types = parameters_of(definitions), types_of(definitions) if form.own else {}
        markers = [tokenizer.added[name] for name in MARKERS if name in tokenizer.added]
        forced = instead or self.tool_choice != "auto"

        def parser() -> CallParser:
            return CallParser(tools, markers, forced=forced, form=form, types=types)

        return (lambda: CallsOrAnswer(parser(), list(tools), form)) if instead else parser

    def parse(self) -> Callable[[str], Any] | None:
        """What reads a whole answer that was to fit a schema; None without one."""
        return None if self.schema is None or self.schema is False else lambda text: _parsed(text, self.schema)


_POLICY = ("before", "window", "after")
_NAMES = frozenset(field.name for field in fields(CallOptions))
_COMPLETION = tuple(CompleteOptions.__annotations__)
_OF_DIALOGS = tuple(name for name in ChatOptions.__annotations__ if name not in CompleteOptions.__annotations__)


def _is_policy(given: Any) -> bool:
    """Whether it has all that a Policy has."""
    return isinstance(getattr(given, "hold_tokens", None), int) and all(
        callable(getattr(given, name, None)) for name in _POLICY
    )


def of_completion(arguments: Mapping[str, Any]) -> tuple[CallOptions, dict[str, Any]]:
    """Arguments of a call that goes on with a text; see `CallOptions.of`. Raises UsageError for what needs a dialog."""
    for name in _OF_DIALOGS:
        if name in arguments:
            fail(UsageError, name, got="it without a chat format", do="use chat")
    return CallOptions.of(arguments, _COMPLETION)


def one_answer(arguments: Mapping[str, Any]) -> None:
    """Raise UsageError for a call that gives one whole answer and is asked for several, or to tell of progress."""
    n = arguments.get("n", 1)
    if type(n) is not int or n != 1:
        fail(UsageError, "n", got=shown(n), expected="1", do="use chat_samples or stream for several answers")
    whole_answers(arguments)


def whole_answers(arguments: Mapping[str, Any]) -> None:
    """Raise UsageError for a call that gives whole answers and is asked to tell of progress."""
    progress = arguments.get("progress", False)
    if progress is not False:
        fail(UsageError, "progress", got=shown(progress), expected="False", do="use stream to be told of it")


def check_names(kind: str, arguments: Mapping[str, Any]) -> None:
    """Raise UsageError for a keyword of a call with many dialogs or prompts (kind) that is neither an option of these
    nor an argument of the call, with the nearest of both and all."""
    names = (ChatOptions if kind == "dialog" else CompleteOptions).__annotations__
    unknown = [name for name in arguments if name not in ChatOptions.__annotations__]
    known("option", unknown, (*names, f"per_{kind}", "return_errors"))


def for_each(
    name: str, options: Mapping[str, Any], own: Any, count: int, check: Callable[[Mapping[str, Any], bool], object]
) -> list[Mapping[str, Any]]:
    """Options of each of `count` requests of one call: those of all, with its own laid over them.

    own: None, or a list of as many. check: raises what is wrong with options, and is told whether they are all that a
    request has. Raises UsageError for what is wrong with them, naming the place where it stands in `own`.
    """
    one_answer(options)
    check(options, own is None)
    if own is None:
        return [options] * count
    if len(many(name, own)) != count:
        fail(UsageError, name, got=f"{len(own)} of them", expected=f"{count}, one a request")
    found: list[Mapping[str, Any]] = []
    for i, one in enumerate(own):
        if not isinstance(one, Mapping):
            fail(UsageError, f"{name}[{i}]", got=type(one).__name__, expected="options by name")
        found.append({**options, **one})
        try:
            one_answer(found[-1])
            check(found[-1], True)
        except UsageError as error:
            raise type(error)(f"{name}[{i}]: {error}") from None
    return found


def _schema(schema: Any) -> Grammar | None:
    if schema is None or schema is False:
        return None
    if schema is True:
        return Grammar("json")
    try:
        return Grammar("schema", json.dumps(json_schema(schema)))
    except (TypeError, ValueError, RecursionError) as error:
        if isinstance(error, HerdError):
            raise
        fail(UsageError, "schema", got=f"what JSON cannot say ({str(error)[:80]})", expected="a JSON schema")


def _parsed(text: str, schema: Any) -> Any:
    """The value that a text spells, as an object where the schema is a type; None if it is none."""
    try:
        if schema is True or isinstance(schema, Mapping):
            return json.loads(text)
        own = getattr(schema, "model_validate_json", None)  # pydantic's
        return own(text) if own is not None else msgspec.json.decode(text, type=schema)
    except (
        ValueError,
        RecursionError,
    ):  # a policy may have changed the text; a type may check more than its schema says
        return None


def json_schema(schema: Any) -> Mapping[str, Any]:
    """A JSON schema: as given, or of a type. Raises UsageError for what has none."""
    if isinstance(schema, Mapping):
        return schema
    own = getattr(schema, "model_json_schema", None)  # pydantic's
    try:
        return own() if own is not None else msgspec.json.schema(schema)
    except Exception as error:  # a type's own, or a hint in it that is not there
        why = "".join(str(error).splitlines()[-1:])[:80]
        got = f"{schema!r} ({why})" if isinstance(schema, type) else schema
        fail(UsageError, "schema", got=got, expected="True, a JSON schema, or a type that has one")
