"""Machines by short names and files: what they have, and one line for what nobody can have meant."""

from pathlib import Path

import pytest

from herd.errors import BadFile, NotFound, UsageError
from herd.planning.machine_rows import machine_rows
from herd.planning.machines import SUSTAINED_OPS, SUSTAINED_READ, known_names, machine_of

FILE = """
name = "the cellar"
memory_gb = 256
memory_gb_s = 200
tops = 20
disk_gb_s = 6.5
watts = 400

[[card]]
name = "a card"
count = 2
memory_gb = 48
gb_s = 700
tflops = 120
"""


def test_every_name_of_the_table_is_a_machine() -> None:
    for name in known_names():
        processor = name in machine_rows().processors
        machine = machine_of(f"{name}+64GB" if processor else name)
        assert machine.cards or machine.memory_bytes == 64 << 30
        assert machine.notes


def test_a_card_and_a_desktops_memory() -> None:
    machine = machine_of("rtx4090+64GB")
    (card,) = machine.cards
    row = machine_rows().cards["rtx4090"]
    assert card.read_bytes_s == pytest.approx(row.read_bytes_s * SUSTAINED_READ)
    assert card.ops_s == pytest.approx(row.bf16_ops_s * SUSTAINED_OPS)
    assert (machine.memory_bytes, machine.read_bytes_s) == (64 << 30, pytest.approx(0.85 * 2 * 5600e6 * 8, rel=0.08))
    assert any("ddr5-2ch" in note for note in machine.notes)


@pytest.mark.parametrize("name", ["h100x8", "8xh100", "H100x8", "h100x5+h100x3", " h100x8 "])
def test_several_cards(name: str) -> None:
    machine = machine_of(name)
    assert len(machine.cards) == 8
    assert machine.memory_bytes == 0


def test_a_processor_alone_and_shared_memory() -> None:
    epyc = machine_of("epyc-12ch+768GB")
    assert not epyc.cards
    assert epyc.memory_bytes == 768 << 30
    assert epyc.read_bytes_s == pytest.approx(0.85 * 12 * 4800e6 * 8)
    mac = machine_of("m3ultra+96GB")
    assert mac.shared
    assert mac.cards[0].memory_bytes < 96 << 30
    assert machine_of("m3ultra").cards[0].memory_bytes > mac.cards[0].memory_bytes


WRONG = {
    "": "names and sizes", "rtx4091": "rtx4090", "64GB+64GB": "twice", "epyc-12ch": r"\+64GB", "rtx4090x0": "a name",
    "m3ultra+rtx4090": "one or the other", "m3ultra+7GB": "96GB", "ddr5-2ch+epyc-12ch+64GB": "two processors",
    "h100x9999": "a name", "h100x1024+h100x1": "1025 cards", "epyc-12chx2+64GB": "a card alone",
    "0GB": "more than nothing",
    "x" * 500: "names and sizes", "rtx4090+": "a name",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_name_is_one_line(name: str) -> None:
    with pytest.raises(UsageError, match=WRONG[name]) as found:
        machine_of(name)
    assert "\n" not in str(found.value)


def test_a_file_says_a_machine(tmp_path: Path) -> None:
    path = tmp_path / "cellar.toml"
    path.write_text(FILE)
    machine = machine_of(str(path))
    assert (machine.name, len(machine.cards), machine.memory_bytes) == ("the cellar", 2, 256 * 10**9)
    assert (machine.read_bytes_s, machine.ops_s, machine.disk_read_bytes_s) == (200e9, 20e12, 6.5e9)
    assert (machine.cards[0].read_bytes_s, machine.cards[0].ops_s) == (700e9, 120e12)


BROKEN = {
    "memory_gb = [": "TOML", "memory_gb = 64": "memory_gb_s and tops", "watts = 3": "neither",
    "memory_gb = true": "a number",
    FILE + "zzz = 3": "got zzz, expected name, count, memory_gb, gb_s, tflops", FILE + "gbs = 3": "expected gb_s",
    "memory_gbs = 3": "unknown: got memory_gbs, expected memory_gb", "a = 3": "got a, expected name, memory_gb, .*card",
    FILE.replace("count = 2", "count = 1.5"): "whole", "card = 3": "tables",
    FILE.replace("gb_s = 700", "gb_s = 0"): "more than 0", FILE.replace("count = 2", "count = 1e6"): "1 to 1024",
    'name = 3\nmemory_gb = 1': "characters", "memory_gb = nan": "a number",
    "x = " + "[" * 500 + "]" * 500: "TOML|unknown",
    "memory_gb = 1e300": "a number",
    FILE.replace("disk_gb_s = 6.5", "disk_gb_s = 0"): "0.001 or more",
    FILE.replace("gb_s = 700", "gb_s = 700\nlink_gb_s = 0"): "0.001 or more",
    FILE.replace("gb_s = 700", "gb_s = 1e-300"): "0.001 or more",
    FILE.replace("memory_gb_s = 200", "memory_gb_s = 1e-300"): "0.001 or more",
    "a." * 500_000 + "a = 1": "at most 32",
}  # fmt: skip


@pytest.mark.parametrize("text", BROKEN, ids=range(len(BROKEN)))
def test_a_broken_file_is_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text(text)
    with pytest.raises(BadFile, match=BROKEN[text]) as found:
        machine_of(str(path))
    assert "\n" not in str(found.value)


def test_a_file_that_is_too_long_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_bytes(b"#" * (2 << 20))
    with pytest.raises(BadFile, match="size"):
        machine_of(str(path))
    with pytest.raises(NotFound):
        machine_of(str(tmp_path / "none.toml"))
