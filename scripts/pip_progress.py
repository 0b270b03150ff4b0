"""pip install on a terminal: each download and the build of the native module on the line that Herd draws itself.

What pip says is kept back, and shown where it fails. A pip that tells no numbers (before 24.1) draws its own bars.
"""

import re
import subprocess
import sys
from collections import deque
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "src/herd/cli"))
from progress_line import ProgressLine  # noqa: E402 (Herd itself is not installed yet)

KEPT = 60
"""Last lines that are shown where it fails."""
BUILD = "building"
DOWNLOAD = re.compile(r" *Downloading (?:\S*/)?([^/\s]+) \(")
BYTES = re.compile(r"Progress (\d+) of (\d+)")
CHATTER = re.compile(r" *(?:Link requires|Skipping link|Found link)")
STEP = re.compile(r" *\[(\d+)/(\d+)\] ")


def follow(lines: Iterable[str], line: ProgressLine) -> list[str]:
    """Draw what pip tells; returns the last lines of it."""
    said: deque[str] = deque(maxlen=KEPT)
    phase = "downloading"
    for text in lines:
        if found := BYTES.match(text):
            line.show(phase, int(found[1]), int(found[2]))
            continue
        if not CHATTER.match(text):
            said.append(text)
        if found := DOWNLOAD.match(text):
            phase = found[1].partition("-")[0]
        elif found := STEP.match(text):
            line.show(BUILD, int(found[1]), int(found[2]))
    line.end()
    return list(said)


def tells_numbers(pip_version: str) -> bool:
    """Whether this pip knows --progress-bar=raw."""
    return tuple(int(part) for part in re.findall(r"\d+", pip_version)[:2]) >= (24, 1)


def main(arguments: list[str]) -> int:
    """pip's exit status."""
    pip_install = [sys.executable, "-m", "pip", "install"]
    if not tells_numbers(version("pip")):
        return subprocess.run([*pip_install, *arguments], check=False).returncode
    command = [*pip_install, "--verbose", "--progress-bar=raw", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace") as pip:
        assert pip.stdout is not None
        said = follow(pip.stdout, ProgressLine({BUILD: "steps"}))
    if pip.returncode:
        sys.stderr.writelines(said)
    return pip.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
