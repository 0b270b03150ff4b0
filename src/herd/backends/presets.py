"""Hosts and engines by name: their addresses, their forms, how they want a key, what they can do.

A preset says what is known of all models there; a model that can do less says so itself, and `herd backend test` tries
it. What it is not: prices (`herd.planning.prices`), a list of models.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from herd.backends.target import CHOICES, Form
from herd.chat_model import Capabilities
from herd.errors import UsageError, fail

_COMMON = frozenset({"temperature", "top_p", "max_tokens", "stop", "seed"})
_PENALTIES = frozenset({"presence_penalty", "frequency_penalty"})
_ENGINE = _COMMON | _PENALTIES | {"top_k", "min_p", "repetition_penalty", "n"}
_REGION = re.compile(r"[a-z]{2,4}+(?:-[a-z]{1,16}+){1,3}+-[0-9]{1,2}")
_HOSTED = Capabilities(images=True, tools=True, schemas=True)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """What is known of a host or an engine."""

    title: str
    base_url: str = ""
    """Its address; empty: everybody has another one, --url says it."""
    is_host: bool = False
    """Whether it is somebody else's machine, which wants a key and money."""
    key_header: str = "Authorization"
    capabilities: Capabilities = _HOSTED
    options: frozenset[str] = _COMMON | _PENALTIES
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request."""
    limit_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    names_choice: bool = True
    """See `Target.names_choice`."""
    always_goes_on: bool = False
    """See `Target.always_goes_on`."""
    choices: frozenset[str] = CHOICES
    json_object: bool = True
    form: Form = "openai"
    regional_url: str = ""
    """Its address, where each region has another one: {region} stands for it."""
    origins: frozenset[str] = frozenset()
    key_env: str = ""
    """The environment variable that its own programs read its key from; a hint."""

    def at(self, region: str) -> str:
        """Its address in a region. Raises UsageError where it has no regions, or none of that name."""
        if not self.regional_url:
            fail(UsageError, "--region", got=region, expected=f"none: {self.title} has one address, or --url")
        if not _REGION.fullmatch(region):
            fail(UsageError, "--region", got=region[:40], expected="a region such as us-east-1")
        return self.regional_url.format(region=region)


_PRIVATE_ROUTER = {"provider": {"data_collection": "deny", "allow_fallbacks": False}}
"""OpenRouter: only hosts that keep nothing, and none but those that were asked for."""
_REPLICATE = frozenset({"https://stream.replicate.com", "https://streaming.api.replicate.com"})
"""Where Replicate's streams are read: as its answers have it today, and as its documentation shows it."""
PRESETS: Mapping[str, Preset] = {
    "deepinfra": Preset(title="DeepInfra", base_url="https://api.deepinfra.com/v1/openai", is_host=True),
    "openrouter": Preset(
        title="OpenRouter", base_url="https://openrouter.ai/api/v1", is_host=True, fields=_PRIVATE_ROUTER
    ),
    "together": Preset(title="Together", base_url="https://api.together.ai/v1", is_host=True),
    "huggingface": Preset(title="Hugging Face's router", base_url="https://router.huggingface.co/v1", is_host=True),
    "azure": Preset(title="Azure", is_host=True, key_header="api-key"),
    "novita": Preset(title="Novita", base_url="https://api.novita.ai/v3/openai", is_host=True),
    "gmi": Preset(title="GMI", base_url="https://api.gmi-serving.com/v1", is_host=True),
    "nscale": Preset(title="Nscale", base_url="https://inference.api.nscale.com/v1", is_host=True),
    "fireworks": Preset(title="Fireworks", base_url="https://api.fireworks.ai/inference/v1", is_host=True),
    "bedrock": Preset(
        title="Bedrock",
        regional_url="https://bedrock-runtime.{region}.amazonaws.com",
        is_host=True,
        form="converse",
        capabilities=Capabilities(images=True, tools=True),
        options=frozenset({"temperature", "top_p", "max_tokens", "stop"}),
        key_env="AWS_BEARER_TOKEN_BEDROCK",
    ),
    "replicate": Preset(
        title="Replicate",
        base_url="https://api.replicate.com/v1",
        is_host=True,
        form="replicate",
        capabilities=Capabilities(),
        options=frozenset({"temperature", "top_p", "max_tokens"}) | _PENALTIES,
        origins=_REPLICATE,
        key_env="REPLICATE_API_TOKEN",
    ),
    "openai": Preset(title="anything in OpenAI's form"),
    "vllm": Preset(
        title="vLLM",
        base_url="http://127.0.0.1:8000/v1",
        options=_ENGINE,
        capabilities=Capabilities(images=True, tools=True, schemas=True, logprobs=True, begun=True, template=True),
    ),
    "llama-server": Preset(
        title="llama.cpp's server",
        base_url="http://127.0.0.1:8080/v1",
        options=_ENGINE - {"n", "repetition_penalty"},
        capabilities=Capabilities(images=True, tools=True, schemas=True, logprobs=True, begun=True, template=True),
        names_choice=False,
        always_goes_on=True,
    ),
    "sglang": Preset(
        title="SGLang",
        base_url="http://127.0.0.1:30000/v1",
        options=_ENGINE - {"seed"},
        capabilities=Capabilities(images=True, tools=True, schemas=True, logprobs=True, template=True),
    ),
    "tgi": Preset(
        title="TGI",
        base_url="http://127.0.0.1:8080/v1",
        capabilities=Capabilities(images=True, tools=True, logprobs=True),
    ),
    "ollama": Preset(
        title="Ollama",
        base_url="http://127.0.0.1:11434/v1",
        choices=frozenset(),  # its documentation has no tool_choice
        capabilities=Capabilities(images=True, tools=True, schemas=True, logprobs=True),
    ),
    "lmstudio": Preset(
        title="LM Studio",
        base_url="http://127.0.0.1:1234/v1",
        names_choice=False,  # "Invalid tool_choice type: 'object'"
        json_object=False,  # "'response_format.type' must be 'json_schema' or 'text'"
    ),
    "herd": Preset(
        title="another Herd",
        base_url="http://127.0.0.1:8484/v1",
        options=_ENGINE,
        capabilities=Capabilities(images=True, tools=True, schemas=True, logprobs=True, begun=True, template=True),
    ),
}


def preset_of(name: str) -> Preset:
    """The preset of that name. Raises UsageError with all names."""
    if name not in PRESETS:
        fail(UsageError, "preset", got=name, expected=", ".join(PRESETS))
    return PRESETS[name]
