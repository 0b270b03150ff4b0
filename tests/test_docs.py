"""The pages about the tree name all of it."""

import re
from pathlib import Path

import herd
from herd.cli.group import PIPE_CLOSED
from herd.errors import HerdError

TESTS = Path(__file__).parent
REPO = TESTS.parent


def rows(page: Path) -> dict[str, str]:
    """The last table of a page: its first column, code marks left off -> the second."""
    table = page.read_text(encoding="utf-8").rpartition("| --- | --- |\n")[2]
    return {first.strip("`"): rest for first, rest in re.findall(r"^\| (\S+) \| (.*) \|$", table, re.MULTILINE)}


def python_folders() -> dict[str, set[str]]:
    """Folders with tests, as tests/README.md calls them -> names of their test files."""
    found: dict[str, set[str]] = {}
    for path in TESTS.rglob("test_*.py"):
        folder = path.parent.relative_to(TESTS)
        found.setdefault("here" if folder == Path() else f"{folder}/", set()).add(path.name)
    return found


def test_every_test_file_stands_in_the_row_of_its_folder_and_no_other_does() -> None:
    table = rows(TESTS / "README.md")
    for folder, names in python_folders().items():
        row = table[folder]
        named = set(re.findall(r"`(test_\w+\.py)`", row))
        assert named == names or "`test_*.py`" in row, f"{folder}: {sorted(named ^ names)}"
    assert table.keys() == python_folders().keys()


def test_shared_helpers_are_told_of() -> None:
    text = (TESTS / "README.md").read_text(encoding="utf-8")
    shared = {path.name for path in TESTS.glob("*.py") if not path.name.startswith("test_")}
    assert {name for name in shared if f"`{name}`" not in text} == set()


def test_every_room_with_folders_has_tests_of_its_own() -> None:
    rooms = {path.name for path in Path(herd.__file__).parent.iterdir() if (path / "__init__.py").is_file()}
    text = (TESTS / "README.md").read_text(encoding="utf-8")
    assert {room for room in rooms if f"`{room}/`" not in text} == set()


def test_the_index_names_every_page_and_no_other() -> None:
    index = (REPO / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {path.name for path in (REPO / "docs").iterdir()} - {"README.md"}
    assert set(re.findall(r"^- \[[^]]+\]\((\w+\.md)\): .+\.$", index, re.MULTILINE)) == pages


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*REPO.glob("*.md"), *(REPO / "docs").glob("*.md"), TESTS / "README.md"):
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.relative_to(REPO)}: {link}"


def codes() -> dict[int, set[str]]:
    """Exit statuses of errors -> the names of the errors."""
    errors: list[type[HerdError]] = [HerdError]
    found: dict[int, set[str]] = {}
    for error in errors:
        errors += [kind for kind in error.__subclasses__() if kind.__module__ == HerdError.__module__]
        found.setdefault(error.exit_status, set()).add(error.code)
    return found


def test_the_readme_tells_every_exit_status() -> None:
    section = (REPO / "README.md").read_text(encoding="utf-8").partition("## Exit status")[2].partition("\n## ")[0]
    table = re.findall(r"^\| (\d+) \| (.*) \|$", section, re.MULTILINE)
    told = {int(status): set(re.findall(r"`([a-z_]+)`", text)) for status, text in table}
    assert {status: names for status, names in told.items() if names} == codes()
    assert told.keys() - codes().keys() == {0, PIPE_CLOSED}
