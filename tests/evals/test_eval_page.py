"""The page of a run and of a comparison: hostile texts stay texts, pictures say the numbers, nothing is fetched, and
its size has a bound."""

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from herd.cli import main
from herd.errors import NotFound, UsageError
from herd.evals import compare, find
from herd.evals.page import MARK, MOST_BYTES, ROWS, SHOWN, check, comparison_page, run_page, write
from herd.evals.pictures import MOST_CELLS, Placed, forest, heat_map, placed, strip
from herd.evals.results import Result, Results, job_of
from herd.evals.statistics import Interval
from herd.evals.tasks import Task

HOSTILE = (
    "<script>alert(1)</script><img src=http://x.example/a onerror=alert(2)>\"'><svg/onload=alert(3)></td></table>"
    "\u202e\u2066right to left\u200b\ufeff\x1b[31m\x00 &lt;b&gt; javascript:alert(4) ]]> --> </style><style>*{}</style>"
)


class Tags(HTMLParser):
    """Every tag, every attribute and all text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text.append(data)


TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "b", "div", "span", "section"),
    *("details", "summary", "table", "tr", "th", "td", "svg", "g", "path", "rect", "circle", "text"),
}


def made(folder: Path, count: int, kind: str = "answer", text: str = "") -> Task:
    """A task whose every text is `text`, or the number of its item; items lie at lengths and depths."""
    rows = []
    for i in range(count):
        said = text or str(i)
        row = {"q": said, "answer": said, "length": 1024 * (1 + i % 2), "depth": (i % 3) / 2}
        rows.append({**row, "choices": [said, "b"], "answer": 0} if kind == "choices" else row)
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    head = f'name = "t"\nkind = "{kind}"\nprompt = "{{q}}"\nitems = "t.jsonl"\nsource = {json.dumps(text)}\n'
    (folder / "t.toml").write_text(head + ('checker = "exact"\n' if kind == "answer" else ""))
    return find(str(folder / "t.toml"))


def results(task: Task, *found: Result, model: str = "m") -> Results:
    return Results(job_of(task, model, 0), {one.item: one for one in found})


def hostile(task: Task, value: float) -> Results:
    right = Result(item=0, value=value, said=HOSTILE, calls=({"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}},))
    more = Result(item=2, value=1.0 - value, said=HOSTILE, answered_by=HOSTILE)
    failed = Result(item=1, error=HOSTILE, why=HOSTILE)
    return results(task, right, failed, more, Result(item=3, value=1.0, answered_by="b"), model=HOSTILE)


@pytest.mark.parametrize("kind", ["answer", "choices"])
def test_hostile_texts_stay_texts(kind: str, tmp_path: Path) -> None:
    task = made(tmp_path, 4, kind, HOSTILE)
    a, b = hostile(task, 0.0), hostile(task, 1.0)
    pages = [
        run_page(HOSTILE, [task], [a]),
        comparison_page(HOSTILE, HOSTILE, compare({"t": a}, {"t": b}), ({"t": a}, {"t": b}), 0.0),
    ]
    for page in pages:
        seen = Tags(page)
        assert seen.tags <= TAGS, seen.tags - TAGS
        assert not {name for name in seen.attributes if name.startswith("on")} | seen.attributes & {
            "src",
            "href",
            "style",
        }
        text = "".join(seen.text)
        assert "<script>alert(1)</script>" in text and "\\u202e\\u2066right to left" in text
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\ufeff\x00\x1b]", page)
        assert "default-src 'none'" in page and "url(" not in page and "@import" not in page
        assert page.count("<style>") == 1 and "prefers-color-scheme:dark" in page
        for picture in re.findall("<svg.*?</svg>", page, re.DOTALL):
            ElementTree.fromstring(picture)


def test_a_page_has_a_bound_and_says_what_it_leaves_out(tmp_path: Path) -> None:
    task = made(tmp_path, 700, text="&" * 5000)
    found = results(task, *(Result(item=i, value=float(i > 9), said="<" * 4000) for i in range(700)))
    page = run_page("m", [task], [found])
    assert page.count("<tr>") == 2 + 1 + ROWS and f"and {700 - ROWS} more items" in page
    assert page.index('class="wrong"') < page.index('class="right"'), "those that are wrong come first"
    assert "&lt;" * SHOWN + "…" in page and "&lt;" * (SHOWN + 1) not in page
    many = [task] * 12
    assert len(run_page("m", many, [found] * 12).encode()) < MOST_BYTES + (64 << 10)


def test_a_heat_map_says_how_many_are_right_where(tmp_path: Path) -> None:
    task = made(tmp_path, 12)
    values = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    page = run_page("m", [task], [results(task, *(Result(item=i, value=v) for i, v in enumerate(values)))])
    picture = re.findall('<svg class="heat".*?</svg>', page, re.DOTALL)[0]
    cells: dict[tuple[int, float], list[float]] = {}
    for i, value in enumerate(values):
        cells.setdefault((1 + i % 2, (i % 3) / 2), []).append(value)
    wanted = sorted(f"{sum(found):g} of {len(found)}" for found in cells.values())
    tree = ElementTree.fromstring(picture)
    assert sorted(one.findtext("title") or "" for one in tree.iter("g")) == wanted
    words = [one.text for one in tree.iter("text")]
    assert {"1K", "2K", "0%", "50%", "100%"} <= set(words)
    assert heat_map([Placed(1, 1, 1.0)]) == "", "one place is no map"
    assert placed({"length": True, "depth": 1}, 1.0) is None and placed({"length": 1e400, "depth": 0}, 1.0) is None
    crowd = heat_map([Placed(float(i), i % 100, i % 2) for i in range(5000)])
    assert crowd.count("<g") <= MOST_CELLS**2 and len(crowd) < 400_000


def test_intervals_lie_where_their_numbers_are() -> None:
    tree = ElementTree.fromstring(strip(Interval(0.5, 0.25, 1.0), 0.0, 1.0))
    bar, dot = next(tree.iter("rect")), next(tree.iter("circle"))
    left, width, mean = float(bar.get("x", "")), float(bar.get("width", "")), float(dot.get("cx", ""))
    assert (mean - left) / width == pytest.approx(1 / 3, abs=0.01)
    assert left + width == pytest.approx(240 - 12, abs=0.2)


def test_a_comparison_draws_each_task_and_what_is_allowed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = made(tmp_path, 60)
    a = {"t": results(task, *(Result(item=i, value=1.0, said="yes") for i in range(60)))}
    b = {"t": results(task, *(Result(item=i, value=float(i > 30), said="no") for i in range(60)))}
    (row,) = compare(a, b, allow=0.05)
    tree = ElementTree.fromstring(forest([row], 0.05))
    assert [one.get("class") for one in tree.iter("g")] == ["worse"]
    axis = float(re.findall(r"M([0-9.]+) 22V", ElementTree.tostring(tree).decode())[0])
    shade, dot = next(tree.iter("rect")), next(tree.iter("circle"))
    scale = float(shade.get("width", "")) / 0.1
    assert float(dot.get("cx", "")) == pytest.approx(axis + row.difference.interval.mean * scale, abs=0.5)
    page = comparison_page("a", "b", [row], (a, b), 0.05)
    assert "31 items in which they differ" in page and page.count(">no<") == 31
    for letter, run in (("a", a), ("b", b)):
        (tmp_path / letter / "t").mkdir(parents=True)
        lines = [json.dumps({"version": 1, "job": dict(run["t"].job)})]
        lines += [json.dumps({"item": one.item, "value": one.value}) for one in run["t"].found.values()]
        (tmp_path / letter / "t/results.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "c.html"
    assert main(["eval", "--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--html", str(out)]) == 1
    assert out.read_text().startswith(MARK)


def test_no_other_file_is_written_over(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    write(page, MARK + "old")
    write(page, MARK + "new")
    assert page.read_text() == MARK + "new"
    page.write_text("mine")
    with pytest.raises(UsageError, match="no page of herd eval"):
        write(page, MARK)
    assert page.read_text() == "mine"
    with pytest.raises(UsageError, match="is a folder"):
        check(tmp_path)
    with pytest.raises(NotFound):
        check(tmp_path / "none/page.html")
