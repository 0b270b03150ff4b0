"""The command line: parse flags, call one function, print. No logic that another face would need.

`COMMANDS` is the registry; a new command is a new row. Help texts stand here, so `herd --help` imports no command's
module, and `main` imports click only when called.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Command(NamedTuple):
    """A row of the registry."""

    target: str
    """module:name of a click command."""
    help: str
    """One line for `herd --help`; the command's own help says the rest."""
    section: str


COMMANDS = {
    "run": Command("herd.cli.run:run", "Answer one prompt, or chat", "Talk"),
    "chat": Command("herd.cli.run:chat", "Chat in the terminal", "Talk"),
    "batch": Command("herd.cli.batch:batch", "Answer a file of requests into a file of results", "Talk"),
    "serve": Command("herd.cli.serve:serve", "Serve models to OpenAI, Ollama and Anthropic clients", "Serve"),
    "service": Command("herd.cli.service:service", "Serve in the background: a systemd user unit", "Serve"),
    "ps": Command("herd.cli.remote:ps", "Models that a running service holds in memory", "Serve"),
    "stop": Command("herd.cli.remote:stop", "Let a running service let go of a model", "Serve"),
    "connect": Command("herd.cli.connect:connect", "Settings that point a client at the service", "Serve"),
    "pull": Command("herd.cli.pull:pull", "Fetch a model: scout, smollm2, or ORG/NAME of a hub", "Models"),
    "import": Command("herd.cli.models:import_", "Register a file or folder where it lies", "Models"),
    "list": Command("herd.cli.models:list_", "Models on this machine (also: ls)", "Models"),
    "show": Command("herd.cli.models:show", "Shape, size, licence and its duties", "Models"),
    "rm": Command("herd.cli.models:rm", "Forget a model; imported files stay", "Models"),
    "verify": Command("herd.cli.models:verify", "Compare a model's files with their digests", "Models"),
    "use": Command("herd.cli.versions:use", "Versions of a model, and which one its name means", "Models"),
    "upgrade": Command("herd.cli.upgrade:upgrade", "Compare a new version on your tasks, and switch", "Models"),
    "backend": Command(
        "herd.cli.backend:backend", "Other engines and hosts as models: add, list, test, limit, rm", "Models"
    ),
    "route": Command("herd.cli.route:route", "Backends in order under one name: add, list, rm", "Models"),
    "convert": Command("herd.cli.files:convert", "Write a checkpoint in another format or type", "Files"),
    "quantize": Command("herd.cli.quantize:quantize", "Write a checkpoint in smaller types", "Files"),
    "tokenize": Command("herd.cli.files:tokenize", "Show a text as a model's tokens", "Files"),
    "plan": Command("herd.cli.plan:plan", "What fits on a machine, and how fast it can be", "Machine"),
    "bench": Command("herd.cli.bench:bench", "A model's speed here, beside the machine's limits", "Machine"),
    "eval": Command("herd.cli.evals:evaluate", "How well a model does on tasks; two compared", "Machine"),
    "doctor": Command("herd.cli.doctor:doctor", "What this machine has, and what is missing", "Machine"),
}
ALIASES = {"ls": "list"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns the exit status: 0, or that of an error of `herd.errors`."""
    from herd.cli.group import run

    return run(argv)
