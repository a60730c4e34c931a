"""Which packet carried a byte again: asked for many bytes at once, in less than quadratic time.

A sender, or whoever writes its packets, may send the same bytes any number of times. Looking through all later packets for
each of n suspicious ones takes n**2 steps: hours, for a capture made for it. A segment tree over the bytes that are asked
for takes n log n: from the last packet to the first, each one paints the bytes that it carries with its own number, so
that the paint that lies on a byte is the number of the next packet that carries it.
"""

from __future__ import annotations

import numpy as np

from .connections import Ints

# Up to so many pairs of a byte and a packet are looked at one by one: NumPy does it faster than the tree is made.
FEW = 1 << 16


def next_carriers(points: Ints, after: Ints, starts: Ints, ends: Ints) -> Ints:
    """Per point: the first packet behind `after` with start <= point < end; -1 when there is none.

    points, after: (k,) offsets in the stream, and places in the row of packets; starts, ends: (n,) of the packets in time
    order.
    """
    found = np.full(len(points), -1, np.int64)
    if not len(points):
        return found
    if len(points) * len(starts) <= FEW:
        carries = (starts <= points[:, None]) & (ends > points[:, None])
        carries &= np.arange(len(starts)) > after[:, None]
        some = carries.any(axis=1)
        found[some] = carries[some].argmax(axis=1)
        return found
    known, leaf = np.unique(points, return_inverse=True)
    size = 1 << int(len(known) - 1).bit_length()
    unpainted = len(starts)
    tree = [unpainted] * (2 * size)
    first = (np.searchsorted(known, starts) + size).tolist()
    last = (np.searchsorted(known, ends) + size).tolist()
    leaves, place = (leaf + size).tolist(), len(starts) - 1
    for k in np.argsort(-after, kind="stable").tolist():
        while place > after[k]:
            _paint(tree, first[place], last[place], place)
            place -= 1
        node, nearest = leaves[k], unpainted
        while node:
            nearest = min(nearest, tree[node])
            node >>= 1
        if nearest < unpainted:
            found[k] = nearest
    return found


def _paint(tree: list[int], left: int, right: int, number: int) -> None:
    """The leaves left:right, and as few nodes as stand for them."""
    while left < right:
        if left & 1:
            tree[left] = number
            left += 1
        if right & 1:
            right -= 1
            tree[right] = number
        left >>= 1
        right >>= 1
