"""docs/python.md and the README: every example runs, in order, over a tiny model, and every public call has one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import herd
from helpers import TINY_TEXT, hf_folder
from herd.convert import convert
from herd.store import stored

REPO = Path(__file__).parents[1]
FENCED = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
OTHERS = {
    "LLM": "what load gives",
    "backend": "another engine is asked; docs/backends.md",
    "LoadOptions": "what a load was told",
    "Reply": "what chat gives",
    "applies_policies": "asked by services",
    "chat_note": "shown by the terminal",
    "control_ids": "asked by services",
    "image_ids": "asked by services",
    "sizes": "asked by services",
    "tells_progress": "asked by services",
    "tells_tools": "asked by services",
}
"""Names without an example, and why."""


def blocks(page: str) -> list[str]:
    """Examples of a page, each with as many lines before it as there are on the page."""
    text = (REPO / page).read_text(encoding="utf-8")
    return ["\n" * text[: found.start(1)].count("\n") + found[1] for found in FENCED.finditer(text)]


def test_every_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The names of the page's models stand for random weights: what they say means nothing, and the calls are real."""
    monkeypatch.setenv("HERD_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    stored.import_path(hf_folder(tmp_path / "text", TINY_TEXT), "smollm2")
    stored.import_path(hf_folder(tmp_path / "vision"), "scout")
    convert(tmp_path / "text", tmp_path / "smollm2.gguf", "f16")
    Image.new("RGB", (40, 30), "white").save(tmp_path / "cat.png")
    for page in ("README.md", "docs/python.md"):
        names: dict[str, object] = {}
        for block in blocks(page):
            exec(compile(block, page, "exec"), names)
    said = capsys.readouterr().out
    for shown in (
        "Light(room=",
        "Message(role='tool', content='",
        "set_timer {'minutes': ",
        "set_light {'room': ",
        "did you mean temperature?",
        "personal.card",
    ):
        assert shown in said, f"{shown}: an example that shows nothing"


@pytest.mark.slow
def test_a_type_checker_finds_nothing_wrong_with_the_examples(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    (tmp_path / "page.py").write_text("".join(blocks("docs/python.md")))
    command = [sys.executable, "-m", "mypy", "--cache-dir", str(tmp_path / "cache"), "page.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "name", sorted({*herd.__all__} | {name for name in vars(herd.LLM) if not name.startswith("_")})
)
def test_every_public_name_is_in_an_example(name: str) -> None:
    assert re.search(rf"\.{name}\b", "".join(blocks("docs/python.md"))) or name in OTHERS
