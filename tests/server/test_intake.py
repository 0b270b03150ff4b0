"""A body as it comes: every byte kept, in order, and never copied as often as it grows."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from herd.server.shared.intake import BLOCK, Blocks


@given(st.lists(st.one_of(st.integers(0, 40), st.sampled_from([BLOCK - 1, BLOCK, BLOCK + 1])), max_size=30))
def test_a_body_is_its_pieces_in_blocks_that_do_not_grow(sizes: list[int]) -> None:
    body, sent = Blocks(), []
    for at, size in enumerate(sizes):
        sent.append(bytes([at]) * size)
        body.add(sent[-1])
    kept = [len(block) for block in body._blocks]
    assert all(size <= max(BLOCK, max(sizes)) for size in kept)
    assert all(a + b > BLOCK for a, b in itertools.pairwise(kept)), "small pieces share blocks"
    assert body.whole() == b"".join(sent)
    assert body.whole() == b""
