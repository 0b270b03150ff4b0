"""docs/architecture.md is drawn from the tree, and docstrings and comments name what there is."""

import ast
import builtins
import itertools
import re
from pathlib import Path

import herd

DOCS = Path(__file__).parents[1] / "docs" / "architecture.md"
ROOT = Path(herd.__file__).parent
REPO = DOCS.parents[1]
ENTRIES = {"__init__.py", "__main__.py"}
# Files of other projects, and dots that stand before the ending of a file.
OTHERS = r"llama.cpp$|processing_llama4.py$|models/llama[34]/|ggml/docs/|docs/(api|json_schema).md"
FILES = r"llama.cpp$|.*\.(json|toml)$|model.safetensors$"


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


RIDDLES = re.compile(
    r"(Of|That|Those|Through|From|By|For|In|With|To|Until|Between|Without|One more|More of|All of (it|them)"
    r"|The same|The one (given|of)) "
)
"""Beginnings that leave open what a docstring tells of: bytes, ids, texts?"""


def test_docstrings_of_names_begin_with_what_they_tell_of() -> None:
    lost = []
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Expr(value=ast.Constant(value=str(text)), lineno=line) if line > 1 and RIDDLES.match(text):
                    lost.append(f"{path}:{line}: {text.splitlines()[0]}")
    assert lost == []


class Code:
    """What the files of the package define, import or use, by the module, folder or class that it may follow."""

    def __init__(self) -> None:
        self.prose: dict[Path, str] = {}
        self.within: dict[str, set[str]] = {}
        self.classes: set[str] = set()
        self.rooms = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"model"}  # what `herd.load` gives, too

    def read(self, path: Path) -> None:
        """One file more: its docstrings and comments, its names."""
        text = path.read_text()
        strings, names = [], set(path.relative_to(REPO).with_suffix("").parts)
        for node in ast.walk(ast.parse(text)):
            match node:
                case ast.Expr(value=ast.Constant(value=str(string))):
                    strings.append(string)
                case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.alias(name=name):
                    names.update(name.split("."))
                case ast.ClassDef(name=name):
                    self.classes.update((name,) if path.is_relative_to(ROOT) else ())
                    names.add(name)
                case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                    names.add(name)
        self.prose[path] = "\n".join(strings + re.findall(r"(?:^|\s)# (.*)$", text, re.MULTILINE))
        for part in path.relative_to(REPO).with_suffix("").parts[1:]:
            self.within.setdefault(part, set()).update(names)

    def has(self, owner: str, name: str) -> bool:
        """Whether `owner.name` can be: what follows a room, and a class that follows anything, must be there."""
        if owner in self.rooms | {"herd"} or name in self.classes:
            return name in self.within.get(owner, ())
        return True


def test_names_in_docstrings_exist() -> None:
    """Files, names between backticks, and names with dots: `herd.engine`, `cache.pages`, `scheduler.Scheduler`."""
    code = Code()
    for path in (path for folder in (ROOT, REPO / "tests") for path in folder.rglob("*.py")):
        code.read(path)
    folders = [REPO / name for name in ("benchmarks", "docs", "native", "scripts", "src", "tests")]
    files = [*REPO.glob("*.md"), *(file for folder in folders for file in folder.rglob("*.*"))]
    ends = {"/".join(file.parts[-n:]) for file in files for n in range(1, len(file.relative_to(REPO).parts) + 1)}
    lost = []
    for path, prose in code.prose.items():
        named = re.findall(r"[\w/]+\.(?:py|cpp|md)\b", prose)
        lost += [f"{path}: {name}" for name in named if name not in ends and not re.match(OTHERS, name)]
        if path.is_relative_to(ROOT):
            quoted = re.findall(r"(?<!`)`([A-Z]\w*)`(?!`)", prose)
            lost += [f"{path}: {name}" for name in quoted if name not in code.within["herd"] | set(dir(builtins))]
            dotted = re.findall(r"(?<![\w/.-])[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+(?![\w/-])", prose)
            pairs = [(name, *pair) for name in dotted for pair in itertools.pairwise(name.split("."))]
            lost += [f"{path}: {name}" for name, *pair in pairs if not re.match(FILES, name) and not code.has(*pair)]
    assert lost == []


STRINGS_ONLY = {"containers/safetensors_header.py"}
"""Files that give json.loads one string, which does not nest."""


def names_of(kind: ast.expr | None) -> set[str]:
    """The classes that a handler catches."""
    parts = kind.elts if isinstance(kind, ast.Tuple) else [kind]
    return {part.id for part in parts if isinstance(part, ast.Name)}


def calls_loads(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "json.loads"


def test_whoever_expects_broken_json_expects_json_that_nests_without_end() -> None:
    """json.loads raises RecursionError of it, which is no ValueError."""
    missed = []
    for path in sorted(ROOT.rglob("*.py")):
        tried = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Try))
        for node in tried:
            caught = set[str]().union(*(names_of(handler.type) for handler in node.handlers))
            parses = any(calls_loads(inner) for statement in node.body for inner in ast.walk(statement))
            if parses and "ValueError" in caught and not caught & {"RecursionError", "Exception"}:
                missed.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert {place.partition(":")[0] for place in missed} == STRINGS_ONLY, missed
