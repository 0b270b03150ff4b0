"""What came of a run, or of two compared, as one page of HTML: tables and pictures, no script, no network.

All texts in it are strange: those of tasks, and more so those that a model said. Each is escaped, what could move other
text is spelt out, and how much of them there is has a bound. What it is not: a picture (`herd.evals.pictures`), a
number (`herd.evals.statistics`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Any

import msgspec

from herd.disk.atomic import new_file
from herd.errors import NotFound, UsageError, fail
from herd.evals import templates
from herd.evals.comparing import Compared
from herd.evals.pictures import forest, heat_map, placed, strip
from herd.evals.results import Result, Results, Summary
from herd.evals.tasks import Task

MARK = "<!doctype html><!-- herd eval -->"
"""What a page begins with: another file is not written over."""
ROWS = 200
"""Items of a task that a table shows, those that went wrong first."""
SHOWN = 600
"""Characters of a text that a table shows."""
MOST_BYTES = 8 << 20
"""Bytes of a page; where it is full, further items are counted."""
_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Characters that show nothing, or move what stands beside them."""
STYLE = """
:root{color-scheme:light dark;--back:#fbfbfa;--card:#fff;--line:#e2e0dc;--text:#1d1d1f;--quiet:#6d6b66;--mark:#186880;
--soft:#cfe3e8;--good:#1c7a55;--bad:#b8431a;--allowed:#0001}
@media(prefers-color-scheme:dark){:root{--back:#17181a;--card:#1f2023;--line:#35363a;--text:#e8e6e3;--quiet:#9b9892;
--mark:#5fb6cc;--soft:#284a54;--good:#56c28f;--bad:#f0875a;--allowed:#fff1}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 60px}h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:0}
p{margin:6px 0}.quiet{color:var(--quiet)}section,.card{background:var(--card);border:1px solid var(--line);
border-radius:10px;padding:16px 18px;margin:18px 0;overflow-x:auto}table{border-collapse:collapse;width:100%}
th{font-weight:600;color:var(--quiet);text-align:left;font-size:13px}th,td{padding:7px 12px 7px 0;vertical-align:top;
border-bottom:1px solid var(--line)}tr:last-child td{border-bottom:0}.num{font-variant-numeric:tabular-nums;
white-space:nowrap}.text{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;max-height:9em;overflow-y:auto;
min-width:120px;font-size:14px}.right{color:var(--good)}.wrong,.worse{color:var(--bad)}.better{color:var(--good)}
.failed,.cannot-tell,.same{color:var(--quiet)}summary{cursor:pointer;color:var(--quiet);margin-top:8px}
svg{display:block;font:12px system-ui,sans-serif;max-width:100%}svg text{fill:currentColor}svg .quiet{fill:var(--quiet)}
.heat,.forest{margin:10px 0;height:auto}.heat g text{fill:inherit}.axis{stroke:var(--quiet);fill:none;opacity:.6}
.interval{fill:var(--soft)}.mean{fill:var(--mark)}.whisker{stroke:currentColor;stroke-width:2;fill:none}
.forest circle{fill:currentColor}.allowed{fill:var(--allowed)}
"""


@dataclass
class _Body:
    """Pieces of a page, counted."""

    pieces: list[str] = field(default_factory=list)
    size: int = 0

    def add(self, piece: str) -> None:
        self.pieces.append(piece)
        self.size += len(piece.encode())

    def rows(self, rows: Iterator[str], total: int) -> int:
        """Add rows of a table while there is room; returns how many of them are left out."""
        shown = 0
        for row in rows:
            if shown == ROWS or self.size > MOST_BYTES:
                break
            self.add(row)
            shown += 1
        return total - shown


def run_page(model: str, tasks: Sequence[Task], found: Sequence[Results]) -> str:
    """The page of a run: means with intervals, heat maps, items. tasks and found belong together, in order."""
    body = _Body()
    summaries = [one.summary for one in found]
    asked = sum(one.answered + sum(one.failed.values()) for one in summaries)
    body.add(_head(f"{model}", f"{len(tasks)} {_plural('task', len(tasks))}, {asked} items; {_now()}"))
    for name in dict.fromkeys(one.job.get("model", "") for one in found):
        body.add(f'<p class="quiet num">{_text(name)}</p>')
    rows = "".join(map(_summary_row, summaries))
    body.add(
        '<div class="card"><table><tr><th>task<th>metric<th>mean<th>95% interval<th><th>items<th>failed</tr>'
        f"{rows}</table></div>"
    )
    for task, results, summary in zip(tasks, found, summaries, strict=True):
        _task(body, task, results, summary)
    return _whole(f"herd eval: {model}", body)


def comparison_page(
    first: str,
    second: str,
    found: Sequence[Compared],
    runs: tuple[Mapping[str, Results], Mapping[str, Results]],
    allow: float,
) -> str:
    """The page of two runs compared: a forest plot, a table, and the items in which they differ."""
    body = _Body()
    body.add(_head("Two runs compared", _now()))
    for letter, name, results in (("A", first, runs[0]), ("B", second, runs[1])):
        models = ", ".join(dict.fromkeys(one.job.get("model", "") for one in results.values()))
        body.add(f'<p><b>{letter}</b> {_text(name)} <span class="quiet num">{_text(models)}</span></p>')
    if allow:
        body.add(f'<p class="quiet">A mean may lose {allow:g}, which is shaded.</p>')
    body.add(f'<div class="card">{forest(found, allow)}</div>')
    head = "<tr><th>task<th>metric<th>items<th>A<th>B<th>B over A<th>chance<th>B is</tr>"
    body.add(f'<div class="card"><table>{head}{"".join(map(_compared_row, found))}</table></div>')
    for row in found:
        _differences(body, row, runs[0][row.task], runs[1][row.task])
    return _whole(f"herd eval: {first} and {second}", body)


def write(path: Path, page: str) -> None:
    """Write a page, in place of an older one too. Raises what `check` raises."""
    check(path)
    with new_file(path, overwrite=True) as temporary:
        temporary.write_text(page, encoding="utf-8")


def check(path: Path) -> None:
    """Raise unless a page can be written there: into a folder that is there, over nothing but an older page."""
    if not path.absolute().parent.is_dir():
        fail(NotFound, f"--html: no folder {path.absolute().parent}", do="make it first")
    if path.is_dir():
        fail(UsageError, f"--html: {path} is a folder", do="name a file")
    if path.exists():
        with path.open("rb") as file:
            begins = file.read(len(MARK))
        if begins not in (b"", MARK.encode()):
            fail(UsageError, f"--html: {path} is there and is no page of herd eval", do="name another file")


# -- a run ----------------------------------------------------------------------------------------------------------


def _summary_row(row: Summary) -> str:
    failed = sum(row.failed.values())
    if row.interval is None:
        cells = '<td class="num">-<td class="num">-<td>'
    else:
        high = 1.0 if row.higher else 1.25 * row.interval.high
        cells = (
            f'<td class="num"><b>{row.interval.mean:.4f}</b><td class="num">{row.interval.low:.4f} to '
            f"{row.interval.high:.4f}<td>{strip(row.interval, 0.0, high)}"
        )
    return (
        f'<tr><td>{_text(row.task)}<td class="quiet">{_text(row.metric)}{cells}<td class="num">{row.answered}'
        f'<td class="num">{failed or ""}</tr>'
    )


def _task(body: _Body, task: Task, results: Results, summary: Summary) -> None:
    """A task's own part: its heat map, and a table of items."""
    found = {number: one for number, one in results.found.items() if 0 <= number < len(task.items)}
    body.add(f"<section><h2>{_text(task.name)}</h2>")
    source = "; ".join(one for one in (task.head.source, task.head.licence) if one)
    body.add(f'<p class="quiet">{_text(task.head.kind)}{": " if source else ""}{_text(source)}</p>')
    if len(summary.answered_by) > 1:
        by = ", ".join(f"{name} {count}" for name, count in summary.answered_by.items())
        body.add(f'<p class="quiet">answered by {_text(by)}</p>')
    if summary.failed:
        body.add(f'<p class="wrong">{sum(summary.failed.values())} items failed, the first: {_text(summary.why)}</p>')
    pairs = ((task.items[number], one.value) for number, one in found.items() if one.value is not None)
    spots = [spot for item, value in pairs if (spot := placed(item, value)) is not None]
    if spots and task.higher:
        body.add(heat_map(spots))
    ordered = sorted(found.items(), key=lambda pair: (_rank(pair[1], task), pair[0]))
    body.add(
        f"<details{' open' if len(ordered) <= 20 else ''}><summary>items, those that went wrong first</summary>"
        f"<table><tr><th>#<th>asked{'' if task.head.kind == 'bits_per_byte' else '<th>answered<th>right is'}<th></tr>"
    )
    left = body.rows((_item_row(number, task, one) for number, one in ordered), len(ordered))
    body.add(f"</table>{_more(left)}</details></section>")


def _rank(one: Result, task: Task) -> float:
    """What items are ordered by: the failed ones first, then the worst."""
    if one.value is None:
        return -1e9
    return one.value if task.higher else -one.value


def _item_row(number: int, task: Task, one: Result) -> str:
    item = task.items[number]
    kind, told = "failed", f"{one.error}: {one.why}"
    if one.value is not None:
        kind = ("wrong", "right")[int(one.value)] if task.higher and one.value in (0, 1) else ""
        told = kind or f"{one.value:.4f}"
    said = [_answered(item, one), _right(task, item)] if task.head.kind != "bits_per_byte" else []
    cells = "".join(f"<td>{_block(text)}" for text in (_asked(task, item), *said))
    return f'<tr><td class="num quiet">{number + 1}{cells}<td class="{kind}">{_text(told, SHOWN)}</tr>'


def _asked(task: Task, item: templates.Item) -> str:
    return str(item["text"]) if task.head.kind == "bits_per_byte" else templates.filled(task.head.prompt, item)


def _answered(item: templates.Item, one: Result) -> str:
    """What a model said, called or found likeliest."""
    choices = item.get("choices")
    if one.calls:
        return "\n".join([*([one.said] if one.said else []), *map(_json, one.calls)])
    if one.logprobs and isinstance(choices, list) and len(choices) == len(one.logprobs):
        return "\n".join(f"{logprob:8.2f}  {choice}" for choice, logprob in zip(choices, one.logprobs, strict=True))
    return one.said


def _right(task: Task, item: templates.Item) -> str:
    """What the right answer is, as the item says it."""
    if task.head.kind == "choices":
        return str(item["choices"][item["answer"]])
    wanted = item.get("calls", item.get("answer", ""))
    if isinstance(wanted, str):
        return wanted
    if isinstance(wanted, list) and all(isinstance(one, str) for one in wanted):
        return "\nor ".join(wanted)
    return _json(wanted)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


# -- two runs -------------------------------------------------------------------------------------------------------


def _compared_row(row: Compared) -> str:
    found = row.difference.interval
    return (
        f'<tr><td>{_text(row.task)}<td class="quiet">{_text(row.metric)}<td class="num">{row.difference.items}'
        f'<td class="num">{row.first:.4f}<td class="num">{row.second:.4f}<td class="num">{found.mean:+.4f} '
        f'({found.low:+.4f} to {found.high:+.4f})<td class="num">{row.chance:.3g}'
        f'<td class="{row.verdict.replace(" ", "-")}">{_text(row.told)}</tr>'
    )


def _differences(body: _Body, row: Compared, a: Results, b: Results) -> None:
    """Items of a task in which two runs differ, those that became worse first."""
    sign = 1 if a.job["higher"] == "yes" else -1
    both = sorted(a.values.keys() & b.values.keys())
    gains = {number: sign * (b.values[number] - a.values[number]) for number in both}
    ordered = sorted((number for number in both if gains[number]), key=lambda number: (gains[number], number))
    if not ordered:
        return
    body.add(
        f"<section><h2>{_text(row.task)}</h2><details{' open' if len(ordered) <= 20 else ''}><summary>{len(ordered)} "
        "items in which they differ, those that became worse first</summary>"
        "<table><tr><th>#<th>A<th>A answered<th>B<th>B answered</tr>"
    )
    rows = (_difference_row(number, a.found[number], b.found[number], gains[number]) for number in ordered)
    body.add(f"</table>{_more(body.rows(rows, len(ordered)))}</details></section>")


def _difference_row(number: int, a: Result, b: Result, gain: float) -> str:
    kind = "worse" if gain < 0 else "better"
    return (
        f'<tr><td class="num quiet">{number + 1}<td class="num">{a.value:.4g}<td>{_block(_answered({}, a))}'
        f'<td class="num {kind}">{b.value:.4g}<td>{_block(_answered({}, b))}</tr>'
    )


# -- texts ----------------------------------------------------------------------------------------------------------


def _head(title: str, under: str) -> str:
    return f'<h1>{_text(title)}</h1><p class="quiet">{_text(under)}</p>'


def _whole(title: str, body: _Body) -> str:
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    return (
        f'{MARK}<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" '
        f'content="{policy}"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body><main>{''.join(body.pieces)}</main></body>"
        "</html>\n"
    )


def _block(text: str) -> str:
    """A text of several lines in a cell, whichever way it is written."""
    return f'<div class="text" dir="auto">{_text(text, SHOWN)}</div>'


def _text(text: str, most: int = 2 * SHOWN) -> str:
    """A strange text, cut and escaped."""
    shown = text if len(text) <= most else text[:most] + "…"
    return escape(_HIDDEN.sub(lambda found: f"\\u{ord(found[0]):04x}", shown))


def _more(left: int) -> str:
    return f'<p class="quiet">and {left} more items</p>' if left else ""


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
