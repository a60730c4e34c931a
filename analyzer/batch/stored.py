"""A case made of its stored document again, as far as the JUnit report and `--fail-on` look at it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ..capture.packets import CaptureInfo
from ..case import Case, Connection, Endpoint, Evidence, Finding, Frame, Remedy, Rival


def case_of(document: dict[str, Any]) -> Case:
    """Captures, connections and findings of a document of schema smtpscope/1."""
    return Case(
        captures=[_capture(c) for c in document["captures"]],
        connections=[_connection(c) for c in document["connections"]],
        findings=[_finding(f) for f in document["findings"]],
        interrupted=document["interrupted"],
    )


def time_ns(text: str) -> int:
    """Nanoseconds since 1970 of an ISO 8601 time in UTC with nine decimals."""
    seconds = datetime.fromisoformat(text[:19] + "+00:00").timestamp()
    return int(seconds) * 1_000_000_000 + int(text[20:29])


def _capture(c: dict[str, Any]) -> CaptureInfo:
    return CaptureInfo(
        id=c["id"],
        path=c["path"],
        format=c["format"],
        link_types=c["link_types"],
        frames=c["frames"],
        bytes=c["bytes"],
        first_ns=c["first"] and time_ns(c["first"]),
        last_ns=c["last"] and time_ns(c["last"]),
        snaplen=c["snaplen"],
        complete=c["complete"],
        problems=c["problems"],
    )


def _connection(c: dict[str, Any]) -> Connection:
    return Connection(
        id=c["id"],
        client=Endpoint(**c["client"]),
        server=Endpoint(**c["server"]),
        start_ns=time_ns(c["start"]),
        end_ns=time_ns(c["end"]),
        frame_count=c["frame_count"],
        handshake_seen=c["handshake_seen"],
        closed_by=c["closed_by"],
        tls=c["tls"],
        banner=c["banner"],
        vantage=c["vantage"],
        first_frame=Frame(**c["first_frame"]),
    )


def _finding(f: dict[str, Any]) -> Finding:
    plain = {n: f[n] for n in ("id", "rule", "title", "role", "explained_by", "severity", "confidence", "scope")}
    plain |= {n: f[n] for n in ("sender", "receiver", "facts", "explanation", "fingerprint")}
    return Finding(
        **plain,
        connections=tuple(f["connections"]),
        messages=tuple(f["messages"]),
        paths=tuple(f["paths"]),
        evidence=tuple(
            Evidence(e["connection"], tuple(Frame(**x) for x in e["frames"]), e["display_filter"], e["note"])
            for e in f["evidence"]
        ),
        against=tuple(f["against"]),
        rivals=tuple(Rival(**r) for r in f["rivals"]),
        remedies=tuple(Remedy(r["who"], r["host"], r["what"], tuple(r["commands"]), r["check"]) for r in f["remedies"]),
    )
