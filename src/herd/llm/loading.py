"""From a name or a path to everything an LLM consists of: what `herd.load` decides, in this order.

which file, how long a context, which tokenizer and chat format, which defaults, which operations, does it fit, load
"""

import gc
import os
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from herd.checkpoint.open import open_checkpoint
from herd.checkpoint.opened import Checkpoint
from herd.checkpoint.strip_pieces import native_pack
from herd.config import DynamicScaling, Llama4Config
from herd.engine.defaults import LLAMA, SMOLLM2, sampling_defaults
from herd.engine.executors.child import ChildExecutor
from herd.engine.executors.executor import Executor
from herd.engine.request import SamplingOptions
from herd.engine.runner import Runner
from herd.errors import MissingExtra, UsageError, fail
from herd.llm.dialog_writing import DialogWriting
from herd.llm.load_options import PARALLEL, Context, LoadOptions
from herd.llm.side_processes import command_of
from herd.machine.memory import available_bytes
from herd.model import place_weights
from herd.ops.contract import Ops
from herd.planning.context import USUAL, auto_context
from herd.planning.memory import check_fits, need, weights_bytes
from herd.progress import Progress, silent
from herd.store.auto_pack import packed_for
from herd.store.registry import stem_of
from herd.text.chat import TEMPLATE, ChatFormat, choose_format
from herd.text.chat_other import SMOLLM2_SYSTEM, ChatML
from herd.text.chat_template import templates_of
from herd.text.tokenizer import Tokenizer

PIECE = 512
"""Prompt rows a pass."""

FRONT_FIELDS = ("bos_id", "eos_ids", "pad_id", "max_context", "assumed")
"""Fields of a config with which no weight and no pass has to do."""

_promised: "weakref.WeakKeyDictionary[Runner | ChildExecutor, int]" = weakref.WeakKeyDictionary()
"""What each loaded model may take in bytes. A mapped weight or an empty page of a cache does not count as used."""


class ChildLoad(msgspec.Struct, frozen=True):
    """What a child process is told. Nothing in it is left to be decided."""

    path: str
    options: LoadOptions
    end_ids: list[int]
    """Ids that end an answer."""
    control: list[str]
    """Tokens that are control."""

    @classmethod
    def of(
        cls, path: Path, options: LoadOptions, config: Llama4Config, tokenizer: Tokenizer, chat: ChatFormat | UsageError
    ) -> "ChildLoad":
        """What a child is told of a model whose vocabulary and chat format are known here."""
        ends = sorted(end_ids(config, tokenizer, chat))
        return cls(str(path), options, ends, control_of(words_of(tokenizer, chat)))


@dataclass(frozen=True)
class ModelParts:
    """What an LLM is made of; see its constructor."""

    config: Llama4Config
    runner: Runner | Executor
    tokenizer: Tokenizer
    chat: ChatFormat | UsageError
    name: str
    path: Path
    defaults: SamplingOptions
    size_bytes: int
    load_s: float
    checkpoint: Checkpoint | None
    """The open files that weights are mapped from; None: they are another engine's."""
    parallel: int
    queue: int
    grammar_s: float
    grammar_bytes: int
    pack: bool
    """Whether quantised files are repacked for the operations."""
    ops: str
    """What computes, by name."""


@dataclass(frozen=True)
class Opened:
    """What is known of a model before anything of it is packed or loaded."""

    name: str
    config: Llama4Config
    tokenizer: Tokenizer
    chat: ChatFormat | UsageError
    """The error: none is known, so that it cannot chat."""
    context: int
    """Tokens that it is going to hold."""


def check_load(model: str | Path, options: LoadOptions) -> None:
    """Raise what of `options` is wrong for a model, from its headers alone. What is left to a load is whether memory is
    there."""
    from herd.store import stored

    with open_checkpoint(stored.resolve(model), mmproj=options.mmproj) as checkpoint:
        _check_context(options.context, checkpoint.config)
        if options.chat_format is not None:
            tokenizer = checkpoint.load_tokenizer()
            if options.chat_format != TEMPLATE or tokenizer.template is None:  # one that is there runs as it is loaded
                _chat_format(tokenizer, options.chat_format, run=False)


def read_model(
    model: str | Path,
    options: LoadOptions,
    progress: Progress = silent,
    check: Callable[[Opened], None] | None = None,
    *,
    run_template: bool = True,
) -> ModelParts:
    """What `options` make of a name or a path; see `herd.load` for what is raised. run_template: whether the model's
    own chat template may run: never where the engine computes."""
    from herd.store import stored

    began_s = time.monotonic()
    _check_callbacks(progress, check)
    _check_name(model)
    place = stored.look_up(model)
    path, name = place.path, stem_of(place.path) if place.name is None else str(model)
    checkpoint = open_checkpoint(path, mmproj=options.mmproj)
    try:
        config = checkpoint.config
        _check_context(options.context, config)
        tokenizer = checkpoint.load_tokenizer()
        chat = _chat_format(tokenizer, options.chat_format, run=run_template)
        defaults = defaults_of(checkpoint.advice, chat, options.seed)
        op_set = _op_set(options.ops, options.threads, options.device)
        size = _size(name, checkpoint, options, op_set)
        if check is not None:
            check(Opened(name, config, tokenizer, chat, size.context))
        pack = options.pack and op_set.name == "native" and native_pack() is not None
        checkpoint = packed_for(checkpoint, pack=pack, progress=progress, threads=getattr(op_set, "threads", None))
        runner: Runner | ChildExecutor
        if options.engine == "child":
            told = replace(options, context=size.context, pack=pack, chat_format=None)
            runner = _start(ChildLoad.of(path, told, config, tokenizer, chat), progress)
        else:
            runner = _runner(config, checkpoint, op_set, size, options.parallel)
        _promised[runner] = size.total_bytes
        size_bytes = checkpoint.size_bytes
    except BaseException:
        checkpoint.close()
        raise
    return ModelParts(
        config=config,
        runner=runner,
        tokenizer=tokenizer,
        chat=chat,
        name=name,
        path=path,
        defaults=defaults,
        size_bytes=size_bytes,
        load_s=time.monotonic() - began_s,
        checkpoint=checkpoint,
        parallel=options.parallel,
        queue=options.queue,
        grammar_s=options.grammar_s,
        grammar_bytes=options.grammar_bytes,
        pack=pack,
        ops=op_set.name,
    )


def _check_callbacks(progress: object, check: object) -> None:
    """Raise UsageError for what cannot be called."""
    if not callable(progress):
        fail(UsageError, "progress", got=type(progress).__name__, expected="what is called with stage, done and total")
    if check is not None and not callable(check):
        fail(UsageError, "check", got=type(check).__name__, expected="what is called with what was opened")


class _Size(NamedTuple):
    """How much of a model a load takes."""

    context: int
    """Tokens."""
    kv_dtype: str
    """Numbers of the cache."""
    total_bytes: int
    """The most memory that it may take."""


def _size(name: str, checkpoint: Checkpoint, options: LoadOptions, op_set: Ops) -> _Size:
    """The size that options ask for, or that fits. Raises DoesNotFit."""
    config, kv_dtype, parallel = checkpoint.config, _kv_dtype(options, op_set), options.parallel
    engine = options.engine
    on_cpu = options.device == "cpu"
    available = available_bytes() if on_cpu else card_bytes(options.device)
    # torch on the CPU may hold every weight as float32, native and a card hold them as the file has them
    by_file = op_set.name == "native" or not on_cpu
    held = checkpoint.size_bytes if by_file else weights_bytes(config, 32)
    gc.collect()  # models that were closed have promised nothing
    context = context_for(options.context, config, held, available, kv_dtype, parallel, engine)
    if available is not None and not options.force:
        check_fits(name, config, held, context, available, kv_dtype, PIECE, parallel, engine=engine)
    needed = need(config, held, context, kv_dtype, PIECE, parallel, engine=engine)
    return _Size(context, kv_dtype, needed.total_bytes)


def _runner(config: Llama4Config, checkpoint: Checkpoint, op_set: Ops, size: _Size, parallel: int) -> Runner:
    """The model in this process. Raises what reading weights raises."""
    with checkpoint.reading():
        weights = place_weights(op_set, checkpoint.load())
    return Runner(
        config,
        weights,
        op_set,
        context=size.context,
        kv_dtype=size.kv_dtype,
        piece=PIECE,
        sequences=parallel,
        check=checkpoint.check_readable,
    )


def _kv_dtype(options: LoadOptions, op_set: Ops) -> str:
    if options.kv != "auto":
        return options.kv
    return "bf16" if op_set.name == "native" or options.device != "cpu" else "f32"


def _start(load: ChildLoad, progress: Progress) -> ChildExecutor:
    """Start a child and wait until it has loaded. Raises what loading raises there, and EngineDied."""
    return ChildExecutor(command_of("herd.llm.child"), msgspec.msgpack.encode(load), progress=progress)


def open_same(path: str | Path, config: Llama4Config, pack: bool) -> Checkpoint:
    """Open a checkpoint whose weights can stand in for those of a loaded model: its config is the same, but for the ids
    that begin and end a text. Raises NotFound, BadFile and its kinds, and UsageError naming the first field that
    differs."""
    from herd.store import stored

    _check_name(path)
    checkpoint = open_checkpoint(stored.resolve(path))
    try:
        for field in fields(config):
            got, expected = getattr(checkpoint.config, field.name), getattr(config, field.name)
            if field.name not in FRONT_FIELDS and got != expected:
                fail(UsageError, f"{path}: {field.name}", got=got, expected=f"{expected}, as the loaded model has it")
        return packed_for(checkpoint, pack=pack)
    except BaseException:
        checkpoint.close()
        raise


def end_ids(config: Llama4Config, tokenizer: Tokenizer, chat: ChatFormat | UsageError) -> frozenset[int]:
    """Ids that end an answer."""
    ends = frozenset(config.eos_ids) | tokenizer.eos_ids
    return ends | chat.stop_ids if isinstance(chat, ChatFormat) else ends


def words_of(tokenizer: Tokenizer, chat: ChatFormat | UsageError) -> Tokenizer:
    """A vocabulary, in which the markers of its chat format are control."""
    return chat.tokenizer if isinstance(chat, ChatFormat) else tokenizer


def control_of(words: Tokenizer) -> list[str]:
    """The texts of a vocabulary's control tokens."""
    return [text for text, i in words.added.items() if i in words.control_ids]


def card_bytes(device: str) -> int | None:
    """Free memory of a CUDA card."""
    import torch

    return int(torch.cuda.mem_get_info(device)[0])


def context_for(
    asked: Context,
    config: Llama4Config,
    held_bytes: int,
    available: int | None,
    kv_dtype: str = "bf16",
    parallel: int = PARALLEL,
    engine: str = "thread",
) -> int:
    """Tokens of context that a load gets. held_bytes: of its weights; available: bytes, None when that is unknown."""
    if isinstance(asked, int):
        return min(asked, config.max_context)
    if asked is None or available is None:
        return min(config.max_context, USUAL)
    promised = sum(_promised.values())
    return auto_context(config, held_bytes, available, kv_dtype, PIECE, parallel, promised=promised, engine=engine)


def _check_name(model: object) -> None:
    """Raise UsageError for what can name neither a model nor a file."""
    if not isinstance(model, str | Path):
        fail(UsageError, "model", got=type(model).__name__, expected="a name or a path")
    try:
        usable = model != "" and b"\0" not in os.fsencode(model)
    except UnicodeEncodeError:
        usable = False
    if not usable:
        fail(UsageError, "model", got=str(model), expected="a name or a path")


def _check_context(asked: object, config: Llama4Config) -> None:
    if asked is None or (isinstance(asked, str) and asked == "auto"):
        return
    if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= config.max_context:
        why = "; its RoPE scaling is dynamic" if isinstance(config.rope_scaling, DynamicScaling) else ""
        fail(UsageError, "context", got=asked, expected=f"1 to the model's own, {config.max_context}{why}")


def _chat_format(tokenizer: Tokenizer, name: str | None, *, run: bool) -> ChatFormat | UsageError:
    """The format; an unknown one is no obstacle to `complete`, so the error is kept for the first chat. run: whether a
    template may run."""
    writes = partial(DialogWriting, templates_of(tokenizer)) if run else None
    try:
        return choose_format(tokenizer, tokenizer.template, name, writes)
    except UsageError as error:
        if name is not None:
            raise
        return error


def format_of(tokenizer: Tokenizer, name: str | None) -> ChatFormat | UsageError:
    """The chat format of that name, or as `herd.text.chat` chooses; the error that a chat gets, where none is known.
    The model's own template runs in a process that can be killed."""
    return _chat_format(tokenizer, name, run=True)


def defaults_of(advice: Mapping[str, float], chat: ChatFormat | UsageError, seed: int | None) -> SamplingOptions:
    """What calls use where they say nothing: what a checkpoint recommends, else its makers."""
    return sampling_defaults(advice, _makers_advice(chat)).with_({"seed": seed})


def _makers_advice(chat: ChatFormat | UsageError) -> SamplingOptions:
    is_smollm2 = isinstance(chat, ChatML) and chat.default_system == SMOLLM2_SYSTEM
    return SMOLLM2 if is_smollm2 else LLAMA


def _op_set(name: str, threads: int | None, device: str) -> Ops:
    if name == "native" and device != "cpu":
        fail(UsageError, "ops native", got=f"device {device}", expected="cpu", do="use ops torch there")
    if name == "torch" or device != "cpu":
        try:
            import torch
        except ImportError:
            what = "ops torch" if device == "cpu" else f"device {device}"
            fail(MissingExtra, f"{what}: PyTorch is not installed", do="pip install torch, into Herd's environment")
        from herd.ops.torch import TorchOps

        if threads is not None:
            torch.set_num_threads(threads)
        return TorchOps(device, torch.float32 if device == "cpu" else torch.bfloat16)
    from herd.ops.native import NativeOps

    return NativeOps(threads=threads or 0)
