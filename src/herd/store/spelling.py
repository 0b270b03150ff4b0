"""What a name means that somebody typed, before anything is looked up: one of the table, or a repository of a hub.

    scout   scout:q4_k   llama3.2:1b   llama3.2:1b:bf16     the table's (`known_models`)
    ORG/NAME   ORG/NAME:Q4_K_M   hf.co/ORG/NAME:Q4_K_M      a hub's

What it is not: a path, a name that a person gave to a model.
"""

from dataclasses import dataclass

from herd.store import known_models, registry
from herd.store.choosing import resolve
from herd.store.hub_files import quant_of
from herd.store.known_models import ListedModel
from herd.store.registry import ModelEntry, Version

HOSTS = ("https://huggingface.co/", "https://hf.co/", "huggingface.co/", "hf.co/")
"""What may stand before ORG/NAME: addresses and other programs' names have it."""


@dataclass(frozen=True)
class Spelled:
    """A name that means something even where the store has no model of it."""

    name: str
    """The name of the model in the store."""
    model: ListedModel | None
    """The row of the table; None: it is ORG/NAME of a hub."""
    quant: str | None
    """The form as it was typed; None: none was."""

    def version_in(self, entry: ModelEntry) -> Version | None:
        """The newest version in this form; the one in use where no form was typed."""
        if self.quant is None:
            return entry.now
        forms = [(form, v) for v in entry.versions for form in self._forms_of(v)]
        meant = resolve(self.quant, [form for form, _ in forms])
        return next((v for form, v in reversed(forms) if [form] == meant), None)

    def _forms_of(self, version: Version) -> list[str]:
        named = [quant for file in version.files if (quant := quant_of(file))]
        if named or self.model is None:
            return named[:1]
        sources = [s for s in self.model.sources if version.source.startswith(f"hub {s.repo}@")]
        return [q.name for s in sources for q in s.quants][:1]


def spelled(text: str) -> Spelled | None:
    """The meaning of a name; None: it is neither in the table nor of a hub."""
    model, quant = known_models.split(text)
    if model is not None:
        return Spelled(model.store_name, model, quant)
    host = next((host for host in HOSTS if text.startswith(host)), "")
    repo, colon, quant = text.removeprefix(host).partition(":")
    if "/" not in repo or not registry.NAME.fullmatch(repo) or ".." in repo or (colon and not quant):
        return None
    return Spelled(repo, None, quant or None)
