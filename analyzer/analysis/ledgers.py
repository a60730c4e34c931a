"""All paths of a case in order, and the ledgers of those that have to be looked at one by one."""

from __future__ import annotations

import numpy as np

from ..detect.paths import PathLedger
from ..detect.regular_paths import Ends, RegularPaths, joined
from .gathering import Gathered


class Ledgers:
    """The paths, numbered from 1 in the order of their first connections, the client's data before the server's.

    `of`: number -> ledger, of paths with odd connections and of those that `look_at` was asked for.
    `silent`: number in `regular` -> number, of all others: nothing is known of them but columns.
    """

    def __init__(self, run: Gathered) -> None:
        talks = run.talks
        self.regular = RegularPaths(joined(run.sightings), talks)
        run.sightings.clear()
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
        number = np.empty(len(key), np.int64)
        number[np.lexsort((key, direction, start_ns))] = np.arange(1, len(key) + 1)
        regular_numbers, odd_numbers = np.split(number, [len(regular)])
        self.silent: dict[int, int] = dict(zip(regular.tolist(), regular_numbers.tolist(), strict=True))
        self.of: dict[int, PathLedger] = dict(zip(odd_numbers.tolist(), odd, strict=True))
        self._between = {(ledger.sender, ledger.receiver): ledger for ledger in odd}
        self._first_from: dict[str, PathLedger | None] = {}

    def look_at(self, i: int) -> PathLedger:
        """The ledger of a path that was silent until now, by its number in `regular`."""
        ledger = self.regular.ledger(i)
        self.of[self.silent.pop(i)] = self._between[ledger.sender, ledger.receiver] = ledger
        return ledger

    def between(self, ends: Ends) -> PathLedger | None:
        """The ledger of the path between them, if there is such a path."""
        i = self.regular.find(ends)
        return self.look_at(i) if i in self.silent else self._between.get(ends)

    def first_from(self, sender: str) -> PathLedger | None:
        """The ledger of the first path on which this host sends."""
        if sender not in self._first_from:  # remembered: ICMP errors may come in floods
            numbers = {number: ledger for number, ledger in self.of.items() if ledger.sender == sender}
            silent = {self.silent[i]: i for i in self.silent_from(sender)}
            first = min([*numbers, *silent], default=0)
            self._first_from[sender] = self.look_at(silent[first]) if first in silent else numbers.get(first)
        return self._first_from[sender]

    def silent_from(self, sender: str | None) -> list[int]:
        """The silent paths on which this host sends, by their numbers in `regular`."""
        return [i for i in self.regular.touching(sender) if i in self.silent and self.regular.senders[i] == sender]


def _together(one: PathLedger, other: PathLedger) -> PathLedger:
    """Both in one; that of the path's first connection first."""
    first, second = sorted((one, other), key=lambda ledger: ledger.connections)
    first.join(second)
    first.connections.sort()
    return first
