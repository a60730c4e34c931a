"""What regular connections show of their paths, in columns from the capture to the case.

Nine paths of ten have carried nothing but regular connections, and no rule has anything to say about them. They never
get a ledger: a row for each direction of a connection and one for each size in it are kept (`Sightings`), and
`RegularPaths` adds them up, all paths at once. Where a rule may fire, or something odd was seen as well, `ledger` makes
the path's ledger, to be weighed like any other. That both say the same is tested in tests/detect/test_regular.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..tcp.regular import AT, DELIVERED, DELIVERED_DF_OFF, JOINED, LOST, UNDECIDED, Survey
from .facts import VOCABULARY, Value
from .mails import Talk
from .paths import AT_RANK, PathLedger

Column = npt.NDArray[Any]
Ends = tuple[str, str]  # (sender, receiver)


class Sightings(NamedTuple):
    """One row per direction of a regular connection, in the order in which they were judged; then one per size in it."""

    connection: Column  # key of its talk
    from_server: Column  # the direction of these data
    mails: Column  # sent this way
    at: Column  # number in AT
    sent_segments: Column
    lost_segments: Column
    lost_joined: Column
    delayed_ns: Column
    df_on: Column
    df_off: Column
    mss_own: Column  # announced by the sender of these data; 0 when it announced none
    mss_peer: Column

    size_row: Column  # of the columns above
    size_fate: Column
    size_ip_bytes: Column
    size_packets: Column
    size_first_ns: Column
    size_last_ns: Column

    @classmethod
    def of(cls, survey: Survey, talks: Mapping[int, Talk]) -> Sightings:
        """Of some regular connections of a group: their talks by their numbers in it, in rising order."""
        directions = (2 * np.array(list(talks), np.int64)[:, None] + np.arange(2)).ravel()
        row_of = np.full(len(survey.sent_segments), -1, np.int32)
        row_of[directions] = np.arange(len(directions))
        sizes = survey.sizes
        kept = row_of[sizes.direction] >= 0
        mails = np.zeros((len(talks), 2), np.int32)
        mails[:, 0] = [len(t.mails) for t in talks.values()]
        return cls(
            connection=np.repeat(np.array([t.key for t in talks.values()], np.int64), 2),
            from_server=np.tile(np.array([False, True]), len(talks)),
            mails=mails.ravel(),
            at=survey.at[directions],
            sent_segments=survey.sent_segments[directions].astype(np.int32),
            lost_segments=survey.lost_segments[directions].astype(np.int32),
            lost_joined=survey.lost_joined[directions].astype(np.int32),
            delayed_ns=survey.delayed_ns[directions],
            df_on=survey.df_on[directions].astype(np.int32),
            df_off=survey.df_off[directions].astype(np.int32),
            mss_own=survey.mss[directions].astype(np.int32),
            mss_peer=survey.mss[directions ^ 1].astype(np.int32),
            size_row=row_of[sizes.direction[kept]],
            size_fate=sizes.fate[kept].astype(np.int8),
            size_ip_bytes=sizes.ip_bytes[kept].astype(np.int32),
            size_packets=sizes.packets[kept].astype(np.int32),
            size_first_ns=sizes.first_ns[kept],
            size_last_ns=sizes.last_ns[kept],
        )


def joined(parts: Sequence[Sightings]) -> Sightings:
    """All of them, one after the other."""
    if not parts:
        return Sightings(*(np.zeros(0, np.int64) for _ in Sightings._fields))
    before = np.cumsum([0, *(len(part.connection) for part in parts)])
    moved = [part._replace(size_row=part.size_row + n) for part, n in zip(parts, before.tolist(), strict=False)]
    return Sightings(*map(np.concatenate, zip(*moved, strict=True)))


# Facts of a path that its columns do not tell at once: a rule that asks for one of them may fire, as far as they are
# concerned. What is neither here nor in `RegularPaths.facts` is never seen on a path that has no view and no mail that hangs.
NOT_ASKED = frozenset(
    "is_mail connections_total mails_total mails_passed rtt_s full_segments loss_size_blind_p mtu_at_least "
    "other_way_stuck".split()
)
PATH_SCREEN = VOCABULARY["path"].keys() - NOT_ASKED
# As `paths._Weighing` gives them where there is no view.
_ALIKE: dict[str, Value] = {
    "reverse_seen": True,
    "capture_dropped": 0,
    "ack_past_hole": False,
    "sack_outside_window": False,
    "unreachable_seen": False,
    "icmp_count": 0,
    "icmp_seen": False,
    "icmp_valid": False,
    "icmp_suspicious": 0,
    "mails_hung": 0,
}
_TOLD = (
    *("ip_version", "captured_at", "mss_announced", "mss_own", "df_off_packets", "df_cleared"),
    *("lost_segments", "sent_segments", "loss_ratio", "delayed_mail_s"),
)


class RegularPaths:
    """The paths of regular connections, numbered from 0, each with the sum of what its connections showed.

    talks: all, in the order of their keys, which are 1, 2, 3, ...
    """

    def __init__(self, seen: Sightings, talks: Sequence[Talk]) -> None:
        self.talks = talks
        hosts: dict[str, int] = {}
        client, server = (
            np.fromiter((hosts.setdefault(end[0], len(hosts)) for end in ends), np.int64, len(talks))
            for ends in ([t.client for t in talks], [t.server for t in talks])
        )
        talk = seen.connection - 1
        sender = np.where(seen.from_server, server[talk], client[talk])
        receiver = np.where(seen.from_server, client[talk], server[talk])
        keys, self.path = np.unique(sender * len(hosts) + receiver, return_inverse=True)
        self._count = len(keys)
        names = list(hosts)
        self.senders = [names[i] for i in (keys // max(len(hosts), 1)).tolist()]
        self.receivers = [names[i] for i in (keys % max(len(hosts), 1)).tolist()]
        self.rows = np.argsort(self.path, kind="stable")
        self.bounds = self._bounds_of(self.path[self.rows])
        # the first connection, and within it the client's data before the server's
        first = self._reduced(np.minimum, 2 * seen.connection + seen.from_server)
        self.first_connection, self.first_from_server = first >> 1, first & 1
        self._add_sizes(seen)
        # added up, the sizes of single connections are of no use any more
        self.seen = seen._replace(**{name: np.zeros(0, np.int8) for name in Sightings._fields if "size_" in name})

    def __len__(self) -> int:
        return self._count

    def _bounds_of(self, path: Column) -> Column:
        return np.searchsorted(path, np.arange(self._count + 1))

    def _reduced(self, how: np.ufunc, column: Column) -> Column:
        """Per path: a column of the connections' directions, added up or the like."""
        if not self._count:
            return np.zeros(0, np.int64)
        reduced: Column = how.reduceat(column[self.rows], self.bounds[:-1])
        return reduced

    def _add_sizes(self, s: Sightings) -> None:
        """One row per path, size and fate."""
        key = (self.path[s.size_row] << 27) + (s.size_ip_bytes.astype(np.int64) << 3) + s.size_fate
        order = np.argsort(key, kind="stable")
        key = key[order]
        first = np.flatnonzero(np.append(True, key[1:] != key[:-1])[: len(key)])
        key = key[first]
        self.size_path, self.size, self.fate = key >> 27, (key >> 3) & 0xFFFFFF, key & 7
        self.size_bounds = self._bounds_of(self.size_path)
        columns = (s.size_packets.astype(np.int64), s.size_first_ns, s.size_last_ns)
        self.packets, self.size_first_ns, self.size_last_ns = (
            how.reduceat(column[order], first) if len(first) else column
            for how, column in zip((np.add, np.minimum, np.maximum), columns, strict=True)
        )
        delivered = np.flatnonzero(self.fate == DELIVERED)
        largest = np.zeros(self._count, np.int64)
        largest[self.size_path[delivered]] = self.size[delivered]  # in rising order: the last one stays
        self.largest_delivered: list[int] = largest.tolist()  # 0: nothing was

    @cached_property
    def _number(self) -> dict[Ends, int]:
        return {ends: i for i, ends in enumerate(zip(self.senders, self.receivers, strict=True))}

    def find(self, ends: Ends) -> int | None:
        """The number of this path."""
        return self._number.get(ends)

    @cached_property
    def _touching(self) -> dict[str, list[int]]:
        touching: dict[str, list[int]] = defaultdict(list)
        for i, (sender, receiver) in enumerate(zip(self.senders, self.receivers, strict=True)):
            touching[sender].append(i)
            if receiver != sender:
                touching[receiver].append(i)
        return touching

    def touching(self, host: str | None) -> list[int]:
        """The paths that begin or end at this host."""
        return self._touching.get(host or "", [])

    def connections(self, number: Column) -> Iterator[tuple[int, ...]]:
        """Of each path the numbers of its connections, in rising order; `number`: by key, 0 for those that have none."""
        listed = np.flatnonzero(number[self.seen.connection])
        keys, path = self.seen.connection[listed], self.path[listed]
        order = np.lexsort((keys, path))
        numbers = number[keys[order]].tolist()
        return (tuple(numbers[a:b]) for a, b in pairwise(self._bounds_of(path[order]).tolist()))

    def sizes(self, row: Callable[[tuple[int, int, int, int]], Any]) -> Iterator[tuple[Any, ...]]:
        """Of each path what `paths.sizes_of` tells of its ledger, made into rows."""
        known = self.fate != JOINED  # a frame's length is no packet's
        path, size, fate, packets = (x[known] for x in (self.size_path, self.size, self.fate, self.packets))
        new = np.ones(len(size), bool)
        new[1:] = (path[1:] != path[:-1]) | (size[1:] != size[:-1])
        first = np.flatnonzero(new)
        told = []
        for fates in ((DELIVERED,), (LOST,), (UNDECIDED, DELIVERED_DF_OFF)):
            of_these = np.where(np.isin(fate, fates), packets, 0)
            told.append(np.add.reduceat(of_these, first).tolist() if len(first) else [])
        rows = list(map(row, zip(size[first].tolist(), *told, strict=True)))
        return (tuple(rows[a:b]) for a, b in pairwise(self._bounds_of(path[first]).tolist()))

    @cached_property
    def _sums(self) -> dict[str, Column]:
        """Per path: what its connections make together."""
        sums = dict.fromkeys(("sent_segments", "lost_segments", "df_on", "df_off", "mails"), np.add)
        return {
            name: self._reduced(how, getattr(self.seen, name))
            for name, how in (sums | {"delayed_ns": np.maximum}).items()
        }

    @cached_property
    def at(self) -> list[str]:
        """Where each path was captured: as most of its connections tell (see paths.AT_RANK)."""
        votes = np.bincount(self.path * len(AT) + self.seen.at, minlength=self._count * len(AT)).reshape(-1, len(AT))
        rank = np.array([AT_RANK[at] for at in AT])
        return [AT[i] for i in (votes * (len(AT) + 1) + rank).argmax(axis=1).tolist()]

    @cached_property
    def ip_version(self) -> list[int]:
        return [6 if ":" in sender else 4 for sender in self.senders]

    @cached_property
    def mss_own(self) -> list[int | None]:
        """The largest one that was announced."""
        return [mss or None for mss in self._reduced(np.maximum, self.seen.mss_own).tolist()]

    @cached_property
    def mss_announced(self) -> list[int | None]:
        """See paths._Weighing._ledger_facts."""
        smallest = self._reduced(np.minimum, np.where(self.seen.mss_peer > 0, self.seen.mss_peer, 1 << 30))
        largest = self._reduced(np.maximum, self.seen.mss_peer)
        header = np.where(np.array(self.ip_version, np.int64) == 6, 60, 40)
        full = (self.fate == DELIVERED) & (self.size >= (smallest + header)[self.size_path])
        used = np.bincount(self.size_path[full], minlength=self._count) > 0
        announced = np.where(used, smallest, largest)
        return [mss or None for mss in announced.tolist()]

    def facts(self) -> Iterator[tuple[Value, ...]]:
        """Of each path the facts named `_TOLD`, as weighing its ledger would give them."""
        sums = self._sums
        df_off, df_on, lost, sent = (sums[name] for name in ("df_off", "df_on", "lost_segments", "sent_segments"))
        delayed_s = np.where(lost > 0, sums["delayed_ns"] / 1e9, 0.0)
        columns = (df_off, (df_off > 0) & (df_on > 0), lost, sent, lost / np.maximum(sent, 1), delayed_s)
        told = (self.ip_version, self.at, self.mss_announced, self.mss_own, *(c.tolist() for c in columns))
        return zip(*told, strict=True)

    def named(self, told: tuple[Value, ...]) -> dict[str, Value]:
        """The facts of PATH_SCREEN that are seen, made of those that `facts` gave."""
        return _ALIKE | dict(zip(_TOLD, told, strict=True))

    def ledger(self, path: int) -> PathLedger:
        """What adding each connection to the path's ledger would have given."""
        rows = self.rows[self.bounds[path] : self.bounds[path + 1]].tolist()
        s, sums = self.seen, {name: int(column[path]) for name, column in self._sums.items()}
        keys = sorted(int(s.connection[row]) for row in rows)
        ledger = PathLedger(self.senders[path], self.receivers[path], keys)
        fates = {DELIVERED: ledger.delivered, LOST: ledger.lost, DELIVERED_DF_OFF: ledger.delivered_df_off}
        fates[JOINED] = ledger.joined
        sizes = slice(*self.size_bounds[path : path + 2].tolist())
        columns = (self.fate, self.size, self.packets, self.size_first_ns, self.size_last_ns)
        for fate, size, count, first, last in zip(*(c[sizes].tolist() for c in columns), strict=True):
            if fate in (UNDECIDED, DELIVERED_DF_OFF):
                ledger.undecided[size] = ledger.undecided.get(size, 0) + count
            if fate != UNDECIDED:
                fates[fate][size] = [count, first, last]
        for row in rows:
            at = AT[s.at[row]]
            ledger.at[at] = ledger.at.get(at, 0) + 1
            if s.mss_peer[row]:
                ledger.mss_seen.add(int(s.mss_peer[row]))
        times = [rtt for key in keys if (rtt := self.talks[key - 1].rtt_s) is not None]
        ledger.rtt_s = min(times, default=None)
        ledger.reverse_seen = True  # a regular connection has both sides
        ledger.sent_segments, ledger.lost_segments = sums["sent_segments"], sums["lost_segments"]
        ledger.delayed_s = sums["delayed_ns"] / 1e9
        ledger.df_off, ledger.df_on, ledger.mails = sums["df_off"], sums["df_on"], sums["mails"]
        ledger.mss_own = self.mss_own[path]
        return ledger
