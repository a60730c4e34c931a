"""What a case is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from analyzer.case import Path, numbered

IDS = st.lists(st.integers(1, 9), unique=True)


def a_path(number: int) -> Path:
    return Path(number, "192.0.2.1", "192.0.2.2", "no-fault", None, None, None, (), (), 0)


@given(IDS.map(sorted), st.lists(st.integers(-1, 12)))
def test_rows_are_found_by_their_ids_wherever_they_stand(ids: list[int], wanted: list[int]) -> None:
    """Rows of a case count from 1; those of a case that somebody has cut need not."""
    rows = [a_path(number) for number in ids]
    assert numbered(rows, wanted) == [row for row in rows if row.id in wanted]
