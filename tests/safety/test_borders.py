"""Numbers, addresses and keys beside letters of other scripts, in digits of other scripts, with other separators; and
numbers that are none."""

from random import Random

import pytest

from herd.safety import RULES, Rule, scan
from herd.safety.cues import Cue
from herd.safety.forms import Form
from herd.safety.rules import Either, Pattern
from herd.safety.views import INVISIBLE, Views

BY_ID = {rule.id: rule for rule in RULES}
SHAPES = [rule for rule in RULES if rule.patterns and rule.kind in ("personal", "secret")]

LETTERS = {
    "Hiragana": "です", "Katakana": "ナツ", "Han": "号码", "Hangul": "번호", "Thai": "เลข", "Arabic": "رقم",
    "Devanagari": "नंबर", "Hebrew": "מס", "Bengali": "নং", "Tamil": "எண்", "Khmer": "លេខ", "Cyrillic": "дом",
    "Greek": "αρ", "Ethiopic": "ቁጥር",
}  # fmt: skip

DIGITS = {"Arabic": 0x0660, "Persian": 0x06F0, "Devanagari": 0x0966, "Bengali": 0x09E6, "Thai": 0x0E50,
          "fullwidth": 0xFF10, "mathematical": 0x1D7CE}  # fmt: skip

NUMBERS = [rule for rule in SHAPES if rule.kind == "personal" and rule.id not in ("personal.email", "personal.ip")]


def spans(rule: Rule, text: str) -> list[str]:
    return [text[f.start : f.end] for f in scan(text, (rule,))]


@pytest.mark.parametrize("rule", SHAPES, ids=lambda rule: rule.id)
def test_what_is_found_alone_is_found_between_letters_of_any_script_but_latin(rule: Rule) -> None:
    for sample in rule.positive:
        alone = spans(rule, sample)
        for script, said in LETTERS.items():
            assert spans(rule, said + sample + said) == alone, (script, sample)


@pytest.mark.parametrize("rule", NUMBERS, ids=lambda rule: rule.id)
def test_a_number_beside_a_latin_letter_or_digit_is_part_of_a_name(rule: Rule) -> None:
    for sample in rule.positive:
        for find in scan(sample, (rule,)):
            value = sample[find.start : find.end]
            if value[-1].isascii() and value[-1].isdigit():
                for after in ("x", "Z") if rule.id != "personal.phone" else ("7" * 9,):
                    cut = sample[: find.end] + after
                    assert value not in spans(rule, cut), cut


@pytest.mark.parametrize("rule", NUMBERS, ids=lambda rule: rule.id)
def test_digits_of_other_scripts_are_digits(rule: Rule) -> None:
    for zero in DIGITS.values():
        table = {ord(str(d)): chr(zero + d) for d in range(10)}
        for sample in rule.positive:
            assert len(scan(sample.translate(table), (rule,))) == len(scan(sample, (rule,))), (hex(zero), sample)


UNSEEN = "\u0332\u0301\u200b\u00ad\u2060\ufe0f\u20e3\u061c"


@pytest.mark.parametrize("rule", NUMBERS, ids=lambda rule: rule.id)
def test_marks_and_invisible_characters_inside_do_not_hide_a_number(rule: Rule) -> None:
    for inside in UNSEEN:
        for sample in rule.positive:
            assert len(scan(inside.join(sample), (rule,))) == len(scan(sample, (rule,))), (ascii(inside), sample)


SEPARATORS = ("\t", "\u00a0", "\u2009", "\u202f", "\u3000", "\u2800", "-", "\u2010", "\u2011", "\u2012", "\u2013",
              "\u2014", "\u2212", "\uff0d", "\ufe63", "\u30fb", "\u00b7", ".", "/")  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "before", "groups"),
    [
        ("personal.card", "", ("4111", "1111", "1111", "1111")),
        ("personal.card", "", ("3782", "822463", "10005")),
        ("personal.phone", "+", ("49", "30", "1234", "5678")),
        ("personal.phone", "tel. ", ("415", "555", "0123")),
        ("personal.us_ssn", "SSN ", ("219", "09", "9999")),
        ("personal.ca_sin", "SIN ", ("130", "692", "544")),
        ("personal.in_aadhaar", "Aadhaar ", ("2341", "2341", "2346")),
        ("personal.br_cpf", "CPF ", ("529", "982", "247", "25")),
    ],
)
def test_any_separator_may_stand_between_groups(rule: str, before: str, groups: tuple[str, ...]) -> None:
    for separator in (*SEPARATORS, "- ", " \u2013"):
        text = before + separator.join(groups)
        assert len(scan(text, (BY_ID[rule],))) == 1, ascii(text)


def test_separators_may_differ_within_one_number() -> None:
    rng = Random(2)
    for _ in range(300):
        seps = [rng.choice(SEPARATORS) for _ in range(3)]
        text = "4111" + seps[0] + "1111" + seps[1] + "1111" + seps[2] + "1111"
        assert len(scan(text, (BY_ID["personal.card"],))) == 1, ascii(text)


# -- what is none ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("separator", [" ", "\u00a0", "\u2009", "\u202f", ",", ".", "'", "_"], ids=ascii)
def test_grouped_numbers_are_nobodys(separator: str) -> None:
    """Every number in groups of three, up to 18 digits: no rule finds it as somebody's number."""
    rng = Random(3)
    for _ in range(1_000):
        digits = str(rng.randrange(1_000, 10 ** rng.randrange(4, 19)))
        head = len(digits) % 3 or 3
        text = separator.join([digits[:head], *(digits[i : i + 3] for i in range(head, len(digits), 3))])
        found = [f.rule.id for f in scan(f"It was {text} bytes.", tuple(NUMBERS))]
        assert not found, (text, found)


@pytest.mark.parametrize(
    "before", ["v", "version ", "Version: ", "Chrome/", "release ", "lib-", "pkg_", "==", ">= ", "^", "rev."]
)
def test_versions_are_no_addresses(before: str) -> None:
    rng = Random(4)
    for _ in range(100):
        text = before + ".".join(str(rng.randrange(1, 255)) for _ in range(4))
        assert not spans(BY_ID["personal.ip"], text), text


def test_addresses_are_addresses_where_nothing_says_version() -> None:
    """All but those with small numbers alone, which are versions' and sections'."""
    rng, missed = Random(5), 0
    for _ in range(1_000):
        text = ".".join(
            str(n)
            for n in (rng.choice([8, 31, 93, 151, 203]), rng.randrange(256), rng.randrange(256), rng.randrange(1, 255))
        )
        missed += text not in spans(BY_ID["personal.ip"], f"地址{text}的") and max(map(int, text.split("."))) > 63
    assert missed < 20, missed


RTL_MARKS = [*"\u200e\u200f\u061c\u202a\u202b\u202c\u2066\u2067\u2068\u2069"]
HIDDEN = tuple(rule for rule in RULES if rule.kind == "hidden")


@pytest.mark.parametrize("mark", RTL_MARKS, ids=ascii)
@pytest.mark.parametrize("said", ["שלום", "مرحبا", "سلام", "ܫܠܡ", "ދިވެހި"])
def test_marks_beside_right_to_left_letters_are_honest(mark: str, said: str) -> None:
    for text in (
        mark + said,
        said + mark,
        f"{said} (API 2.0){mark}: {said}",
        f"{mark}C++ {said}",
        f"{said} {mark}file.txt",
    ):
        assert not scan(text, HIDDEN), ascii(text)


@pytest.mark.parametrize("mark", RTL_MARKS[3:], ids=ascii)
def test_the_same_marks_in_other_text_are_found(mark: str) -> None:
    assert scan(f"if admin:{mark} return", HIDDEN)


JOINED = [
    "👨‍👩‍👧‍👦",
    "🏳️‍🌈",
    "👩🏽‍💻",
    "❤️‍🔥",
    "🧑‍🚀!",
    "1️⃣2️⃣",
    "می‌خواهم",
    "نمی‌شود",
    "क्‍ष",
    "ക്‍ക",
    "ශ්‍රී",
    "র‌্যাব",
    "ภาษา\u200bไทย",
    "日本\u200b語",
]


@pytest.mark.parametrize("text", JOINED, ids=ascii)
def test_joiners_where_writing_needs_them_are_no_finding(text: str) -> None:
    for around in (text, f"hello {text}", f"{text} ok", f"x{text}x"):
        assert not scan(around, HIDDEN), ascii(around)


# -- cues ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [r for r in RULES if any(p.cue for p in r.patterns)], ids=lambda rule: rule.id)
def test_what_a_pattern_finds_near_its_cue_is_all_that_it_finds(rule: Rule) -> None:
    """Against the same patterns tried everywhere, in texts of samples, pieces of them and noise."""
    everywhere = Either(tuple(Pattern(p.regex, p.view, None, p.check, p.group, p.flags) for p in rule.patterns))
    near = Either(rule.patterns)
    rng = Random(6)
    pieces = [
        *rule.positive,
        *rule.negative,
        *(s[: len(s) // 2] for s in rule.positive),
        "\n",
        "7",
        " ",
        "漢",
        "x",
        "İ",
        "a" * 90,
    ]
    for _ in range(20):
        text = "".join(rng.choices(pieces, k=rng.randrange(1, 9)))
        assert list(near.spans(Views(text))) == list(everywhere.spans(Views(text))), text


def test_a_cue_within_another_knows_where_it_stands() -> None:
    cue = Cue(("key-",), before=2, after=3, within=Cue(regex=r"[a-z0-9-]{8,20}+", before=1))
    text = "key- İ xxkey-123456 and aakey-654321"
    windows = Views(text)["plain"].windows(cue)
    assert [text[a:b] for a, b in windows] == ["xxkey-123", "aakey-654"]


# -- keys ------------------------------------------------------------------------------------------------------------

_A, _H = "aB3" * 40, "0a1b2c3d4e5f6789" * 10
KEYS = {
    "ghp" + "_" + _A[:36]: "github",
    "github" + "_pat_" + "A" * 22 + "_" + _A[:59]: "github",
    "glpat" + "-" + _A[:20]: "gitlab",
    "SG" + "." + _A[:22] + "." + _A[:43]: "sendgrid",
    "dop" + "_v1_" + _H[:64]: "digitalocean",
    "dapi" + _H[:32]: "databricks",
    "shpat" + "_" + _H[:32]: "shopify",
    "sq0atp" + "-" + _A[:22]: "square",
    "key" + "-" + _H[:32]: "mailgun",
    _H[:32] + "-us" + "12": "mailchimp",
    "SK" + _H[:32]: "twilio",
    "hf" + "_" + "aBcDeFgHiJ" * 3 + "abcd": "hugging_face",
    "gsk" + "_" + _A[:52]: "groq",
    "r8" + "_" + _A[:37]: "replicate",
    "pplx" + "-" + _A[:48]: "perplexity",
    "hvs" + "." + _A[:95]: "vault",
    "NRAK" + "-" + "A1B" * 9: "new_relic",
    "glsa" + "_" + _A[:32] + "_" + _H[:8]: "grafana",
    "lin" + "_api_" + _A[:40]: "linear",
    "ntn" + "_" + _A[:46]: "notion",
    "sntryu" + "_" + _H[:64]: "sentry",
    "dp.pt" + "." + _A[:43]: "doppler",
    "123456789" + ":AA" + _A[:33]: "telegram",
    "dckr" + "_pat_" + _A[:27]: "docker",
    "AGE-SECRET-" + "KEY-1" + "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L" + "QPZRY9X8GF2TVDW0S3JN54KHCE": "age",
    "sk-ant" + "-api03-" + _A[:93]: "anthropic",
    "AKIA" + "ABCDEFGHIJKLMNOP": "aws",
    "AIza" + _A[:35]: "google",
    "AccountKey=" + _A[:86] + "==": "azure_storage",
    "HEROKU" + "_API_KEY=01234567-89ab-cdef-0123-456789abcdef": "uuid_key",
    "cloudant password: " + _H[:64]: "cloudant",
    "npm" + "_" + _A[:36]: "npm",
    "rubygems" + "_" + _H[:48]: "rubygems",
}


@pytest.mark.parametrize(("key", "name"), KEYS.items(), ids=list(KEYS.values()))
def test_keys_as_their_issuers_write_them_are_found_wherever_they_stand(key: str, name: str) -> None:
    rule = BY_ID["secret." + name]
    (found,) = spans(rule, key)
    for text in (
        f"鍵は{key}です",
        f'{{"k": "{key}"}}',
        f"line\\n{key}\\n",
        f"x={key};",
        f"({key})",
        f"มี{key}ครับ",
        f"`{key}`",
    ):
        assert spans(rule, text) == [found], text


def test_a_form_says_its_length() -> None:
    form = Form("ab_{h4}-{a2-3}")
    assert (form.most, form.cue, form.sample()) == (11, ("ab_", 0), "ab_a12c-a1")
    assert form.regex == r"ab_[0-9a-f]{4}\-[A-Za-z0-9]{2,3}+"


def test_no_invisible_character_is_a_letter_that_anybody_reads() -> None:
    assert not any(c.isalnum() and c not in "\u115f\u1160\u3164\uffa0" for c in INVISIBLE)
