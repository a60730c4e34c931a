"""Which TCP packets are asked for, and the count of what is left aside.

A packet is wanted when its source or its destination port is; a port becomes wanted while reading when a client says
EHLO, HELO or LHLO to it (RFC 5321 section 4.1.1.1, RFC 2033), so that SMTP is found on any port.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .packets import Array

DEFAULT_PORTS = frozenset({25, 465, 587, 2525})  # smtp, submissions, submission (RFC 8314), and the usual alternative
GREETINGS = (b"EHLO ", b"HELO ", b"LHLO ")

# Address and port of one side, address and port of the other; addresses as 128-bit integers, IPv4 as IPv4-mapped IPv6.
FourTuple = tuple[int, int, int, int]

LOW_64 = (1 << 64) - 1


class Wanted:
    """The ports (and, to read single connections again, the address pairs) that rows are kept for."""

    def __init__(
        self, ports: Collection[int], *, all_tcp: bool = False, only: Collection[FourTuple] | None = None
    ) -> None:
        self.all_tcp = all_tcp
        self.grown = False  # a port was found that nobody had asked for
        self.only: frozenset[FourTuple] | None = None
        self._by_ports: dict[int, list[tuple[int, int]]] = {}  # both ports -> source and destination of `only`
        self.is_port: npt.NDArray[np.bool_] = np.zeros(65536, bool)
        if only is not None:
            self.only = frozenset(only) | {(b, q, a, p) for a, p, b, q in only}
            ports = {port for _, p, _, q in only for port in (p, q)}
            for src, src_port, dst, dst_port in self.only:
                self._by_ports.setdefault(src_port << 16 | dst_port, []).append((src, dst))
        self.is_port[list(ports)] = True

    @property
    def discovers(self) -> bool:
        """Whether a HELO on another port makes that port wanted."""
        return not self.all_tcp and self.only is None

    def add(self, ports: Iterable[int]) -> None:
        self.is_port[list(ports)] = self.grown = True

    def port_pair(self, src_port: int, dst_port: int) -> bool:
        return bool(self.is_port[src_port] or self.is_port[dst_port]) or (self.all_tcp and self.only is None)

    def connection(self, src: int, src_port: int, dst: int, dst_port: int) -> bool:
        if self.only is not None:
            return (src, src_port, dst, dst_port) in self.only
        return self.port_pair(src_port, dst_port)

    def port_mask(self, src_port: Array, dst_port: Array) -> npt.NDArray[np.bool_]:
        """Rows whose ports are wanted (`only` is not looked at)."""
        if self.all_tcp and self.only is None:
            return np.ones(len(src_port), bool)
        return np.asarray(self.is_port[src_port] | self.is_port[dst_port])

    def address_mask(self, columns: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """Rows of a table's columns that belong to one of the connections of `only`."""
        mask = np.zeros(len(columns["src_port"]), bool)
        # Ports tell nearly all connections apart; addresses are compared for the few that are left.
        pair = columns["src_port"].astype(np.int64) << 16 | columns["dst_port"]
        rows = np.flatnonzero(np.isin(pair, list(self._by_ports)))
        for ports in np.unique(pair[rows]).tolist():
            these = rows[pair[rows] == ports]
            for src, dst in self._by_ports[ports]:
                mask[these] |= (
                    (columns["src_lo"][these] == np.uint64(src & LOW_64))
                    & (columns["dst_lo"][these] == np.uint64(dst & LOW_64))
                    & (columns["src_hi"][these] == np.uint64(src >> 64))
                    & (columns["dst_hi"][these] == np.uint64(dst >> 64))
                )
        return mask


def is_greeting(payload: bytes) -> bool:
    """A payload that begins like a client's first SMTP command (any case, RFC 5321 section 2.4)."""
    return payload[:5].upper() in GREETINGS


@dataclass(slots=True)
class Tally:
    """What became of the frames of a window that gave no row, by name; and the ports that a HELO was said to.

    Names: `other-tcp` (TCP of ports nobody asked for), `not-tcp`, `not-ip`, `undecodable` (cut off or malformed before
    the ports), `too-deep` (more encapsulations than are followed), `fragments` (pieces that wait for, or completed, a
    datagram whose row stands at its first piece), `fragment-overlaps` (pieces that contradict others: RFC 5722),
    `unknown-link` (frames of a link type that is not known).
    """

    counts: dict[str, int] = field(default_factory=dict)
    tcp_ports: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(65536, np.int64))
    greeted: set[int] = field(default_factory=set)
    unknown_links: dict[int, int] = field(default_factory=dict)  # link type -> frames

    def add(self, name: str, frames: int = 1) -> None:
        if frames:
            self.counts[name] = self.counts.get(name, 0) + frames

    def other_tcp(self, src_port: int, dst_port: int, frames: int = 1) -> None:
        self.add("other-tcp", frames)
        self.tcp_ports[min(src_port, dst_port)] += frames

    def unknown_link(self, link_type: int, frames: int = 1) -> None:
        self.add("unknown-link", frames)
        self.unknown_links[link_type] = self.unknown_links.get(link_type, 0) + frames
