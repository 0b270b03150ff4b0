"""What is known of a model that can be asked for, loaded or not, of files or not: what the dialects' lists tell."""

from typing import NamedTuple

from herd.chat_model import Capabilities
from herd.errors import HerdError
from herd.server.catalogue import CatalogueEntry
from herd.server.loading import expected_capabilities, expected_context
from herd.server.service import Service
from herd.store.about import About


class Facts(NamedTuple):
    """Facts of one model. None: not known, or its files are gone or broken; whoever asks it is told so."""

    is_loaded: bool
    about: About | None
    """What the headers of its files say; None for a model without files here as well."""
    capabilities: Capabilities | None
    context: int | None
    """Tokens of context: its own, or what loading it now would give, roughly."""
    most_context: int | None
    """Tokens of context that it could be loaded with."""


def facts_of(service: Service, listed: CatalogueEntry) -> Facts:
    """What is known of a model. Headers of files may have to be read: on a thread."""
    held = next((h for h in service.models.held if h.name == listed.base and h.model is not None), None)
    model = None if held is None else held.model
    if listed.registered is not None:
        known = model or listed.registered
        return Facts(model is not None, None, known.capabilities, known.context, known.context)
    try:
        about = service.models.catalogue.about(listed.name)
    except HerdError:
        about = None
    if about is None:
        return Facts(model is not None, None, None if model is None else model.capabilities, None, None)
    if model is not None:
        return Facts(True, about, model.capabilities, model.context, about.config.max_context)
    context = expected_context(service.context, about.config, listed.size_bytes)
    return Facts(False, about, expected_capabilities(about.config), context, about.config.max_context)
