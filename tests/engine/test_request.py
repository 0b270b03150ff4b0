"""Every bad option is refused with one line that names its field."""

import math

import pytest

from herd.engine.request import SamplingOptions
from herd.errors import UsageError

BAD = [
    ("logit_bias", dict.fromkeys(range(1025), 0)),
    *(("temperature", x) for x in (math.nan, -1, 1e38, math.inf, "1", True, None)),
    *(("top_k", x) for x in (-1, 1.5, 2**63, "1", True)),
    *(("top_p", x) for x in (2, -0.1, math.nan, None, [])),
    *(("min_p", x) for x in (-0.1, 1.1, math.nan)),
    *(("repetition_penalty", x) for x in (0, -1, 1e38, math.nan)),
    *(("presence_penalty", x) for x in (-2.1, 2.1, 1e38, math.nan)),
    *(("frequency_penalty", x) for x in (-2.1, 2.1, 1e38, math.nan)),
    *(("repetition_window", x) for x in (-1, 2**40, 1.0)),
    *(("logit_bias", x) for x in ({-1: 0.0}, {1: math.nan}, {1: 101}, {"1": 0}, [], {True: 1})),
    *(("seed", x) for x in (-1, 2**63, 1.0, "a")),
    *(("max_tokens", x) for x in (0, -1, 2**63, 1.5)),
    *(("stop", x) for x in (("",), ("a",) * 17, ("a" * 257,), (1,), 5, ("é" * 129,))),
    *(("stop_ids", x) for x in ((-1,), (2**30,), ("a",), 5, tuple(range(65)))),
    *(("logprobs", x) for x in (-1, 21, 10**6, True)),
    *(("ignore_eos", x) for x in (1, "yes")),
    *(("speculate", x) for x in ("on", None, True, [])),
]


@pytest.mark.parametrize(("field", "value"), BAD)
def test_bad_values_are_refused_by_name(field: str, value: object) -> None:
    with pytest.raises(UsageError) as caught:
        SamplingOptions().with_({field: value})
    line = str(caught.value)
    assert line.startswith(f"{field}: got ")
    assert "\n" not in line
    assert len(line) < 250


def test_limits_themselves_are_accepted() -> None:
    SamplingOptions().with_(
        {
            "temperature": 100, "top_p": 1, "min_p": 1, "repetition_penalty": 10, "presence_penalty": -2,
            "frequency_penalty": 2, "logit_bias": dict.fromkeys(range(1024), -100), "seed": 2**63 - 1, "max_tokens": 1,
            "stop": ["a" * 256] * 16, "stop_ids": list(range(64)), "logprobs": 20,
        }
    )  # fmt: skip


def test_unknown_option_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="option: got temprature, expected one of temperature, top_k"):
        SamplingOptions().with_({"temprature": 1})


def test_lists_and_single_strings_become_tuples() -> None:
    o = SamplingOptions().with_({"stop": "END", "stop_ids": [1, 2], "logit_bias": None})
    assert (o.stop, o.stop_ids, o.logit_bias) == (("END",), (1, 2), {})
    assert SamplingOptions().with_({"stop": None}).stop == ()
    with pytest.raises(UsageError, match="stop: got a list, expected a tuple of strings"):
        SamplingOptions(stop=["END"])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="stop_ids: got a list, expected a tuple of token ids"):
        SamplingOptions(stop_ids=[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["logit_bias", "stop_ids"])
def test_ids_out_of_the_vocabulary_are_refused(field: str) -> None:
    o = SamplingOptions().with_({field: {320: 1.0} if field == "logit_bias" else (320,)})
    o.fits(321)
    with pytest.raises(UsageError, match=f"{field}: got 320, expected an id from 0 to 319"):
        o.fits(320)
