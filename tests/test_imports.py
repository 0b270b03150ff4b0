"""What importing costs, and who may import what: facts of a fresh interpreter."""

import ast
import importlib
import importlib.util
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import herd
from helpers import PATIENCE_S
from herd.cli import ALIASES, COMMANDS, group

PACKAGE = Path(herd.__file__).parent
HEAVY = {"numpy", "torch", "starlette", "transformers", "PIL", "rich", "prompt_toolkit", "huggingface_hub", "asyncio"}
TORCH_ROOMS = ("ops/torch", "train/")
"""Modules below the package that may import torch when they are imported themselves."""
PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def loaded_by(code: str) -> set[str]:
    """Top-level modules in memory after running `code` in a new interpreter."""
    probe = "import sys; print('\\n'.join(sorted({m.partition('.')[0] for m in sys.modules})), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{probe}"], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_the_probe_sees_what_is_loaded() -> None:
    assert "numpy" in loaded_by("import numpy")


@pytest.mark.parametrize(
    "code",
    [
        "import herd",
        "from herd.cli import main; assert main(['--help']) == 0",
        "from herd.cli import main; assert main(['--version']) == 0",
        "from herd.cli import main; assert main(['no-such-command']) == 2",
        "from herd.cli import main; assert main(['plan', 'scout', '--machine', 'rtx4090+64GB']) == 0",
        "import herd; assert herd.plan('scout', 'h200').fits",
    ],
)
def test_herd_and_its_help_load_nothing_heavy(code: str) -> None:
    # what site-packages' own start-up files load is not ours
    before = loaded_by("pass")
    # the probe reads stderr, so a complaint there must not be mistaken for a module
    quiet = f"import sys, io\nkept, sys.stderr = sys.stderr, io.StringIO()\n{code}\nsys.stderr = kept"
    assert (loaded_by(quiet) - before) & HEAVY == set()


def test_import_herd_does_not_even_load_click() -> None:
    assert "click" not in loaded_by("import herd, herd.cli")


@pytest.mark.parametrize("command", ["run", "ls"])
def test_a_command_is_imported_where_few_calls_are_open(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    depths = []

    def import_module(name: str) -> object:
        frames, frame = [], sys._getframe(1)
        while frame is not None and frame.f_code.co_name != "run":
            frames.append(frame)
            frame = frame.f_back  # type: ignore[assignment]
        depths.append(len(frames))
        return importlib.import_module(name)

    monkeypatch.setattr(group, "import_module", import_module)
    assert group.run([command, "--help"]) == 0
    assert depths[0] == 1, "the call that looks for the command, and none of click's"


def test_a_model_that_runs_needs_neither_an_event_loop_nor_a_renderer_of_templates() -> None:
    assert not loaded_by("import herd.cli.run, herd.llm") & {"asyncio", "ssl", "minijinja"}


def test_commands_that_only_look_at_the_store_load_no_numpy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    code = "from herd.cli import main; assert main(['list', '--json']) == 0"
    assert loaded_by(code) & {"numpy", "torch"} == set()


def test_a_plan_for_a_machine_by_its_name_loads_no_numpy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HERD_HOME", str(tmp_path))
    for more in ("", ", '--calls', '1000', '--hour', '2'"):
        code = f"from herd.cli import main; assert main(['plan', 'scout', '--machine', 'h100', '--json'{more}]) == 0"
        assert loaded_by(code) & {"numpy", "torch", "httpx", "asyncio"} == set()


def test_names_of_the_package_that_compute_nothing_load_no_numpy() -> None:
    assert "numpy" not in loaded_by("import herd; herd.errors, herd.Message, herd.Reply, dir(herd)")


def test_answering_loads_no_torch() -> None:
    assert "torch" not in loaded_by("import herd; herd.load; import herd.ops.native, herd.convert, herd.cli.run")


def torch_at_import(path: Path) -> bool:
    """Whether a module imports torch when it is imported: outside functions and TYPE_CHECKING blocks."""

    def names(body: list[ast.stmt]) -> list[str]:
        found: list[str] = []
        for node in body:
            if isinstance(node, ast.Import):
                found += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                found.append(node.module or "")
            elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                found += names(node.orelse)
            elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for field in ("body", "orelse", "finalbody", "handlers"):
                    inner = getattr(node, field, [])
                    found += names([n for n in inner if isinstance(n, ast.stmt)])
                    found += [m for h in inner if isinstance(h, ast.ExceptHandler) for m in names(h.body)]
        return found

    return any(n.partition(".")[0] == "torch" for n in names(ast.parse(path.read_text()).body))


def test_only_the_rooms_of_torch_import_it() -> None:
    modules = {str(p.relative_to(PACKAGE)): p for p in PACKAGE.rglob("*.py")}
    assert torch_at_import(modules["ops/torch.py"])  # the check can find it
    guilty = [m for m, p in modules.items() if torch_at_import(p) and not m.startswith(TORCH_ROOMS)]
    assert guilty == []


@pytest.mark.parametrize("command", [*COMMANDS, *ALIASES])
def test_every_row_of_the_table_is_a_command_with_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    from herd.cli import main

    assert main([command, "--help"]) == 0
    assert f"herd {command}" in capsys.readouterr().out


def test_every_module_can_be_imported_where_only_what_it_needs_is_installed() -> None:
    """With torch its modules, too. Without it, on the wheel, this finds what the wheel lacks."""
    names = [".".join(("herd", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in PACKAGE.rglob("*.py")]
    without = () if importlib.util.find_spec("torch") else ("herd.ops.torch", "herd.train")
    named = sorted(name.removesuffix(".__init__") for name in names if not name.startswith(without or ("none",)))
    assert len(named) > 300
    loaded_by(f"import importlib\nfor name in {named}: importlib.import_module(name)")


def test_the_sources_import_nothing_that_the_project_does_not_name() -> None:
    """Inside functions too: what checks and tests need may be installed where this runs, and is not elsewhere."""
    extras = PROJECT["optional-dependencies"]
    used = ("torch", "hub", "hosts", "evals", "lm-eval")
    needed = [*PROJECT["dependencies"], *(one for extra in used for one in extras[extra])]
    modules = {name.partition(">")[0].replace("-", "_") for name in needed} - {"pillow"} | {"PIL", "herd"}
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {(alias.name.partition(".")[0], path.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((str(node.module).partition(".")[0], path.name))
    assert {one for one in found if one[0] not in modules | sys.stdlib_module_names} == set()
    assert modules - {name for name, _ in found} == set(), "nothing is installed that is not used"


def test_who_loads_a_file_reads_no_settings_or_prices_of_backends() -> None:
    loaded_by("import sys, herd.llm; assert not {'herd.backends.settings', 'herd.planning.prices'} & set(sys.modules)")
