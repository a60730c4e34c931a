"""Where CR LF . CR LF was cut."""

from __future__ import annotations

import pytest

from analyzer.smtp.terminator import cuts, wire_boundaries


@pytest.mark.parametrize(
    ("boundaries", "pieces", "cut_at"),
    [
        ([], (5,), ()),
        ([100, 105], (5,), ()),
        ([101], (1, 4), (1,)),
        ([102], (2, 3), (2,)),
        ([103], (3, 2), (3,)),
        ([104], (4, 1), (4,)),
        ([104, 101, 104], (1, 3, 1), (1, 4)),
        ([101, 102, 103, 104], (1, 1, 1, 1, 1), (1, 2, 3, 4)),
        ([99, 106], (5,), ()),
    ],
)
def test_cuts(boundaries: list[int], pieces: tuple[int, ...], cut_at: tuple[int, ...]) -> None:
    """A cut is named by the bytes of the terminator before it; the edges of the terminator are no cuts."""
    found = cuts(100, boundaries)
    assert (found.pieces, found.cut_at, found.inferred) == (pieces, cut_at, ())


def test_a_cut_inside_an_offloaded_frame_is_inferred() -> None:
    """The wire cuts a long frame at multiples of the segment's payload from its beginning."""
    frame = wire_boundaries(1000, 6000, 1448)
    assert list(frame) == [2448, 3896, 5344]
    found = cuts(3893, [1000, 6000], frame)
    assert (found.pieces, found.cut_at, found.inferred) == ((3, 2), (3,), (3,))


def test_a_cut_that_was_seen_is_not_inferred() -> None:
    """What a segment boundary shows needs no inference."""
    assert cuts(10, [13], [13]).inferred == ()


@pytest.mark.parametrize(("end", "payload"), [(1448, 1448), (100, 1448), (0, 1448), (5000, 0), (5000, -1)])
def test_a_frame_that_needs_no_cutting(end: int, payload: int) -> None:
    """A frame of one segment, or an unknown segment size: nothing to infer."""
    assert list(wire_boundaries(0, end, payload)) == []
