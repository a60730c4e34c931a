"""The case as Parquet files, one per table: for DuckDB, pandas, Spark. Needs pyarrow (`pip install smtpscope[parquet]`).

The columns are those of the JSON document, flattened: client.ip is client_ip, terminator.cut_at is terminator_cut_at.
`TABLES` is the documentation: column -> type; the meaning of each field is in case.schema.json. Times are nanoseconds in
UTC, frames are lists of {capture, frame}, facts and other free maps are JSON text, and null is what the capture can not
tell. Types do not depend on the data, so that files of many cases can be read as one table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..case import Case
from ..errors import UsageError
from . import files
from .json import SCHEMA, document

TABLES: dict[str, dict[str, str]] = {
    "captures": {
        "id": "int", "path": "text", "format": "text", "link_types": "texts", "frames": "int", "bytes": "int", "first": "time",
        "last": "time", "snaplen": "int", "complete": "bool", "problems": "texts",
    },
    "connections": {
        "id": "int", "client_ip": "text", "client_port": "int", "server_ip": "text", "server_port": "int", "start": "time",
        "end": "time", "frame_count": "int", "handshake_seen": "bool", "closed_by": "text", "tls": "text", "banner": "text",
        "vantage": "text", "first_frame_capture": "int", "first_frame_frame": "int", "is_smtp": "bool", "client_name": "text",
        "phase": "text", "ehlo_keywords": "texts", "client_mss": "int", "server_mss": "int", "rtt_s": "float",
        "client_bytes": "int", "server_bytes": "int", "expected_log": "json",
    },
    "messages": {
        "id": "int", "connection": "int", "index": "int", "mail_from": "text", "recipients": "texts", "size": "int",
        "size_estimated": "bool", "via": "text", "terminator_pieces": "ints", "terminator_cut_at": "ints",
        "terminator_inferred": "bool", "terminator_frames": "frames", "reply_code": "int", "outcome": "text", "start": "time",
        "end": "time", "reply_delay_s": "float", "largest_packet_bytes": "int",
    },
    "paths": {
        "id": "int", "sender": "text", "receiver": "text", "verdict": "text", "mtu_at_least": "int", "mtu_below": "int",
        "icmp_mtu": "int", "links": "texts", "connections": "ints", "messages_stuck": "int", "sizes": "sizes",
        "icmp_frames": "frames", "vantage": "text",
    },
    "findings": {
        "id": "int", "rule": "text", "title": "text", "role": "text", "explained_by": "int", "severity": "text",
        "confidence": "text", "scope": "text", "sender": "text", "receiver": "text", "connections": "ints", "messages": "ints",
        "paths": "ints", "facts": "json", "explanation": "text", "against": "texts", "rivals": "json", "fingerprint": "text",
    },
    "evidence": {"finding": "int", "connection": "int", "frames": "frames", "display_filter": "text", "note": "text"},
    "remedies": {"finding": "int", "who": "text", "host": "text", "what": "text", "commands": "texts", "check": "text"},
    "icmp": {
        "time": "time", "capture": "int", "frame": "int", "type": "int", "code": "int", "mtu": "int", "src": "text",
        "dst": "text", "quoted_src_ip": "text", "quoted_src_port": "int", "quoted_dst_ip": "text", "quoted_dst_port": "int",
        "quoted_ip_bytes": "int", "quoted_df": "bool",
    },
}  # fmt: skip


def write(case: Case, folder: str | Path, *, shared: bool = False) -> list[Path]:
    """One file per table in `folder`, which is made; the files written, private unless `shared`.

    Tables without rows have their columns all the same.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UsageError("--parquet needs pyarrow: pip install smtpscope[parquet]") from error
    folder = files.folder(folder, shared=shared)
    written = []
    rows = rows_of(document(case))
    for name, columns in TABLES.items():
        table = arrow(rows[name], columns)
        file = folder / f"{name}.parquet"
        with files.written(file, shared=shared) as out:
            pq.write_table(table, out, compression="zstd")
        written.append(file)
    return written


def arrow(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> Any:
    """Rows as a pyarrow table with these columns (name -> type as in `TABLES`); what a row does not have is null."""
    import pyarrow as pa

    arrays = [_array(pa, [row.get(column) for row in rows], kind) for column, kind in columns.items()]
    return pa.table(arrays, names=list(columns)).replace_schema_metadata({"smtpscope": SCHEMA})


def _array(pa: Any, values: list[Any], kind: str) -> Any:
    if kind == "time":  # ISO 8601 text with nine decimals, which Arrow reads without loss
        return pa.array(values, pa.string()).cast(pa.timestamp("ns", tz="UTC"))
    if kind == "json":
        return pa.array([None if v is None else json.dumps(v, allow_nan=False) for v in values], pa.string())
    frame = pa.struct([("capture", pa.int64()), ("frame", pa.int64())])
    size = pa.struct([(name, pa.int64()) for name in ("ip_bytes", "delivered", "lost", "unknown")])
    types = {
        "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string(), "texts": pa.list_(pa.string()),
        "ints": pa.list_(pa.int64()), "frames": pa.list_(frame), "sizes": pa.list_(size),
    }  # fmt: skip
    return pa.array(values, types[kind])


def rows_of(told: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table, out of a JSON document."""
    rows = {name: [_flat(row, TABLES[name]) for row in told[name]] for name in TABLES if name in told}
    for name in ("evidence", "remedies"):
        rows[name] = [{"finding": f["id"], **item} for f in told["findings"] for item in f[name]]
    return rows


def _flat(row: dict[str, Any], columns: dict[str, str], prefix: str = "") -> dict[str, Any]:
    """client.ip as client_ip; a column of JSON text stays whole."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        name = prefix + key
        if isinstance(value, dict) and columns.get(name) != "json":
            flat |= _flat(value, columns, f"{name}_")
        else:
            flat[name] = value
    return flat
