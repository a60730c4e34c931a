"""Which packet carried a byte again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analyzer.tcp import covers

PACKETS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=60)


@given(PACKETS, st.data())
def test_the_tree_finds_what_looking_one_by_one_finds(packets: list[tuple[int, int]], data: st.DataObject) -> None:
    """Both ways give the first later packet that carries the byte."""
    starts, sizes = (np.array(column, np.int64) for column in zip(*packets, strict=True))
    asked = data.draw(
        st.lists(st.tuples(st.integers(-1, 55), st.integers(0, len(packets) - 1)), min_size=1, max_size=60)
    )
    points, after = (np.array(column, np.int64) for column in zip(*asked, strict=True))
    expected = [
        next((j for j in range(place + 1, len(packets)) if starts[j] <= point < starts[j] + sizes[j]), -1)
        for point, place in asked
    ]
    for few in (0, len(points) * len(packets)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(covers, "FEW", few)
            assert covers.next_carriers(points, after, starts, starts + sizes).tolist() == expected
