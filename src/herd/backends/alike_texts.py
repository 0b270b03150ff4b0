"""Two hundred texts by which two tokenizers are told apart: languages, code, digits, white space, tokens spelt.

What it is not: a proof. Two that encode all of these alike may differ in a rare word; answers are checked as they come.
"""

import random
from collections.abc import Collection

COUNT = 200
MOST_ROWS = 16
"""Texts that spell all control tokens, one behind another: two vocabularies may differ in one of them alone."""
_LANGUAGES = (
    "The quick brown fox doesn't jump; it's \"resting\", they'll say (we've checked) -- won't it?",
    "Der Überfluß an Größe, Straßenbahnhaltestellen und Äpfeln: 3,5 % für Dr. Müller-Lüdenscheidt.",
    "L'été dernier, j'ai mangé « des crêpes » à Nîmes ; où étais-tu, cœur d'artichaut ?",
    "¿Dónde está el niño? ¡Mañana vendrá la cigüeña con José y Ángel!",
    "Perché l'università è così lontana? Più di cent'anni fa...",
    "Não há coração que aguente: são três irmãos, à sombra do pé de maçã.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю, объём №5.",
    "我們今天去北京大学图书馆看书，好不好？“是的”，他说。",
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。ｶﾀｶﾅ",
    "나는 오늘 아침에 커피를 마셨습니다. 뷁쉙 ㄱㄴㄷ 안녕하세요?",
    "الذكاء الاصطناعي يُغَيِّرُ العالمَ، أليس كذلك؟ ١٢٣٤٥",
    "मैं आज सुबह बाज़ार गया था। क्या आप ठीक हैं? १२३",
    "นี่คือประโยคภาษาไทยที่ไม่มีช่องว่างระหว่างคำ",
    "Hôm nay tôi đi chợ mua một quả dưa hấu; Nguyễn Thị Ánh nói vậy.",
    "Bugün İstanbul'da ılık bir gün; çiğ köfte yiyeceğiz, değil mi?",
    "Żółć, gęślą jaźń! Przyszedł źrebak w Łodzi.",
    "Η γρήγορη αλεπού πηδά πάνω από το τεμπέλικο σκυλί· γιατί;",
    "שלום עולם, זהו משפט בעברית עם ניקוד: שָׁלוֹם",
    "Habari ya asubuhi? Ninapenda kusoma vitabu.",
    "আমি বাংলায় গান গাই। তুমি কেমন আছো?",
    "தமிழ் ஒரு பழமையான மொழி. நீங்கள் எப்படி இருக்கிறீர்கள்?",
    "საქართველო ლამაზი ქვეყანაა, ხომ?",
    "አማርኛ ጽሑፍ ይህ ነው።",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
)
_CODE = (
    "def f(x: int) -> str:\n\treturn f'{x!r}'  # comment\n\n\n",
    "for (int i = 0; i < n; ++i) { a[i] += b->c * 0x1F; }\n",
    "SELECT \"a\".*, COUNT(*) FROM t WHERE x <> 'y''z' GROUP BY 1;",
    '<div class="a-b_c">&nbsp;<!-- x --></div>\r\n',
    '{"key": [1, -2.5e-10, true, null], "é": "\\u00e9\\n"}',
    '#!/bin/sh\nset -eu\n[ -n "${1:-}" ] && echo "$1" | sed -e \'s/a/b/g\' >&2\n',
    "    four\n        eight\n            twelve\n\ttab\n\t\ttwo\n",
    "https://example.com/path?query=1&b=%20#frag user.name+tag@mail.example.org",
    "C:\\Users\\x\\file.txt /usr/local/bin/../lib //// \\\\\\\\ ----====____",
    "λx.λy.x ∀ε>0 ∃δ: |x−a|<δ ⇒ |f(x)−L|<ε ∑∫√∞≠≈",
    "\\frac{a}{b} \\begin{align} x &= y^{2} \\\\ \\end{align}",
    "camelCaseWord snake_case_word SCREAMING_CASE kebab-case-word XMLHttpRequest iPhone14ProMax",
    "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'VE I'M you'LL he'D ’s ’t",
    "if(a&&b||!c){return a?b:c}/*x*///y",
    "+--+--+\n|a |b |\n+--+--+\n",
    "{{ template }} {% if x %} <<EOF $((1+2)) `cmd` @decorator #hash ~tilde^",
)
_DIGITS = (
    "0", "12", "123", "1234", "12345", "1234567890", "3.14159265358979", "1,000,000.00", "0x7fff_ffff", "1e-7 2E+10",
    "2026-11-30T21:22:23.456Z", "+49 (0)30 123456-78", "٣٤٥ ४५६ ３４５ ⅓ ² ① Ⅻ", "a1b22c333d4444e55555",
    "007 0.1.2 v10.11.12",
    "100% $5 €10 £3.50 ¥1000",
)  # fmt: skip
_WHITE = (
    *(" ", "  ", "   "),
    "\n", "\n\n", "\n\n\n", "\t", "\t\t\t", " \n ", "\r\n", "\r\n\r\n", " a", "a ", "  a  b   c    d",
    "a\n b\n  c\n   d", "\n\n  x\n\n\n    y", "a\tb\t\tc", "\u00a0\u2003\u3000x", "x\u200by\u200cz\ufeffw",
    "\x0b\x0c\x85\u2028\u2029x",
    "                                                                x", "a \n\n b", " .", " ,a", "\n.", "tail   \n",
)  # fmt: skip
_UNICODE = (
    "😀", "👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇩🇪🇫🇷", "e\u0301 é n\u0303 ñ A\u030a Å", "Z̸̡͚̑á̵l̷g̶o̵", "ﬁ ﬂ ﬀ ĳ ǆ ß ẞ ſ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕏 𝒜 𝟘𝟙", "𐍈𐍉 𓀀𓁐 𒀀 𠜎𠜱", "\u202eabc\u202c \u2066x\u2069", "\u0000", "\x01\x02\x1b[31m\x7f",
    "�￾￿", "\ue000\uf8ff\U000f0000", "İi Iı K Å ϐ ς", "½¼¾ ™®© ‰ ‱ …—–‘’“”„‹›", "⠓⠑⠗⠙ ♔♕ ☃ ✂ ⌘ ⏎", "한글 한글 가각",
    "한글", "ﷺ ﷽", "नि का क्ष त्र", "กำ ำ", "👨\u200d", "\u0301", "a\u0300\u0301\u0302\u0303", "☕️☕︎",
)  # fmt: skip


def texts(control: Collection[str]) -> list[str]:
    """The texts. control: control tokens by name: together they spell each of these whole, some of them in parts and
    within words."""
    found = [*_LANGUAGES, *_CODE, *_DIGITS, *_WHITE, *_UNICODE, *_spelt(control)]
    draws = random.Random(200)
    while len(found) < COUNT:
        found.append(_random(draws, len(found)))
    return found[:COUNT]


def _spelt(control: Collection[str]) -> list[str]:
    every = sorted(control, key=lambda name: (len(name), name)) or ["<|none|>"]
    size = max(-(-len(every) // MOST_ROWS), 100)
    rows = ["".join(every[at : at + size]) for at in range(0, len(every), size)]
    names, first = every[:: max(len(every) // 12, 1)][:12], every[0]
    shapes = [*(f"a{name}b" for name in names), *rows, f" {first} ", f"\n{first}\n", first[:-1], first[1:]]
    return [*shapes, first.upper(), f"{first}{first}", f"<{first}>"]


_RANGES = ((0x20, 0x7F), (0xA0, 0x250), (0x370, 0x530), (0x600, 0x700), (0x900, 0xE00), (0x2000, 0x2C00))
_MORE = ((0x3040, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0x1F300, 0x1FA00), (0x10000, 0x10400), (0x20, 0x7F))


def _random(draws: random.Random, kind: int) -> str:
    """Characters of many writings, or of one of them."""
    ranges = [*_RANGES, *_MORE]
    if kind % 3:
        ranges = [ranges[kind % len(ranges)], (0x20, 0x30)]
    return "".join(chr(draws.randrange(*draws.choice(ranges))) for _ in range(draws.randrange(1, 60)))
