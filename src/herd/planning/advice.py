"""What a plan comes to, in words: whether it fits, what would, and the command that runs it."""

import shlex
from collections.abc import Iterator
from dataclasses import replace

from herd.planning.explain import users
from herd.planning.layers import head_bytes
from herd.planning.memory import gb
from herd.planning.plan import Plan, alone, answers_together, placed
from herd.planning.today import MEASURED, not_built

WITHOUT_EFFECT = ("rope_theta", "rope_scaling", "norm_eps")
"""Fields of a config on which no number of a plan depends."""


def advice(plan: Plan) -> Iterator[str]:
    """One line for each thing that somebody should know, the command last."""
    yield _verdict(plan)
    if plan.largest_context:
        yield (
            f"at most: {plan.largest_context:,} tokens for {users(plan.want.users)}; "
            f"{users(plan.most_users)} with {plan.want.context:,} tokens each"
        )
    if not plan.fits:
        ways = list(_ways(plan))
        yield f"what would fit: {'; '.join(ways)}" if ways else "nothing of this model fits: take a smaller one"
    if plan.types:
        fitting = [c.sizes.type for c in plan.types if c.fits]
        if fitting or not plan.fits:  # a form that can be fetched may be smaller than any type
            yield f"types that fit: {', '.join(fitting) or 'none'}"
    if not plan.fits and plan.machine.cards and not plan.machine.memory_bytes and not plan.machine.shared:
        yield "nothing was said of the memory beside the cards, so nothing lies there: --machine NAME+64GB says it"
    if assumed := [name for name in plan.model.config.assumed if name not in WITHOUT_EFFECT]:
        yield f"not public, so assumed: {', '.join(assumed)}"
    if plan.machine.measured:
        yield f"measured on {plan.machine.measured}; other programs make it slower: herd plan --measure measures again"
    yield from _today(plan)
    command = run_command(plan)
    if command and plan.model.pull:
        yield f"get it: herd pull {plan.model.pull}{_written(plan)}"
    if command:
        yield f"run it: {command}"


def _verdict(plan: Plan) -> str:
    placement = plan.placement
    if placement.fits:
        return "it fits"
    if placement.runs:
        return (
            f"it does not fit: {gb(placement.on_disk)} of weights stay on the disk and are read again and again, "
            "which is slow"
        )
    return f"it does not run: there is no place for {gb(placement.missing)}"


def _ways(plan: Plan) -> Iterator[str]:
    """Each that helps by itself: less context, a smaller cache, a smaller type, fewer users."""
    want = plan.want
    if 0 < plan.largest_context < want.context:
        yield f"a context of {plan.largest_context:,}"
    for kind in ("int8", "int4"):
        smaller = head_bytes(kind, plan.model.config.head_size) < head_bytes(want.kv, plan.model.config.head_size)
        if smaller and placed(plan.model, plan.machine, replace(want, kv=kind)).fits:
            yield f"a cache in {kind} (--kv {kind})"
            break
    for one in plan.types:
        if one.fits and one.sizes.total < plan.model.sizes.total:
            yield f"the weights as {one.sizes.type}, {gb(one.sizes.total)}"
            break
    if 0 < plan.most_users < want.users:
        yield f"at most {users(plan.most_users)}"


def _today(plan: Plan) -> Iterator[str]:
    if not plan.speeds:
        return
    why = not_built(plan.placement, plan.machine)
    if why and alone(plan.model, plan.machine, plan.want) is not None:
        yield f"Herd today uses the processor alone here ({why})"
    elif why:
        yield f"Herd today: {why}; the limit is the machine's, not a promise"
    together = answers_together(plan.model.config, plan.want, plan.want.context)
    if together < plan.want.users:
        chunk = f"{plan.model.config.chunk:,} tokens"
        yield (
            f"Herd today keeps one chunk ({chunk}) of its chunked layers for all answers: with full contexts about "
            f"{users(together)} at a time, the others wait"
        )
    if not plan.machine.measured and any(s.today.estimate for s in plan.speeds):
        yield f"Herd's figures are scaled from what {MEASURED.where} reached of their limits ({MEASURED.date})"


def _written(plan: Plan) -> str:
    """What is to be done with what was pulled, where it comes in no form of the type that is planned for."""
    pulled = plan.model.pull
    if not pulled or pulled != plan.model.name or plan.model.sizes.type == "bf16":
        return ""
    return f", then herd quantize {plan.model.pull} FOLDER --type {plan.model.sizes.type}"


def run_command(plan: Plan) -> str:
    """The command that serves the model as planned, with the most that Herd does today; empty where it cannot run."""
    words = ["herd", "serve", plan.model.asked or ("FOLDER" if _written(plan) else plan.model.pull) or plan.model.name]
    if not plan.placement.runs:
        return ""
    if plan.machine.cards and not plan.machine.shared and alone(plan.model, plan.machine, plan.want) is None:
        if not plan.fits or len(plan.machine.cards) > 1 or plan.placement.in_memory:
            return ""
        words += ["--device", "cuda"]
    words += ["--ctx", str(plan.want.context * plan.want.users), "--parallel", str(min(512, plan.want.users))]
    if plan.want.kv != "bf16":
        words += ["--kv", plan.want.kv]
    if not plan.fits:
        words.append("--force")
    return shlex.join(words)
