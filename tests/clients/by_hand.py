"""Clients whose environments are too large for every run: installed from their locks and tried by hand, as the others.

    .venv/bin/python tests/clients/by_hand.py litellm_proxy promptfoo crews webui

Prints a line a scenario; exit status 1 if one is not as expected. What came is kept in docs/log.md.
webui.lock means the processor's build of torch.
"""

import json
import sys
import tempfile
from pathlib import Path

from test_real_clients import outcome, serving

CONTEXT = 8192


def main(*groups: str) -> int:
    """Try the scenarios of these groups against one service; the exit status."""
    broken = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder) / "log", "smollm2", "--ctx", str(CONTEXT)) as url,
    ):
        for group in groups:
            for line in outcome(group, url):
                broken += line["ok"] == bool(line["without"])
                print(json.dumps(line), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
