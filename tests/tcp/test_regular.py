"""Regular connections in columns, against looking at their packets one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from analyzer.tcp import regular

PIECES = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8)), min_size=1, max_size=30)


@given(PIECES)
def test_which_pieces_came_first(pieces: list[tuple[int, int]]) -> None:
    """A piece carries its bytes for the first time, again, or some of them each way, whatever its neighbours are."""
    seen: set[int] = set()
    expected = []
    for start, size in pieces:
        fresh = set(range(start, start + size)) - seen
        expected.append((len(fresh) == size, 0 < len(fresh) < size))
        if len(fresh) == size:
            seen |= fresh
    start, size = (np.array(column, np.int64) for column in zip(*pieces, strict=True))
    order = np.argsort(start, kind="stable")
    first, partly = regular._first_carriers(order, start[order], (start + size)[order])
    # of pieces that share bytes with one that is partly new nothing is asked: it makes the whole direction odd
    if not any(both for _, both in expected):
        assert list(zip(first[np.argsort(order)].tolist(), partly[np.argsort(order)].tolist(), strict=True)) == expected
    assert partly.any() == any(both for _, both in expected)
