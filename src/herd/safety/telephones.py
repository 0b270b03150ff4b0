"""How telephone numbers are written: international with a plus, in the groups of some countries, behind a word.

No check digits: what is found is a shape, so a number in groups that are a country's habit counts, one without groups
only behind a word (or, for Chinese mobiles, beside Chinese). Sources: ITU-T E.123 and E.164, the national plans.
"""

from herd.safety import checksums
from herd.safety.rules import Either, Pattern
from herd.safety.shapes import ALONE, ALONE_END, DIGITS, END, SEP, words

_WORD = words(
    "tel", "tél", "telephone", "phone", "mobile", "cell", "fax", "whatsapp", "call me at", "call me on",
    "Telefon", "Telefonnummer", "Handy", "Handynummer", "Mobilnummer", "téléphone", "téléphonez", "portable",
    "teléfono", "móvil", "celular", "telefone", "telemóvel", "telefono", "cellulare", "numero di telefono",
    "тел", "телефон", "мобильный", "факс", "звоните",
    "电话", "手机", "手机号", "電話", "電話番号", "携帯", "전화", "휴대폰",
    "โทร", "โทรศัพท์", "เบอร์", "มือถือ", "هاتف", "جوال", "تليفون", "موبايل", "الهاتف", "फ़ोन", "फोन", "मोबाइल", "दूरभाष",
    "טלפון", "נייד",
)  # fmt: skip

_GROUPS = "|".join((
    r"(?:1" + SEP + r")?+(?:\([2-9]\d\d\) ?+|[2-9]\d\d" + SEP + ")[2-9]\\d\\d" + SEP + r"\d{4}",  # North America
    r"\(0\d{1,4}+\) ?+\d{2,4}+" + SEP + r"?+\d{3,5}+",
    r"0[1-9]\d?+" + SEP + r"\d{3,4}+" + SEP + r"\d{4}",  # Japan, Korea, Thailand, the Gulf, London
    r"0[1-9]\d\d" + SEP + r"\d{2,3}+" + SEP + r"(?:\d{4}|\d{3})",  # Japan, Britain
    r"(?<![0-9].)0[1-9](?:[ .\-\u2010\u00b7]\d\d){4}",  # France
    r"0\d{2,4}+[/\-]\d{6,8}+",  # Germany
    r"07\d{3} \d{6}",  # British mobiles
    r"1[3-9]\d([ \-\u2010])\d{4}\1\d{4}",  # Chinese mobiles
    r"[78][ \-]?+\(?+\d{3}\)?+[ \-]?+\d{3}[ \-]\d\d[ \-]\d\d",  # Russia
    r"\(\d\d\) ?+9?+\d{4}[ \-\u2010]\d{4}",  # Brazil
))  # fmt: skip

_PLACE = "|".join(rf"\+[0-8]\d{part}[+-][01]\d\d{part}(?!\d)" for part in (r"[0-5]\d", r"(?:[0-5]\d){2}"))
"""A latitude and a longitude (ISO 6709), which begin like a number of somewhere."""

_HAN = "[\u4e00-\u9fff]"

TELEPHONE = Either(
    (
        Pattern(
            _PLACE + "|" + r"(?<![A-Za-z0-9+])(\+[1-9](?:" + SEP[:-1] + r"()]{0,3}+\d){7,14}+)(?!\d)",
            cue=DIGITS,
            check=checksums.telephone,
            group=None,
        ),
        Pattern(
            "(?<![(+])" + ALONE + "(?:" + _GROUPS + ")" + ALONE_END + r"(?![ .\-][0-9])",
            cue=DIGITS,
            check=checksums.telephone,
        ),
        Pattern(
            _WORD + r"[^0-9\n]{0,12}+(\d(?:" + SEP[:-1] + r"()]{0,3}+\d){6,14}+)" + END,
            cue=DIGITS,
            check=checksums.telephone,
            group=1,
        ),
        Pattern(
            "(?:(?<=" + _HAN + ")|(?<![A-Za-z0-9+._-])(?=1[0-9]{10}" + _HAN + r"))1[3-9]\d{9}(?!\d)",
            cue=DIGITS,
        ),
    )
)
