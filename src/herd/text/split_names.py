"""The names of splits in files: GGUF's `tokenizer.ggml.pre`, and the pre-tokenizers of tokenizer.json.

An unknown one is refused: with a wrong split a model still answers, only worse.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from herd.errors import BadTokenizer, fail
from herd.text import special
from herd.text.split_steps import DIGITS, STEPS
from herd.text.splits import LLAMA4, LLAMA_BPE, PATTERNS, QWEN2, TEKKEN


class Named(NamedTuple):
    """What the name in a GGUF file stands for.

    split  name of the split
    whole  a piece that is itself a token is taken whole, whatever the merges say (Meta's rule; tokenizer.json says it
           as `ignore_merges`)
    bos    a text begins with the first token where the file does not say
    note   what was assumed, or empty
    """

    split: str
    whole: bool = False
    bos: bool = False
    note: str = ""


def _named(split: str, names: str, *, whole: bool = False) -> dict[str, Named]:
    return dict.fromkeys(names.split(), Named(split, whole, whole))


# As llama.cpp reads them. It merges under the name llama4; Meta's own vocabulary, from which such files come, takes
# pieces whole.
_GGUF: Mapping[str, Named] = {
    **_named("llama4", "llama4", whole=True),
    **_named("llama4", "gpt-4o kanana2 talkie"),
    **_named("llama-bpe", "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2", whole=True),
    **_named("llama-bpe", "smaug-bpe dbrx glm4 chatglm-bpe"),
    **_named("tekken", "tekken", whole=True),
    **_named("qwen2", "qwen2 deepseek-r1-qwen megrez stablelm2 kormo hunyuan grok-2 solar-open"),
    **_named("smollm", "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2"),
    **_named("gpt-2", "gpt-2 phi-2 mpt olmo jais gigachat a.x-4.0 mellum trillion exaone4 granite-docling"),
    **_named("deepseek-llm", "deepseek-llm"),
    **_named("deepseek-coder", "deepseek-coder"),
    **_named("deepseek-v3", "deepseek-v3 hunyuan-dense joyai-llm"),
}
_EXPECTED = "one of " + ", ".join(("llama-bpe", "llama4", "smaug-bpe", "tekken")) + " and others in docs/formats.md"
_LLAMA3_TOKENS, _LLAMA4_TOKENS = 128_000, 200_000
"""Ordinary ones; the special ones follow them."""


def from_gguf(pre: object, tokens: Collection[str], where: str) -> Named:
    """What a file's `tokenizer.ggml.pre` stands for; missing or "default", what its tokens look like. `where` names the
    file in errors. Raises BadTokenizer."""
    if pre is None or pre == "default":
        return _guessed(pre, list(tokens), where)
    if not isinstance(pre, str) or pre not in _GGUF:
        fail(BadTokenizer, f"{where}: tokenizer.ggml.pre", got=pre, expected=_EXPECTED)
    return _GGUF[pre]


def gguf_name(split: str, whole: bool) -> tuple[str, bool]:
    """The name for a split in GGUF, and whether it says of whole pieces what is asked for."""
    for name, found in _GGUF.items():
        if found.split == split and found.whole == whole:
            return name, True
    return next(name for name, found in _GGUF.items() if found.split == split), False


def _guessed(pre: object, tokens: list[str], where: str) -> Named:
    what = "no tokenizer.ggml.pre" if pre is None else f"tokenizer.ggml.pre {pre!r}"
    for name, first, named in (
        ("llama-bpe", _LLAMA3_TOKENS, special.LLAMA3),
        ("llama4", _LLAMA4_TOKENS, special.LLAMA4),
    ):
        if tokens[first : first + 2] == [*named[:2]]:
            return _GGUF[name]._replace(note=f"{what}: read as {name}, whose size and first special tokens it has")
    return fail(
        BadTokenizer,
        f"{where}: {what}",
        expected=_EXPECTED,
        do="convert the model anew with a program that writes it",
    )


def from_pre_tokenizer(structure: object, where: str) -> str:
    """The split's name for the `pre_tokenizer` of a tokenizer.json."""
    steps = _steps(structure)
    for name, known in _STRUCTURES.items():
        if steps in known:
            return name
    return fail(BadTokenizer, f"{where}: pre_tokenizer", got=_summary(structure), expected=_one_of({*PATTERNS, *STEPS}))


def _summary(structure: object) -> str:
    """The types in a pre-tokenizer: enough to know it by, and short whatever the file holds."""
    if not isinstance(structure, dict):
        return type(structure).__name__
    inner = structure.get("pretokenizers")
    names = (
        [str(part.get("type"))[:20] for part in inner[:8] if isinstance(part, dict)] if isinstance(inner, list) else []
    )
    return f"{str(structure.get('type'))[:20]}({', '.join(names)})"


def _one_of(names: Iterable[str]) -> str:
    return "one of " + ", ".join(sorted(names))


def _steps(structure: object) -> tuple[Any, ...] | None:
    """A pre-tokenizer as a tuple of (type, what matters of it), defaults filled in; None if it is not one we know."""
    if not isinstance(structure, dict):
        return None
    kind = structure.get("type")
    if kind == "Sequence":
        inner = structure.get("pretokenizers")
        if not isinstance(inner, list) or not 0 < len(inner) <= 8:
            return None
        parts = [_step(part) for part in inner]
    else:
        parts = [_step(structure)]
    return None if None in parts else tuple(parts)


def _step(part: object) -> tuple[Any, ...] | None:
    if not isinstance(part, dict):
        return None
    match part.get("type"):
        case "ByteLevel" if not part.get("add_prefix_space", True):
            return ("bytes", bool(part.get("use_regex", True)))
        case "Digits":
            return ("digits", bool(part.get("individual_digits", False)))
        case "Split" if part.get("behavior") == "Isolated" and not part.get("invert", False):
            pattern = part.get("pattern")
            text = pattern.get("Regex") if isinstance(pattern, dict) and len(pattern) == 1 else None
            return ("split", text) if isinstance(text, str) else None
        case _:
            return None


# GPT-2's rule as its own authors wrote it: the same pieces as ours.
_GPT2_ORIGINAL = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_BYTES_ONLY, _BYTES_GPT2 = ("bytes", False), ("bytes", True)
# What `tokenizers` can be told in two ways is known in both.
_STRUCTURES: Mapping[str, tuple[tuple[Any, ...], ...]] = {
    "llama4": ((("split", LLAMA4), _BYTES_ONLY),),
    "llama-bpe": ((("split", LLAMA_BPE), _BYTES_ONLY),),
    "tekken": ((("split", TEKKEN), _BYTES_ONLY),),
    "qwen2": ((("split", QWEN2), _BYTES_ONLY),),
    "smollm": ((("digits", True), _BYTES_GPT2), (("split", r"\p{N}"), _BYTES_GPT2)),
    "gpt-2": ((_BYTES_GPT2,), (("split", _GPT2_ORIGINAL), _BYTES_ONLY)),
    **{
        name: ((*(("split", step) for step in steps), *([("digits", True)] if name in DIGITS else []), _BYTES_ONLY),)
        for name, steps in STEPS.items()
    },
}


def to_pre_tokenizer(split: str) -> dict[str, Any]:
    """The `pre_tokenizer` of a tokenizer.json for a split."""
    steps = [_written(*step) for step in _STRUCTURES[split][0]]
    return steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}


def _written(kind: str, value: Any) -> dict[str, Any]:
    match kind:
        case "bytes":
            return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": value}
        case "digits":
            return {"type": "Digits", "individual_digits": value}
    return {"type": "Split", "pattern": {"Regex": value}, "behavior": "Isolated", "invert": False}
