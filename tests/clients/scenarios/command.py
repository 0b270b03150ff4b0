"""llm, the command line tool: models are told to it in a file, as its documentation says."""

import json
import os
import tempfile
from pathlib import Path

from click.testing import CliRunner
from llm.cli import cli
from report import MODEL, QUESTION, expect, run, scenario

MODELS = """\
- model_id: herd
  model_name: {model}
  api_base: {url}/v1
  can_stream: true
  supports_schema: true
  supports_tools: true
"""
FOLDER = tempfile.TemporaryDirectory()


def llm(url: str, *words: str) -> str:
    """What `llm WORDS` prints. In this process and one folder: a new one takes it seconds to fill."""
    (Path(FOLDER.name) / "extra-openai-models.yaml").write_text(MODELS.format(model=MODEL, url=url))
    os.environ.update(LLM_USER_PATH=FOLDER.name, OPENAI_API_KEY="none")
    done = CliRunner().invoke(cli, ["prompt", *words])
    if done.exit_code:
        raise RuntimeError(f"{done.exception!r}: {done.output[-500:]}")
    return done.stdout


@scenario("llm", "a prompt, streamed", needs=("choices",))
def prompt(url: str) -> None:
    expect(llm(url, "-m", "herd", "-o", "max_tokens", "8", QUESTION).strip())


@scenario("llm", "a prompt, not streamed", needs=("choices.*.message",))
def whole(url: str) -> None:
    expect(llm(url, "-m", "herd", "--no-stream", "-o", "max_tokens", "8", QUESTION).strip())


@scenario("llm", "a schema")
def schema(url: str) -> None:
    shape = json.dumps({"type": "object", "properties": {"celsius": {"type": "integer"}}, "required": ["celsius"]})
    found = llm(url, "-m", "herd", "-o", "max_tokens", "60", "--schema", shape, "How warm is it in Paris?")
    expect(isinstance(json.loads(found)["celsius"], int), found)


if __name__ == "__main__":
    run()
