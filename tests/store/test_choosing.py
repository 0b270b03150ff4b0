"""Which form of a model a machine takes: choices, refusals and spellings, all without a machine or a hub."""

from dataclasses import replace

import pytest

from herd.config import SCOUT
from herd.errors import DoesNotFit
from herd.planning.memory import check_fits, gb
from herd.store import known_models
from herd.store.choosing import Candidate, Room, best_of_each, check, choose, fits, memory_needed, resolve

GB = 10**9
ALL = known_models.candidates()
SIZES = (8, 16, 24, 48, 64, 96, 128, 192, 256, 512)
TAKEN = {
    "scout": (*[None] * 3, "UD-Q2_K_XL", "UD-Q3_K_XL", *["UD-Q4_K_XL"] * 3, "BF16", "BF16"),
    "maverick": (*[None] * 6, "UD-IQ1_S", "UD-Q2_K_XL", "UD-Q4_K_XL", "FP8"),
    "guard": (*[None] * 3, *["BF16"] * 7),
    "llama3.1:8b": (*[None] * 2, *["BF16"] * 8),
    "llama3.2:3b": ("BF16",) * 10,
    "llama3.2:1b": ("BF16",) * 10,
    "smollm2:135m": ("BF16",) * 10,
    "smollm2:360m": ("BF16",) * 10,
    "smollm2:1.7b": ("BF16",) * 10,
    "tinyllama": ("BF16",) * 10,
}
"""Model -> what is taken with so many GB of memory, a token and a large disk; None: nothing fits."""


def room(memory_gb: float, disk_gb: float = 10_000, *, token: bool = True) -> Room:
    return Room(round(memory_gb * GB), round(disk_gb * GB), token)


def of(model: str) -> list[Candidate]:
    return [c for c in ALL if c.model == model]


def one(model: str, quant: str) -> Candidate:
    return next(c for c in of(model) if c.quant == quant)


def test_every_model_of_the_table_has_its_row_here() -> None:
    assert TAKEN.keys() == known_models.models().keys()


@pytest.mark.parametrize("model", TAKEN)
@pytest.mark.parametrize(("memory", "at"), [(size, i) for i, size in enumerate(SIZES)])
def test_the_most_bits_that_fit_are_taken(model: str, memory: int, at: int) -> None:
    wanted = TAKEN[model][at]
    if wanted is None:
        with pytest.raises(DoesNotFit, match=rf"^{model} does not fit here: the smallest, {model}:"):
            choose(model, of(model), room(memory))
        return
    chosen = choose(model, of(model), room(memory)).candidate
    assert (chosen.model, chosen.quant) == (model, wanted)
    assert chosen.config is not None and chosen.size_bytes is not None
    context = min(8192, chosen.config.max_context)
    check_fits(model, chosen.config, chosen.size_bytes, context, memory * GB)  # what a load asks for
    for c in (c for c in of(model) if c.sure and (c.bits or 0) > (chosen.bits or 0)):
        with pytest.raises(DoesNotFit):
            check_fits(model, chosen.config, c.size_bytes or 0, context, memory * GB)


def test_the_note_says_what_was_taken_why_and_what_is_left() -> None:
    note = choose("scout", of("scout"), room(64)).note
    assert note.startswith("scout:UD-Q3_K_XL, 54.6 GB: the largest that fits 64.0 GB with 8192 tokens; larger ones: ")
    needed = gb(memory_needed(one("scout", "UD-Q4_K_XL")) or 0)
    assert f"scout:UD-Q4_K_XL (needs {needed} of memory, 64.0 GB are available)" in note
    assert "by name alone" in note and "UD-IQ2_M" in note
    guard = choose("guard", of("guard"), room(64)).note
    assert guard == "guard:BF16, 24.0 GB: the largest that fits 64.0 GB with 8192 tokens"


def test_without_a_token_what_needs_one_is_told_and_not_taken() -> None:
    choice = choose("scout", of("scout"), room(512, token=False))
    assert choice.candidate.quant == "UD-Q4_K_XL"
    assert "scout:BF16 would fit, and wants its licence accepted and HF_TOKEN set" in choice.note
    only = choose("guard", of("guard"), room(512, token=False)).candidate
    assert only.gated, "the caller refuses it, with what to do"


def test_a_disk_that_is_too_small_is_a_reason_of_its_own() -> None:
    choice = choose("scout", of("scout"), room(96, 60))
    assert choice.candidate.quant == "Q3_K_S"  # 48.5 GB and a tenth
    assert "scout:UD-Q3_K_XL (needs 60.1 GB on the disk, 60.0 GB are free)" in choice.note
    with pytest.raises(DoesNotFit, match=r"needs 37.*GB on the disk, 10.0 GB are free; what fits here: llama3.2:3b"):
        choose("scout", of("scout"), room(96, 10), ALL)


def test_what_is_on_the_disk_already_needs_no_room() -> None:
    there = [replace(c, have_bytes=c.size_bytes or 0) if c.quant == "UD-Q4_K_XL" else c for c in of("scout")]
    assert choose("scout", there, room(96, 1)).candidate.quant == "UD-Q4_K_XL"


def test_what_was_begun_is_gone_on_with_where_it_fits() -> None:
    """Memory that is free differs from minute to minute: another form would begin again from nothing."""
    begun = [replace(c, have_bytes=1) if c.quant == "UD-Q2_K_XL" else c for c in of("scout")]
    choice = choose("scout", begun, room(64))
    assert choice.candidate.quant == "UD-Q2_K_XL"
    assert choice.note.startswith("scout:UD-Q2_K_XL, 44.4 GB: here already, or begun, and it fits 64.0 GB")
    assert "scout:UD-Q3_K_XL would fit;" in choice.note
    assert choose("scout", begun, room(40)).candidate.quant == "UD-IQ1_M"


def test_a_refusal_says_what_would_fit() -> None:
    with pytest.raises(DoesNotFit) as told:
        choose("maverick", of("maverick"), room(64), ALL)
    line, needed = str(told.value), gb(memory_needed(one("maverick", "UD-IQ1_S")) or 0)
    assert line.startswith(
        f"maverick does not fit here: the smallest, maverick:UD-IQ1_S: needs {needed} of memory, 64.0 GB are available"
    )
    assert "what fits here: scout:UD-Q3_K_XL (54.6 GB), guard:BF16 (24.0 GB), llama3.1:8b:BF16" in line
    assert "--anyway" in line and "\n" not in line and told.value.exit_status == 4


def test_a_form_that_was_named_and_does_not_fit_is_refused() -> None:
    with pytest.raises(
        DoesNotFit, match=r"scout:UD-Q4_K_XL does not fit here.*what fits here: scout:UD-Q2.*--anyway takes"
    ):
        check(one("scout", "UD-Q4_K_XL"), room(48), ALL)
    check(one("scout", "UD-IQ1_S"), room(48), ALL)
    check(one("scout", "Q8_0"), room(1), ALL)  # of unknown size: the hub's list says it


def test_unknown_and_doubtful_sizes_are_never_taken_unasked() -> None:
    for memory in (32, 48, 64, 70, 72, 80, 150, 180, 300, 850):
        for model in known_models.models():
            try:
                chosen = choose(model, of(model), room(memory)).candidate
            except DoesNotFit:
                continue
            assert chosen.sure and chosen.checked in ("verified", "worked out")
    vague = [Candidate("a", "Q4_K_M", "o/a", None), Candidate("a", "Q8_0", "o/a", 10, "weak")]
    with pytest.raises(DoesNotFit, match="no size is known to choose by; name one of Q4_K_M, Q8_0"):
        choose("a", vague, room(8))


def test_of_equal_bits_the_better_known_is_taken() -> None:
    first = Candidate("scout", "A", "o/a", 40 * GB, "worked out", SCOUT)
    second = Candidate("scout", "B", "o/b", 40 * GB + 1, "verified", SCOUT)
    assert choose("scout", [first, second], room(64)).candidate is second
    assert choose("scout", [second, first], room(64)).candidate is second
    assert choose("scout", [second, replace(first, size_bytes=44 * GB)], room(64)).candidate.quant == "A"


def test_a_machine_that_does_not_tell_its_memory_is_told_to_name_one() -> None:
    unknown = Room(None, 10**13)
    with pytest.raises(DoesNotFit, match="does not say how much memory it has; name one of UD-IQ1_S"):
        choose("scout", of("scout"), unknown)
    check(one("scout", "UD-Q4_K_XL"), unknown)


def test_what_fits_here_is_the_best_of_each_the_largest_first() -> None:
    found = [f.candidate.name for f in best_of_each(ALL, room(24))]
    assert found[:3] == ["llama3.1:8b:BF16", "llama3.2:3b:BF16", "smollm2:1.7b:BF16"]
    assert len(found) == len(set(found)) and not any(name.startswith(("scout", "guard")) for name in found)
    assert best_of_each(ALL, room(0.1)) == []


def test_a_model_of_unknown_shape_needs_more_than_its_files() -> None:
    plain = Candidate("o/a", "Q4_0", "o/a", 8 * GB, "verified")
    assert fits(plain, room(10.2)).lacks == "memory"
    assert fits(plain, room(10.3)).lacks == ""


SCOUTS = known_models.models()["scout"].quants


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("Q4_K_M", "Q4_K_M"),
        ("q4_k_m", "Q4_K_M"),
        ("q4-k-m", "Q4_K_M"),
        ("q4_k", "Q4_K_M"),
        ("Q3_K", "Q3_K_M"),
        ("q2_k", "Q2_K"),
        ("q6_k", "Q6_K"),
        ("ud-q2_k_xl", "UD-Q2_K_XL"),
        ("q2_k_xl", "UD-Q2_K_XL"),
        ("iq1_s", "UD-IQ1_S"),
        ("iq1_m", "IQ1_M"),
        ("bf16", "BF16"),
        ("fp8", "FP8"),
        ("Q8_0", "Q8_0"),
    ],
)
def test_spellings_of_a_form(asked: str, meant: str) -> None:
    assert resolve(asked, SCOUTS) == [meant]


def test_a_spelling_with_several_readings_or_none_is_not_guessed() -> None:
    assert resolve("q4_k", ["Q4_K_S", "Q4_K_L"]) == ["Q4_K_S", "Q4_K_L"]
    assert resolve("q4_k", ["UD-Q4_K_XL", "Q8_0"]) == ["UD-Q4_K_XL"]
    assert resolve("q3_k", ["Q3_K_L"]) == ["Q3_K_L"]
    assert set(resolve("q4", SCOUTS)) == {"Q4_1", "Q4_K_S", "Q4_K_M", "UD-Q4_K_XL"}
    assert resolve("q9", SCOUTS) == [] and resolve("", SCOUTS) == []
