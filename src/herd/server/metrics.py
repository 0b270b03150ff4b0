"""Counters of the service for Prometheus, under the names that engines of this kind use. Numbers only, no text.

What the service counts itself grows as it happens. What models and the log count is asked of them with each scrape, and
begins anew with a model that is loaded again, as Prometheus expects of counters.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from herd.chat_model import ChatModel
from herd.server.log import Log

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

MOST_MODELS = 1000
"""Most models that have series of their own; all further ones share theirs."""
SERIES_BYTES = 32 << 10
"""Bytes of one model's series (measured: 17,000)."""


COUNTERS: Mapping[str, tuple[str, str]] = {
    "passes": ("herd_engine_passes", "Passes through the model."),
    "rows": ("herd_engine_rows", "Tokens in those passes: of prompts, of answers, and guessed ones."),
    "admitted": ("herd_engine_admissions", "Times that a sequence got a place."),
    "preempted": ("herd_num_preemptions", "Times that a sequence gave up its place and was computed again."),
    "forked": ("herd_engine_forks", "Further samples that shared what was computed of their prompt."),
    "cached_tokens": ("herd_engine_cached_tokens", "Tokens found in the cache, of scored and embedded texts, too."),
    "evicted_pages": ("herd_engine_evicted_pages", "Pages of the prefix cache that were given up for others."),
    "proposed": ("herd_spec_decode_num_draft_tokens", "Tokens that were guessed."),
    "kept": ("herd_spec_decode_num_accepted_tokens", "Guessed tokens that were right."),
    "failed_passes": ("herd_engine_failed_passes", "Passes that raised an error."),
}
"""Fields of `events.Counters`: metric, and what it counts."""


class Metrics:
    """The metrics of one service: a registry of its own, so that two services in one process do not share counts.

    loaded: returns the models whose counters are told. log: its count of lost lines is told; None: it is not.
    """

    def __init__(self, loaded: Callable[[], Iterable[ChatModel]] = tuple, log: Log | None = None) -> None:
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

        self.registry.register(_CounterCollector(self, loaded, log))

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
        """All metrics in Prometheus' text format."""
        return generate_latest(self.registry)


class _CounterCollector(Collector):
    """Collects the counters that models and the log keep, at each scrape."""

    def __init__(self, metrics: Metrics, loaded: Callable[[], Iterable[ChatModel]], log: Log | None) -> None:
        self._metrics, self._loaded, self._log = metrics, loaded, log

    def describe(self) -> Iterable[Metric]:
        """All metrics, without numbers."""
        return [self._lost(), *self._families().values()]

    def collect(self) -> Iterable[Metric]:
        """All metrics. Those of models that share a label are added up."""
        families = self._families()
        for label, counts in self._counts().items():
            for field, count in counts.items():
                families[field].add_metric([label], count)
        lost = self._lost()
        if self._log is not None:
            lost.add_metric([], self._log.dropped)
        return [lost, *families.values()]

    def _counts(self) -> Mapping[str, Mapping[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for model in self._loaded():
            counters = model.counters
            if counters is not None:
                of_label = found.setdefault(self._metrics.name_of(model.name), dict.fromkeys(COUNTERS, 0))
                for field, count in asdict(counters).items():
                    of_label[field] += count
        return found

    @staticmethod
    def _families() -> dict[str, CounterMetricFamily]:
        return {field: CounterMetricFamily(*told, labels=["model_name"]) for field, told in COUNTERS.items()}

    @staticmethod
    def _lost() -> CounterMetricFamily:
        return CounterMetricFamily("herd_log_lines_dropped", "Lines of the log that nobody took.", labels=[])
