"""Tasks as data: what is read, and that whatever is wrong with a file is one line that says where."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from make_smoke import MADE, lines

from herd.errors import BadFile, HerdError, NotFound
from herd.evals import built_in, find, tasks
from herd.evals.templates import choices, filled, turns

HEAD = 'name = "t"\nkind = "answer"\nprompt = "{q}"\nchecker = "exact"\nitems = "t.jsonl"\n'
ITEM = '{"q": "1 + 1?", "answer": "2"}\n'


def written(folder: Path, head: str = HEAD, items: str | bytes = ITEM) -> Path:
    (folder / "t.toml").write_text(head, encoding="utf-8")
    (folder / "t.jsonl").write_bytes(items if isinstance(items, bytes) else items.encode())
    return folder / "t.toml"


def test_a_task_is_its_file_and_its_items(tmp_path: Path) -> None:
    task = find(str(written(tmp_path, items=ITEM + "\n" + ITEM)))
    assert (task.name, task.head.metric, len(task.items)) == ("t", "accuracy", 2)
    assert task.higher


def test_smoke_tasks_are_what_their_script_makes() -> None:
    assert built_in() == sorted(MADE)
    for name in built_in():
        task = find(name)
        assert task.name == name and task.head.licence and task.head.source
        assert (tasks.BUILT_IN / f"{name}.jsonl").read_text("utf-8") == lines(name)


def test_needles_are_in_their_texts_or_not_as_the_answer_says() -> None:
    for item in find("smoke-needles").items:
        there = [place for place in item["places"].split(" and the ") if f"word for the {place} is" in item["text"]]
        if item["answer"] == ["NONE"]:
            assert not there
        else:
            said = [f"word for the {place} is {word}." for place, word in zip(there, item["answer"], strict=True)]
            assert all(one in item["text"] for one in said)


@pytest.mark.parametrize(
    ("head", "items", "says"),
    [
        (HEAD, ITEM + '{"q": \n', "t.jsonl, line 2: not JSON"),
        (HEAD, ITEM + "[]\n", "t.jsonl, line 2: JSON: got list"),
        (HEAD, ITEM + '{"q": "x"}\n', "t.jsonl, line 2: answer: got none, expected a text"),
        (HEAD.replace('"answer"', '"quiz"'), ITEM, "kind: got quiz, expected bits_per_byte, choices, answer"),
        ("max_token = 3\n" + HEAD, ITEM, "t.toml: a field: got max_token, expected max_tokens"),
        (HEAD, '{"q": true, "answer": "2"}\n', "line 1: field q"),
        (HEAD, '{"q": "a", "q": "b", "answer": "2"}\n', "a key stands twice"),
        (HEAD, b'{"q": "\xff", "answer": "2"}\n', "not UTF-8"),
        (HEAD, '{"q": ' + "[" * 5000 + "\n", "nested more than"),
        (HEAD, '{"q": "' + "x" * (1 << 20) + '"}\n', "a longer line"),
        (HEAD, "\n\n", "no items"),
        (HEAD, '{"q": "\\ud800", "answer": "2"}\n', "line 1: an item: got 'utf-8' codec"),
        (HEAD, ITEM + '{"q": "x", "answer": "2", "z": ["\\udfff"]}\n', "line 2: an item: got 'utf-8' codec"),
        (
            HEAD.replace('items = "t.jsonl"\n', "") + f'[[item]]\nq = 0x{"f" * 9000}\nanswer = "2"\n',
            ITEM,
            "item 1: an item",
        ),
        (HEAD.replace('"t"', '"' + "\U00020000" * 64 + '"'), ITEM, "name"),
        ('name = "t"\nkind = "bits_per_byte"\nitems = "t.jsonl"\n', '{"text": "\\ud800"}\n', "line 1: an item"),
        (HEAD.replace("t.jsonl", "../t.jsonl"), ITEM, "plain name"),
        (HEAD.replace("t.jsonl", "u.jsonl"), ITEM, "does not exist"),
        (HEAD.replace('"exact"', '"python"'), ITEM, "checker: got python, expected exact, includes"),
        (HEAD.replace('"answer"', '"choices"'), ITEM, "checker: got exact, expected none"),
        (HEAD.replace('checker = "exact"\n', ""), ITEM, "checker: got none"),
        (HEAD.replace("{q}", "{q.__class__}"), ITEM, "names of fields in braces"),
        (HEAD.replace("{q}", "{q!r}"), ITEM, "names of fields in braces"),
        (HEAD.replace("{q}", "{q"), ITEM, "names of fields in braces"),
        (HEAD.replace("{q}", "{other}"), ITEM, "line 1: field other"),
        (HEAD.replace('"t"', '"../t"'), ITEM, "name: got ../t"),
        (HEAD + "shots = 1\n", ITEM, "shots: got 1, expected from 0 to 0"),
        (HEAD + "max_tokens = 0\n", ITEM, "max_tokens: got 0"),
        (HEAD + "temperature = nan\n", ITEM, "temperature: got nan"),
        (HEAD + "unknown = 1\n", ITEM, "unknown"),
        (HEAD + 'metric = "f1"\n', ITEM, "metric: got f1"),
        (HEAD + "[options]\ncase = 1\n", ITEM, "options of the checker"),
        (HEAD + '[[item]]\nq = "x"\nanswer = "y"\n', ITEM, "a file and"),
        ("name = [", ITEM, "t.toml"),
        ('name = "t"\nkind = "bits_per_byte"\nprompt = "x"\n', ITEM, "prompt of bits_per_byte"),
        ('name = "t"\nkind = "bits_per_byte"\nitems = "t.jsonl"\n', ITEM, "line 1: text"),
        ('name = "t"\nkind = "choices"\nprompt = "{q}"\nitems = "t.jsonl"\n', ITEM, "line 1: choices"),
        (
            'name = "t"\nkind = "choices"\nprompt = "{q}"\nitems = "t.jsonl"\n',
            '{"q": "x", "choices": ["a", "b"], "answer": 2}\n',
            "line 1: answer: got 2, expected the number of a choice, from 0 to 1",
        ),
    ],
)
def test_what_is_wrong_is_one_line_that_says_where(tmp_path: Path, head: str, items: Any, says: str) -> None:
    with pytest.raises(HerdError) as error:
        find(str(written(tmp_path, head, items)))
    assert says in str(error.value) and "\n" not in str(error.value)
    assert isinstance(error.value, BadFile | NotFound)


NEEDLES = (
    'name = "n"\nkind = "answer"\nprompt = "{text}\\n{places}"\nchecker = "includes"\noptions = {all = true}\n'
    "[needles]\nlengths = [1000, 6000]\ndepths = [0, 40, 100]\neach = 3\n"
)


def needles_of(folder: Path, head: str = NEEDLES, text: str | None = None) -> list[Any]:
    (folder / "n.toml").write_text(head + ('text = "book.txt"\n' if text is not None else ""))
    (folder / "book.txt").write_text(text or "")
    return list(find(str(folder / "n.toml")).items)


@pytest.mark.parametrize("text", [None, "The sea was calm. " * 9 + "Nobody spoke", "x" * 9000])
def test_needles_stand_where_and_as_often_as_they_say(tmp_path: Path, text: str | None) -> None:
    found = needles_of(tmp_path, text=text)
    assert len(found) == 2 * 3 * 4 * 3 and found == needles_of(tmp_path, text=text)
    for item in found:
        if text is None:
            assert item["length"] * 0.9 <= len(item["text"]) <= item["length"]
        said = dict(re.findall(r"The word for the (\w+) is (\w+)\.", item["text"]))
        hop = dict(re.findall(r"The word for the (\w+) is that of the (\w+)\.", item["text"]))
        asked = item["places"].split(" and the ")
        right = [said.get(hop.get(place, place), "NONE") for place in asked]
        assert right == item["answer"] and not set(right) & set(item["never"])
        assert set(said.values()) | {"NONE"} == {*item["never"], *right}
        assert (item["group"] == "two_hops") == bool(hop) and len(asked) == (3 if item["group"] == "several" else 1)
        if item["group"] != "absent" and text is None:
            at = item["text"].index(f"The word for the {asked[0]} is")
            assert abs(at / len(item["text"]) * 100 - item["depth"]) < 15


def test_needles_of_another_seed_are_others(tmp_path: Path) -> None:
    others = needles_of(tmp_path, NEEDLES.replace("[needles]", "seed = 1\n[needles]"))
    assert [one["answer"] for one in others] != [one["answer"] for one in needles_of(tmp_path)]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[1000, 6000]", "[]", "length >= 1"),
        ("[1000, 6000]", "[1]", ">= 200"),
        ("[1000, 6000]", "[40000000]", "characters in all, expected at most"),
        ("[0, 40, 100]", "[101]", "<= 100"),
        ("each = 3", "each = 0", ">= 1"),
        ("each = 3", 'kinds = ["two"]', "Invalid enum value 'two'"),
        ("each = 3", 'text = "../book.txt"', "needles: a file's name: got ../book.txt, expected a plain name"),
        ("each = 3", 'text = "book.txt"', "book.txt: got nothing"),
        ("[needles]", 'items = "t.jsonl"\n[needles]', "one of items, "),
    ],
)
def test_needles_that_cannot_be_made_are_told(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(BadFile, match=says):
        needles_of(tmp_path, NEEDLES.replace(old, new))


IMAGE = '{"q": "What is it?", "answer": "2", "image": "a.png"}\n'


def test_images_lie_beside_the_task_and_belong_to_it(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    first = find(str(written(tmp_path, items=IMAGE)))
    assert first.images == {"a.png": tmp_path / "a.png"}
    (tmp_path / "a.png").write_bytes(b"two")
    assert find(str(written(tmp_path, items=IMAGE))).digest != first.digest
    for bad, says in (
        ('"../a.png"', "line 1: image"),
        ('"b.png"', "line 1: image: .*b.png"),
        ("7", "line 1: image: got 7"),
        (json.dumps(["a.png"] * 17), "at most 16"),
    ):
        with pytest.raises(BadFile, match=says):
            find(str(written(tmp_path, items=IMAGE.replace('"a.png"', bad))))
    with pytest.raises(BadFile, match="only answers are about images"):
        find(
            str(
                written(
                    tmp_path,
                    'name = "t"\nkind = "bits_per_byte"\nitems = "t.jsonl"\n',
                    '{"text": "x", "image": "a.png"}',
                )
            )
        )


def test_questions_in_each_of_twelve_languages() -> None:
    items = find("smoke-languages").items
    assert len({item["group"] for item in items}) == 12 and len(items) == 24


def test_too_many_items_and_too_large_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "MAX_ITEMS", 3)
    with pytest.raises(BadFile, match="line 4: got more items"):
        find(str(written(tmp_path, items=ITEM * 4)))
    monkeypatch.setattr(tasks, "MAX_VALUES", 8)
    with pytest.raises(BadFile, match=r"line 2: got more values in all, expected at most 8"):
        find(str(written(tmp_path, items=ITEM + ITEM.replace("}", ', "z": [1, [], 2]}'))))
    monkeypatch.setattr(tasks, "MAX_FILE", 10)
    with pytest.raises(BadFile, match=r"t\.jsonl: size"):
        find(str(written(tmp_path)))
    with pytest.raises(BadFile, match=r"t\.toml: size"):
        find(str(written(tmp_path, HEAD + "#" * tasks.MAX_TASK)))


def test_an_unknown_task_is_told_with_those_there_are() -> None:
    with pytest.raises(NotFound, match=r"smoke-needles.*did you mean smoke-text\?"):
        find("smoke-txt")


def test_a_digest_says_what_is_asked_and_nothing_else(tmp_path: Path) -> None:
    first = find(str(written(tmp_path))).digest
    assert find(str(written(tmp_path, HEAD + 'source = "elsewhere"\n'))).digest == first
    others = [HEAD + "seed = 1\n", HEAD.replace("{q}", "{q} "), HEAD + "[options]\nignore_case = true\n"]
    digests = {find(str(written(tmp_path, other))).digest for other in others}
    digests.add(find(str(written(tmp_path, items=ITEM.replace("2", "3")))).digest)
    assert len(digests | {first}) == 5


def test_fewer_items_are_among_more_of_them(tmp_path: Path) -> None:
    task = find(str(written(tmp_path, items=ITEM * 50)))
    assert set(task.chosen(10)) < set(task.chosen(20)) < set(task.chosen())
    assert len(task.chosen(10)) == 10 and task.chosen(10) != list(range(10))


def test_shots_stand_before_each_item_and_are_drawn_by_the_seed(tmp_path: Path) -> None:
    examples = "".join(f'[[example]]\nq = "q{i}"\nanswer = "a{i}"\n' for i in range(8))
    one, same, other = (
        find(str(written(tmp_path, f"{HEAD}shots = 3\nseed = {seed}\n{examples}"))) for seed in (1, 1, 2)
    )
    assert one.shots == same.shots != other.shots
    dialog = turns("be brief", "{q}", one.shots[:1], one.items[0])
    shot = one.shots[0]
    assert [turn["content"] for turn in dialog] == ["be brief", shot["q"], shot["answer"], "1 + 1?"]


def test_choices_are_texts_after_one_prompt() -> None:
    item = json.loads('{"q": "x", "choices": ["a", "b"], "answer": 1}')
    shot = {"q": "s", "choices": ["c", "d"], "answer": 0}
    assert choices("Q: {q}\nA:", " ", [shot], item) == [
        ("Q: s\nA: c\n\nQ: x\nA:", " a"),
        ("Q: s\nA: c\n\nQ: x\nA:", " b"),
    ]
    assert filled("{{{q}}}", item) == "{x}"
