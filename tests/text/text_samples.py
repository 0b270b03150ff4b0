"""Random text for tokenizer tests: Llama 4's twelve languages, code, numbers, whitespace, emoji, marks, long runs."""

import random
import unicodedata

SENTENCES = {
    "Arabic": "تشرق الشمس كل صباح على المدينة القديمة، ويشرب الناس القهوة في ٣ مقاهٍ صغيرة.",
    "English": "Every morning the baker's cart, which he'd painted himself, rolls down to the harbour at 6:45 O'CLOCK.",
    "French": "L'été dernier, nous avons mangé des crêpes près du château ; c'était délicieux, n'est-ce pas ?",
    "German": "Die Größe der Straßenbahn überraschte Jörg: 1.234,56 € für eine Fahrkarte nach Österreich!",
    "Hindi": "हर सुबह बच्चे नदी के किनारे खेलते हैं और १२ पतंगें उड़ाते हैं।",
    "Indonesian": "Anak-anak bermain di pantai sambil menunggu perahu nelayan pulang membawa ikan segar.",
    "Italian": "Perché l'orologio della città è fermo? Nessuno lo sa; forse dal 1987.",
    "Portuguese": "A avó contou que não há coração tão grande como o do pescador de São João.",
    "Spanish": "¿Dónde está el niño? ¡Mañana vendrá con su señora madre desde Logroño!",
    "Tagalog": "Tuwing umaga, nag-aalmusal ang mga bata bago pumunta sa paaralan sa tabi ng ilog.",
    "Thai": "ทุกเช้าแม่ค้าขายดอกไม้ที่ตลาดน้ำ ราคา ๔๐ บาท และยิ้มให้ทุกคน",
    "Vietnamese": "Buổi sáng, người bán hàng rong đẩy xe qua những con phố cổ, rao bán bánh mì nóng.",
}
CODE = [
    "def f(x: int) -> str:\n    return f'{x!r}'\n",
    "for (int i = 0; i < n; ++i) {\n\ta[i] += b[i]; // sum\n}\n",
    "SELECT * FROM users WHERE id IN (1, 22, 333, 4444);\r\n",
    '{"name": "getWeather", "args": {"city": "São Paulo", "days": [1, 2]}}',
    "https://example.org/a/b?c=d&e=%20f#g",
    "</div>\n\n\n<p class='x'>We'RE here, THEY'LL see</p>",
]
PIECES = [
    *(
        "日本語のテキスト",
        "中文字符",
        "한국어 문장",
        "русский текст",
        "Ελληνικά",
        "עברית",
        "ქართული",
        "ʻOkina",
        "ſ's",
        "'ſ",
    ),
    *("👩‍👩‍👧‍👦", "🇧🇷🇫🇷", "👍🏽", "☃️", "🫠", "é", "ñ̃", "a\u0300\u0301\u0302", "\u200b", "\ufeff", "\u00ad", "\u2028"),
    *(
        "'s",
        "'S",
        "'ll",
        "'LL",
        "'d",
        "n't",
        "'tis",
        "I'VE",
        "ǅ",
        "ǈungla",
        "ßẞ",
        "İı",
        "ⅷ",
        "½",
        "²³",
        "①",
        "٣٤٥",
        "𝟘𝟙",
        "𝒜𝒷",
    ),
    *(
        "<|eot|>",
        "<|begin_of_text|>",
        "<|im_start|>",
        "<|header_start|>system<|header_end|>",
        "<|patch|>",
        "<|eot_id|>",
    ),
    *(
        "...",
        "!?!",
        "--->",
        "/path/to//x\n/",
        "#include",
        "$100",
        "100%",
        "1,000,000",
        "3.14159",
        "0xDEADBEEF",
        "v2.0.1-rc1",
    ),
    *("\x00", "\x01", "\x1c", "\x1f", "\x7f", "\x85", "\xa0", "\u3000", "\u2003", "\t", "\r\n", "\n\n", " \n ", "\v\f"),
]
SPACES = [" ", "  ", "\n", "\t", "\r", "\r\n", "\xa0", "\u3000", "\u2009", "\x0b", "\x85", "\u2029"]
_WORDS = [word for sentence in SENTENCES.values() for word in sentence.split(" ")]


def random_text(rng: random.Random) -> str:
    """One string of up to about 500 characters."""
    return "".join(_fragment(rng) for _ in range(rng.randint(1, 12)))


def _fragment(rng: random.Random) -> str:
    match rng.randrange(9):
        case 0:
            return rng.choice(list(SENTENCES.values()))
        case 1 | 2:
            return " ".join(rng.choices(_WORDS, k=rng.randint(1, 6)))
        case 3:
            return rng.choice(CODE)
        case 4:
            return rng.choice(PIECES)
        case 5:
            return "".join(rng.choices(SPACES, k=rng.randint(1, 6)))
        case 6:
            return rng.choice(["a", "A", " ", "\n", "7", "é", "日", "-", "ب", "ก", "\u0301"]) * rng.randint(1, 200)
        case 7:
            return str(rng.randrange(10 ** rng.randint(1, 12)))
        case _:
            return "".join(_assigned(rng) for _ in range(rng.randint(1, 8)))


def _assigned(rng: random.Random) -> str:
    """A character that Unicode assigned long ago: newer ones differ between the libraries compared."""
    while True:
        char = chr(
            rng.choice([rng.randrange(0x80), rng.randrange(0x3000), rng.randrange(0x10000), rng.randrange(0x20000)])
        )
        if unicodedata.category(char) not in ("Cn", "Cs", "Co"):
            return char


def random_texts(seed: int, count: int) -> list[str]:
    """The same strings for the same seed, the first ones all the fixed pieces."""
    rng = random.Random(seed)
    fixed = [*SENTENCES.values(), *CODE, *PIECES, "", " ", "a", "\n"]
    return (fixed + [random_text(rng) for _ in range(max(0, count - len(fixed)))])[:count]
