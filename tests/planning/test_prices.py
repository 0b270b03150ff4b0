"""The table of prices: its own rows, and files that people write."""

import datetime
import tomllib
from pathlib import Path

import pytest

from herd.errors import BadFile, NotFound
from herd.planning import prices
from herd.planning.prices import Price, listed, read

ROW = '[[price]]\nhost = "h"\nmodel = "scout"\ndollars_in = 0.5\ndollars_out = 2\nsource = "s"\ndate = "2026-11"\n'


def test_the_package_has_a_dated_table_with_sources_and_no_row_twice() -> None:
    table = listed()
    raw = tomllib.loads(prices.PACKAGED.read_text("utf-8"))["price"]
    assert len(table.rows) == len(raw) == len({(row.host, row.model) for row in table})
    for row in table:
        assert row.source and row.date.startswith("2026") and 0 < row.dollars_in <= row.dollars_out
        assert row.id == row.id.strip() and row.host == row.host.lower()
    assert table.newest == datetime.date(2026, 11, 1)


def test_a_price_is_found_by_the_hosts_own_name_and_by_herds() -> None:
    table = listed()
    found = table.at("deepinfra", "meta-llama/llama-4-SCOUT-17B-16E-Instruct")
    assert found is not None and (found.dollars_in, found.dollars_out) == (0.10, 0.30)
    assert table.at("deepinfra", "scout") is found
    assert table.at("deepinfra", "") is None and table.at("nowhere", "scout") is None
    assert [row.host for row in table.of("scout")[:2]] == ["gmi", "nscale"]


def test_a_model_that_a_host_ended_has_its_day() -> None:
    groq = listed().at("groq", "scout")
    assert groq is not None
    assert groq.has_ended(datetime.date(2026, 7, 17)) and not groq.has_ended(datetime.date(2026, 7, 16))
    assert not Price(host="h", model="m", dollars_in=1, dollars_out=1, source="s", date="2026").has_ended(
        datetime.date.max
    )


def test_a_request_costs_its_tokens_times_the_row() -> None:
    row = Price(host="h", model="m", dollars_in=2, dollars_out=10, dollars_cached=0.5, source="s", date="2026")
    assert row.dollars(1_000_000, 100_000) == pytest.approx(2 + 1)
    assert row.dollars(1_000_000, 0, cached_tokens=1_000_000) == pytest.approx(0.5)
    plain = Price(host="h", model="m", dollars_in=2, dollars_out=10, source="s", date="2026")
    assert plain.dollars(1000, 0, cached_tokens=500) == plain.dollars(1000, 0) == pytest.approx(0.002)


def test_a_persons_file_replaces_the_table(tmp_path: Path) -> None:
    own = tmp_path / "prices.toml"
    assert listed(own) is listed()
    own.write_text(ROW)
    assert [row.host for row in listed(own)] == ["h"] and listed(own).path == own


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("price = 3", r"got no \[\[price\]\] table"),
        ("", r"got no \[\[price\]\] table"),
        ("[[price", "expected TOML"),
        (ROW + ROW.replace("0.5", "-1"), "number 2: dollars_in: got -1.0"),
        (ROW.replace("0.5", "nan"), "number 1: dollars_in: got nan"),
        (ROW.replace("0.5", '"x"'), "number 1: Expected `float`"),
        (ROW.replace('host = "h"\n', ""), "missing required field `host`"),
        (ROW + "doors = 4\n", "unknown field `doors`"),
        (ROW.replace("2026-11", "2026-13"), "date: got 2026-13"),
        (ROW.replace("2026-11", "soon"), "date: got soon"),
        (ROW.replace("2026-11", "20261101"), "date: got 20261101"),
        (ROW.replace("2026-11", "20"), "date: got 20"),
        (ROW + "batch = 2\n", "batch: got 2.0"),
        (ROW + "context = 0\n", "context: got 0"),
        (ROW + 'ends = "x"\n', "Invalid RFC3339"),
    ],
)
def test_a_broken_table_is_one_line_that_names_the_row(tmp_path: Path, text: str, line: str) -> None:
    own = tmp_path / "prices.toml"
    own.write_text(text)
    with pytest.raises(BadFile, match=line) as caught:
        read(own)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_not_there_or_too_long(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        read(tmp_path / "none.toml")
    (tmp_path / "long.toml").write_text("#" * ((1 << 20) + 1))
    with pytest.raises(BadFile, match="size"):
        read(tmp_path / "long.toml")
