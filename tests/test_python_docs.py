"""docs/python.md: every example runs, in order, over a tiny model, and every public call has one."""

import re
from pathlib import Path

import pytest
from PIL import Image

import herd
from helpers import TINY_TEXT, hf_folder
from herd.convert import convert
from herd.store import stored

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = list(re.finditer(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


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
    names: dict[str, object] = {}
    for block in BLOCKS:
        line = PAGE[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], "docs/python.md", "exec"), names)
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


@pytest.mark.parametrize(
    "name", sorted({*herd.__all__} | {name for name in vars(herd.LLM) if not name.startswith("_")})
)
def test_every_public_name_is_in_an_example(name: str) -> None:
    assert re.search(rf"\.{name}\b", "".join(block[1] for block in BLOCKS)) or name in OTHERS


OTHERS = {
    "LLM": "what load gives",
    "LoadOptions": "what a load was told",
    "Reply": "what chat gives",
    "applies_policies": "asked by services",
    "control_ids": "asked by services",
    "sizes": "asked by services",
}
"""Names without an example, and why."""
