"""Vocabulary files that lie: one line that names the file and the field, little memory, and soon."""

import base64
import json
import os
import random
from pathlib import Path

import pytest

from herd.errors import BadTokenizer, NotFound, UsageError
from herd.messages import Message
from herd.text.chat import choose_format
from herd.text.tokenizer import Tokenizer

MIB = 1 << 20


def _peak_growth(action):
    """How far the process's peak memory rises above its present memory while `action` runs, in bytes."""

    def field(name):
        status = Path("/proc/self/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))

    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = field("VmRSS")
    action()
    return field("VmHWM") - before


def refused(action, *words, error=BadTokenizer):
    """The action fails with one line that has all the words, in under 64 MiB."""

    def run():
        with pytest.raises(error) as caught:
            action()
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 400, message
        for word in words:
            assert word in message, message

    assert _peak_growth(run) < 64 * MIB


# Rank files


def _lines(tokens):
    return [base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens)]


BYTES = [bytes([b]) for b in range(256)]
GOOD = _lines([*BYTES, b"ab", b"abc"])


def _with(number, line):
    return b"\n".join([*GOOD[:number], line, *GOOD[number + 1 :]])


BAD_RANK_FILES = {
    "bad base64": (_with(7, b"B*== 7"), "line 8: token"),
    "base64 with rest": (_with(7, b"Bw==Bw== 7"), "line 8: token"),
    "base64 cut short": (_with(7, b"Bw= 7"), "line 8: token"),
    "empty token": (_with(7, b" 7"), "line 8: token"),
    "no rank": (_with(7, b"Bw=="), "line 8: rank"),
    "duplicate rank": (_with(7, b"Bw== 6"), "line 8: rank"),
    "rank gap": (_with(7, b"Bw== 8"), "line 8: rank"),
    "negative rank": (_with(7, b"Bw== -7"), "line 8: rank"),
    "rank of a thousand digits": (_with(7, b"Bw== " + b"7" * 900), "line 8: rank"),
    "rank with an underscore": (_with(7, b"Bw== 0_7"), "line 8: rank"),
    "three fields": (_with(7, b"Bw== 7 7"), "line 8: rank"),
    "duplicate token": (_with(257, b"YWI= 257"), "line 258: token", "line 257"),
    "long line": (_with(7, b"QUFB" * 300 + b" 7"), "line 8", "at most 1024"),
    "empty line": (_with(7, b""), "line 8: rank"),
    "missing bytes": (b"\n".join(_lines(BYTES[:200])), "0xC8"),
    "empty file": (b"", "0x00"),
    "random bytes": (bytes(range(256)) * 100, "line 1"),
    "SentencePiece": (b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02", "SentencePiece"),
    "control characters": (_with(7, b"\x1b[31m 7"), "line 8: token"),
}


@pytest.mark.parametrize("name", BAD_RANK_FILES)
def test_bad_rank_files_are_refused(name, tmp_path):
    data, *words = BAD_RANK_FILES[name]
    path = tmp_path / "tokenizer.model"
    path.write_bytes(data)
    refused(lambda: Tokenizer.from_rank_file(path, family="llama4"), str(path), *words)


def test_a_good_rank_file_of_an_unknown_size_needs_its_family_named(tmp_path):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\n".join(GOOD) + b"\n")
    refused(lambda: Tokenizer.from_rank_file(path), "number of tokens", "got 258", "200000")
    refused(lambda: Tokenizer.from_rank_file(path, family="llama5"), "llama5", error=UsageError)
    assert Tokenizer.from_rank_file(path, family="llama4").encode("abcab") == [257, 256]


def test_files_are_not_read_beyond_their_limit(tmp_path):
    for name, load in (
        ("tokenizer.model", Tokenizer.from_rank_file),
        ("tokenizer.json", Tokenizer.from_tokenizer_json),
    ):
        path = tmp_path / name
        with path.open("wb") as file:
            file.truncate(10 << 30)  # one line of 10 GB that takes no disk
        refused(lambda load=load, path=path: load(path), str(path), "10737418240 bytes", "at most")
        path.unlink()


def test_what_is_not_a_file_is_refused(tmp_path):
    for load in (Tokenizer.from_rank_file, Tokenizer.from_tokenizer_json):
        refused(lambda load=load: load(tmp_path / "nothing"), "nothing does not exist", error=NotFound)
        refused(lambda load=load: load(tmp_path), "not a regular file")
    os.mkfifo(tmp_path / "pipe")
    refused(lambda: Tokenizer.from_rank_file(tmp_path / "pipe"), "not a regular file")
    refused(lambda: Tokenizer.from_hf_folder(tmp_path), "has no tokenizer", error=NotFound)


# tokenizer.json


def _alphabet():
    """GPT-2's characters for the 256 bytes, in the order of the bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def _file(**changes):
    """A good tokenizer.json with "ab" and one special token, some fields changed (model.x: of the model)."""
    tokens = [*_alphabet(), "ab"]
    file = {
        "added_tokens": [{"id": 257, "content": "<|end|>", "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
        "post_processor": None,
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": ["a b"]},
    }
    for key, value in changes.items():
        (file["model"] if key.startswith("model_") else file)[key.removeprefix("model_")] = value
    return file


def _vocab(**changes):
    return {**_file()["model"]["vocab"], **changes}


BAD_FILES = {
    "normalizer": (_file(normalizer={"type": "NFC"}), "normalizer", "NFC"),
    "prefix space": (_file(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), "pre_tokenizer"),
    "no pre-tokenizer": (_file(pre_tokenizer=None), "pre_tokenizer"),
    "Metaspace": (_file(pre_tokenizer={"type": "Metaspace"}), "Metaspace: got always, None"),
    "unknown pattern": (
        _file(pre_tokenizer={"type": "Split", "pattern": {"Regex": r"\w+"}, "behavior": "Isolated", "invert": False}),
        "pre_tokenizer",
        "Split",
        "one of deepseek-coder",
    ),
    "many steps": (_file(pre_tokenizer={"type": "Sequence", "pretokenizers": [{}] * 10_000}), "pre_tokenizer"),
    "Unigram": (_file(model={"type": "Unigram", "vocab": [["a", -1.5]]}), "SentencePiece", "unigram"),
    "byte fallback": (_file(model_byte_fallback=True), "pre_tokenizer", "ByteLevel"),
    "WordPiece": (_file(model_type="WordPiece"), "model.type", "WordPiece"),
    "dropout": (_file(model_dropout=0.1), "dropout"),
    "word suffix": (_file(model_end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "unknown token in a merge": (_file(model_merges=["a b", "ab zz"]), "merge 1"),
    "merge to no token": (_file(model_merges=["a b", "b a"]), "merge 1"),
    "merge to a special token": (
        _file(model_merges=["a b"], added_tokens=[{"id": 256, "content": "ab", "special": True}]),
        "merge 0",
    ),
    "merge twice": (_file(model_merges=["a b", "a b"]), "merge 1 repeats"),
    "merge of one": (_file(model_merges=["ab"]), "merge 0"),
    "merge of three": (_file(model_merges=["a b c"]), "merge 0"),
    "merge pair with a space": (_file(model_merges=[["a ", "b"]]), "model.merges"),
    "merge of numbers": (_file(model_merges=[[1, 2]]), "merges"),
    "two tokens of one id": (_file(model_vocab=_vocab(ab=3)), "two tokens have id 3"),
    "negative id": (_file(model_vocab=_vocab(ab=-1)), "vocab"),
    "huge id": (_file(model_vocab=_vocab(ab=10**9)), "vocab"),
    "id as text": (_file(model_vocab=_vocab(ab="256")), "vocab"),
    "added token in another's place": (
        _file(
            model_vocab=_vocab(ab=257), added_tokens=[{"id": 5, "content": c, "special": True} for c in "\u20ac\u20ad"]
        ),
        "id 257 is another",
    ),
    "no vocab": (_file(model_vocab={}, added_tokens=[]), "number of tokens"),
    "no ASCII": (_file(model_vocab={chr(0x4E00 + i): i for i in range(257)}, model_merges=[]), "byte 0x0A"),
    "no model": ({"added_tokens": []}, "model"),
    "a list": ([], "tokenizer.json"),
}
BAD_JSON = {
    "not JSON": b"tokenizer",
    "empty": b"",
    "not UTF-8": json.dumps(_file()).encode().replace(b"<|end|>", b"\xff\xfe"),
    "cut short": json.dumps(_file()).encode()[:-40],
    "deep": b"[" * 100_000,
    "deep normalizer": b'{"normalizer": ' + b'{"a": ' * 100_000,
    "deep and closed": b'{"model": {}, "normalizer": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "number of a million digits": json.dumps(_file()).encode().replace(b": 257", b": " + b"9" * 1_000_000),
}


def test_the_file_that_the_bad_ones_are_made_from_is_good():
    tokenizer = Tokenizer.from_tokenizer_json(json.dumps(_file()).encode(), {"eos_token": "<|end|>"})
    assert tokenizer.encode("abba") == [256, ord("b"), ord("a")]
    assert tokenizer.eos_ids == frozenset({257})
    assert tokenizer.missing_bytes == frozenset()


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_tokenizer_json_is_refused(name, tmp_path):
    file, *words = BAD_FILES[name]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(file))
    refused(lambda: Tokenizer.from_hf_folder(tmp_path), str(path), *words)


@pytest.mark.parametrize("name", BAD_JSON)
def test_broken_json_is_refused(name):
    refused(lambda: Tokenizer.from_tokenizer_json(BAD_JSON[name]), "tokenizer.json")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"eos_token": "<|no such|>"}, ["eos_token"]),
        ({"bos_token": 3}, ["bos_token"]),
        ({"bos_token": {"content": ["<|end|>"]}}, ["bos_token"]),
    ],
)
def test_a_config_that_names_no_special_token_is_refused(config, words):
    data = json.dumps(_file()).encode()
    refused(lambda: Tokenizer.from_tokenizer_json(data, config), *words)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("generation_config.json", '{"eos_token_id": [257, 258]}', ["eos_token_id", "got 258"]),
        ("generation_config.json", '{"eos_token_id": true}', ["eos_token_id"]),
        ("tokenizer_config.json", "[1]", ["tokenizer_config.json"]),
        ("tokenizer_config.json", "{" * 100_000, ["tokenizer_config.json"]),
    ],
)
def test_bad_files_beside_the_vocabulary_are_refused(name, text, words, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(_file()))
    (tmp_path / name).write_text(text)
    refused(lambda: Tokenizer.from_hf_folder(tmp_path), *words)


# GGUF


def _keys(**changes):
    keys = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": [*_alphabet(), "ab", "<|end|>"],
        "token_type": [1] * 257 + [3],
        "merges": ["a b"],
        "eos_token_id": 257,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in {**keys, **changes}.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "t5"}, ["tokenizer.ggml.model", "SentencePiece", "unigram"]),
        ({"model": "llama", "token_type": [1] * 257 + [6]}, ["token 257 of a byte", "<|end|>"]),
        ({"model": "bert"}, ["tokenizer.ggml.model", "bert"]),
        ({"model": None}, ["tokenizer.ggml.model"]),
        ({"pre": "viking"}, ["tokenizer.ggml.pre", "viking", "one of"]),
        ({"pre": None}, ["tokenizer.ggml.pre"]),
        ({"pre": ["gpt-2"]}, ["tokenizer.ggml.pre"]),
        ({"tokens": None}, ["tokenizer.ggml.tokens"]),
        ({"tokens": [1, 2]}, ["tokenizer.ggml.tokens"]),
        ({"token_type": [1] * 257}, ["tokenizer.ggml.token_type", "257 types", "258"]),
        ({"token_type": [1] * 257 + [6]}, ["tokenizer.ggml.token_type", "got 6"]),
        ({"token_type": [0] * 258}, ["tokenizer.ggml.token_type", "got 0"]),
        ({"token_type": [1.0] * 258}, ["tokenizer.ggml.token_type"]),
        ({"merges": None}, ["tokenizer.ggml.merges"]),
        ({"merges": ["a zz"]}, ["merge 0"]),
        ({"merges": ["a b", "a b"]}, ["merge 1 repeats"]),
        ({"token_type": [1] * 256 + [3, 3]}, ["merge 0"]),
        ({"tokens": [*_alphabet(), "a", "<|end|>"], "merges": []}, ["tokens 97 and 256 are the same"]),
        (
            {"tokens": ["x"] * 10, "token_type": [1] * 10, "merges": [], "eos_token_id": 1},
            ["number of tokens", "got 10"],
        ),
        ({"eos_token_id": 258}, ["eos_token_id", "got 258"]),
        ({"bos_token_id": -1}, ["bos_token_id"]),
        ({"bos_token_id": 2**64}, ["bos_token_id"]),
        ({"bos_token_id": True}, ["bos_token_id"]),
    ],
)
def test_bad_gguf_keys_are_refused(changes, words):
    assert Tokenizer.from_gguf(_keys()).encode("ab") == [256]
    refused(lambda: Tokenizer.from_gguf(_keys(**changes), "x.gguf"), "x.gguf", *words)


def test_a_template_in_a_file_is_kept_as_text_and_never_run(tmp_path):
    mark = tmp_path / "ran"
    template = "{{ cycler.__init__.__globals__.os.mkdir('" + str(mark) + "') }}"
    tokenizer = Tokenizer.from_gguf({**_keys(), "tokenizer.chat_template": template})
    assert tokenizer.template == template
    ids = choose_format(tokenizer, tokenizer.template, "plain").encode([Message("user", "ab")])
    assert ids == [256]
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["rank file", "tokenizer.json"])
def test_flipped_bytes_are_refused_or_harmless(kind, tmp_path):
    rng = random.Random(51)
    good = b"\n".join(GOOD) if kind == "rank file" else json.dumps(_file()).encode()
    path = tmp_path / "tokenizer"
    loaded, lines = 0, []
    for _ in range(200):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(len(data))
            data[place : place + rng.choice([0, 1, 1, 1, 9])] = rng.randbytes(rng.choice([0, 1, 1, 1, 4]))
        path.write_bytes(data)
        try:
            if kind == "rank file":
                tokenizer = Tokenizer.from_rank_file(path, family="llama4")
            else:
                tokenizer = Tokenizer.from_tokenizer_json(path)
        except BadTokenizer as error:
            lines.append(str(error))
            continue
        loaded += 1
        assert all(not tokenizer.is_special(i) for i in tokenizer.encode("ab <|end|> é"))
    assert loaded + len(lines) == 200
    assert len(lines) > 50
    assert not any("\n" in line for line in lines)
