"""What a word must look like to name a backend or a route. Apart from `routes`, whose files and prices whoever loads a
model of files has no use for.
"""

PREFIX = "backend:"
"""Begins what names a backend or a route where models are named."""


def may_name(text: str) -> bool:
    """Whether a text may name one: `backend:NAME`, or NAME/MODEL. `herd.backends.routes.chosen` knows whether it
    does."""
    return text.startswith(PREFIX) or bool(text.partition("/")[2])
