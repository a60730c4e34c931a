"""Reading captures in tests, and what it means for two packet tables to be equal."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from analyzer.capture.packets import COLUMNS, CaptureInfo, IcmpError, PacketTable
from analyzer.capture.reading import ReadOptions, read

# Where the bytes lie is an engine's own affair; which bytes they are is not.
PLACES = {"buffer", "ip_at", "payload_at", "sack_at"}


@dataclass
class Result:
    """All batches of a capture together."""

    packets: PacketTable
    icmp: list[IcmpError]
    counts: Counter[str]
    tcp_ports: np.ndarray[Any, Any]
    captures: list[CaptureInfo] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        return [text for info in self.captures for text in info.problems]


def read_all(*paths: Path | str, **options: Any) -> Result:
    captures: list[CaptureInfo] = []
    tables, icmp, counts, ports = [], [], Counter[str](), np.zeros(65536, np.int64)
    for batch in read([str(p) for p in paths], ReadOptions(**options), captures):
        tables.append(batch.packets.detach())
        icmp += batch.icmp
        counts.update(batch.counts)
        if batch.tcp_ports is not None:
            ports += batch.tcp_ports
    return Result(PacketTable.concat(tables), icmp, counts, ports, captures)


def rows(table: PacketTable) -> list[dict[str, Any]]:
    """A table as plain values, with the bytes in place of the offsets."""
    columns = {name: table.columns[name].tolist() for name in COLUMNS if name not in PLACES}
    out = []
    for i in range(len(table)):
        row = {name: values[i] for name, values in columns.items()}
        row["payload"], row["packet"], row["sacks"] = table.payload(i), table.packet(i), table.sacks(i)
        out.append(row)
    return out


def assert_equal(one: Result, other: Result) -> None:
    assert rows(one.packets) == rows(other.packets)
    for name, (dtype, _) in COLUMNS.items():
        assert one.packets.columns[name].dtype == np.dtype(dtype), name
        assert other.packets.columns[name].dtype == np.dtype(dtype), name
    assert one.icmp == other.icmp
    assert one.counts == other.counts
    assert (one.tcp_ports == other.tcp_ports).all()
    assert one.problems == other.problems
