"""Who may answer for a model: itself, or those of a route; where they are, and what tells them from any others.

What it is not: the decision whether a request may go there (`herd.backends.gate`).
"""

from collections.abc import Sequence

from herd.backends.gate import Destination, allow
from herd.backends.settings import Backends
from herd.chat_model import ChatModel


def members_of(model: ChatModel) -> Sequence[ChatModel]:
    """The models of a route; of any other model itself."""
    found: Sequence[ChatModel] = getattr(model, "members", (model,))
    return found


def hosts_outside(model: ChatModel) -> list[str]:
    """Hosts out of the house that may get a request, in their order."""
    targets = [getattr(one, "target", None) for one in members_of(model)]
    return list(dict.fromkeys(target.host for target in targets if target is not None and not target.in_house))


def identity_of(model: ChatModel) -> str:
    """Names, addresses without what may be a key, and models of who may answer, in their order; of one that is asked by
    token ids its tokenizer, too."""
    known = Backends().read().good
    told = []
    for one in members_of(model):
        target, place = getattr(one, "target", None), ""
        if target is not None:
            place = f" {target.base_url.partition('?')[0]} {target.model}"
        elif one.name in known:
            kept = known[one.name]
            place = f" {kept.address.partition('?')[0]} {kept.model} by {kept.by}, {kept.tokenizer}"
        told.append(f"backend:{one.name}{place}")
    return ", then ".join(told)


def require_some(model: ChatModel, *, leave: bool) -> None:
    """Raise StaysHere where nobody who may answer stands in the house, and nothing may leave it."""
    targets: list[Destination | None] = [getattr(one, "target", None) for one in members_of(model)]
    outside = [target for target in targets if target is not None and not target.in_house]
    if len(outside) == len(targets):
        allow(outside[0], leave=leave)
