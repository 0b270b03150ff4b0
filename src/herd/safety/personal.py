"""Rules about data of persons. Where a number has check digits they must be right; the rest are shapes."""

import re

from herd.safety import checksums
from herd.safety.checksums import whole
from herd.safety.rules import Pattern, Rule

_NO_WORD = r"(?![A-Za-z0-9])"
_START = r"(?<![A-Za-z0-9])"
_DIGITS = r"(?<![\w.,-])"
_DIGITS_END = r"(?![\w])"

PERSONAL = (
    Rule(
        "personal.email",
        "personal",
        "medium",
        "e-mail addresses",
        Pattern(
            r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}+@(?:[A-Za-z0-9-]{1,63}+\.(?=[A-Za-z0-9])){1,8}+"
            r"(?<=\.)[A-Za-z][A-Za-z0-9-]{1,62}+",
            needs=("@",),
        ),
        "[EMAIL]",
        ("write to jane.doe+news@mail.example.org.", "ｊａｎｅ＠ｅｘａｍｐｌｅ．ｏｒｇ", "ja\u200bne@example.org"),
        ("@jane", "a@b", "git@host:path", "x @ y.com"),
    ),
    Rule(
        "personal.phone",
        "personal",
        "medium",
        "telephone numbers: international with +, 8 to 15 digits; North American ones in groups",
        Pattern(
            r"(?<![\w+])\+[1-9](?:[ ().\-/\u2010-\u2012\u00a0]{0,2}+\d){7,14}+(?!\d)"
            r"|(?<![\w+(])(?:\([2-9]\d\d\) ?+|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}(?!\w)",
            needs=tuple("0123456789"),
            check=checksums.telephone,
        ),
        "[PHONE]",
        ("call +49 (0)30 1234-5678", "+14155550123", "(415) 555-0123", "415-555-0123"),
        ("+1 2", "1 + 23456789", "2024-11-28 10:20", "555-0123"),
    ),
    Rule(
        "personal.iban",
        "personal",
        "high",
        "bank accounts (IBAN): the country's length, mod 97",
        Pattern(
            _START + r"[A-Za-z]{2}\d\d(?:[ -]?+[A-Za-z0-9]){11,30}+",
            needs=tuple("0123456789"),
            check=checksums.iban,
        ),
        "[IBAN]",
        ("DE89 3704 0044 0532 0130 00 is mine", "gb82west12345698765432", "NL91ABNA0417164300."),
        ("DE89 3704 0044 0532 0130 01", "XX89370400440532013000", "DE8937040044053201300"),
    ),
    Rule(
        "personal.card",
        "personal",
        "high",
        "payment cards: an issuer's first digits and lengths, Luhn",
        Pattern(
            r"(?<![\w.])(?:\d{12,19}+|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}+|\d{4}([ -])\d{6}\2\d{4,5}+)(?!\d)",
            needs=tuple("0123456789"),
            check=whole(checksums.card),
        ),
        "[CARD]",
        ("4111 1111 1111 1111", "5555-5555-5555-4444,", "378282246310005", "2 4111 1111 1111 1111"),
        ("4111 1111 1111 1112", "1234567812345670", "0.4111111111111111"),
    ),
    Rule(
        "personal.ip",
        "personal",
        "low",
        "IP addresses, version 4 and 6, that are routed (not private, local or for examples)",
        Pattern(
            r"(?<![\w.])(?:\d{1,3}+\.){3}\d{1,3}+(?!\.?+\d)(?!\w)|(?<![\w:.])(?=[0-9A-Fa-f]{0,4}+:)[0-9A-Fa-f:.]{4,45}+(?!\w)",
            needs=(".", ":"),
            check=checksums.address,
        ),
        "[IP]",
        ("from 8.8.8.8.", "2001:4860:4860::8888", "[2606:4700:4700::1111]"),
        ("192.168.1.1", "127.0.0.1", "1.2.3.4.5", "999.1.1.1", "12:30:45", "::1", "std::vector"),
    ),
    Rule(
        "personal.us_ssn",
        "personal",
        "high",
        "social security numbers of the United States (no check digit: with hyphens, numbers that were given)",
        Pattern(_DIGITS + r"\d{3}-\d\d-\d{4}" + r"(?![\w-])", needs=("-",), check=whole(checksums.us_ssn)),
        "[SSN]",
        ("SSN 219-09-9999",),
        ("000-12-3456", "666-12-3456", "900-12-3456", "219-09-99999", "2024-11-2800"),
    ),
    Rule(
        "personal.uk_nino",
        "personal",
        "high",
        "national insurance numbers of the United Kingdom (no check digit: prefixes that are given)",
        Pattern(
            _START + r"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?+\d\d ?+\d\d ?+\d\d ?+[A-D]" + _NO_WORD,
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
            _START + r"\d\d ?+[0-3]\d[01]\d\d\d ?+[A-Z] ?+\d{3}" + _NO_WORD,
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
            _DIGITS + r"[12] ?+\d\d ?+[0-9]\d ?+(?:\d\d|2[AB]) ?+\d{3} ?+\d{3} ?+\d\d" + _DIGITS_END,
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
        Pattern(_START + r"(?:\d{8}|[XYZ]\d{7})-?+[A-HJ-NP-TV-Z]" + _NO_WORD, check=whole(checksums.es_dni)),
        "[NATIONAL_ID]",
        ("12345678Z", "X1234567L", "12345678-Z"),
        ("12345678A", "X1234567A"),
    ),
    Rule(
        "personal.it_fiscal",
        "personal",
        "high",
        "tax codes of Italy: check letter",
        Pattern(
            _START + r"[A-Z]{6}\d\d[A-EHLMPR-T]\d\d[A-Z]\d{3}[A-Z]" + _NO_WORD,
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
        Pattern(_DIGITS + r"\d{3}\.\d{3}\.\d{3}-\d\d" + _DIGITS_END, needs=("-",), check=whole(checksums.br_cpf)),
        "[NATIONAL_ID]",
        ("CPF 529.982.247-25",),
        ("529.982.247-26", "111.111.111-11"),
    ),
    Rule(
        "personal.se_person",
        "personal",
        "high",
        "personal numbers of Sweden: a day that exists, Luhn",
        Pattern(
            _DIGITS + r"(?:19|20)?+\d{6}[-+]\d{4}" + _DIGITS_END, needs=("-", "+"), check=whole(checksums.se_person)
        ),
        "[NATIONAL_ID]",
        ("811218-9876", "19811218-9876"),
        ("811218-9875", "811318-9875"),
    ),
    Rule(
        "personal.pl_pesel",
        "personal",
        "high",
        "identity numbers of Poland (PESEL): a day that exists, check digit",
        Pattern(_DIGITS + r"\d{11}" + _DIGITS_END, needs=tuple("0123456789"), check=whole(checksums.pl_pesel)),
        "[NATIONAL_ID]",
        ("PESEL: 44051401359",),
        ("44051401358", "44991401359"),
    ),
    Rule(
        "personal.ca_sin",
        "personal",
        "high",
        "social insurance numbers of Canada, in groups of three: Luhn",
        Pattern(
            _DIGITS + r"[1-79]\d\d([ -])\d{3}\1\d{3}" + r"(?![\w-])(?! \d)",
            needs=(" ", "-"),
            check=whole(lambda found: checksums.luhn(checksums.digits(found))),
        ),
        "[NATIONAL_ID]",
        ("130 692 544", "130-692-544"),
        ("130 692 545", "046 454 286"),
    ),
    Rule(
        "personal.in_aadhaar",
        "personal",
        "high",
        "identity numbers of India (Aadhaar), in groups of four: Verhoeff's check digit",
        Pattern(
            r"(?<![\w.,-])(?<!\d )[2-9]\d{3} \d{4} \d{4}" + r"(?![\w-])(?! \d)",
            needs=(" ",),
            check=whole(lambda found: checksums.verhoeff(checksums.digits(found))),
        ),
        "[NATIONAL_ID]",
        ("2341 2341 2346",),
        ("2341 2341 2347", "2341 2341 2346 1111"),
    ),
    Rule(
        "personal.ch_ahv",
        "personal",
        "high",
        "social security numbers of Switzerland (AHV): check digit of EAN-13",
        Pattern(
            _DIGITS + r"756\.?+\d{4}\.?+\d{4}\.?+\d\d" + _DIGITS_END, needs=("756",), check=whole(checksums.ch_ahv)
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
            _START + r"[0-3]\d[01]\d{3}[-+A-FU-Y]\d{3}[0-9A-FHJ-NPR-Y]" + _NO_WORD, check=whole(checksums.fi_person)
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
            r"(?i:\bbsn\b)[^\w\n]{0,4}+(\d{9})" + _DIGITS_END,
            needs=("bsn", "BSN", "Bsn"),
            check=whole(checksums.nl_bsn),
            group=1,
        ),
        "[NATIONAL_ID]",
        ("BSN: 111222333",),
        ("BSN: 111222334", "111222333"),
    ),
    Rule(
        "personal.be_national",
        "personal",
        "high",
        "national numbers of Belgium, as they are written: mod 97",
        Pattern(
            _DIGITS + r"\d\d\.\d\d\.\d\d-\d{3}\.\d\d" + _DIGITS_END, needs=("-",), check=whole(checksums.be_national)
        ),
        "[NATIONAL_ID]",
        ("85.07.30-033.28",),
        ("85.07.30-033.29",),
    ),
)
