"""docs/architecture.md is drawn from the tree."""

import re
from pathlib import Path

import herd

DOCS = Path(__file__).parents[1] / "docs" / "architecture.md"
ROOT = Path(herd.__file__).parent
ENTRIES = {"__init__.py", "__main__.py"}


def rooms() -> set[str]:
    """Packages and modules right under `herd`, as the table calls them."""
    folders = {f"{path.name}/" for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    return folders | {path.name for path in ROOT.glob("*.py")} - ENTRIES


def test_the_table_has_every_room_and_no_other() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", DOCS.read_text(), re.MULTILINE)
    assert sorted(rows) == sorted(rooms())


def test_the_drawing_has_every_room_and_no_other() -> None:
    drawing = DOCS.read_text().split("```")[1]
    for room in rooms():
        assert re.search(rf"(?<![\w/]){re.escape(room.removesuffix('.py'))}(?![\w])", drawing), room


def test_folders_that_a_row_names_exist() -> None:
    for room, text in re.findall(r"^\| `([^`]+/)` \| (.*?) \|", DOCS.read_text(), re.MULTILINE):
        places = (ROOT / room, ROOT, DOCS.parents[1])
        for name in re.findall(r"`(\w+)/`", text):
            assert any((place / name).is_dir() for place in places), f"{room}: {name}/"
