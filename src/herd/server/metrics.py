"""Counters of the service for Prometheus, under the names that engines of this kind use. Numbers only, no text."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

MOST_MODELS = 1000
"""That have series of their own; all further ones share theirs."""
SERIES_BYTES = 32 << 10
"""Of one model's series (measured: 17,000)."""


class Metrics:
    """One registry a service, so that two services in one process do not share counts."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._models: set[str] = set()
        model, registry = ("model_name",), self.registry
        self.running = Gauge("herd_num_requests_running", "Requests under way.", model, registry=registry)
        self.finished = Counter(
            "herd_request_success", "Requests that ended.", ("model_name", "finished_reason"), registry=registry
        )
        self.failed = Counter("herd_request_failure", "Requests that failed.", ("code",), registry=registry)
        self.prompt_tokens = Counter("herd_prompt_tokens", "Tokens of prompts.", model, registry=registry)
        self.cached_tokens = Counter(
            "herd_prefix_cache_hits", "Tokens of prompts found in the cache.", model, registry=registry
        )
        self.output_tokens = Counter("herd_generation_tokens", "Tokens generated.", model, registry=registry)
        self.first_token_s = self._histogram("herd_time_to_first_token_seconds", "From request to first token.")
        self.whole_s = self._histogram("herd_e2e_request_latency_seconds", "From request to its end.")
        self.output_token_s = self._histogram("herd_request_time_per_output_token_seconds", "Mean time between tokens.")
        self.policy = Counter(
            "herd_policy_decisions", "What policies decided.", ("layer", "decision"), registry=registry
        )

    def name_of(self, model: str) -> str:
        """The label of a model: its name, as long as there are not too many of them."""
        if model not in self._models:
            if len(self._models) >= MOST_MODELS:
                return "other"
            self._models.add(model)
        return model

    def _histogram(self, name: str, help_: str) -> Histogram:
        return Histogram(name, help_, ("model_name",), buckets=SECONDS, registry=self.registry)

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self.registry)
