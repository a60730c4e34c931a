"""The walk from record to record: where each one begins.

Each record tells its length, so the next can only be found through it. One after the other in Python this costs 0.2 us
a record; `lanes` walks from many places of a window at once and is exact all the same (see there).
"""

from __future__ import annotations

import struct
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .windows import Bytes

Starts = npt.NDArray[np.int64]


def sliding(buffer: Bytes, dtype: str) -> npt.NDArray[np.void]:
    """A view whose element i is the value at byte i of the buffer, for any i: rows are gathered by plain indexing.

    One gather of an n-byte void row is several times cheaper than gathering its fields.
    """
    width = np.dtype(dtype).itemsize
    return np.ndarray((len(buffer) - width + 1,), dtype, buffer=buffer, strides=(1,))


# Lanes begin this far apart: far enough that finding their beginnings (some hundred bytes are looked at for each)
# costs little, near enough that a window of 16 MiB gives a few hundred to step together.
LANE_BYTES = 48 << 10
# Fewer lanes than this are not quicker than the plain walk.
MIN_LANES = 32
# How far behind its place a lane looks for a record header: a full frame and its header fit in.
LOOK_BYTES = 1700
# Neighbouring records are hardly ever further apart in time; where they are, a lane less is found.
NEAR_S = 200_000
# What a lane takes for a packet's length: libpcap's MAXIMUM_SNAPLEN at most.
MAX_CAPTURED = 262144
# Lanes are stepped this often between two looks at which of them have arrived.
STEPS = 16
# So few that are left, in places with many small records, are walked the plain way.
FEW_LANES = 16


class Layout(NamedTuple):
    """How a record tells where the next one begins: u4 at `length_at`, plus `added` bytes."""

    order: str
    length_at: int
    added: int
    smallest: int


def walk_pcap(buffer: Bytes, start: int, end: int, order: str, header_bytes: int) -> tuple[Starts, int]:
    """Offsets of the records that lie wholly in buffer[start:end], and where the first one that does not begins."""
    if end - start >= MIN_LANES * LANE_BYTES:
        layout = Layout(order, 8, header_bytes, header_bytes)
        first = _beginnings_pcap(buffer, start, end, order, header_bytes)
        chain = lanes(buffer, first, end, layout) if len(first) >= MIN_LANES else None
        if chain is not None:
            return _whole_records(buffer, chain, end, layout)
    return _plain_pcap(buffer, start, end, order, header_bytes)


def walk_pcapng(buffer: Bytes, start: int, end: int, order: str, stop_at: int) -> tuple[Starts, int]:
    """Offsets of the blocks that lie wholly in buffer[start:end], up to the next section header (type `stop_at`).

    A block whose two lengths differ, or cannot be a length, ends the walk as well.
    """
    if end - start < (MIN_LANES + 1) * LANE_BYTES:
        return _plain_pcapng(buffer, start, end, order, stop_at)
    # Behind a section header come interfaces, and maybe soon another section: the lanes are for what follows.
    soon = start + LANE_BYTES
    starts, after = _plain_pcapng(buffer, start, end, order, stop_at, until=soon)
    if after < soon:
        return starts, after
    layout = Layout(order, 4, 0, 12)
    first = _beginnings_pcapng(buffer, after, end, order)
    chain = lanes(buffer, first, end, layout) if len(first) >= MIN_LANES else None
    if chain is None:
        more, after = _plain_pcapng(buffer, after, end, order, stop_at)
    else:
        more, after = _good_blocks(buffer, *_whole_records(buffer, chain, end, layout), order, stop_at)
    return np.concatenate((starts, more)), after


def lanes(buffer: Bytes, first: Starts, end: int, layout: Layout) -> Starts | None:
    """The chain of records from first[0] on, walked from many places at once; None where that does not pay.

    Each lane begins at one of `first`, a plausible record header, and all of them take one step per NumPy call. What
    makes this exact: a lane is only believed when the lane before it, itself believed, lands exactly on its first
    record. first[0] is a true record, so by induction all of the chain is. Where a lane is missed (its beginning was
    no record, say a capture inside a capture), the stretch up to the next lane is walked the plain way.
    """
    length = sliding(buffer, layout.order + "u4")[layout.length_at :]
    at, until, who = first, np.append(first[1:], end), np.arange(len(first))
    landing = np.empty(len(first), np.int64)
    chains = []
    while len(at) > FEW_LANES:
        path = np.empty((STEPS + 1, len(at)), np.int64)
        path[0] = at
        for here, there in pairwise(path):
            try:
                told = length[here]
            except IndexError:  # a lane has left the buffer, by far or by what is no length
                told = length[np.minimum(here, end, out=here)]
            np.add(here, told, out=there)
            there += layout.added
            if layout.added < layout.smallest:
                np.maximum(there, here + layout.smallest, out=there)
        inside = path[:STEPS] < until
        chains.append(path[:STEPS][inside])
        at = path[STEPS]
        arrived = at >= until
        if arrived.any():
            done = np.flatnonzero(arrived)
            landing[who[done]] = path[inside[:, done].sum(axis=0), done]
            at, until, who = at[~arrived], until[~arrived], who[~arrived]
    view = memoryview(buffer)
    for lane, begin, stop in zip(who.tolist(), at.tolist(), until.tolist(), strict=True):
        walked, landing[lane] = _follow(view, begin, stop, layout)
        chains.append(np.array(walked, np.int64))
    np.minimum(landing, end, out=landing)
    chain = np.concatenate(chains)
    chain.sort()
    missed = np.count_nonzero(landing[:-1] != first[1:])
    if not missed:
        return chain
    return _repaired(buffer, chain, first, landing, end, layout) if missed <= len(first) // 8 else None


def _first_of_each(lane: Starts, candidates: Starts) -> Starts:
    """The first candidate of each lane; both arrays are sorted by lane."""
    if not len(lane):
        return candidates
    return candidates[np.concatenate(([True], lane[1:] != lane[:-1]))]


def _beginnings_pcap(buffer: Bytes, start: int, end: int, order: str, header_bytes: int) -> Starts:
    """`start`, and the first plausible record header behind each place, one lane's length after the other.

    A header is plausible when it and the two after it have times near the first record's, and lengths that can be.
    """
    places = np.arange(start + LANE_BYTES, end - 2 * LANE_BYTES, LANE_BYTES)
    if not len(places):
        return np.array([start])
    (seconds,) = struct.unpack_from(order + "I", buffer, start)
    # Three bytes are compared everywhere, those that tell a header from text: the two high ones of the seconds, and the
    # highest of the length, which is 0.
    high, next_high, of_length = (3, 2, 11) if order == "<" else (0, 1, 8)
    shape, strides = (len(places), LOOK_BYTES), (LANE_BYTES, 1)

    def bytes_at(offset: int) -> Bytes:
        return np.ndarray(shape, "u1", buffer, int(places[0]) + offset, strides)

    match = bytes_at(high) == seconds >> 24
    match &= bytes_at(next_high) == seconds >> 16 & 255
    match &= bytes_at(of_length) == 0
    found = match.argmax(axis=1)
    candidates = places + found
    words = sliding(buffer, order + "u4")
    at, good = candidates, match[np.arange(len(places)), found]
    for _ in range(2):
        captured = words[at + 8].astype(np.int64)
        near = np.abs(words[at].astype(np.int64) - seconds) < NEAR_S
        near &= (words[at + 4] < 10**9) & (captured <= words[at + 12]) & (captured <= MAX_CAPTURED)
        good &= near | (at >= end)  # what follows in the next window is not looked at
        at = np.minimum(at + header_bytes + captured, end)
    return np.concatenate(([start], candidates[good]))


def _beginnings_pcapng(buffer: Bytes, start: int, end: int, order: str) -> Starts:
    """The same for enhanced packet blocks: the type, and twice the same length. Blocks begin at multiples of 4 bytes."""
    places = np.arange(start + LANE_BYTES, end - 2 * LANE_BYTES, LANE_BYTES)
    if not len(places):
        return np.array([start])
    kind = np.ndarray((len(places), LOOK_BYTES // 4), order + "u4", buffer, int(places[0]), (LANE_BYTES, 4))
    lane, behind = np.nonzero(kind == 6)
    candidates = places[lane] + 4 * behind
    words = sliding(buffer, order + "u4")
    length = words[candidates + 4].astype(np.int64)
    good = (length >= 32) & (length % 4 == 0) & (candidates + length <= end)
    good[good] = words[(candidates + length)[good] - 4] == length[good]
    return np.concatenate(([start], _first_of_each(lane[good], candidates[good])))


# So many records behind each other are believed to be records: no payload looks like that but a capture inside the capture.
# What is believed wrongly costs time, never truth.
BELIEVED = 16


def across_pcap(buffer: Bytes, place: int, order: str, header_bytes: int, seconds: int) -> int | None:
    """Where in these bytes of a pcap the record seems to begin that does not end before or at `place`.

    seconds: a time in the beginning of the capture. A record header is plausible as in `_beginnings_pcap`; the first one
    is taken behind which BELIEVED others are, or as many as the bytes hold. None: there is none.
    """
    end = len(buffer) - 16
    if end <= 0:
        return None
    words: npt.NDArray[Any] = sliding(buffer, order + "u4")
    near = np.abs(words[:end].astype(np.int64) - seconds) < NEAR_S
    captured = words[8 : end + 8]
    near &= (captured <= MAX_CAPTURED) & (captured <= words[12 : end + 12]) & (words[4 : end + 4] < 10**9)
    for at in np.flatnonzero(near).tolist():
        chain = [at]
        while at < end and near[at] and (at <= place or len(chain) <= BELIEVED):
            at += header_bytes + int(captured[at])
            chain.append(at)
        if at >= end or len(chain) > BELIEVED:
            return next((this for this, following in pairwise(chain) if following > place), None)
    return None


def _repaired(buffer: Bytes, chain: Starts, first: Starts, landing: Starts, end: int, layout: Layout) -> Starts:
    """The true chain where some lanes did not meet: from a lane's landing the plain walk goes on to the next lane met."""
    view = memoryview(buffer)
    bounds = np.searchsorted(chain, first)
    parts: list[Starts] = []
    lane, at = 0, int(first[0])
    while lane < len(first):
        if at == first[lane]:
            begin, to = bounds[lane], bounds[lane + 1] if lane + 1 < len(first) else len(chain)
            parts.append(chain[begin:to])
            at = int(landing[lane])
        else:
            walked, at = _follow(view, at, int(first[lane + 1]) if lane + 1 < len(first) else end, layout)
            at = min(at, end)
            parts.append(np.array(walked, np.int64))
        lane += 1
    return np.concatenate(parts)


def _follow(view: memoryview, at: int, until: int, layout: Layout) -> tuple[list[int], int]:
    """The records from `at` on that begin before `until`, and where the next one begins."""
    length_at, place = struct.Struct(layout.order + "I").unpack_from, layout.length_at
    added, smallest = layout.added, layout.smallest
    walked = []
    while at < until:
        walked.append(at)
        at += max(length_at(view, at + place)[0] + added, smallest)
    return walked, at


def _whole_records(buffer: Bytes, chain: Starts, end: int, layout: Layout) -> tuple[Starts, int]:
    """Leaves out the last record of the chain if it is not all there; where it, or the next one, begins."""
    last = int(chain[-1])
    (length,) = struct.unpack_from(layout.order + "I", buffer, last + layout.length_at)
    after = last + max(length + layout.added, layout.smallest)
    return (chain, after) if after <= end else (chain[:-1], last)


def _plain_pcap(buffer: Bytes, start: int, end: int, order: str, header_bytes: int) -> tuple[Starts, int]:
    """The plain way, and the oracle of the fast one."""
    length_at = struct.Struct(order + "I").unpack_from
    view = memoryview(buffer)
    starts = []
    last = end - header_bytes
    while start <= last:
        after = start + header_bytes + length_at(view, start + 8)[0]
        if after > end:
            break
        starts.append(start)
        start = after
    return np.array(starts, np.int64), start


def _plain_pcapng(
    buffer: Bytes, start: int, end: int, order: str, stop_at: int, until: int | None = None
) -> tuple[Starts, int]:
    """The plain way, and the oracle of the fast one; blocks that begin at `until` or later are left."""
    kind_and_length = struct.Struct(order + "II").unpack_from
    length_at = struct.Struct(order + "I").unpack_from
    view = memoryview(buffer)
    starts = []
    last = end - 12 if until is None else min(end - 12, until - 1)
    while start <= last:
        kind, length = kind_and_length(view, start)
        after = start + length
        if length < 12 or length & 3 or kind == stop_at or after > end or length_at(view, after - 4)[0] != length:
            break
        starts.append(start)
        start = after
    return np.array(starts, np.int64), start


def _good_blocks(buffer: Bytes, chain: Starts, after: int, order: str, stop_at: int) -> tuple[Starts, int]:
    """The chain up to the first block that ends the walk, as _plain_pcapng judges."""
    if not len(chain):
        return chain, after
    words = sliding(buffer, order + "u4")
    head = sliding(buffer, "V8")[chain].view(order + "u4").reshape(-1, 2)
    length = head[:, 1].astype(np.int64)
    bad = (length < 12) | (length % 4 != 0) | (head[:, 0] == stop_at)
    bad |= words[np.append(chain[1:], after) - 4] != length
    if not bad.any():
        return chain, after
    ends = int(np.argmax(bad))
    return chain[:ends], int(chain[ends])
