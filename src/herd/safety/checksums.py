"""Numbers that prove themselves: check digits of accounts, cards and national identity numbers.

Each function takes the characters that a pattern found and says which of them are the number, as (start, end), or None.
Sources: ISO 13616 (IBAN), ISO/IEC 7812 (cards, Luhn), the issuing states' published rules.
"""

import ipaddress
from collections.abc import Callable
from datetime import date
from typing import TypeAlias

Span: TypeAlias = tuple[int, int]
Check: TypeAlias = Callable[[str], Span | None]

IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28,
    "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18,
    "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22,
    "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32, "LI": 21, "LT": 20,
    "LU": 20, "LV": 21, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15,
    "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19,
    "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip

_ISSUERS: tuple[tuple[int, int, tuple[int, ...]], ...] = (
    # first four digits from, to, lengths
    (3400, 3499, (15,)), (3700, 3799, (15,)),  # American Express
    (3000, 3059, (14,)), (3600, 3699, (14,)), (3800, 3999, (14,)),  # Diners
    (3528, 3589, (16,)),  # JCB
    (4000, 4999, (16, 19)),  # Visa
    (5000, 5099, (15, 16, 18, 19)), (5600, 5899, (15, 16, 18, 19)),  # Maestro
    (2221, 2720, (16,)), (5100, 5599, (16,)),  # Mastercard
    (6011, 6011, (16, 19)), (6440, 6599, (16, 19)),  # Discover
    (6200, 6299, (16, 17, 18, 19)),  # UnionPay
)  # fmt: skip


def alnum(text: str) -> str:
    """Letters and digits only, in capitals."""
    return "".join(c for c in text if c.isalnum()).upper()


def digits(text: str) -> list[int]:
    """Its ASCII digits."""
    return [ord(c) - 48 for c in text if "0" <= c <= "9"]


def luhn(numbers: list[int]) -> bool:
    """Every second digit from the right doubled; the digit sum is a multiple of 10."""
    doubled = [2 * d - 9 * (d > 4) if i % 2 else d for i, d in enumerate(reversed(numbers))]
    return sum(doubled) % 10 == 0


def verhoeff(numbers: list[int]) -> bool:
    """Verhoeff's check: digits permuted by place, multiplied in the group of the pentagon."""
    total = 0
    for place, digit in enumerate(reversed(numbers)):
        for _ in range(place % 8):
            digit = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[digit]
        total = _pentagon(total, digit)
    return total == 0


def _pentagon(a: int, b: int) -> int:
    """Product in the dihedral group of order 10: 0 to 4 turn, 5 to 9 mirror."""
    turned = (a + b) % 5 if a < 5 else (a - b) % 5
    return turned + 5 * ((a < 5) != (b < 5))


def mod97(text: str) -> int:
    """Letters as 10 to 35, then the remainder."""
    return int("".join(str(int(c, 36)) for c in text)) % 97


def iban(found: str) -> Span | None:
    """As long as its country says, and 1 mod 97 with its first four characters last. More may follow it, apart."""
    length = IBAN_LENGTHS.get(found[:2].upper())
    end = None if length is None else _nth(found, length)
    if end is None or found[end : end + 1].isalnum():
        return None
    code = alnum(found[:end])
    return (0, end) if mod97(code[4:] + code[:4]) == 1 else None


def _nth(text: str, count: int) -> int | None:
    """Where the count-th letter or digit ends."""
    for i, c in enumerate(text):
        count -= c.isalnum()
        if not count:
            return i + 1
    return None


def card(found: str) -> bool:
    """A known issuer, one of its lengths, Luhn."""
    numbers = digits(found)
    first = int("".join(map(str, numbers[:4])))
    issued = any(low <= first <= high and len(numbers) in lengths for low, high, lengths in _ISSUERS)
    return issued and luhn(numbers)


def telephone(found: str) -> Span | None:
    """E.164: at most 15 digits; local ones have 7."""
    return (0, len(found)) if 7 <= len(digits(found)) <= 15 else None


def address(found: str) -> Span | None:
    """An IP address that belongs to somebody: routed, not private, not for examples."""
    text = found.rstrip(".:") if found[-2:] != "::" else found
    try:
        parsed = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (0, len(text)) if parsed.is_global else None


def bare_address(found: str) -> Span | None:
    """Four numbers without a word that says that they are an address: not all so small that they are a version's or a
    section's (of addresses one in 250 has no number over 63), unless they are the same."""
    numbers = [int(part) for part in found.split(".")]
    version = max(numbers) < 64 and (len(set(numbers)) > 1 or numbers[0] < 2)
    return None if version or numbers[2:] == [0, 0] else address(found)


def whole(valid: Callable[[str], bool]) -> Check:
    """A check of all that was found."""
    return lambda found: (0, len(found)) if valid(found) else None


def us_ssn(found: str) -> bool:
    """No check digit: areas 000, 666, 900 and above, group 00 and serial 0000 were never given."""
    number = alnum(found)
    area, group, serial = number[:3], number[3:5], number[5:]
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def uk_nino(found: str) -> bool:
    """No check digit: some prefixes were never given."""
    return alnum(found)[:2] not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ")


def de_pension(found: str) -> bool:
    """Area, birth date, letter, serial, check digit: the letter as two digits, weights 2 1 2 5 7 1 2 1 2 1 2 1."""
    code = alnum(found)
    numbers = digits(code[:8] + f"{ord(code[8]) - 64:02d}" + code[9:11])
    weighted = (a * b for a, b in zip(numbers, (2, 1, 2, 5, 7, 1, 2, 1, 2, 1, 2, 1), strict=True))
    return sum(sum(digits(str(x))) for x in weighted) % 10 == int(code[11])


def fr_nir(found: str) -> bool:
    """97 minus the remainder of 13 digits; Corsica's 2A and 2B count as 19 and 18."""
    code = alnum(found).replace("2A", "19").replace("2B", "18")
    return 97 - int(code[:13]) % 97 == int(code[13:])


def es_dni(found: str) -> bool:
    """A letter by the remainder of 23; X, Y, Z of a foreigner's number count as 0, 1, 2."""
    code = alnum(found)
    number = str("XYZ".find(code[0])) + code[1:-1] if code[0] in "XYZ" else code[:-1]
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == code[-1]


_ODD_IT = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)


def it_fiscal(found: str) -> bool:
    """Places counted from one: odd ones by a table, even ones as they are; the sum mod 26 is the last letter."""
    values = [int(c) if c.isdigit() else ord(c) - 65 for c in alnum(found)]
    total = sum(_ODD_IT[v] if i % 2 == 0 else v for i, v in enumerate(values[:15]))
    return total % 26 == values[15]


def br_cpf(found: str) -> bool:
    """Two check digits mod 11; eleven equal digits pass and are none."""
    numbers = digits(found)
    return len(set(numbers)) > 1 and all(
        (10 * sum(d * (n + 1 - i) for i, d in enumerate(numbers[:n])) % 11) % 10 == numbers[n] for n in (9, 10)
    )


def se_person(found: str) -> bool:
    """Luhn over ten digits, and a day that exists (61 to 91: a coordination number)."""
    numbers = digits(found)[-10:]
    return luhn(numbers) and _day(2000 + _pair(numbers, 0), _pair(numbers, 2), _pair(numbers, 4) % 60)


def pl_pesel(found: str) -> bool:
    """Weights 1 3 7 9; the century is in the month."""
    numbers = digits(found)
    total = sum(d * w for d, w in zip(numbers, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), strict=True))
    month = _pair(numbers, 2)
    year = (1900, 2000, 2100, 2200, 1800)[month // 20] + _pair(numbers, 0)
    return total % 10 == 0 and _day(year, month % 20, _pair(numbers, 4))


def fi_person(found: str) -> bool:
    """Birth date and serial as one number, mod 31."""
    numbers = found[:6] + found[7:10]  # the sign between them is the century
    return "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(numbers) % 31] == found[10].upper()


def ch_ahv(found: str) -> bool:
    """EAN-13."""
    numbers = digits(found)
    return sum(d * (3 if i % 2 else 1) for i, d in enumerate(numbers)) % 10 == 0


def nl_bsn(found: str) -> bool:
    """The eleven test: weights 9 to 2, and -1 for the last."""
    numbers = digits(found)
    return sum(d * w for d, w in zip(numbers, (9, 8, 7, 6, 5, 4, 3, 2, -1), strict=True)) % 11 == 0


def be_national(found: str) -> bool:
    """97 minus the remainder of nine digits; of those with a 2 before them for who was born from 2000 on."""
    numbers = "".join(map(str, digits(found)))
    return any(97 - int(before + numbers[:9]) % 97 == int(numbers[9:]) for before in ("", "2"))


def _pair(numbers: list[int], at: int) -> int:
    return 10 * numbers[at] + numbers[at + 1]


def _day(year: int, month: int, day: int) -> bool:
    try:
        date(year, month, day)
    except ValueError:
        return False
    return True
