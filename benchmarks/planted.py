"""What the rules of `herd.safety` miss: random valid values, as people write them, in sentences of twelve languages.

    python benchmarks/planted.py [N]    N values a writing, 240 by default

A value counts as found if its rule's find holds all of it. `#` is a random digit, `§` a random capital; numbers that
have check digits are drawn until they are valid.
"""

import re
import sys
from collections.abc import Callable
from random import Random

from herd.safety import RULES, checksums, scan
from herd.safety.forms import KINDS, Form
from herd.safety.issuers import FORMS, NAMED

SENTENCES = (
    "My number is {}, thanks.", "Meine Nummer lautet {}.", "C'est le {} !", "Il mio è {}, grazie.", "O meu é {}.",
    "मेरा नंबर{}है।", "Es el {}, gracias", "หมายเลข{}ครับ", "رقمي {} شكرا", "Мой: {}; спасибо",
    "我的号码是{}，谢谢", "番号は{}です。",
)  # fmt: skip


def _luhn(text: str) -> bool:
    return checksums.luhn(checksums.digits(text))


def _verhoeff(text: str) -> bool:
    return checksums.verhoeff(checksums.digits(text))


def _anything(text: str) -> bool:
    return True


NUMBERS: dict[str, tuple[Callable[[str], bool], tuple[str, ...]]] = {
    "personal.card": (_luhn, (
        "4###############", "4### #### #### ####", "51##-####-####-####", "4###.####.####.####",
        "4###–####–####–####", "4###\t#### ####-####", "4# ## ## ## ## ## ## ##", "37## ###### #####",
        "4### #### ########",
    )),
    "personal.phone": (_anything, (
        "+49 30 #######", "+1 (212) 555-####", "+81-90-####-####", "+91 98### #####", "212-555-####",
        "(212) 555-####", "090-####-####", "06 12 ## ## ##", "8 (495) ###-##-##", "1381#######",
        "138 #### ####", "010-####-####", "(11) 9####-####", "0171/#######", "tel 612 ### ###",
        "電話 ##-####-####", "612 ### ###", "07700 900###", "347 #######",
    )),
    "personal.us_ssn": (_anything, (
        "219-##-1###", "219–##–1###", "SSN 219##1###", "219 ## 1###", "social security: 219 ## 1###",
    )),
    "personal.uk_nino": (_anything, (
        "AB######C", "AB ## ## ## C", "ab######c", "AB-##-##-##-C",
    )),
    "personal.fr_nir": (checksums.fr_nir, (
        "2 55 08 14 ### ### ##", "2550814########", "2.55.08.14.###.###.##",
    )),
    "personal.es_dni": (checksums.es_dni, (
        "########§", "########-§", "##.###.###-§", "X#######§", "######## §",
    )),
    "personal.br_cpf": (checksums.br_cpf, (
        "###.###.###-##", "###.###.###/##", "CPF ###########", "###########",
    )),
    "personal.se_person": (checksums.se_person, (
        "8112##-####", "198112##-####", "198112######",
    )),
    "personal.pl_pesel": (checksums.pl_pesel, (
        "44051######", "PESEL 44051######", "440514 #####",
    )),
    "personal.ca_sin": (_luhn, (
        "SIN 1## ### ###", "1##-###-###", "1## ### ###", "1########",
    )),
    "personal.in_aadhaar": (_verhoeff, (
        "2### #### ####", "2###-####-####", "Aadhaar 2###########", "2###########",
    )),
    "personal.ch_ahv": (checksums.ch_ahv, (
        "756.####.####.##", "756 #### #### ##", "756##########",
    )),
    "personal.nl_bsn": (checksums.nl_bsn, (
        "BSN 1########", "BSN: 1###.##.###", "1########",
    )),
    "personal.be_national": (checksums.be_national, (
        "85.07.30-###.##", "85.07.30 ###-##", "850730#####",
    )),
    "personal.ip": (_anything, (
        "8.2#.15#.2#", "203.119.2#.7#", "2001:4860:48##:##::8888", "5.6.7.8",
    )),
    "personal.email": (_anything, (
        "jane.doe##@example.org", "jane+##@mail.example.co.uk", "j##＠example.com", "josé##@example.org",
        "jane## at example dot org",
    )),
}  # fmt: skip


_DRAWN = {"#": "0123456789", "§": "ABCDEFGHJKLMNPQRSTVWXYZ"}


def _number(rng: Random, writing: str, valid: Callable[[str], bool]) -> str:
    while True:
        drawn = (
            rng.choice("0123456789") if c == "#" else rng.choice("ABCDEFGHJKLMNPQRSTVWXYZ") if c == "§" else c
            for c in writing
        )
        text = "".join(drawn)
        start = next(i for i, c in enumerate(text) if c.isdigit() or c in "X") if valid is not _anything else 0
        if valid(text[start:]):
            return text


def _key(rng: Random, form: Form) -> str:
    return "".join(
        literal or _some(rng, kind, rng.randint(least, min(most, least + 20)))
        for literal, kind, least, most in form.parts
    )


def _some(rng: Random, kind: str, count: int) -> str:
    allowed = [c for c in map(chr, range(33, 127)) if re.fullmatch(f"[{KINDS[kind]}]", c)]
    return "".join(rng.choices(allowed, k=count))


def _found(rule: str, value: str, sentence: str) -> bool:
    text = sentence.format(value)
    start, end = text.index(value), text.index(value) + len(value)
    start += next(i for i, c in enumerate(value) if c.isdigit())
    return any(f.rule.id == rule and f.start <= start and f.end >= end for f in scan(text, RULES))


def planted(count: int) -> None:
    """Prints how many are found, by rule and writing."""
    rng = Random(7)
    for rule, (valid, writings) in NUMBERS.items():
        shares = []
        for writing in writings:
            values = [_number(rng, writing, valid) for _ in range(count)]
            found = sum(_found(rule, value, rng.choice(SENTENCES)) for value in values)
            shares.append(f"{writing!r} {100 * found / count:.0f}%")
        print(f"{rule}: {', '.join(shares)}")
    _planted_keys(rng, max(1, count // 20))


def _planted_keys(rng: Random, count: int) -> None:
    formed: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {name: ((), texts) for name, texts in FORMS.items()}
    every = {**formed, **NAMED}
    total = missed = 0
    for issuer, (words, texts) in every.items():
        for form in (Form(text) for text in texts for _ in range(count)):
            key, sentence = _key(rng, form), rng.choice(SENTENCES)
            said = sentence.format(f"{words[0]}_token: {key}" if words else key)
            total += 1
            if not any(f.rule.kind == "secret" and key[4:-1] in said[f.start : f.end] for f in scan(said, RULES)):
                missed += 1
                print(f"{issuer}: missed {said[:90]!a}")
    print(f"keys: {total - missed} of {total}")


if __name__ == "__main__":
    planted(int(sys.argv[1]) if len(sys.argv) > 1 else 240)
