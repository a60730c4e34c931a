"""Where a mail ends, and where TCP cut that end into pieces.

RFC 5321 4.1.1.4: only CR LF . CR LF ends a mail; the first CR LF also ends its last line. A dot that begins a line of
the mail is doubled (4.5.2), so ``CR LF . . CR LF`` is no end. A mail that begins with ``. CR LF`` right behind the
DATA line is an empty one: the CR LF of the DATA line counts.

Cuts are numbered by the bytes of CR LF . CR LF before them:

    CR 1 LF 2 . 3 CR 4 LF

Offsets are bytes of the client's stream.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

TERMINATOR = b"\r\n.\r\n"
LENGTH = len(TERMINATOR)


class Cuts(NamedTuple):
    pieces: tuple[int, ...]  # bytes of the terminator in each segment, e.g. (3, 2); their sum is 5
    cut_at: tuple[int, ...]  # subset of 1..4
    inferred: tuple[int, ...]  # those of cut_at that no segment boundary shows: see `wire_boundaries`


def cuts(start: int, boundaries: Iterable[int], inferred: Iterable[int] = ()) -> Cuts:
    """How the terminator at `start` was cut.

    boundaries: offsets at which a segment that was seen begins or ends; inferred: the same for segments inside
    offloaded frames. Offsets outside the terminator do not matter.
    """
    seen = {b - start for b in boundaries if 0 < b - start < LENGTH}
    guessed = {b - start for b in inferred if 0 < b - start < LENGTH} - seen
    at = sorted(seen | guessed)
    ends = [*at, LENGTH]
    pieces = tuple(end - begin for begin, end in zip([0, *at], ends, strict=True))
    return Cuts(pieces, tuple(at), tuple(sorted(guessed)))


def wire_boundaries(start: int, end: int, payload_bytes: int) -> range:
    """Where the wire cuts a frame [start, end) that is longer than a segment.

    The host's network card cuts it at multiples of the MSS (less TCP options) from its beginning; the capture was
    taken before that. `payload_bytes`: payload of one segment on the wire. Empty for a frame that needs no cutting.
    """
    if payload_bytes <= 0:
        return range(0)
    return range(start + payload_bytes, end, payload_bytes)
