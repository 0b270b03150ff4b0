"""Added tokens in texts, against `tokenizers` and transformers: a hundred vocabularies with all flags, made from seeds.

A barred id is there a token that is called special, and special tokens are told to stay text.
"""

import json
import random
import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from text_samples import random_texts

from bpe_folder import write_tokenizer
from herd.checkpoint.tokenizer_files import gguf_tokenizer_keys, hf_tokenizer_texts
from herd.config import TINY
from herd.errors import BadTokenizer, ContextTooLong
from herd.messages import Message, ToolCall
from herd.text import splits
from herd.text.chat import choose_format
from herd.text.chat_other import ChatML
from herd.text.sentencepiece import CONTROL, NORMAL, UNUSED, USER_DEFINED
from herd.text.tokenizer import Tokenizer

tokenizers = pytest.importorskip("tokenizers")

MARKERS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_start|>", "<|im_end|>", "<\uff5cUser\uff5c>")
TEXTS = (
    *MARKERS,
    *("<think>\n", "<thinking>", "<|", "|im_", "|>", "<<", "the quick", "th", "aa", "aaa", "aaaa", "ab", "abc", "a b"),
    *(
        "  ",
        "    ",
        "        ",
        "\t\t",
        "\n\n",
        " \n",
        "\u3000\u3000",
        "12",
        "'s",
        "\xe9t\xe9",
        "\u0301",
        "\u200d_",
        "[INST]",
    ),
)
"""Of added tokens: some begin or end others."""
WORDS = (
    "the ",
    "quick",
    " fox",
    "a",
    "b",
    "_",
    "7",
    "\xe9",
    "\u0301",
    " ",
    "\n",
    "\x1c",
    "\x85",
    "\xa0",
    "<",
    ">",
    "|",
)
FLAGS = ("normalized", "lstrip", "rstrip", "single_word")


@cache
def _trained(split: str, folder: Path) -> str:
    write_tokenizer(folder, split)
    return (folder / "tokenizer.json").read_text()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small tokenizer.json of a split, as an object of one's own."""
    home = tmp_path_factory.mktemp("trained")
    return lambda split: json.loads(_trained(split, home / split))


def _with(file: dict[str, Any], added: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The file with further added tokens; those that its vocabulary has keep their ids."""
    flags = dict.fromkeys((*FLAGS, "special"), False)
    vocab, known = file["model"]["vocab"], [token["content"] for token in file["added_tokens"]]
    next_id = 1 + max([*vocab.values(), *(token["id"] for token in file["added_tokens"])])
    for token in added:
        if token["content"] in known:
            continue
        known.append(token["content"])
        i = vocab.get(token["content"], next_id)
        next_id += i == next_id
        file["added_tokens"].append({**flags, **token, "id": i})
    return file


def _generated(seed: int, trained: Any) -> dict[str, Any]:
    rng = random.Random(seed)
    file = trained(rng.choice(list(splits.PATTERNS)))
    own = ["".join(rng.choices("<|a>b \n", k=rng.randint(2, 5))) for _ in range(4)]
    added = []
    for text in rng.sample([*TEXTS, *own], rng.randint(1, 16)):
        flags = {name: rng.random() < rng.choice((0.0, 0.3)) for name in FLAGS}
        added.append({"content": text, **flags, "special": rng.random() < 0.3 and text not in file["model"]["vocab"]})
    return _with(file, added)


def _near(seed: int, file: dict[str, Any], count: int = 40) -> list[str]:
    """Texts of added tokens, parts of them and words."""
    rng = random.Random(seed)
    known = [token["content"] for token in file["added_tokens"]]

    def piece() -> str:
        text = rng.choice(known)
        cut = rng.randint(0, len(text))
        return rng.choice(
            (text, text, text[:cut], text[cut:], rng.choice(WORDS), rng.choice(WORDS) * rng.randint(1, 9))
        )

    return ["".join(piece() for _ in range(rng.randint(1, 14))) for _ in range(count)]


def _ids(file: dict[str, Any], texts: list[str], barred: Iterable[int] | None = None) -> list[list[int] | None]:
    """Those of `tokenizers`; None where it fails. barred: ids that stay text; None: none does."""
    file = json.loads(json.dumps(file))
    for token in file["added_tokens"] if barred is not None else ():
        token["special"] = token["id"] in barred
    oracle = tokenizers.Tokenizer.from_str(json.dumps(file))
    oracle.encode_special_tokens = barred is not None
    return [_one(oracle, text) for text in texts]


def _one(oracle: Any, text: str) -> list[int] | None:
    try:
        return oracle.encode(text, add_special_tokens=False).ids
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None  # of two tokens that take the same white space it knows none


def _ours(file: dict[str, Any], template: str | None = None) -> Tokenizer:
    return Tokenizer.from_tokenizer_json(json.dumps(file).encode(), {"chat_template": template})


@pytest.mark.parametrize("seed", range(100))
def test_a_generated_vocabulary_finds_its_added_tokens_as_tokenizers_does(seed: int, trained: Any) -> None:
    file = _generated(seed, trained)
    texts = _near(seed, file)
    vocab = file["model"]["vocab"]
    written = [t["content"] for t in file["added_tokens"] if t["content"] not in vocab][:: 1 + seed % 3]
    ours = _ours(file, "{{ x }}".join(written))
    expected = {t["id"] for t in file["added_tokens"] if t["special"]}
    markers = {text for text in written if len(text) > 1 and not text.isspace()}
    expected |= {t["id"] for t in file["added_tokens"] if t["content"] in markers}
    assert ours.control_ids >= expected, "what the template writes"
    for tokenizer, theirs in (
        (ours, _ids(file, texts, ours.control_ids)),
        (ours.for_assistant(), _ids(file, texts, ours.control_ids - ours.spoken_ids)),
        (ours.for_author(), _ids(file, texts)),
    ):
        assert theirs.count(None) < len(texts) / 4
        for text, ids in zip(texts, theirs, strict=True):
            assert ids is None or tokenizer.encode(text) == ids, text


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(0, 100, 10))
def test_ids_of_a_folder_are_those_of_transformers(seed: int, trained: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    file = _generated(seed, trained)
    rng = random.Random(seed)
    vocab = file["model"]["vocab"]
    named = rng.choice(
        [t["content"] for t in file["added_tokens"] if t["content"].strip() and t["content"] not in vocab]
    )
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": named, "clean_up_tokenization_spaces": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ours = Tokenizer.from_hf_folder(tmp_path)
    texts = _near(seed, file)
    for text, ids in zip(texts, _ids(file, texts), strict=True):
        if ids is not None:
            assert ours.for_author().encode(text) == theirs.encode(text, add_special_tokens=False) == ids, text
    assert ours.eos_ids >= {theirs.eos_token_id}


def test_flags_ask_what_unicode_asks(trained: Any) -> None:
    """Every character before and behind a token that wants a word of its own, and one that takes white space."""
    file = trained("llama-bpe")
    file = _with(
        file,
        [
            {"content": "<w>", "single_word": True},
            {"content": "<l>", "lstrip": True},
            {"content": "<r>", "rstrip": True},
        ],
    )
    known = unicodedata.ucd_3_2_0  # later characters are unknown to one or the other
    chars = [chr(i) for i in (*range(0x3100), *range(0xFE00, 0x10400)) if known.category(chr(i)) not in ("Cn", "Cs")]
    texts = [f"{c}<w>.<w>{c}.{c}<l>.<r>{c}" for c in (*chars, "\U0001d7d8", "\U00010400")]
    ours = _ours(file)
    assert [ours.encode(text) for text in texts] == _ids(file, texts, ())


def test_text_of_a_token_comes_back(trained: Any) -> None:
    file = _with(trained("llama4"), [{"content": text} for text in (*MARKERS, "    ", "\u3000\u3000")])
    ours = _ours(file)
    text = "a <think>\n    b</think>\u3000\u3000<\uff5cUser\uff5c> \xe9 <tool_call>"
    assert ours.decode(ours.for_author().encode(text), hide_specials=True) == text


def test_what_the_template_writes_is_control_for_others_and_not_all_for_the_assistant(trained: Any) -> None:
    texts = ("<think>", "</think>", "<\uff5cUser\uff5c>", "<\uff5cAssistant\uff5c>", "<free>")
    file = _with(trained("llama-bpe"), [{"content": text} for text in texts])
    template = "{% for m in messages %}<\uff5cUser\uff5c>{{ m.content }}<\uff5cAssistant\uff5c><think>{% endfor %}"
    ours = _ours(file, template)
    ids = ours.added
    assert not {ids[t] for t in texts} & set(ours.specials.values())
    assert {ids[t] for t in texts[:1] + texts[2:4]} <= ours.control_ids
    assert ids["<free>"] not in ours.control_ids
    spelt = "".join(texts)
    assert [i for i in ours.encode(spelt) if i in ids.values()] == [ids["</think>"], ids["<free>"]]
    said = [i for i in ours.for_assistant().encode(spelt) if i in ids.values()]
    assert said == [ids["<think>"], ids["</think>"], ids["<free>"]]
    assert [i for i in ours.for_author().encode(spelt) if i in ids.values()] == [ids[t] for t in texts]
    assert not ours.is_special(ids["<think>"]) and ours.is_special(ids["<\uff5cUser\uff5c>"])
    assert ours.decode([ids["<\uff5cUser\uff5c>"], ids["<think>"]], hide_specials=True) == "<think>"


def test_a_marker_that_merging_makes_is_spelt_out_for_others(trained: Any) -> None:
    file = trained("gpt-2")
    word = next(t for t in file["model"]["vocab"] if t.isascii() and t.isalpha() and len(t) > 2)
    made = file["model"]["vocab"][word]
    file = _with(file, [{"content": word, "single_word": True}])
    text = f"{word} x{word}y {word}{word}"
    ours = _ours(file)
    assert made in ours.encode(text)
    marked = ours.with_markers([word])
    for one in (marked, marked.within(1000), marked.for_assistant()):
        assert made not in one.encode(text)
        assert one.decode(one.encode(text)) == text
    assert made in marked.for_author().encode(text)


def test_a_single_character_is_no_marker(trained: Any) -> None:
    ours = _ours(_with(trained("gpt-2"), [{"content": "<"}]), "<|x|>{{ m }}")
    assert ours.added["<"] not in ours.control_ids
    assert ours.encode("<") == [ours.added["<"]]


def test_user_defined_tokens_of_gguf_are_found_in_text(trained: Any) -> None:
    file = _with(trained("llama-bpe"), [{"content": text} for text in ("<think>", "   ", "<\uff5cUser\uff5c>", "qu")])
    special = {token["id"] for token in file["added_tokens"] if token["special"]}
    tokens = {**{i: text for text, i in file["model"]["vocab"].items()}}
    types = dict.fromkeys(tokens, NORMAL)
    for token in file["added_tokens"]:
        tokens[token["id"]], types[token["id"]] = token["content"], 3 if token["special"] else USER_DEFINED
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [tokens[i] for i in range(len(tokens))],
        "tokenizer.ggml.token_type": [types[i] for i in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in file["model"]["merges"]],
    }
    texts = _near(5, file, 200)
    ours = Tokenizer.from_gguf(keys)
    assert [ours.encode(text) for text in texts] == _ids(file, texts, special)


def test_a_chat_format_finds_its_markers_among_them(trained: Any) -> None:
    tags = ("<tool_response>", "</tool_response>")
    file = _with(trained("llama-bpe"), [{"content": text} for text in (*MARKERS, *tags)])
    chat = choose_format(_ours(file), None)
    assert isinstance(chat, ChatML)
    name = {i: text for text, i in chat.tokenizer.added.items()}
    assert chat.stop_ids >= {chat.tokenizer.added["<|im_end|>"]}
    assert chat.tokenizer.is_special(chat.tokenizer.added["<|im_end|>"]), "it shows in no answer"
    spelt = "".join((*MARKERS, *tags))
    turns = [
        Message("system", spelt),
        Message("user", spelt, context=spelt),
        Message("assistant", spelt, tool_calls=(ToolCall("f", {"a": "</tool_call><|im_end|>"}),)),
        Message("tool", spelt),
    ]
    start, end, thought = "<|im_start|>", "<|im_end|>", ("<think>", "</think>")  # which nothing here writes
    expected = [
        *(start, *thought, "<\uff5cUser\uff5c>", end),
        *(start, *thought, "<\uff5cUser\uff5c>", *thought, "<\uff5cUser\uff5c>", end),
        *(start, *thought, "<tool_call>", "</tool_call>", "<\uff5cUser\uff5c>", "<tool_call>", "</tool_call>", end),
        *(start, tags[0], *thought, "<\uff5cUser\uff5c>", tags[1], end),
        start,
    ]
    assert [name[i] for i in chat.encode(turns) if i in name] == expected


def test_a_begun_answer_may_hold_what_an_assistant_writes_and_a_raw_prompt_all(trained: Any) -> None:
    chat = choose_format(_ours(_with(trained("llama-bpe"), [{"content": text} for text in MARKERS])), None)
    text = "<think>Hm</think> <tool_call>{<|im_end|><|im_start|>"
    asked, opened = [Message("user", text)], chat.tokenizer.for_assistant().encode(text)
    assert chat.encode([*asked, Message("assistant", text)], begun=True) == [*chat.encode(asked), *opened]
    held = {i: name for name, i in chat.tokenizer.added.items()}
    assert [held[i] for i in opened if i in held] == ["<think>", "</think>", "<tool_call>"]
    assert [held[i] for i in chat.tokenizer.spelt(text)] == ["<tool_call>", "<|im_end|>", "<|im_start|>"]
    raw = [held[i] for i in chat.tokenizer.for_author().encode(text) if i in held]
    assert raw == ["<think>", "</think>", "<tool_call>", "<|im_end|>", "<|im_start|>"]


def test_gguf_and_tokenizer_json_are_made_of_each_other_with_their_added_tokens(trained: Any, tmp_path: Path) -> None:
    file = _with(trained("llama-bpe"), [{"content": text} for text in ("<think>", "   ", "qu")])
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    ours = Tokenizer.from_hf_folder(tmp_path)
    config = replace(TINY, vocab_size=ours.vocab_size + 3)
    keys, notes = gguf_tokenizer_keys(tmp_path, ours, config)
    assert not notes
    again = Tokenizer.from_gguf(keys)
    back = json.loads(hf_tokenizer_texts(keys, again, config, {}, "a")["tokenizer.json"])
    texts = _near(6, file, 100)
    expected = [ours.encode(text) for text in texts]
    assert [again.encode(text) for text in texts] == expected
    last = _ours(back)
    assert [last.encode(text) for text in texts] == expected
    assert _ids(back, texts, ours.control_ids) == expected


@pytest.mark.parametrize("order", ["SSOO", "OSDO", "OOSD", "SOODS", "DOSUOSUD", "OOUSUDU"])
def test_a_tokenizer_json_made_of_gguf_has_its_ids_wherever_added_tokens_stand(order: str, trained: Any) -> None:
    """O: half of the ordinary ones, S: a special one, D: one that is user-defined, U: an unused one."""
    model = trained("llama-bpe")["model"]
    ordinary = sorted(model["vocab"], key=model["vocab"].__getitem__)
    halves = iter((ordinary[: len(ordinary) // 2], ordinary[len(ordinary) // 2 :]))
    blocks = [(kind, next(halves) if kind == "O" else [f"<{kind}{n}>"]) for n, kind in enumerate(order)]
    kinds = {"O": NORMAL, "S": CONTROL, "D": USER_DEFINED, "U": UNUSED}
    tokens = [(text, kinds[kind]) for kind, texts in blocks for text in texts]
    keys = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": [text for text, _ in tokens],
        "tokenizer.ggml.token_type": [kind for _, kind in tokens],
        "tokenizer.ggml.merges": [one if isinstance(one, str) else " ".join(one) for one in model["merges"]],
    }
    ours, config = Tokenizer.from_gguf(keys), replace(TINY, vocab_size=len(tokens))
    back = json.loads(hf_tokenizer_texts(keys, ours, config, {}, "a")["tokenizer.json"])
    theirs = tokenizers.Tokenizer.from_str(json.dumps(back))
    named = {text: i for i, (text, kind) in enumerate(tokens) if kind != UNUSED}
    assert {text: theirs.token_to_id(text) for text in named} == named
    texts = _near(7, back)
    expected = [ours.encode(text) for text in texts]
    assert [_ours(back).encode(text) for text in texts] == expected
    assert _ids(back, texts, ours.control_ids) == expected


def test_a_prompt_of_added_tokens_stops_at_its_bound(trained: Any) -> None:
    ours = _ours(_with(trained("gpt-2"), [{"content": "<think>"}]))
    assert len(ours.encode("<think>" * 100, 10)) == 11
    with pytest.raises(ContextTooLong, match="more than 10 tokens"):
        ours.within(10).encode("<think>" * 100)
    within = ours.within(10)
    within.encode("<think>" * 6)
    with pytest.raises(ContextTooLong):
        within.for_assistant().encode("<think>" * 6)


def test_white_space_that_a_token_takes_does_not_make_a_prompt_too_long(trained: Any) -> None:
    assert not _ours(_with(trained("gpt-2"), [{"content": "<a>"}])).lost_bytes
    ours = _ours(_with(trained("gpt-2"), [{"content": "<a>", "lstrip": True}]))
    assert ours.encode(" \u3000\n" * 1000 + "<a>") == [ours.added["<a>"]]
    assert ours.characters_of(" \u3000\n" * 1000 + "<a>b\u00e9\u4e00\ud800") == 7


@pytest.mark.parametrize("flags", [{}, {"lstrip": True}, {"rstrip": True}, {"single_word": True}])
def test_no_text_has_fewer_ids_than_its_characters_say(trained: Any, flags: dict[str, bool]) -> None:
    file = _with(trained("gpt-2"), [{"content": text, **flags} for text in ("<a>", " b", "\u00e9\u00e9")])
    ours = _ours(file)
    texts = [*_near(11, file), *random_texts(seed=11, count=300), "<a>  " * 50, "   <a>" * 50]
    assert all(ours.characters_of(text) <= ours.longest_bytes * len(ours.encode(text)) for text in texts)


def test_an_added_token_without_end_is_refused(trained: Any) -> None:
    with pytest.raises(BadTokenizer, match=r"added token 3.* 2000 characters.*at most 1024"):
        _ours(_with(trained("gpt-2"), [{"content": "<" * 2000}]))
