"""All paths of a case in order, and the ledgers of those that have to be looked at one by one."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from ..detect.paths import PathLedger
from ..detect.regular_paths import Ends, RegularPaths, joined
from .gathering import Gathered


class Ledgers:
    """The paths, numbered from 1 in the order of their first connections, the client's data before the server's.

    `of`: number -> ledger, of paths with odd connections and of those that `look_at` was asked for. All others are
    known by the columns of `regular` alone.
    """

    def __init__(self, run: Gathered) -> None:
        talks = run.talks
        self.regular = RegularPaths(joined(run.sightings), talks)
        alone = np.ones(len(self.regular), bool)
        odd = []
        for ends, ledger in run.ledgers.items():
            also = self.regular.find(ends)
            if also is not None:
                alone[also] = False
                ledger = _together(ledger, self.regular.ledger(also))
            if ledger.connections:  # where nothing but SYNs without an answer was seen there is no path to judge
                odd.append(ledger)
        first_of_odd = [talks[ledger.connections[0] - 1] for ledger in odd]
        regular = np.flatnonzero(alone)
        key = np.append(self.regular.first_connection[regular], [t.key for t in first_of_odd]).astype(np.int64)
        from_server = [t.client[0] != ledger.sender for t, ledger in zip(first_of_odd, odd, strict=True)]
        direction = np.append(self.regular.first_from_server[regular], from_server)
        start_ns = np.array([t.start_ns for t in talks], np.int64)[key - 1]
        place = np.empty(len(key), np.int64)
        place[np.lexsort((key, direction, start_ns))] = np.arange(1, len(key) + 1)
        self.count = len(key)
        self._regular_at: dict[int, int] = dict(zip(place.tolist(), regular.tolist(), strict=False))
        self.of: dict[int, PathLedger] = dict(zip(place[len(regular) :].tolist(), odd, strict=True))

    def look_at(self, number: int) -> PathLedger:
        """The ledger of this path, which from now on is one of `of`."""
        if number not in self.of:
            self.of[number] = self.regular.ledger(self._regular_at.pop(number))
        return self.of[number]

    def find(self, ends: Ends) -> int | None:
        """The number of the path between them."""
        return self._number_of.get(ends)

    def first_of(self, sender: str) -> int | None:
        """The first path on which this host sends."""
        return min((number for ends, number in self._number_of.items() if ends[0] == sender), default=None)

    @cached_property
    def _number_of(self) -> dict[Ends, int]:
        numbers = {(ledger.sender, ledger.receiver): number for number, ledger in self.of.items()}
        regular = self.regular
        for number, i in self._regular_at.items():
            numbers[regular.senders[i], regular.receivers[i]] = number
        return numbers

    def others(self) -> Iterator[tuple[int, int]]:
        """(number of the path, its number in `regular`) of those that have no ledger."""
        return iter(self._regular_at.items())

    def others_at(self, host: str | None) -> list[tuple[int, int]]:
        """Those of them that begin or end at this host."""
        return [(number, i) for i in self.regular.touching(host) if (number := self._number_at.get(i)) is not None]

    @cached_property
    def _number_at(self) -> dict[int, int]:
        return {i: number for number, i in self._regular_at.items()}


def _together(one: PathLedger, other: PathLedger) -> PathLedger:
    """Both in one; that of the path's first connection first."""
    first, second = sorted((one, other), key=lambda ledger: ledger.connections)
    first.join(second)
    first.connections.sort()
    return first
