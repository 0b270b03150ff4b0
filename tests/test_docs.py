"""The pages name all of the tree, and commands, options and links that there are."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import herd
from herd.cli.group import PIPE_CLOSED
from herd.cli.group import herd as command_line
from herd.errors import HerdError

TESTS = Path(__file__).parent
REPO = TESTS.parent
PAGES = [page for page in (*REPO.glob("*.md"), *REPO.glob("docs/*.md"), TESTS / "README.md") if page.name != "log.md"]


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


def test_no_two_files_of_tests_have_one_name() -> None:
    """Python takes them for one module, and pytest leaves out the second of a run."""
    names = Counter(name for folder in python_folders().values() for name in folder)
    assert [name for name, count in names.items() if count > 1] == []


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


def test_every_row_stands_in_a_table() -> None:
    """An empty line ends a table: rows behind one are shown as text."""
    for page in PAGES:
        lines = ["", *page.read_text(encoding="utf-8").splitlines(), ""]
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
            begun = before.startswith("|") or after.startswith("| --- ")
            assert begun or not line.startswith("| "), f"{page.relative_to(REPO)}: {line}"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
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


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `herd ...` of the pages, between backticks or in a block: the page, and its words."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = "\n".join(re.findall(r"```.*?\n```|^    .*$", text, re.DOTALL | re.MULTILINE))
        lines = re.findall(r"`(herd [a-z][^`\n]*)`", text)
        lines += re.findall(r"^(?:.*\| |    )?(herd [a-z].*)$", blocks, re.MULTILINE)
        for part in (part for line in lines for part in re.split("   +|  #", line)[0].split("; ")):
            yield page.name, shlex.split(part.replace("...", ""))[1:]


@pytest.mark.parametrize(("page", "words"), list(commands()))
def test_commands_of_the_pages_have_the_options_that_are_shown(page: str, words: list[str]) -> None:
    context = click.Context(command_line)
    command = command_line.get_command(context, words[0])
    assert command is not None, f"{page}: herd {words[0]}"
    if isinstance(command, click.Group) and len(words) > 1:
        command = command.get_command(context, words[1])
        assert command is not None, f"{page}: herd {' '.join(words[:2])}"
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    shown = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    assert shown <= known, f"{page}: herd {' '.join(words)}: {sorted(shown - known)}"


def test_scripts_of_the_pages_have_the_options_that_are_shown() -> None:
    for page in PAGES:
        for name, option in re.findall(r"scripts/(\w+) (--[a-z]+)", page.read_text(encoding="utf-8")):
            text = (REPO / "scripts" / name).read_text(encoding="utf-8")
            assert f"scripts/{name} {option}" in text or f" {option}" in text.partition("set -euo")[0], (
                f"{page.name}: {option}"
            )


def test_nobody_is_told_to_put_a_copy_in_the_place_of_the_sources() -> None:
    """`pip install .` in the environment of scripts/setup would: what is changed afterwards has no effect."""
    for page in PAGES:
        assert not re.search(r"pip install (?!-)['\"]?\.", page.read_text(encoding="utf-8")), page.name
