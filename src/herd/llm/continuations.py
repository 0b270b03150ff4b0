"""Pairs of a prompt and its continuation whose prompts are the same, as one request that computes the prompt once.

What it is not: how pairs become ids (`herd.llm.prepare`), how they are computed (`herd.engine.score`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from herd.engine.request import MAX_OTHERS, TokenScore, Want


@dataclass
class Group:
    """Continuations of one prompt."""

    prompt: list[int]
    continuations: list[list[int]] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Where each stands among the pairs."""

    @property
    def ids(self) -> list[int]:
        """The prompt, and the first of them."""
        return [*self.prompt, *self.continuations[0]]

    def want(self, top: int) -> Want:
        """What a request of `ids` is to give."""
        others = tuple(map(tuple, self.continuations[1:]))
        return Want(what="logprobs", start=len(self.prompt), top=top, others=others)

    def apart(self, scores: Sequence[TokenScore]) -> Iterator[tuple[int, int, Sequence[TokenScore]]]:
        """(place, tokens of prompt and continuation, scores) of each, from the scores of the request."""
        at = 0
        for place, continuation in zip(self.places, self.continuations, strict=True):
            end = at + len(continuation)
            yield place, len(self.prompt) + len(continuation), scores[at:end]
            at = end


def grouped(pairs: Sequence[tuple[Sequence[int], int]], most: int = MAX_OTHERS) -> list[Group]:
    """The groups of these pairs, of (all ids, how many are the prompt's), in the order in which their first ones stand.
    most: other continuations beside the first of each."""
    groups: list[Group] = []
    open_: dict[tuple[int, ...], Group] = {}
    for place, (ids, start) in enumerate(pairs):
        prompt = tuple(ids[:start])
        group = open_.get(prompt)
        if group is None or len(group.places) > most:
            group = open_[prompt] = Group(list(prompt))
            groups.append(group)
        group.continuations.append(list(ids[start:]))
        group.places.append(place)
    for group in groups:
        # so that each goes on where it parts from the one before it
        order = sorted(range(len(group.places)), key=group.continuations.__getitem__)
        group.continuations = [group.continuations[i] for i in order]
        group.places = [group.places[i] for i in order]
    return groups
