"""Rules about data of persons. Where a number has check digits they must be right; the rest are shapes.

Digits in groups of three are how every number is written, so what is only that is found behind a word that says what it
is, and nowhere else.
"""

import re

from herd.safety import checksums
from herd.safety.checksums import whole
from herd.safety.cues import Cue
from herd.safety.rules import Either, Pattern, Rule
from herd.safety.shapes import ALONE, ALONE_END, DIGITS, END, S1, S2, SEP, START, after, words
from herd.safety.telephones import TELEPHONE

_POINTS = Cue(regex=r"[0-9]\.[0-9]{1,3}+\.[0-9]", before=48, after=16)
_DASH = r"[-\u2010]"
_V4 = r"(?:\d{1,3}+\.){3}\d{1,3}+"
_V4_END = r"(?!\.?+\d)(?![A-Za-z0-9])"
_VERSION = (
    r"(?:(?<![A-Za-z])(?i:v|ver|version|versi\u00f3n|vers\u00e3o|versione|rev|revision|release|build|firmware)"
    r"[ .:=\"'(]{0,4}+|[A-Za-z0-9_)][/_]|[A-Za-z_)][-+]|(?:[=<>~]=|[~^]) ?+|\d\.)\d{1,9}+(?:\.\d{1,9}+){3,8}+"
    r"|" + START + _V4 + r"[-+~_][A-Za-z0-9]"
)

PERSONAL = (
    Rule(
        "personal.email",
        "personal",
        "medium",
        "e-mail addresses",
        Pattern(
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}+@(?:[A-Za-z0-9-]{1,63}+\.(?=[A-Za-z0-9])){1,8}+"
            r"(?<=\.)[A-Za-z][A-Za-z0-9-]{1,62}+",
            cue=Cue(("@",), before=66, after=640),
        ),
        "[EMAIL]",
        ("write to jane.doe+news@mail.example.org.", "ｊａｎｅ＠ｅｘａｍｐｌｅ．ｏｒｇ", "ja\u200bne@example.org"),
        ("@jane", "a@b", "git@host:path", "x @ y.com"),
    ),
    Rule(
        "personal.phone",
        "personal",
        "medium",
        "telephone numbers: international with +, 8 to 15 digits; in groups as countries write them; behind a word",
        TELEPHONE,
        "[PHONE]",
        (
            "call +49 (0)30 1234-5678",
            "+14155550123",
            "(415) 555-0123",
            "415-555-0123",
            "1.415.555.0123",
            "電話090-1234-5678です",
            "請打13812345678",
            "тел. 8 (495) 123-45-67",
            "06 12 34 56 78",
            "โทร081 234 5678",
            "phone: 555-0123",
            "هاتف٠٥٠١٢٣٤٥٦٧",
            "फ़ोन९८७६५४३२१०",
            "0171/1234567",
            "(11) 91234-5678",
        ),
        (
            "+1 2",
            "1 + 23456789",
            "2024-11-28 10:20",
            "555-0123",
            "hotel 12345678",
            "1 234 567 890",
            "01-02-2024",
            "01 02 03 04 05 06",
            "0.4155550123",
            "1234-5678",
        ),
    ),
    Rule(
        "personal.iban",
        "personal",
        "high",
        "bank accounts (IBAN): the country's length, mod 97",
        Pattern(
            START + r"[A-Za-z]{2}\d\d(?:[ \t.\-\u2010]{0,2}+[A-Za-z0-9]){11,30}+", cue=DIGITS, check=checksums.iban
        ),
        "[IBAN]",
        (
            "DE89 3704 0044 0532 0130 00 is mine",
            "gb82west12345698765432",
            "NL91ABNA0417164300.",
            "口座DE89370400440532013000です",
        ),
        ("DE89 3704 0044 0532 0130 01", "XX89370400440532013000", "DE8937040044053201300", "DE89370400440532013000A"),
    ),
    Rule(
        "personal.card",
        "personal",
        "high",
        "payment cards: an issuer's first digits and lengths, Luhn",
        Pattern(
            START + r"(?<![^A-Za-z][.,])(?:\d{14,19}+|\d{4}(?:" + SEP + r"{1,2}+\d{4}){2}" + SEP + r"{1,2}+\d{4,7}+"
            r"|\d{4}" + SEP + r"{1,2}+\d{6}" + SEP + r"{1,2}+\d{4,5}+"
            "|(?<![0-9]" + SEP + r")\d(?:" + SEP + r"\d){13,18}+(?!" + SEP + "[0-9]))" + END,
            cue=DIGITS,
            check=whole(checksums.card),
        ),
        "[CARD]",
        (
            "4111 1111 1111 1111",
            "5555-5555-5555-4444,",
            "378282246310005",
            "2 4111 1111 1111 1111",
            "4111\t1111–1111/1111",
            "カード4111111111111111です",
            "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        ),
        ("4111 1111 1111 1112", "1234567812345670", "0.4111111111111111", "4222222222222"),
    ),
    Rule(
        "personal.ip",
        "personal",
        "low",
        "IP addresses, version 4 and 6, that are routed (not private, local or for examples)",
        Either(
            (
                Pattern(
                    _VERSION + "|" + START + "(" + _V4 + ")" + _V4_END,
                    cue=_POINTS,
                    check=checksums.bare_address,
                    group=None,
                ),
                Pattern(
                    r"(?:" + words("ip", "ipv4", "addr", "address", "host", "server", "dns", "ping") + r"[^0-9\n]{0,8}+"
                    r"|//|@|\[)(" + _V4 + ")" + _V4_END,
                    cue=_POINTS,
                    check=checksums.address,
                    group=None,
                ),
                Pattern(r"(?<![A-Za-z0-9:.])[23][0-9A-Fa-f]{3}:[0-9A-Fa-f:.]{3,41}+" + END, check=checksums.address),
            )
        ),
        "[IP]",
        (
            "from 8.8.8.8.",
            "2001:4860:4860::8888",
            "[2606:4700:4700::1111]",
            "地址203.119.25.7。",
            "src=203.119.25.7 ok",
            "<203.119.25.7>",
            "http://5.9.1.2/",
            "IP: 5.9.1.2",
        ),
        (
            "192.168.1.1",
            "127.0.0.1",
            "1.2.3.4.5",
            "999.1.1.1",
            "12:30:45",
            "::1",
            "std::vector",
            "v1.2.3.4",
            "1.2.3.4",
            "Chrome/120.0.0.0",
            "version 10.4.141.2",
            "lib-5.8.141.2.tar",
            "dead::beef",
            "5.8.0.141-1",
            "a==5.9.141.2",
        ),
    ),
    Rule(
        "personal.us_ssn",
        "personal",
        "high",
        "social security numbers of the United States (no check digit: with hyphens, numbers that were given)",
        Pattern(
            after(words("ssn", "social security", "seguro social"), r"\d{3}" + S2 + r"\d\d" + S2 + r"\d{4}" + END)
            + "|"
            + ALONE
            + r"(\d{3}"
            + _DASH
            + r"\d\d"
            + _DASH
            + r"\d{4})"
            + ALONE_END,
            cue=DIGITS,
            check=whole(checksums.us_ssn),
            group=None,
        ),
        "[SSN]",
        ("SSN 219-09-9999", "219‑09‑9999", "social security number: 219 09 9999", "SSN219099999"),
        ("000-12-3456", "666-12-3456", "900-12-3456", "219-09-99999", "2024-11-2800", "219 09 9999", "219099999"),
    ),
    Rule(
        "personal.uk_nino",
        "personal",
        "high",
        "national insurance numbers of the United Kingdom (no check digit: prefixes that are given)",
        Pattern(
            START
            + r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]"
            + S1
            + r"\d\d"
            + S1
            + r"\d\d"
            + S1
            + r"\d\d"
            + S1
            + "[A-D]"
            + END,
            cue=DIGITS,
            check=whole(checksums.uk_nino),
        ),
        "[NATIONAL_ID]",
        ("AB 12 34 56 C", "JG103759A"),
        ("GB 12 34 56 C", "AB 12 34 56 E", "DA123456A"),
    ),
    Rule(
        "personal.de_pension",
        "personal",
        "high",
        "pension insurance numbers of Germany: check digit",
        Pattern(
            START + r"\d\d" + S1 + r"[0-3]\d[01]\d\d\d" + S1 + "[A-Z]" + S1 + r"\d{3}" + END,
            cue=DIGITS,
            check=whole(checksums.de_pension),
        ),
        "[NATIONAL_ID]",
        ("15 070649 C 103", "15070649C103"),
        ("15070649C104", "15070649c103"),
    ),
    Rule(
        "personal.fr_nir",
        "personal",
        "high",
        "social security numbers of France: key mod 97",
        Pattern(
            ALONE
            + S1.join(("[12]", r"\d\d", r"(?:0[1-9]|1[0-2]|[2-9]\d)", r"(?:\d\d|2[AB])", r"\d{3}", r"\d{3}", r"\d\d"))
            + ALONE_END,
            cue=DIGITS,
            check=whole(checksums.fr_nir),
        ),
        "[NATIONAL_ID]",
        ("2 55 08 14 168 025 38", "255081416802538"),
        ("255081416802539",),
    ),
    Rule(
        "personal.es_dni",
        "personal",
        "high",
        "identity numbers of Spain (DNI, NIE): letter mod 23",
        Pattern(
            ALONE + r"(?:\d{8}|\d\d\.\d{3}\.\d{3}|[XYZ]-?+\d{7})[-\u2010]?+[A-HJ-NP-TV-Z]" + ALONE_END,
            cue=DIGITS,
            check=whole(checksums.es_dni),
        ),
        "[NATIONAL_ID]",
        ("12345678Z", "X1234567L", "12345678-Z", "12.345.678-Z", "身分12345678Zです"),
        ("12345678A", "X1234567A", "12 345 678 Z", "f-12345678Z"),
    ),
    Rule(
        "personal.it_fiscal",
        "personal",
        "high",
        "tax codes of Italy: check letter",
        Pattern(
            START + S1.join(("[A-Z]{3}", "[A-Z]{3}", r"\d\d[A-EHLMPR-T]\d\d", r"[A-Z]\d{3}[A-Z]")) + END,
            cue=DIGITS,
            check=whole(checksums.it_fiscal),
            flags=re.IGNORECASE,
        ),
        "[NATIONAL_ID]",
        ("RSSMRA85T10A562S", "mrtmtt91d08f205j"),
        ("RSSMRA85T10A562T",),
    ),
    Rule(
        "personal.br_cpf",
        "personal",
        "high",
        "taxpayer numbers of Brazil (CPF), as they are written: two check digits",
        Pattern(
            after(words("cpf", "cadastro de pessoas físicas"), S2.join((r"\d{3}", r"\d{3}", r"\d{3}", r"\d\d")) + END)
            + "|"
            + ALONE
            + r"(\d{3}\.\d{3}\.\d{3}[-\u2010/]\d\d)"
            + ALONE_END,
            cue=DIGITS,
            check=whole(checksums.br_cpf),
            group=None,
        ),
        "[NATIONAL_ID]",
        ("CPF 529.982.247-25", "529.982.247–25", "cpf 52998224725", "CPF: 529 982 247 25"),
        ("529.982.247-26", "111.111.111-11", "52998224725"),
    ),
    Rule(
        "personal.se_person",
        "personal",
        "high",
        "personal numbers of Sweden: a day that exists, Luhn",
        Pattern(ALONE + r"(?:19|20)?+\d{6}[-+\u2010]\d{4}" + ALONE_END, cue=DIGITS, check=whole(checksums.se_person)),
        "[NATIONAL_ID]",
        ("811218-9876", "19811218-9876"),
        ("811218-9875", "811318-9875"),
    ),
    Rule(
        "personal.pl_pesel",
        "personal",
        "high",
        "identity numbers of Poland (PESEL): a day that exists, check digit",
        Pattern(
            after(words("pesel"), r"\d{11}" + END) + r"|" + ALONE + r"(\d\d[0-3]\d[0-3]\d{6})" + ALONE_END,
            cue=DIGITS,
            check=whole(checksums.pl_pesel),
            group=None,
        ),
        "[NATIONAL_ID]",
        ("PESEL: 44051401359",),
        ("44051401358", "44991401359"),
    ),
    Rule(
        "personal.ca_sin",
        "personal",
        "high",
        "social insurance numbers of Canada, with hyphens or behind a word: Luhn",
        Pattern(
            after(
                words("sin", "nas", "social insurance", "assurance sociale"),
                S2.join((r"[1-79]\d\d", r"\d{3}", r"\d{3}")) + END,
            )
            + "|"
            + ALONE
            + r"([1-79]\d\d[-\u2010]\d{3}[-\u2010]\d{3})"
            + ALONE_END,
            cue=DIGITS,
            check=whole(lambda found: checksums.luhn(checksums.digits(found))),
            group=None,
        ),
        "[NATIONAL_ID]",
        ("SIN: 130 692 544", "130-692-544", "NAS 130692544"),
        ("130 692 545", "046 454 286", "130 692 544", "130-692-545", "1 130 692 544"),
    ),
    Rule(
        "personal.in_aadhaar",
        "personal",
        "high",
        "identity numbers of India (Aadhaar), in groups of four: Verhoeff's check digit",
        Pattern(
            after(words("aadhaar", "aadhar", "आधार", "uidai"), S2.join((r"[2-9]\d{3}", r"\d{4}", r"\d{4}")) + END, 24)
            + "|"
            + ALONE
            + r"(?<!\d[ \t])([2-9]\d{3}[ \t\-\u2010]\d{4}[ \t\-\u2010]\d{4})"
            + ALONE_END
            + r"(?![ \t]\d)",
            cue=DIGITS,
            check=whole(lambda found: checksums.verhoeff(checksums.digits(found))),
            group=None,
        ),
        "[NATIONAL_ID]",
        ("2341 2341 2346", "आधार२३४१२३४१२३४६", "Aadhaar no. 234123412346"),
        ("2341 2341 2347", "2341 2341 2346 1111"),
    ),
    Rule(
        "personal.ch_ahv",
        "personal",
        "high",
        "social security numbers of Switzerland (AHV): check digit of EAN-13",
        Pattern(
            ALONE + S1.join(("756", r"\d{4}", r"\d{4}", r"\d\d")) + ALONE_END, cue=DIGITS, check=whole(checksums.ch_ahv)
        ),
        "[NATIONAL_ID]",
        ("756.9217.0769.85", "7569217076985"),
        ("756.9217.0769.84",),
    ),
    Rule(
        "personal.fi_person",
        "personal",
        "high",
        "personal identity codes of Finland: check character mod 31",
        Pattern(
            ALONE + r"[0-3]\d[01]\d{3}[-+\u2010A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]" + ALONE_END,
            cue=DIGITS,
            check=whole(checksums.fi_person),
        ),
        "[NATIONAL_ID]",
        ("131052-308T",),
        ("131052-308U",),
    ),
    Rule(
        "personal.nl_bsn",
        "personal",
        "high",
        "citizen service numbers of the Netherlands, where the word BSN stands before them: the eleven test",
        Pattern(
            after(words("bsn", "burgerservicenummer", "sofinummer"), r"\d(?:" + S1 + r"\d){8}" + END),
            cue=DIGITS,
            check=whole(checksums.nl_bsn),
            group=1,
        ),
        "[NATIONAL_ID]",
        ("BSN: 111222333", "burgerservicenummer 1112 22 333"),
        ("BSN: 111222334", "111222333"),
    ),
    Rule(
        "personal.be_national",
        "personal",
        "high",
        "national numbers of Belgium, as they are written: mod 97",
        Pattern(
            ALONE + r"\d\d\.\d\d\.\d\d[-\u2010 ]\d{3}[.\-\u2010]\d\d" + ALONE_END,
            cue=DIGITS,
            check=whole(checksums.be_national),
        ),
        "[NATIONAL_ID]",
        ("85.07.30-033.28",),
        ("85.07.30-033.29",),
    ),
)
