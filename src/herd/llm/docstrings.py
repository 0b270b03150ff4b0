"""What a docstring says about a function and its arguments, in Google's, NumPy's or Sphinx's form; line by line."""

from collections.abc import Iterator, Sequence

_HEADS = ("args:", "arguments:", "parameters:", "params:")
_RULE = "-"


def described(text: str) -> tuple[str, dict[str, str]]:
    """(the first paragraph, what is said about each argument by name), on one line each. text: as `inspect.getdoc`
    gives it."""
    lines = text.splitlines()
    about: list[str] = []
    for i, line in enumerate(lines):
        if not line.strip() or line.startswith(":") or _begins(lines, i):
            break
        about.append(line.strip())
    found: dict[str, list[str]] = {}
    for names, said in (*_sphinx(lines), *_sections(lines)):
        for name in names:
            found.setdefault(name, []).append(said)
    return " ".join(about), {name: " ".join(filter(None, said)) for name, said in found.items()}


def _begins(lines: Sequence[str], i: int) -> bool:
    """Whether arguments are described from there on."""
    return lines[i].strip().lower() in _HEADS or (lines[i].strip() == "Parameters" and _is_rule(lines, i + 1))


def _is_rule(lines: Sequence[str], i: int) -> bool:
    """Whether NumPy's line under a heading stands there."""
    return i < len(lines) and lines[i].strip(" ") != "" and not lines[i].strip(" " + _RULE)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _sphinx(lines: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """Names and what is said of them in `:param name: ...` and the lines under it that stand further in."""
    names: list[str] = []
    for line in lines:
        if line.startswith(":param "):
            head, _, said = line[len(":param ") :].partition(":")
            names = head.split()[-1:]
            yield names, said.strip()
        elif names and line.startswith(" "):
            yield names, line.strip()
        else:
            names = []


def _sections(lines: Sequence[str]) -> Iterator[tuple[list[str], str]]:
    """Names and what is said of them in Google's "Args:" and NumPy's "Parameters": entries at one depth, texts further
    in."""
    names: list[str] = []
    numpy, inside, outer, depth = False, False, 0, -1
    for i, line in enumerate(lines):
        if _begins(lines, i):
            numpy, inside, outer, depth, names = _is_rule(lines, i + 1), True, _indent(line), -1, []
        elif not inside or not line.strip() or (numpy and _is_rule(lines, i)):
            continue
        elif (_indent(line) <= outer and not numpy) or _indent(line) < outer or _is_rule(lines, i + 1):
            inside = False  # another section
        elif depth in (-1, _indent(line)):
            depth = _indent(line)
            names, said = _entry(line.strip(), numpy)
            yield names, said
        elif names:
            yield names, line.strip()


def _entry(line: str, numpy: bool) -> tuple[list[str], str]:
    """Names of `name (type): text`, or NumPy's `name, other : type`; and the text."""
    if numpy:
        return [name.strip() for name in line.partition(":")[0].split(",")], ""
    name = line.partition(":")[0].partition("(")[0].strip()
    rest = line[len(name) :].lstrip()
    said = rest.partition("):")[2] if rest.startswith("(") else rest.partition(":")[2]
    return [name], said.strip()
