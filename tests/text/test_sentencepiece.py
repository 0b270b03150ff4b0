"""SentencePiece's vocabularies in three files, against sentencepiece itself and `tokenizers`: ids, texts, spaces.

A vocabulary is trained here by the sentencepiece package; tokenizer.json is made of it as transformers makes one.
"""

import io
import json
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from text_samples import random_texts

from herd.checkpoint.tokenizer_files import gguf_tokenizer_keys, hf_tokenizer_texts
from herd.config import TINY
from herd.errors import BadTokenizer
from herd.messages import Message
from herd.text.chat_template import Templated, templates_of
from herd.text.stream import StreamDecoder
from herd.text.template_task import Task
from herd.text.templates import Writers
from herd.text.tokenizer import Tokenizer
from sentencepiece_bytes import BYTES, START, model

sp = pytest.importorskip("sentencepiece")
tokenizers = pytest.importorskip("tokenizers")

MARK = "\u2581"
LEGACY = {
    "normalizer": {
        "type": "Sequence",
        "normalizers": [
            {"type": "Prepend", "prepend": MARK},
            {"type": "Replace", "pattern": {"String": " "}, "content": MARK},
        ],
    },
    "pre_tokenizer": None,
}


def metaspace(scheme: str, split: bool = False) -> dict[str, Any]:
    pre = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": scheme, "split": split}
    return {"normalizer": None, "pre_tokenizer": pre}


FORMS = {
    "as before": LEGACY,
    "before each": metaspace("always"),
    "before the first": metaspace("first"),
    "before none": metaspace("never"),
    "words": metaspace("always", split=True),
    "replaced": {**LEGACY, "normalizer": LEGACY["normalizer"]["normalizers"][1]},
}


def trained(**options: Any) -> bytes:
    texts = [line for text in random_texts(seed=1, count=1200) for line in text.splitlines() if line.strip("\0")]
    out = io.BytesIO()
    usual = {
        "model_type": "bpe",
        "vocab_size": 1400,
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "character_coverage": 0.98,
        "allow_whitespace_only_pieces": True,
        "split_digits": True,
        "num_threads": 1,
        "minloglevel": 2,
    }
    sp.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=out, **{**usual, **options})
    return out.getvalue()


@pytest.fixture(scope="module")
def data() -> bytes:
    return trained(user_defined_symbols=["<sep>", "[/INST]"], control_symbols=["<ctl>"])


@pytest.fixture(scope="module")
def theirs(data: bytes) -> Any:
    return sp.SentencePieceProcessor(model_proto=data)


def folder(path: Path, data: bytes, **settings: Any) -> Path:
    path.mkdir(exist_ok=True)
    (path / "tokenizer.model").write_bytes(data)
    (path / "tokenizer_config.json").write_text(json.dumps(settings))
    return path


def pieces_of(theirs: Any) -> list[str]:
    return [theirs.id_to_piece(i) for i in range(theirs.vocab_size())]


def json_of(theirs: Any, form: dict[str, Any], added: Iterable[dict[str, Any]] = ()) -> dict[str, Any]:
    """A tokenizer.json as transformers makes one of such a file: every pair that joins to a piece, by its score."""
    texts = pieces_of(theirs)
    vocab = {text: i for i, text in enumerate(texts)}
    score = {text: theirs.get_score(i) for text, i in vocab.items()}
    special = {i for i in vocab.values() if theirs.is_control(i) or theirs.is_unknown(i)}
    plain = {t for t, i in vocab.items() if i not in special and not theirs.is_byte(i)}
    pairs = [(t[:n], t[n:]) for t in plain for n in range(1, len(t)) if t[:n] in plain and t[n:] in plain]
    pairs.sort(key=lambda p: (score["".join(p)], len(p[0]), len(p[1])), reverse=True)
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    own = [{**flags, "id": i, "content": texts[i], "special": True} for i in sorted(special)]
    model = {"type": "BPE", "vocab": vocab, "merges": [" ".join(p) for p in pairs], "unk_token": "<unk>"}
    more = [{**flags, **token, "id": len(texts) + n} for n, token in enumerate(added)]
    return {
        "version": "1.0",
        "added_tokens": [*own, *more],
        **form,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": MARK}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {**model, "byte_fallback": True, "fuse_unk": True, "dropout": None, "ignore_merges": False},
    }


def gguf_of(theirs: Any, **keys: Any) -> dict[str, Any]:
    kinds = ((theirs.is_unknown, 2), (theirs.is_control, 3), (theirs.is_byte, 6))
    ids = range(theirs.vocab_size())
    found = {
        "model": "llama",
        "tokens": pieces_of(theirs),
        "scores": [theirs.get_score(i) for i in ids],
        "token_type": [next((number for is_kind, number in kinds if is_kind(i)), 1) for i in ids],
        **keys,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in found.items() if value is not None}


def from_json(file: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_tokenizer_json(json.dumps(file).encode())


def oracle_of(file: dict[str, Any]) -> Any:
    return tokenizers.Tokenizer.from_str(json.dumps(file))


TEXTS = [*random_texts(seed=2, count=4985), *(f"{a}{MARK}{b}" for a in ("", " ", "x ") for b in ("", " ", "y", MARK))]
NEAR = [
    "<sep>",
    "a<sep>b",
    " <sep> [/INST] x",
    "[/INST][/INST",
    "<s>a</s><ctl>",
    "<0x41><unk>",
    "  <sep>  ",
    "a  b   c",
]


def test_tokenizer_model_gives_the_ids_and_texts_of_sentencepiece(data: bytes, theirs: Any, tmp_path: Path) -> None:
    ours = Tokenizer.from_hf_folder(folder(tmp_path, data))
    texts = [*TEXTS, *NEAR]
    expected = theirs.encode(texts)
    assert len(texts) >= 5000
    for text, ids in zip(texts, expected, strict=True):
        assert ours.encode(text) == ids, text
    assert [ours.decode(ids) for ids in expected] == [text.replace(MARK, " ") for text in texts]
    whole = [ids for text, ids in zip(texts, expected, strict=True) if "\0" not in text]
    assert [ours.decode(ids) for ids in whole] == theirs.decode(whole)
    assert (ours.bos_id, ours.eos_ids, ours.add_bos) == (1, {2}, True)


def test_gguf_gives_the_ids_of_sentencepiece(theirs: Any) -> None:
    ours, bare = (Tokenizer.from_gguf(gguf_of(theirs, add_space_prefix=prefix)) for prefix in (None, False))
    texts = [text for text in TEXTS[:1500] if "<sep>" not in text]
    assert [ours.encode(text) for text in texts] == theirs.encode(texts)
    assert [bare.encode(" " + text) for text in texts if text] == theirs.encode([text for text in texts if text])
    assert bare.decode(bare.encode(" a")) == " a"
    assert (ours.bos_id, ours.eos_ids, ours.add_bos) == (1, {2}, True)


def test_what_is_no_piece_is_unknown_where_there_are_no_bytes(tmp_path: Path) -> None:
    data = trained(byte_fallback=False, vocab_size=1100)
    theirs = sp.SentencePieceProcessor(model_proto=data)
    ours = Tokenizer.from_hf_folder(folder(tmp_path, data))
    texts = TEXTS[:1000]
    expected = theirs.encode(texts)
    assert [ours.encode(text) for text in texts] == expected
    assert sum(0 in ids for ids in expected) > 100 and ours.lost_bytes
    found = [(ours.characters_of(text), len(ids)) for text, ids in zip(texts, expected, strict=True)]
    assert all(least <= ours.longest_bytes * count for least, count in found)
    assert ours.characters_of("\u4e00" * 1000) == 0
    assert ours.characters_of("ab " * 1000) >= 2000


def test_without_a_space_before_texts(tmp_path: Path) -> None:
    data = trained(add_dummy_prefix=False, vocab_size=1300)
    ours = Tokenizer.from_hf_folder(folder(tmp_path, data))
    texts = TEXTS[:500]
    assert [ours.encode(text) for text in texts] == sp.SentencePieceProcessor(model_proto=data).encode(texts)
    assert all(ours.decode(ours.encode(text)) == text for text in texts if MARK not in text)


@pytest.mark.parametrize("seed", range(12))
def test_equal_scores_and_pieces_without_their_parts_join_as_in_sentencepiece(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    alphabet = ["a", "b", "c", "\u00e9", "\u65e5", MARK]
    texts = {"".join(rng.choices(alphabet, k=rng.randint(1, 5))) for _ in range(rng.randint(5, 80))}
    pieces = [(text, float(-rng.randrange(1 + seed % 4 * 3)), 1) for text in sorted(texts)]
    data = model([*START, *BYTES, *pieces])
    theirs = sp.SentencePieceProcessor(model_proto=data)
    ours = Tokenizer.from_hf_folder(folder(tmp_path, data))
    texts = ["".join(rng.choices([*alphabet, " ", "\u00ea"], k=rng.randint(1, 60))) for _ in range(200)]
    for text in texts:
        assert ours.encode(text) == theirs.encode(text), text


def test_symbols_with_spaces_are_found_as_in_sentencepiece(tmp_path: Path) -> None:
    pieces = [(MARK, -1.0, 1), ("a", -2.0, 1), (f"{MARK}a", -3.0, 1), ("a a", 0.0, 4), (f"a{MARK}{MARK}", 0.0, 4)]
    data = model([*START, *BYTES, *pieces])
    theirs = sp.SentencePieceProcessor(model_proto=data)
    ours = Tokenizer.from_hf_folder(folder(tmp_path, data))
    for text in ("a a", "a  a", "aa a a", f"a{MARK}a", f"a{MARK} a", "a   a", " a a"):
        assert ours.encode(text) == theirs.encode(text), text


@pytest.mark.parametrize("form", FORMS)
def test_tokenizer_json_gives_the_ids_of_tokenizers(form: str, theirs: Any) -> None:
    added = [
        {"content": "<|im_start|>", "special": True},
        {"content": "<think>"},
        {"content": "<n>", "normalized": True},
        {"content": "  ", "normalized": True},
        {"content": "[x]", "lstrip": True, "rstrip": True},
    ]
    file = json_of(theirs, FORMS[form], added)
    ours, oracle = from_json(file).for_author(), oracle_of(file)
    rng = random.Random(form)
    near = [t["content"] for t in added] * 3 + [" ", "  ", "a", " b", "\n", MARK, "<s>", "</s>", "\u00ff", "quick fox"]
    texts = [*TEXTS[:400], *("".join(rng.choices(near, k=rng.randint(1, 9))) for _ in range(600))]
    for text in texts:
        assert ours.encode(text) == oracle.encode(text, add_special_tokens=False).ids, text


def test_decoding_is_that_of_tokenizers(theirs: Any) -> None:
    file = json_of(theirs, LEGACY)
    ours, oracle = from_json(file), oracle_of(file)
    rng = random.Random(7)
    for _ in range(500):
        ids = rng.choices(range(3, theirs.vocab_size()), k=rng.randint(1, 12))
        text = oracle.decode(ids)
        if "\ufffd" not in text:  # of broken characters they make other numbers of signs
            assert ours.decode(ids, hide_specials=True) == text


def test_a_stream_shows_characters_once_their_bytes_are_there(theirs: Any) -> None:
    ours = Tokenizer.from_gguf(gguf_of(theirs))
    text = "caf\u00e9 \U0001fae0\U0001fae0 \u9f98\u9f98 done"
    ids = ours.encode(text)
    assert sum(theirs.is_byte(i) for i in ids) >= 8
    stream = StreamDecoder(ours)
    shown = [stream.push(i) for i in ids]
    assert "".join(shown) + stream.flush() == text == ours.decode(ids)
    assert "" in shown and "\ufffd" not in "".join(shown)
    goes_on = StreamDecoder(ours, begins=False)
    assert "".join(map(goes_on.push, ids)) == " " + text
    cut = ids[: next(n for n, i in enumerate(ids) if theirs.is_byte(i)) + 1]
    stream = StreamDecoder(ours)
    assert "".join(map(stream.push, cut)) + stream.flush() == ours.decode(cut)


def test_each_place_of_a_text_has_its_space(theirs: Any) -> None:
    for form, at_start, behind_token in (
        ("as before", True, True),
        ("before the first", True, False),
        ("before none", False, False),
    ):
        ours = from_json(json_of(theirs, FORMS[form]))
        word = {spaced: theirs.encode("quick")[not spaced :] for spaced in (True, False)}
        word[False] = ours.encode("quick", place="text")
        assert word[True] != word[False]
        assert ours.encode("quick") == word[at_start], form
        assert ours.encode("quick", place="token") == word[behind_token], form


def test_a_marker_of_the_template_is_control_in_every_form(theirs: Any) -> None:
    for form in FORMS.values():
        file = json_of(theirs, form, [{"content": "<n>", "normalized": True}])
        ours = Tokenizer.from_tokenizer_json(json.dumps(file).encode(), {"chat_template": "{{ a }}<n>"})
        assert ours.added["<n>"] in ours.control_ids and ours.added["<n>"] not in ours.encode("a <n>")


def test_text_never_becomes_a_control_token(theirs: Any) -> None:
    spelt = "<s>a</s><unk><ctl><0x41>"
    for ours in (Tokenizer.from_gguf(gguf_of(theirs)), from_json(json_of(theirs, LEGACY))):
        ids = ours.encode(spelt)
        assert ours.control_ids.isdisjoint(ids) and ours.decode(ids) == spelt
        assert {1, 2} <= set(ours.for_author().encode(spelt))


def test_long_texts_with_and_without_spaces(theirs: Any) -> None:
    ours = Tokenizer.from_gguf(gguf_of(theirs))
    for unit in ("a", "ab ", " ", "\u65e5\u672c", "\U0001fae0", "x\n"):
        text = unit * (60_000 // len(unit))
        assert ours.encode(text) == theirs.encode(text), unit
    text = "two words. " * 20_000
    assert 1000 < len(ours.encode(text, 1000)) < len(ours.encode(text)) / 2
    assert ours.decode(ours.encode("\u65e5" * 1_000_000)) == "\u65e5" * 1_000_000


SAID = [("user", "Hi, what is 12?"), ("assistant", "It's  a number."), ("user", "caf\u00e9 \U0001fae0\nok")]
TEMPLATES = {
    "brackets": "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}",
    "lines": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}<|assistant|>\n",
    "marks": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>a\n",
}


class Here:
    """A template that runs in this process."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._writers = Writers(templates_of(tokenizer))

    def write(self, name: str, task: Task, owner: str) -> list[str]:
        return self._writers.pieces(name, task)

    def close(self) -> None:
        pass


@pytest.mark.parametrize("form", ["as before", "before the first", "before none"])
def test_dialogs_by_a_template_have_the_ids_of_transformers(form: str, theirs: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    marks = [{"content": text, "special": True} for text in ("<|im_start|>", "<|im_end|>")]
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(json_of(theirs, FORMS[form], marks)))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for template in TEMPLATES.values():
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **named, "chat_template": template}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        oracle = transformers.AutoTokenizer.from_pretrained(tmp_path)
        ours = Tokenizer.from_hf_folder(tmp_path)
        chat = Templated(ours, Here(ours))
        said = [{"role": role, "content": text} for role, text in SAID]
        expected = oracle.apply_chat_template(said, return_dict=False)
        assert chat.encode([Message(role, text) for role, text in SAID]) == expected


# -- other files ------------------------------------------------------------------------------------------------------


def keys_of(ours: Tokenizer, path: Path, spare: int = 3) -> tuple[dict[str, Any], list[str], Any]:
    config = replace(TINY, vocab_size=ours.vocab_size + spare, eos_ids=(2,), bos_id=1)
    return *gguf_tokenizer_keys(path, ours, config), config


def test_gguf_and_tokenizer_json_are_made_of_each_other(theirs: Any, tmp_path: Path) -> None:
    added = [{"content": "<|im_end|>", "special": True}, {"content": "<think>"}]
    file = json_of(theirs, LEGACY, added)
    (tmp_path / "tokenizer.json").write_text(json.dumps(file))
    ours = Tokenizer.from_hf_folder(tmp_path)
    keys, notes, config = keys_of(ours, tmp_path)
    again = Tokenizer.from_gguf(keys)
    back = json.loads(hf_tokenizer_texts(keys, again, config, {}, "a")["tokenizer.json"])
    texts = [*TEXTS[:600], "a<think> b<|im_end|>", " <think>"]
    expected = [ours.encode(text) for text in texts]
    assert notes == []
    assert [again.encode(text) for text in texts] == expected
    last = from_json(back)
    assert [last.encode(text) for text in texts] == expected
    oracle = oracle_of(back)
    oracle.encode_special_tokens = True
    assert [oracle.encode(text, add_special_tokens=False).ids for text in texts] == expected
    assert (again.bos_id, again.eos_ids) == (1, {2, ours.added["<|im_end|>"]})


def test_gguf_is_made_of_tokenizer_model_with_what_other_files_add(data: bytes, theirs: Any, tmp_path: Path) -> None:
    last = theirs.vocab_size()
    added = {str(last): {"content": "<|im_end|>", "special": True}, str(last + 1): {"content": "<think>"}}
    ours = Tokenizer.from_hf_folder(folder(tmp_path, data, added_tokens_decoder=added))
    assert (ours.vocab_size, ours.added["<|im_end|>"], ours.added["<think>"]) == (last + 2, last, last + 1)
    keys, notes, _ = keys_of(ours, tmp_path)
    again = Tokenizer.from_gguf(keys)
    assert notes == []
    assert [again.encode(text) for text in TEXTS[:300]] == theirs.encode(TEXTS[:300])
    assert keys["tokenizer.ggml.scores"][:last] == [theirs.get_score(i) for i in range(last)]


def test_what_the_other_form_cannot_say_is_told_or_refused(theirs: Any, tmp_path: Path) -> None:
    def written(file: dict[str, Any]) -> tuple[dict[str, Any], list[str], Any]:
        (tmp_path / "tokenizer.json").write_text(json.dumps(file))
        return keys_of(Tokenizer.from_hf_folder(tmp_path), tmp_path)

    file = json_of(theirs, FORMS["before the first"])
    assert [("control token" in note, "begins with one" in note) for note in written(file)[1]] == [
        (True, False),
        (False, True),
    ]
    merges = file["model"]["merges"]
    for changed in (merges[1:], merges[:-1], [merges[-1], *merges[:-1]][:2] + merges[1:-1]):
        if len(set(changed)) == len(changed):
            with pytest.raises(BadTokenizer, match="GGUF"):
                written({**file, "model": {**file["model"], "merges": changed}})
    keys = gguf_of(theirs, scores=[0.0] * theirs.vocab_size())
    with pytest.raises(BadTokenizer, match=r"scores.*tokenizer.json cannot say it"):
        hf_tokenizer_texts(keys, Tokenizer.from_gguf(keys), TINY, {}, "a")


# -- what is refused --------------------------------------------------------------------------------------------------

GOOD = [*START, *BYTES, ("a", -1.0, 1), ("b", -2.0, 1), ("ab", -0.5, 1)]
BAD: dict[str, tuple[bytes, str]] = {
    "unigram": (model(GOOD, {3: 1}), "unigram"),
    "words": (model(GOOD, {3: 3}), "got word"),
    "a normalizer": (model(GOOD, None, {1: b"nmt_nfkc", 2: b"abc"}), "nmt_nfkc"),
    "spaces removed": (model(GOOD, None, {4: 1}), "remove_extra_whitespaces"),
    "spaces behind": (model(GOOD, {24: 1}), "treat_whitespace_as_suffix"),
    "some bytes": (model([*START, *BYTES[:9], *GOOD[-3:]]), "tokens of bytes: got 9"),
    "no score": (model([*GOOD, ("c", float("nan"), 1)]), "scores"),
    "a long piece": (model([*GOOD, ("c" * 500, 1.0, 1)]), "500 characters"),
    "twice": (model([*GOOD, ("ab", 1.0, 1)]), "the same text"),
    "an unused piece": (model([*GOOD, ("c", 1.0, 5)]), "unused"),
    "another type": (model([*GOOD, ("c", 1.0, 7)]), "type 7"),
    "a byte of another name": (model([*GOOD, ("<0xGG>", 1.0, 6)]), "type 6"),
    "no text": (model([*GOOD, ("", 1.0, 1)]), "a text and a type"),
    "cut": (model(GOOD)[:-3], "a field"),
    "a number without end": (b"\n\x03\n\x01a" + b"\xff" * 30, "no end"),
    "a size below nothing": (b"\n\x03\n\x01a\n" + b"\xff" * 9 + b"\x01", "a field"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused(name: str, tmp_path: Path) -> None:
    data, words = BAD[name]
    assert Tokenizer.from_hf_folder(folder(tmp_path, model(GOOD))).encode("ab")
    with pytest.raises(BadTokenizer) as caught:
        Tokenizer.from_hf_folder(folder(tmp_path, data))
    assert words in str(caught.value) and "tokenizer.model" in str(caught.value) and "\n" not in str(caught.value)


def test_changed_bytes_are_refused_or_harmless(tmp_path: Path) -> None:
    rng, good = random.Random(3), model(GOOD)
    for _ in range(100):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(data))
            data[place : place + rng.choice([0, 1, 1, 9])] = rng.randbytes(rng.choice([0, 1, 1, 4]))
        try:
            ours = Tokenizer.from_hf_folder(folder(tmp_path, bytes(data)))
        except BadTokenizer:
            continue
        assert ours.control_ids.isdisjoint(ours.encode("ab <s>\u00e9"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"added_tokens_decoder": {"x": {"content": "a"}}}, "added token"),
        ({"added_tokens_decoder": {"262": {"content": 3}}}, "added token"),
        ({"added_tokens_decoder": {"270": {"content": "<x>"}}}, "the next"),
        ({"added_tokens_decoder": {"1": {"content": "<x>"}}}, "expected <s>"),
    ],
)
def test_tokens_that_do_not_fit_are_refused(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(BadTokenizer, match=words):
        Tokenizer.from_hf_folder(folder(tmp_path, model(GOOD), **settings))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scores": [0.0]}, "scores"),
        ({"scores": "x"}, "scores"),
        ({"token_type": [1]}, "token_type"),
        ({"tokens": None}, "tokens"),
        ({"bos_token_id": 10**6}, "bos_token_id"),
    ],
)
def test_bad_keys_are_refused(changes: dict[str, Any], words: str, theirs: Any) -> None:
    with pytest.raises(BadTokenizer, match=words):
        Tokenizer.from_gguf(gguf_of(theirs, **changes))


@pytest.mark.parametrize(
    "form",
    [
        {"normalizer": {"type": "NFKC"}, "pre_tokenizer": None},
        {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Strip"}]}, "pre_tokenizer": None},
        {**metaspace("first"), "normalizer": LEGACY["normalizer"]},
        {**metaspace("first"), "pre_tokenizer": {"type": "Whitespace"}},
        {"normalizer": None, "pre_tokenizer": {"type": "Metaspace", "replacement": "_", "prepend_scheme": "first"}},
        {"normalizer": None, "pre_tokenizer": None},
        {"normalizer": "x", "pre_tokenizer": None},
    ],
)
def test_other_rules_for_spaces_are_refused_by_name(form: dict[str, Any], theirs: Any) -> None:
    with pytest.raises(BadTokenizer, match=r"tokenizer.json: (normalizer|pre_tokenizer|Metaspace)"):
        from_json(json_of(theirs, form))
