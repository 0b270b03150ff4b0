"""How clients are pointed at the service, as data: `CLIENTS`. A new client is a new row.

A row has either text to copy, or a file of the client's (JSON or TOML) with the settings that belong into it, which
can be merged there (`settings_files`). In texts and settings $URL is the service, $V1 its OpenAI address,
$MODEL a model's name, $KEY a key, $CONTEXT the tokens that the model holds, of which $OUTPUT are left for an answer and
$INPUT for what it is asked. What stands here are the clients' own settings, as they are today: docs/connect.md says
which version of each was tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from string import Template
from typing import Any, Literal

from herd.errors import NotFound, fail

NO_KEY = "none"
"""Clients insist on a key; a service without keys takes any."""
CONTEXT = 8192
"""Where the service does not say what a model holds: smollm2's."""
MAX_OUTPUT = 32_000
"""Tokens of an answer, at most: agents ask for as much, and of a large context it needs no more."""


class Number(Enum):
    """A number in settings, where the client takes no text."""

    CONTEXT = "$CONTEXT"
    OUTPUT = "$OUTPUT"


@dataclass(frozen=True)
class ClientProgram:
    """One client. text, or file with settings."""

    title: str
    text: str = ""
    file: str = ""
    """Below the home folder."""
    kind: Literal["json", "toml"] = "json"
    settings: Mapping[str, Any] | None = None
    then: str = ""
    """What to do with it once the settings are there."""
    sized: bool = False
    """Whether the context stands in them: the service is asked for it."""


@dataclass(frozen=True)
class Placeholder:
    """What is filled in."""

    url: str
    model: str
    key: str = NO_KEY
    context: int = CONTEXT

    def fill(self, text: str) -> str:
        """A text with its places filled."""
        url = self.url.rstrip("/")
        output = min(self.context // 4, MAX_OUTPUT)
        return Template(text).substitute(
            URL=url, V1=f"{url}/v1", MODEL=self.model, KEY=self.key, CONTEXT=self.context, OUTPUT=output,
            INPUT=self.context - output,
        )  # fmt: skip

    def fill_all(self, value: Any) -> Any:
        """Settings with their places filled, in names as well."""
        if isinstance(value, Mapping):
            return {self.fill(name): self.fill_all(member) for name, member in value.items()}
        if isinstance(value, list | tuple):
            return [self.fill_all(member) for member in value]
        if isinstance(value, Number):
            return int(self.fill(value.value))
        return self.fill(value) if isinstance(value, str) else value


CLIENTS: dict[str, ClientProgram] = {
    "openai": ClientProgram(
        "OpenAI's Python client",
        'from openai import OpenAI\n\nclient = OpenAI(base_url="$V1", api_key="$KEY")\n'
        'reply = client.chat.completions.create(model="$MODEL", messages=[{"role": "user", "content": "Hello"}])\n'
        "print(reply.choices[0].message.content)",
    ),
    "openai-js": ClientProgram(
        "OpenAI's JavaScript client",
        'import OpenAI from "openai";\n\nconst client = new OpenAI({ baseURL: "$V1", apiKey: "$KEY" });\n'
        'const messages = [{ role: "user", content: "Hello" }];\n'
        'const reply = await client.chat.completions.create({ model: "$MODEL", messages });\n'
        "console.log(reply.choices[0].message.content);",
    ),
    "ollama": ClientProgram(
        "Ollama's command line and clients",
        "export OLLAMA_HOST=$URL   # not needed where Herd has port 11434\nollama run $MODEL",
    ),
    "anthropic": ClientProgram(
        "Anthropic's Python client",
        'from anthropic import Anthropic\n\nclient = Anthropic(base_url="$URL", api_key="$KEY")\n'
        'turns = [{"role": "user", "content": "Hello"}]\n'
        'reply = client.messages.create(model="$MODEL", max_tokens=200, messages=turns)\n'
        "print(reply.content[0].text)",
    ),
    "claude-code": ClientProgram(
        "Claude Code",
        file=".claude/settings.json",
        settings={
            "env": {
                "ANTHROPIC_BASE_URL": "$URL",
                "ANTHROPIC_AUTH_TOKEN": "$KEY",
                "ANTHROPIC_MODEL": "$MODEL",
                # the names that its agents and its model picker know
                "ANTHROPIC_DEFAULT_HAIKU_MODEL": "$MODEL",
                "ANTHROPIC_DEFAULT_SONNET_MODEL": "$MODEL",
                "ANTHROPIC_DEFAULT_OPUS_MODEL": "$MODEL",
                # of a model that it does not know it takes the context to be 1,000,000 tokens
                "CLAUDE_CODE_MAX_CONTEXT_TOKENS": "$CONTEXT",
                "CLAUDE_CODE_MAX_OUTPUT_TOKENS": "$OUTPUT",
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            }
        },
        then="claude",
        sized=True,
    ),
    "codex": ClientProgram(
        "Codex",
        file=".codex/herd.config.toml",  # a profile is a file of its own, over config.toml
        kind="toml",
        settings={
            "model": "$MODEL",
            "model_provider": "herd",
            "model_context_window": Number.CONTEXT,
            # OpenAI runs it; the service would only say that it has none
            "web_search": "disabled",
            "model_providers": {
                "herd": {
                    "name": "Herd",
                    "base_url": "$V1",
                    "wire_api": "responses",
                    "experimental_bearer_token": "$KEY",
                }
            },
        },
        then="codex --profile herd",
        sized=True,
    ),
    "opencode": ClientProgram(
        "opencode",
        file=".config/opencode/opencode.json",
        settings={
            "provider": {
                "herd": {
                    "npm": "@ai-sdk/openai-compatible",
                    "name": "Herd",
                    "options": {"baseURL": "$V1", "apiKey": "$KEY"},
                    # without limits it asks for 32,000 tokens, which a smaller context refuses
                    "models": {
                        "$MODEL": {"name": "$MODEL", "limit": {"context": Number.CONTEXT, "output": Number.OUTPUT}}
                    },
                }
            }
        },
        then="opencode --model herd/$MODEL",
        sized=True,
    ),
    "aider": ClientProgram(
        "aider",
        "aider --openai-api-base $V1 --openai-api-key $KEY --model openai/$MODEL --no-show-model-warnings",
    ),
    "continue": ClientProgram(
        "Continue, in editors and as cn",
        "# ~/.continue/config.yaml; where there is one, it gets the entry below models\n"
        "name: Herd\nversion: 1.0.0\nschema: v1\n"
        "models:\n  - name: Herd\n    provider: openai\n    model: $MODEL\n    apiBase: $V1\n    apiKey: $KEY\n"
        "    roles: [chat, edit, apply]\n"
        "    defaultCompletionOptions:\n      contextLength: $CONTEXT\n      maxTokens: $OUTPUT",
        sized=True,
    ),
    "cline": ClientProgram(
        "Cline, in the terminal and in VS Code",
        "cline auth openai-compatible --baseurl $V1 --apikey $KEY --modelid $MODEL\ncline\n\n"
        "# in VS Code, its settings:\n"
        "API Provider   OpenAI Compatible\nBase URL       $V1\nAPI Key        $KEY\nModel ID       $MODEL",
    ),
    "zed": ClientProgram(
        "Zed",
        file=".config/zed/settings.json",
        settings={
            "language_models": {
                "openai_compatible": {
                    "Herd": {
                        "api_url": "$V1",
                        "available_models": [
                            {"name": "$MODEL", "display_name": "$MODEL", "max_tokens": Number.CONTEXT}
                        ],
                    }
                }
            }
        },
        then="Settings, AI, LLM Providers asks for the key, $KEY, unless HERD_API_KEY has it",
        sized=True,
    ),
    "open-webui": ClientProgram(
        "Open WebUI",
        "docker run -d --network host -e OPENAI_API_BASE_URL=$V1 -e OPENAI_API_KEY=$KEY \\\n"
        "  -v open-webui:/app/backend/data --name open-webui ghcr.io/open-webui/open-webui:main",
    ),
    "llm": ClientProgram(
        "llm",
        "# extra-openai-models.yaml, beside the file that `llm logs path` prints\n"
        "- model_id: herd\n  model_name: $MODEL\n  api_base: $V1\n  api_key_name: herd\n"
        "  supports_schema: true\n  supports_tools: true\n\n"
        '# then: llm keys set herd --value $KEY; llm -m herd "Hello"',
    ),
    "langchain": ClientProgram(
        "LangChain",
        "from langchain_openai import ChatOpenAI\n\n"
        'model = ChatOpenAI(base_url="$V1", api_key="$KEY", model="$MODEL")\nprint(model.invoke("Hello").content)',
    ),
    "litellm": ClientProgram(
        "LiteLLM",
        'import litellm\n\nturns = [{"role": "user", "content": "Hello"}]\n'
        'reply = litellm.completion(model="openai/$MODEL", api_base="$V1", api_key="$KEY", messages=turns)\n'
        "print(reply.choices[0].message.content)",
    ),
    "litellm-proxy": ClientProgram(
        "LiteLLM's proxy",
        "# config.yaml; then, with a key for its own clients in LITELLM_MASTER_KEY: litellm --config config.yaml\n"
        "model_list:\n  - model_name: $MODEL\n    litellm_params:\n      model: openai/$MODEL\n      api_base: $V1\n"
        "      api_key: $KEY",
    ),
    "llama-index": ClientProgram(
        "LlamaIndex",
        "from llama_index.llms.openai_like import OpenAILike\n\n"
        'model = OpenAILike(api_base="$V1", api_key="$KEY", model="$MODEL", is_chat_model=True)\n'
        'print(model.complete("Hello"))',
    ),
    "crewai": ClientProgram(
        "CrewAI",
        "# .env of the project\nMODEL=openai/$MODEL\nOPENAI_API_BASE=$V1\nOPENAI_API_KEY=$KEY",
    ),
    "promptfoo": ClientProgram(
        "promptfoo",
        "# promptfooconfig.yaml\n"
        "providers:\n  - id: openai:chat:$MODEL\n    config:\n      apiBaseUrl: $V1\n      apiKey: $KEY\n"
        'prompts:\n  - "{{question}}"\ntests:\n  - vars:\n      question: Hello',
    ),
    "lm-eval": ClientProgram(
        "lm-eval, for tasks by log-likelihood",
        "export OPENAI_API_KEY=$KEY\n"
        "lm_eval --model local-completions --tasks TASK \\\n"
        "  --model_args model=$MODEL,base_url=$V1/completions,tokenizer=FOLDER   # herd convert $MODEL FOLDER",
    ),
    "copilot": ClientProgram(
        "GitHub Copilot in VS Code",
        "// chatLanguageModels.json: Chat: Manage Language Models, Add Models, Custom Endpoint\n"
        '[\n  {\n    "name": "Herd",\n    "vendor": "customendpoint",\n    "apiKey": "$KEY",\n    "models": [\n'
        '      {\n        "id": "$MODEL",\n        "name": "$MODEL",\n        "url": "$V1/chat/completions",\n'
        '        "toolCalling": true,\n        "vision": true,\n        "maxInputTokens": $INPUT,\n'
        '        "maxOutputTokens": $OUTPUT\n      }\n    ]\n  }\n]',
        sized=True,
    ),
    "copilot-cli": ClientProgram(
        "GitHub Copilot's command line",
        "export COPILOT_PROVIDER_BASE_URL=$V1 COPILOT_PROVIDER_API_KEY=$KEY COPILOT_MODEL=$MODEL\n"
        "export COPILOT_PROVIDER_MAX_PROMPT_TOKENS=$INPUT COPILOT_PROVIDER_MAX_OUTPUT_TOKENS=$OUTPUT\ncopilot",
        sized=True,
    ),
    "curl": ClientProgram(
        "curl",
        'curl $V1/chat/completions -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\\n'
        """  -d '{"model": "$MODEL", "messages": [{"role": "user", "content": "Hello"}]}'""",
    ),
}


def find(name: str) -> ClientProgram:
    """The client of that name. Raises NotFound."""
    if name not in CLIENTS:
        fail(NotFound, "client", got=name, expected=", ".join(CLIENTS))
    return CLIENTS[name]
