"""The case as pandas DataFrames: one column per field of the dataclasses in case.py, its dtype taken from the annotation.

    annotation                    column
    int / int | None              int64 / Int64 (nullable)
    float | None                  float64 (NaN where the capture cannot tell)
    str | None                    string
    bool                          bool
    Literal[...]                  categorical with all its values; ordered for severity and confidence
    name_ns: int | None           name: datetime64[ns, UTC]
    src, dst, quoted_src, ...     string: 128-bit addresses in their printable form
    Endpoint, Terminator, ...     one column per field: client_ip, client_port, terminator_cut_at, ...
    tuple, list, dict             object

So a field added to case.py is a column here, and its unit stays in its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import numpy as np
import pandas as pd

from ..capture.packets import ACK, CaptureInfo, IcmpError, address_text
from ..case import CONFIDENCES, SEVERITIES, Case, Connection, Finding, LogLine, Message, Path, WhatIf

if TYPE_CHECKING:
    from ..tcp.delivery import Direction, Trace

FATES = ("no payload", "acked", "sacked", "lost", "unknown")  # in the order of tcp.delivery's codes, from NO_PAYLOAD on
ORDERED = {"severity": SEVERITIES, "confidence": CONFIDENCES}  # both go from least to most
ADDRESSES = frozenset({"src", "dst", "quoted_src", "quoted_dst"})  # of IcmpError: 128-bit integers
NAT = np.iinfo(np.int64).min  # "not a time", as NumPy's datetime64 writes it


class Field(NamedTuple):
    """A column to be: where its values are found in a row object, and what type they have."""

    name: str
    way: tuple[str, ...]  # attribute names, from the row object to the value
    type: Any
    optional: bool


def captures(case: Case) -> pd.DataFrame:
    return table(CaptureInfo, case.captures)


def connections(case: Case) -> pd.DataFrame:
    return table(Connection, case.connections)


def messages(case: Case) -> pd.DataFrame:
    return table(Message, case.messages)


def paths(case: Case) -> pd.DataFrame:
    return table(Path, case.paths)


def findings(case: Case) -> pd.DataFrame:
    return table(Finding, case.findings)


def icmp(case: Case) -> pd.DataFrame:
    return table(IcmpError, case.icmp)


def log(case: Case) -> pd.DataFrame:
    return table(LogLine, case.log)


def what_if(case: Case) -> pd.DataFrame:
    return table(WhatIf, case.what_if)


def table(row_type: type, rows: Sequence[Any]) -> pd.DataFrame:
    """A DataFrame of dataclass (or NamedTuple) instances; no rows still gives every column with its dtype."""
    return pd.DataFrame({f.name: _column(f, [_value(row, f.way) for row in rows]) for f in _fields(row_type)})


def _fields(row_type: type) -> Iterator[Field]:
    for name, annotation in get_type_hints(row_type).items():
        kind, optional = _without_none(annotation)
        if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
            # The frame that opens a connection gives `first_capture` and `first_frame`, an endpoint `client_ip`, ...
            prefix = name.removesuffix("frame") if name.endswith("_frame") else f"{name}_"
            for inner in _fields(kind):
                yield Field(prefix + inner.name, (name, *inner.way), inner.type, optional or inner.optional)
        else:
            yield Field(name.removesuffix("_ns"), (name,), kind, optional)


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """The annotation without `| None`, and whether it had it."""
    if get_origin(annotation) not in (UnionType, Union):  # the latter where a Literal is one of the kinds
        return annotation, False
    kinds = [a for a in get_args(annotation) if a is not NoneType]
    return kinds[0], len(kinds) < len(get_args(annotation))


def _value(row: Any, way: tuple[str, ...]) -> Any:
    for name in way:
        row = None if row is None else getattr(row, name)
    return row


def _column(field: Field, values: list[Any]) -> pd.Series[Any]:
    if field.way[-1].endswith("_ns"):
        return times(values)
    if field.name in ADDRESSES:
        return pd.Series([_address(value) for value in values], dtype="string")
    if get_origin(field.type) is Literal:
        order = ORDERED.get(field.name)
        categories = list(order or get_args(field.type))
        return pd.Series(pd.Categorical(values, categories=categories, ordered=order is not None))
    dtype = {
        bool: ("bool", "boolean"),
        int: ("int64", "Int64"),
        float: ("float64", "float64"),
        str: ("string", "string"),
    }
    return pd.Series(values, dtype=dtype.get(field.type, ("object", "object"))[field.optional])


def _address(value: int | None) -> str | None:
    return None if value is None else address_text(value >> 64, value & 0xFFFF_FFFF_FFFF_FFFF)


def times(ns: Iterable[int | None]) -> pd.Series[Any]:
    """Nanoseconds since 1970 as UTC timestamps; None becomes NaT."""
    stamps = np.array([NAT if value is None else value for value in ns], np.int64).view("M8[ns]")
    return pd.Series(stamps).dt.tz_localize("UTC")


def packets(trace: Trace) -> pd.DataFrame:
    """The packets of one connection, both directions, in time order.

    `seq` and `end` count the sender's payload bytes from 0 (end is exclusive), `ack` the other side's. `resend` says that
    the byte range overlaps what was sent before, `duplicate` that the capture shows the same packet twice, `fate` what
    became of it.
    """
    frame = pd.concat([_direction(trace.c2s, "client"), _direction(trace.s2c, "server")], ignore_index=True)
    frame["sender"] = pd.Categorical(frame["sender"], categories=["client", "server"])
    return frame.sort_values("time", kind="stable", ignore_index=True)


def _direction(direction: Direction, sender: str) -> pd.DataFrame:
    columns = (
        "capture", "frame", "seq", "end", "payload_bytes", "ip_bytes", "df", "flags", "resend", "duplicate", "window_bytes",
    )  # fmt: skip
    frame = pd.DataFrame({"time": times(direction.time_ns)} | {name: getattr(direction, name) for name in columns})
    has_ack = (direction.flags & ACK) != 0
    frame["ack"] = pd.array(np.where(has_ack, direction.ack, 0), dtype="Int64")
    frame.loc[~has_ack, "ack"] = pd.NA
    frame["fate"] = pd.Categorical.from_codes(direction.fate.astype(np.int8), categories=pd.Index(FATES))
    frame.insert(1, "sender", sender)
    return frame
