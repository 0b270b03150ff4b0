"""The sampler against probabilities computed here, one token at a time, in plain Python."""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.engine.request import SamplingOptions
from herd.engine.sampler import GROWTH, HEAD, Candidates, History, adjusted, candidates, logprob, sample, uniform
from herd.errors import BadCheckpoint


def exact(logits: list[float], o: SamplingOptions, prompt: list[int] = (), output: list[int] = ()) -> dict[int, float]:
    """Probability of each id, straight from the docstring's list."""
    l = [float(x) for x in logits]  # noqa: E741
    tokens = [*prompt, *output]
    for i in set(tokens[-o.repetition_window :] if o.repetition_window else tokens):
        l[i] = l[i] / o.repetition_penalty if l[i] > 0 else l[i] * o.repetition_penalty
    for i, n in Counter(output).items():
        l[i] -= o.presence_penalty + o.frequency_penalty * n
    for i, b in o.logit_bias.items():
        l[i] += b
    order = sorted(range(len(l)), key=lambda i: (-l[i], i))
    if o.temperature < 1e-5:
        return {order[0]: 1.0}
    if o.top_k:
        order = order[: o.top_k]
    weight = {i: math.exp((l[i] - l[order[0]]) / o.temperature) for i in order}
    total = math.fsum(weight.values())
    if o.top_p < 1:
        kept, mass = [], 0.0
        for i in order:
            kept.append(i)
            mass += weight[i] / total
            if mass >= o.top_p * (1 - 1e-12):
                break
        order = kept
    order = [i for i in order if weight[i] >= o.min_p * weight[order[0]]]
    total = math.fsum(weight[i] for i in order)
    return {i: weight[i] / total for i in order}


def given_options(**fields: object) -> SamplingOptions:
    return SamplingOptions().with_(fields)


logits_lists = st.lists(st.floats(-20, 20).map(lambda x: round(x, 3)), min_size=1, max_size=30)


@settings(max_examples=300, deadline=None)
@given(
    logits=logits_lists,
    temperature=st.floats(0.05, 5),
    top_k=st.integers(0, 35),
    top_p=st.just(0.0) | st.floats(0.01, 1),
    min_p=st.floats(0, 1),
    repetition=st.floats(0.1, 3),
    presence=st.floats(-2, 2),
    frequency=st.floats(-2, 2),
    window=st.integers(0, 4),
    data=st.data(),
)
def test_probabilities_are_the_documented_ones(
    logits, temperature, top_k, top_p, min_p, repetition, presence, frequency, window, data
) -> None:
    ids = st.lists(st.integers(0, len(logits) - 1), max_size=6)
    prompt, output = data.draw(ids), data.draw(ids)
    o = given_options(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        repetition_window=window,
        logit_bias={0: 1.5},
    )
    history = History(list(prompt))
    for i in output:
        history.add(i)
    found = by_id(candidates(adjusted(np.array(logits), o, history), o))
    wanted = exact(logits, o, prompt, output)
    # an id exactly at a border of top_p or min_p may fall either way by rounding: compare what is off the border
    if set(found) != set(wanted):
        border = set(found) ^ set(wanted)
        p = exact(logits, given_options(**{**options_of(o), "top_p": 1.0, "min_p": 0.0}), prompt, output)
        assert len(border) == 1
        i = border.pop()
        above = math.fsum(p[j] for j in p if (p[j], -j) > (p[i], -i))
        assert math.isclose(above, top_p, rel_tol=1e-9) or math.isclose(p[i], min_p * max(p.values()), rel_tol=1e-9)
        return
    for i, value in wanted.items():
        assert math.isclose(found[i], value, rel_tol=1e-9, abs_tol=1e-300)


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(0, 5), max_size=20), st.integers(0, 6))
def test_ids_of_a_window_are_those_of_its_slice_as_it_moves(prompt: list[int], output: list[int], window: int) -> None:
    history = History(list(prompt))
    for i in output:
        assert set(history.recent(window)) == set(history.ids[-window:] if window else history.ids)
        history.add(i)
    assert set(history.recent(3)) == set(history.ids[-3:]), "another window"


def by_id(c: Candidates) -> dict[int, float]:
    """Ids and their probabilities, in the order of places."""
    return {c.id_at(place): p for place, p in enumerate(c.p.tolist())}


def options_of(o: SamplingOptions) -> dict[str, object]:
    return {name: getattr(o, name) for name in o.__struct_fields__}


def test_draws_follow_the_probabilities() -> None:
    logits = np.array([2.0, 1.0, 0.5, -1.0, 3.0, 0.0])
    o = given_options(temperature=0.8, top_p=0.95, min_p=0.02)
    p = exact(logits.tolist(), o)
    n = 20_000
    drawn = Counter(sample(logits, o, History(), seed, step) for seed in range(100) for step in range(n // 100))
    assert set(drawn) <= set(p)
    chi2 = sum((drawn[i] - n * q) ** 2 / (n * q) for i, q in p.items())
    assert chi2 < 30, (chi2, drawn, p)  # 4 degrees of freedom: P(chi2 > 30) = 5e-6; the seeds are fixed


def test_uniform_is_uniform_and_reproduces() -> None:
    draws = np.array([uniform(seed, step) for seed in range(64) for step in range(256)])
    assert draws.min() >= 0
    assert draws.max() < 1
    counts, _ = np.histogram(draws, 64, (0, 1))
    assert ((counts - 256) ** 2 / 256).sum() < 120  # 63 degrees of freedom: P = 2e-5
    grid = draws.reshape(64, 256) - 0.5
    assert abs(np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]) < 0.03
    assert uniform(7, 3) == uniform(7, 3)
    assert uniform(2**63 - 1, 0) != uniform(0, 0)
    # two steps of SplitMix64's counter are a legal seed: its draws must not be seed 0's, two steps later
    assert uniform(2 * 0x9E3779B97F4A7C15 % 2**64, 0) != uniform(0, 2)


def test_uniform_is_splitmix64() -> None:
    """First outputs of SplitMix64 from state 0, as its paper's C code gives them, by way of the mixing function."""
    from herd.engine.sampler import _GAMMA, _mix

    first = [_mix((n * _GAMMA) & (2**64 - 1)) for n in (1, 2, 3)]
    assert first == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_greedy_takes_the_lowest_id_of_a_tie() -> None:
    logits = np.array([1.0, 5.0, 5.0], np.float32)
    for o in (SamplingOptions(), given_options(temperature=1e-38), given_options(temperature=1.0, top_k=1)):
        assert o.greedy
        assert sample(logits, o, History(), 0, 0) == 1


def test_a_grammar_comes_after_penalties_and_bias_and_before_the_draw() -> None:
    logits = np.asarray([5.0, 4.0, 3.0, 2.0, 1.0], np.float32)
    allowed = np.asarray([1, 3, 4])
    history = History([1])
    history.add(1)
    assert sample(logits, SamplingOptions(), history, 0, 0, allowed) == 1
    assert sample(logits, SamplingOptions(presence_penalty=2.0, logit_bias={3: 0.5}), history, 0, 0, allowed) == 3
    assert sample(logits, SamplingOptions(logit_bias={1: -100.0, 3: -100.0, 4: -100.0}), history, 0, 0, allowed) == 1
    # top_p of what is left, not of everything: 1 holds 0.84 of the three, 0.23 of all
    drawn = {sample(logits, SamplingOptions(temperature=1.0, top_p=0.8), History(), 7, n, allowed) for n in range(200)}
    assert drawn == {1}
    options = SamplingOptions(temperature=1.0, top_k=2)
    drawn = {sample(logits, options, History(), 7, n, allowed) for n in range(200)}
    assert drawn == {1, 3}
    for step in range(50):
        among = sample(logits[allowed], SamplingOptions(temperature=0.7, min_p=0.05), History(), 3, step)
        options = SamplingOptions(temperature=0.7, min_p=0.05)
        assert sample(logits, options, History(), 3, step, allowed) == allowed[among]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_grammar_hides_no_broken_logits(bad: float) -> None:
    with pytest.raises(BadCheckpoint):
        sample(np.asarray([1.0, bad, 0.0], np.float32), SamplingOptions(), History(), 0, 0, np.asarray([0, 2]))


def test_greedy_sees_penalties_and_bias() -> None:
    logits = np.array([1.0, 5.0, 4.9], np.float32)
    history = History()
    history.add(1)
    assert sample(logits, given_options(presence_penalty=0.2), history, 0, 0) == 2
    assert sample(logits, given_options(repetition_penalty=1.1), history, 0, 0) == 2
    assert sample(logits, given_options(logit_bias={0: 10}), history, 0, 0) == 0
    assert sample(logits, given_options(logit_bias={0: -100, 1: -100, 2: -100}), history, 0, 0) == 1


def sorted_whole(logits: np.ndarray, o: SamplingOptions) -> tuple[np.ndarray, np.ndarray]:
    """Ids and probabilities by a full, stable sort of all weights: top_p, then min_p."""
    weight = np.exp((logits - logits.max()) / o.temperature)
    ids = np.argsort(-weight, kind="stable")
    mass, weight = o.top_p * float(weight.sum()) * (1 - 1e-12), weight[ids]
    if o.top_p < 1:
        keep = int(np.searchsorted(np.cumsum(weight), mass)) + 1
        ids, weight = ids[:keep], weight[:keep]
    keep = int(np.count_nonzero(weight >= o.min_p * weight[0]))
    return ids[:keep], weight[:keep] / weight[:keep].sum()


SLICED = HEAD * GROWTH * 2
"""A vocabulary with two slices below the whole."""


@pytest.mark.parametrize("filters", [{"top_p": 0.9}, {"top_p": 0.5, "min_p": 0.01}, {"min_p": 0.2}, {"top_p": 0.9999}])
@pytest.mark.parametrize("scale", [0.0, 0.01, 1.0, 2.0, 4.0, 300.0])
@pytest.mark.parametrize("step", [0.0, 0.5])
def test_a_part_is_sorted_as_the_whole_would_be(filters: dict[str, float], scale: float, step: float) -> None:
    """Bit for bit, ties included; step: logits are multiples of it, so that ties are long."""
    logits = np.random.default_rng(3).normal(0, scale, SLICED)
    logits = np.round(logits / step) * step if step else logits
    o = given_options(temperature=1.0, **filters)
    c = candidates(logits, o)
    ids, p = sorted_whole(logits, o)
    assert np.array_equal(c.p, p)
    places = {*range(min(len(ids), 8)), *range(0, len(ids), max(1, len(ids) // 32)), len(ids) - 1}
    assert [c.id_at(place) for place in places] == ids[list(places)].tolist()
    for seed in range(20):
        at = int(np.searchsorted(np.cumsum(p), uniform(seed, 0), side="right"))
        assert sample(logits, o, History(), seed, 0) == ids[min(at, len(ids) - 1)]


@pytest.mark.parametrize(("scale", "most"), [(4.0, HEAD), (2.0, HEAD * GROWTH), (0.01, SLICED)])
def test_no_more_is_sorted_than_top_p_needs(scale: float, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, sort = [], np.sort
    monkeypatch.setattr(np, "sort", lambda x: sizes.append(len(x)) or sort(x))
    candidates(np.random.default_rng(0).normal(0, scale, SLICED), given_options(temperature=1.0, top_p=0.9))
    assert max(sizes) == most


def test_top_k_keeps_the_lowest_ids_of_a_tie() -> None:
    p, id_at = candidates(np.array([1.0, 2.0, 1.0, 1.0]), given_options(temperature=1.0, top_k=2))
    assert [id_at(0), id_at(1)] == [1, 0]
    assert math.isclose(p[0], math.e / (math.e + 1))


@given(logits=logits_lists, top=st.integers(0, 20))
def test_logprobs_are_log_softmax_of_the_raw_logits(logits: list[float], top: int) -> None:
    norm = math.log(math.fsum(math.exp(x - max(logits)) for x in logits)) + max(logits)
    found = logprob(np.array(logits, np.float64), len(logits) - 1, top)
    assert math.isclose(found.logprob, logits[-1] - norm, abs_tol=1e-9)
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:top]
    assert [i for i, _ in found.top] == order
    assert all(math.isclose(x, logits[i] - norm, abs_tol=1e-9) for i, x in found.top)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_fail_the_request(bad: float, temperature: float) -> None:
    with pytest.raises(BadCheckpoint, match="logits: got"):
        sample(np.array([0.0, bad, 1.0]), given_options(temperature=temperature), History(), 0, 0)
