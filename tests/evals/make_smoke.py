"""Writes the items of the smoke tasks, from seeds: python tests/evals/make_smoke.py"""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import herd.evals
import herd.quantize

FOLDER = Path(herd.evals.__file__).parent / "smoke"
Item = dict[str, Any]
NAMES = ["Ada", "Bo", "Chidi", "Dana", "Eero", "Farah", "Goran", "Hana", "Ines", "Jomo"]
THINGS = ["apples", "stamps", "shells", "marbles", "tickets", "candles"]
WORDS = ["amber", "birch", "cobalt", "dune", "ember", "fjord", "garnet", "harbour", "indigo", "juniper", "kelp", "opal"]
PLACES = ["cellar", "attic", "barn", "tower", "kiosk", "library", "bakery", "mill", "pier", "chapel"]
WEATHER = ["rain", "fog", "sun", "wind", "frost"]
MORNING_AND_THANKS = {
    "Arabic": (["صباح الخير", "صباح النور"], ["شكر"]),
    "English": (["good morning"], ["thank"]),
    "French": (["bonjour"], ["merci"]),
    "German": (["guten morgen"], ["danke", "vielen dank"]),
    "Hindi": (["सुप्रभात", "शुभ प्रभात", "नमस्ते"], ["धन्यवाद", "शुक्रिया"]),
    "Indonesian": (["selamat pagi"], ["terima kasih", "makasih"]),
    "Italian": (["buongiorno", "buon giorno"], ["grazie"]),
    "Portuguese": (["bom dia"], ["obrigad"]),
    "Spanish": (["buenos días", "buenos dias"], ["gracias"]),
    "Tagalog": (["magandang umaga"], ["salamat"]),
    "Thai": (["สวัสดี", "อรุณสวัสดิ์"], ["ขอบคุณ"]),
    "Vietnamese": (["chào"], ["cảm ơn", "cám ơn"]),
}
"""What is said in the morning, and for thanks; beginnings of words where they have several endings."""


IN_EACH = {
    "Arabic": [("كم يومًا في الأسبوع؟", ["7", "٧", "سبع"]), ("ما عاصمة فرنسا؟", ["باريس"])],
    "English": [("How many days are in a week?", ["7", "seven"]), ("What is the capital of France?", ["Paris"])],
    "French": [
        ("Combien de jours y a-t-il dans une semaine ?", ["7", "sept"]),
        ("Quelle est la capitale de la France ?", ["Paris"]),
    ],
    "German": [
        ("Wie viele Tage hat eine Woche?", ["7", "sieben"]),
        ("Was ist die Hauptstadt von Frankreich?", ["Paris"]),
    ],
    "Hindi": [("एक सप्ताह में कितने दिन होते हैं?", ["7", "७", "सात"]), ("फ्रांस की राजधानी क्या है?", ["पेरिस"])],
    "Indonesian": [
        ("Ada berapa hari dalam satu minggu?", ["7", "tujuh"]),
        ("Apa ibu kota Prancis?", ["Paris"]),
    ],
    "Italian": [
        ("Quanti giorni ci sono in una settimana?", ["7", "sette"]),
        ("Qual è la capitale della Francia?", ["Parigi"]),
    ],
    "Portuguese": [("Quantos dias tem uma semana?", ["7", "sete"]), ("Qual é a capital da França?", ["Paris"])],
    "Spanish": [("¿Cuántos días tiene una semana?", ["7", "siete"]), ("¿Cuál es la capital de Francia?", ["París"])],
    "Tagalog": [
        ("Ilang araw ang mayroon sa isang linggo?", ["7", "pito"]),
        ("Ano ang kabisera ng Pransiya?", ["Paris"]),
    ],
    "Thai": [("หนึ่งสัปดาห์มีกี่วัน", ["7", "๗", "เจ็ด"]), ("เมืองหลวงของฝรั่งเศสคือเมืองอะไร", ["ปารีส"])],
    "Vietnamese": [("Một tuần có bao nhiêu ngày?", ["7", "bảy"]), ("Thủ đô của Pháp là gì?", ["Paris"])],
}
"""Two questions in each language, and what one of must stand in the answer."""


def arithmetic(draws: random.Random) -> Iterator[Item]:
    for i in range(40):
        one, other = draws.sample(NAMES, 2)
        thing = draws.choice(THINGS)
        a, b, c = draws.randint(12, 60), draws.randint(2, 11), draws.randint(2, 9)
        told, answer = [
            (f"{one} has {a} {thing} and gives {b} of them to {other}. How many does {one} have left?", a - b),
            (f"{one} buys {b} boxes with {c} {thing} in each. How many {thing} are that?", b * c),
            (f"{one} has {a} {thing}, {other} has {b} more than {one}. How many do they have together?", 2 * a + b),
            (f"{one} shares {b * c} {thing} evenly among {c} friends. How many does each of them get?", b),
        ][i % 4]
        yield {"question": told, "answer": answer}


def needles(draws: random.Random) -> Iterator[Item]:
    """One code that is asked for; two; one that is not there."""
    for i in range(40):
        places = draws.sample(PLACES, 5)
        codes = draws.sample(WORDS, 4)
        lines = [f"The {draws.choice(PLACES)} was quiet, and there was {draws.choice(WEATHER)}." for _ in range(24)]
        for place, code in zip(places, codes, strict=False):
            lines.insert(draws.randrange(len(lines)), f"The word for the {place} is {code}.")
        asked = [places[:1], places[:2], places[4:]][i % 3]
        answer = [codes[:1], codes[:2], ["NONE"]][i % 3]
        never = [code for code in codes if code not in answer] + ([] if answer == ["NONE"] else ["NONE"])
        yield {"text": " ".join(lines), "places": " and the ".join(asked), "answer": answer, "never": never}


def greetings(_draws: random.Random) -> Iterator[Item]:
    for language, (morning, thanks) in MORNING_AND_THANKS.items():
        yield {"language": language, "when": "greet someone in the morning", "answer": morning}
        yield {"language": language, "when": "say thank you", "answer": thanks}


def languages(_draws: random.Random) -> Iterator[Item]:
    for language, asked in IN_EACH.items():
        yield from ({"group": language, "question": question, "answer": answer} for question, answer in asked)


def sequences(draws: random.Random) -> Iterator[Item]:
    for _ in range(40):
        start, step = draws.randint(1, 20), draws.randint(2, 9)
        shown = ", ".join(str(start + step * k) for k in range(5))
        right = start + step * 5
        choices = draws.sample([right, right + 1, right - 1, right + step], 4)
        yield {"numbers": shown, "choices": [str(one) for one in choices], "answer": choices.index(right)}


def texts(_draws: random.Random) -> Iterator[Item]:
    held_out = Path(herd.quantize.__file__).with_name("held_out.txt").read_text("utf-8")
    yield from ({"text": one.strip()} for one in held_out.split("\n\n"))


MADE: dict[str, Callable[[random.Random], Iterator[Item]]] = {
    "smoke-arithmetic": arithmetic,
    "smoke-greetings": greetings,
    "smoke-languages": languages,
    "smoke-needles": needles,
    "smoke-sequences": sequences,
    "smoke-text": texts,
}


def lines(name: str) -> str:
    """The items of a task, one a line."""
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in MADE[name](random.Random(name)))


if __name__ == "__main__":
    for name in MADE:
        (FOLDER / f"{name}.jsonl").write_text(lines(name), encoding="utf-8")
