"""Packets written down as a story: who sends what, when. Makes the PacketTable that an engine would make of them."""

from __future__ import annotations

import numpy as np

from analyzer.capture.packets import ACK, COLUMNS, FIN, PSH, RST, SYN, IcmpError, PacketTable
from analyzer.tcp.connections import Tracker
from analyzer.tcp.delivery import Delivery, Trace, measure

CLIENT = (0xFFFF << 32 | 0x0A010002, 40000)  # 10.1.0.2
SERVER = (0xFFFF << 32 | 0x0A030002, 25)  # 10.3.0.2
START_NS = 1_700_000_000_000_000_000
MS = 1_000_000


class Wire:
    """Collects packets. `seq` and `ack` are relative (0 = first payload byte); times are milliseconds from the start."""

    def __init__(self, *, client_isn: int = 1000, server_isn: int = 5000, mss: int = 1460, sack: bool = True) -> None:
        self.isn = {"c": client_isn, "s": server_isn}
        self.mss, self.sack = mss, sack
        self.rows: list[dict[str, object]] = []
        self.sack_blocks: list[tuple[int, int]] = []
        self.bytes = bytearray()
        self.ports = (CLIENT[1], SERVER[1])
        self.ttl = {"c": 64, "s": 62}  # as a capture at the client sees it

    def packet(
        self,
        who: str,
        at_ms: float,
        seq: int = 0,
        payload: bytes | int = b"",
        ack: int | None = 0,
        flags: int = 0,
        sacks: tuple[tuple[int, int], ...] = (),
        **columns: object,
    ) -> Wire:
        data = bytes(payload) if isinstance(payload, int) else payload
        other = "s" if who == "c" else "c"
        ends = (CLIENT[0], SERVER[0]) if who == "c" else (SERVER[0], CLIENT[0])
        ports = self.ports if who == "c" else self.ports[::-1]
        flags |= ACK if ack is not None else 0
        syn = bool(flags & SYN)
        row: dict[str, object] = dict.fromkeys(COLUMNS, 0)
        row |= {
            "time_ns": START_NS + int(at_ms * MS),
            "capture": 1,
            "frame": len(self.rows) + 1,
            "outgoing": -1,
            "ip_version": 4,
            "src_lo": ends[0],
            "dst_lo": ends[1],
            "src_port": ports[0],
            "dst_port": ports[1],
            "ttl": self.ttl[who],
            "df": True,
            "ip_id": 100 + len(self.rows),
            "seq": (self.isn[who] + (0 if syn else 1) + seq) & 0xFFFFFFFF,
            "ack": (self.isn[other] + 1 + (ack or 0)) & 0xFFFFFFFF if ack is not None else 0,
            "flags": flags | (PSH if data else 0),
            "window": 500,
            "window_scale": 7 if syn else -1,
            "mss": self.mss if syn else 0,
            "sack_permitted": syn and self.sack,
            "payload_bytes": len(data),
            "payload_captured": len(data),
            "ip_bytes": 40 + len(data),
            "frame_bytes": 54 + len(data),
            "captured_bytes": 54 + len(data),
            "sack_at": len(self.sack_blocks),
            "sack_count": len(sacks),
            "ip_at": len(self.bytes),
            "payload_at": len(self.bytes),
        }
        row |= columns
        base = self.isn[other] + 1
        self.sack_blocks += [((base + a) & 0xFFFFFFFF, (base + b) & 0xFFFFFFFF) for a, b in sacks]
        self.bytes += data
        self.rows.append(row)
        return self

    def c(self, at_ms: float, seq: int = 0, payload: bytes | int = b"", ack: int | None = 0, **more: object) -> Wire:
        """The client sends."""
        return self.packet("c", at_ms, seq, payload, ack, **more)  # type: ignore[arg-type]

    def s(self, at_ms: float, seq: int = 0, payload: bytes | int = b"", ack: int | None = 0, **more: object) -> Wire:
        """The server sends."""
        return self.packet("s", at_ms, seq, payload, ack, **more)  # type: ignore[arg-type]

    def handshake(self, at_ms: float = 0, rtt_ms: float = 1) -> Wire:
        self.c(at_ms, ack=None, flags=SYN)
        self.s(at_ms + rtt_ms, flags=SYN)
        return self.c(at_ms + rtt_ms + 0.05)

    def close(self, at_ms: float, client: int, server: int) -> Wire:
        """Client's FIN, server's FIN, last ACK."""
        self.c(at_ms, client, ack=server, flags=FIN)
        self.s(at_ms + 1, server, ack=client + 1, flags=FIN)
        return self.c(at_ms + 2, client + 1, ack=server + 1)

    def reset(self, who: str, at_ms: float, seq: int) -> Wire:
        return self.packet(who, at_ms, seq, flags=RST)

    def table(self) -> PacketTable:
        columns = {name: np.array([row[name] for row in self.rows], dtype) for name, (dtype, _) in COLUMNS.items()}
        blocks = np.array(self.sack_blocks, np.uint32).reshape(-1, 2)
        return PacketTable(columns, blocks, (np.frombuffer(bytes(self.bytes), np.uint8),))

    def delivery(self) -> Delivery:
        """All connections, judged at the end of the capture."""
        tracker = Tracker()
        first = tracker.add(self.table(), None)
        return measure(first if len(first) else tracker.finish())

    def trace(self, k: int = 0) -> Trace:
        return self.delivery().trace(k)


def too_big(
    at_ms: float, mtu: int, seq: int, *, packet: int = 1500, client_isn: int = 1000, **more: object
) -> IcmpError:
    """A router's "fragmentation needed" that quotes the client's data at relative `seq`."""
    fields: dict[str, object] = {
        "time_ns": START_NS + int(at_ms * MS),
        "capture": 1,
        "frame": 999,
        "outgoing": -1,
        "ip_version": 4,
        "type": 3,
        "code": 4,
        "mtu": mtu,
        "src": 0xFFFF << 32 | 0x0A020001,
        "dst": CLIENT[0],
        "ttl": 63,
        "quoted_src": CLIENT[0],
        "quoted_dst": SERVER[0],
        "quoted_src_port": CLIENT[1],
        "quoted_dst_port": SERVER[1],
        "quoted_seq": (client_isn + 1 + seq) & 0xFFFFFFFF,
        "quoted_ip_bytes": packet,
        "quoted_df": True,
    }
    return IcmpError(**(fields | more))  # type: ignore[arg-type]
