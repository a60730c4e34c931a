"""Holds an analysis against what was planted: `check(truth, document)` gives one statement per thing, true or not.

truth.py CAPTURE.truth.json CASE.json prints them as JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Statement(NamedTuple):
    """One thing that the analysis had to find."""

    what: str
    true: bool
    found: str


def check(truth: dict[str, Any], document: dict[str, Any]) -> list[Statement]:
    """Every statement of the truth about a generated capture, with what `smtpscope analyze --json` says about it."""
    return [*_size(truth, document), *_messages(truth, document), *_causes(truth, document)]


def _size(truth: dict[str, Any], document: dict[str, Any]) -> Iterator[Statement]:
    frames = sum(c["frames"] for c in document["captures"])
    yield Statement(f"{truth['frames']:,} frames", frames == truth["frames"], f"{frames:,}")
    yield Statement("read to its end", document["complete"], str(document["complete"]))
    dialogues = [c for c in document["connections"] if c["banner"] is not None or c["tls"] != "none"]
    most, least = truth["smtp_connections"], truth["smtp_connections"] - truth["connections_with_capture_holes"]
    found = len(dialogues) if least == most else len(document["connections"])
    yield Statement(f"{_span(least, most)} SMTP connections", least <= found <= most, f"{found:,}")
    tls = sum(c["tls"] == "starttls" for c in document["connections"])
    least = truth["tls_connections"] - truth["connections_with_capture_holes"]
    yield Statement(
        f"{_span(max(least, 0), truth['tls_connections'])} with STARTTLS",
        least <= tls <= truth["tls_connections"],
        f"{tls:,}",
    )


def _messages(truth: dict[str, Any], document: dict[str, Any]) -> Iterator[Statement]:
    plain = [m for m in document["messages"] if m["via"] != "tls"]
    total = sum(truth["messages"].values())
    least = truth["messages_without_capture_holes"]
    yield Statement(f"{_span(least, total)} mails", least <= len(plain) <= total, f"{len(plain):,}")
    stuck = {s for hole in truth["black_holes"] for entry in hole["stuck"] for s in entry["mail_from"]}
    outcomes = Counter(m["outcome"] for m in plain if m["mail_from"] not in stuck)
    unclear = total - least
    for outcome, expected in truth["messages"].items():
        if outcome == "stuck":  # what it is called depends on how far the capture saw: not delivered is what counts
            found = sum(m["mail_from"] in stuck and m["outcome"] == "delivered" for m in plain)
            yield Statement(f"none of {expected} stuck mails delivered", found == 0, f"{found:,}")
        else:
            found = outcomes[outcome]
            true = expected - unclear <= found <= expected
            yield Statement(f"{_span(max(expected - unclear, 0), expected)} mails {outcome}", true, f"{found:,}")


def _causes(truth: dict[str, Any], document: dict[str, Any]) -> Iterator[Statement]:
    findings = document["findings"]
    holes = {(h["sender"], h["receiver"]): h for h in truth["black_holes"]}
    found = {(f["sender"], f["receiver"]): f for f in findings if f["rule"] == "pmtud-black-hole"}
    paths = {(p["sender"], p["receiver"]): p for p in document["paths"]}
    false = len(found.keys() - holes.keys())
    yield Statement("no black hole that is none", not false, f"{false}")
    for pair, hole in holes.items():
        name = f"black hole {pair[0]} -> {pair[1]}"
        path = paths.get(pair, {})
        low, high = path.get("mtu_at_least"), path.get("mtu_below")
        held = (low is None or low <= hole["mtu"]) and (high is None or hole["mtu"] < high)
        yield Statement(
            f"{name}, path MTU {hole['mtu']}", pair in found and held, f"[{low}, {high})" if pair in found else "no"
        )
        if hole["seen_by"] == "sender":
            planted = {n for entry in hole["stuck"] for n in entry["frames"]}
            named = {f["frame"] for e in found.get(pair, {}).get("evidence", []) for f in e["frames"]}
            yield Statement(f"{name}: its resent frames named", bool(planted & named), f"{len(planted & named)}")
    cuts = {m["mail_from"]: tuple(m["terminator"]["cut_at"]) for m in document["messages"] if m["terminator"]}
    dangerous = {who: cut for who, cut in cuts.items() if {3, 4} & set(cut)}
    expected = {s["mail_from"]: tuple(s["cut_at"]) for s in truth["split_terminators"]}
    if truth["connections_with_capture_holes"] == 0:
        yield Statement(f"{len(expected)} terminators cut inside .CRLF", dangerous == expected, f"{len(dangerous)}")
    servers = {m["server"] for m in truth["masked_banners"]}
    masked = {f["receiver"] or f["sender"] for f in findings if f["rule"] == "masked-banner"}
    greeted = {
        c["server"]["ip"]
        for f in findings
        if f["rule"] == "masked-banner"
        for c in document["connections"]
        if c["id"] in f["connections"]
    }
    yield Statement(f"{len(servers)} masked banner", (greeted or masked) == servers, f"{len(greeted or masked)}")


def _span(least: int, most: int) -> str:
    return f"{most:,}" if least == most else f"{least:,} to {most:,}"


def main(truth: str, document: str) -> None:
    try:
        statements = check(json.loads(Path(truth).read_text()), json.loads(Path(document).read_text()))
    except (ValueError, KeyError) as error:
        statements = [Statement("a JSON document as in the contract", False, f"{type(error).__name__}: {error}")]
    json.dump(statements, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
