"""The scoreboard: what each recording must show, against what smtpscope finds in it.

usage: score.py [--dir DIR] [--quiet] [--accept] [--readme] [NAME...]

Truth is in the sidecars (parameters of the scenario, logs of the mailers, the other points of capture); nothing in it
comes from the analyzer. A line per recording: ok, or what is missing, false, or outside its bracket. Exit status 1 when
a recording is not wholly right.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONFIDENCES = ("possible", "likely", "certain")
# What a mailer's log calls it -> the outcomes that packets may show for it. A capture that ends first says "unknown".
COUNTED = {"pmtud-black-hole", "icmp-frag-needed-ignored", "black-hole-recovered"}
OUTCOMES = {
    "delivered": {"delivered", "unknown"},
    "rejected": {"rejected"},
    "deferred": {"deferred", "lost-connection", "unknown", "end-of-data-timeout", "aborted"},
}


def faults(case: Any, sidecar: dict[str, Any]) -> list[str]:
    """What is wrong with the findings of one recording; empty when it is wholly right."""
    truth = sidecar["truth"]
    found = case.findings
    out = []
    expected = Counter(d["rule"] for d in truth["diagnosis"])
    for d in truth["diagnosis"]:
        hits = [f for f in found if f.rule == d["rule"] and (f.scope == "host" or _same_ends(d, f))]
        if not hits:
            out.append(f"missing {d['rule']}")
            continue
        f = hits[0]
        at_least = d.get("confidence_at_least")
        if at_least and CONFIDENCES.index(f.confidence) < CONFIDENCES.index(at_least):
            out.append(f"{f.rule} only {f.confidence}, {at_least} expected")
        if d.get("role") and f.role != d["role"]:
            out.append(f"{f.rule} is {f.role}, {d['role']} expected")
        if d.get("connections") and f.role == "cause" and f.rule in COUNTED and d["connections"] != len(f.connections):
            out.append(f"{f.rule} names {len(f.connections)} connections, {d['connections']} expected")
        if d.get("path_mtu"):
            out += _bracket(case, d["sender"], d["receiver"], d["path_mtu"], must_be_bounded=d["rule"] != "path-outage")
    allowed = set(truth.get("allowed", [])) | set(expected)
    for f in found:
        if f.rule in truth.get("forbidden", []) and f.rule not in expected:
            out.append(f"false {f.rule} ({f.confidence})")
        elif f.rule not in allowed:
            out.append(f"unexpected {f.rule} ({f.confidence})")
    parameters = sidecar.get("parameters", {})
    ends = {(o["client_ip"], o["server_ip"]) for o in truth.get("outcomes", [])}
    if len(ends) == 1 and not any("path_mtu" in d for d in truth["diagnosis"]):
        # one pair of hosts, and nothing wrong with its MTU: the scenario's own numbers hold
        (pair,) = ends
        if parameters.get("path_mtu"):
            out += _bracket(case, *pair, parameters["path_mtu"])
        if parameters.get("path_mtu_reverse"):
            out += _bracket(case, *pair[::-1], parameters["path_mtu_reverse"])
    for outcome in truth.get("outcomes", []):
        out += _outcomes(case, outcome)
    return sorted(set(out))


def _same_ends(d: dict[str, Any], f: Any) -> bool:
    """The same two hosts; who is the sender of the data matters where the data's path is at fault."""
    want, got = (d.get("sender"), d.get("receiver")), (f.sender, f.receiver)
    if f.rule in COUNTED:
        return all(w is None or w == g for w, g in zip(want, got, strict=True))
    return {x for x in want if x and x != "*"} <= set(got)


def _bracket(case: Any, sender: str, receiver: str, mtu: int, must_be_bounded: bool = False) -> list[str]:
    for p in case.paths:
        if (p.sender, p.receiver) != (sender, receiver):
            continue
        if p.mtu_at_least is not None and p.mtu_at_least > mtu:
            return [f"{sender}>{receiver}: MTU at least {p.mtu_at_least}, truly {mtu}"]
        if p.mtu_below is not None and p.mtu_below <= mtu:
            return [f"{sender}>{receiver}: MTU below {p.mtu_below}, truly {mtu}"]
    return []


def _outcomes(case: Any, outcome: dict[str, Any]) -> list[str]:
    port = outcome.get("client_port")
    conn = [
        c
        for c in case.connections
        if (c.client.ip, c.server.ip) == (outcome["client_ip"], outcome["server_ip"]) and port in (None, c.client.port)
    ]
    if len(conn) != 1:
        return []
    messages = [m for m in case.messages if m.connection == conn[0].id]
    out = []
    for m, want in zip(messages, outcome.get("mails", []), strict=False):
        fits = OUTCOMES.get(want["outcome"], set())
        if fits and m.outcome not in fits:
            out.append(f"mail {m.index} is {m.outcome}, truly {want['outcome']}")
        if not fits and m.outcome == "delivered":
            out.append(f"mail {m.index} is delivered, truly {want['outcome']}")
    return out


def exact(case: Any) -> dict[str, Any]:
    """The findings and paths of a case, as a sidecar keeps them: tests demand that they never change unnoticed."""
    return {
        "findings": [
            {
                "rule": f.rule,
                "role": f.role,
                "severity": f.severity,
                "confidence": f.confidence,
                "scope": f.scope,
                "sender": f.sender,
                "receiver": f.receiver,
                "connections": list(f.connections),
                "messages": list(f.messages),
                "explained_by": f.explained_by,
            }
            for f in case.findings
        ],
        "paths": [
            {
                "sender": p.sender,
                "receiver": p.receiver,
                "verdict": p.verdict,
                "mtu_at_least": p.mtu_at_least,
                "mtu_below": p.mtu_below,
                "messages_stuck": p.messages_stuck,
            }
            for p in case.paths
        ],
        "outcomes": [m.outcome for m in case.messages],
    }


def accept(capture: Path, sidecar: dict[str, Any], case: Any) -> None:
    """Keep what was found beside the truth that it was held against."""
    sidecar["exact"] = exact(case)
    capture.with_suffix(".json").write_text(json.dumps(sidecar, indent=1, ensure_ascii=False) + "\n")


BEGIN, END = "<!-- scoreboard -->\n", "<!-- end of scoreboard -->\n"


def _row(capture: Path, sidecar: dict[str, Any], case: Any, wrong: list[str]) -> str:
    """One line of the table: what must be found, what was, and the bracket that must hold the true path MTU."""
    expected = ", ".join(f"{d['rule']}" for d in sidecar["truth"]["diagnosis"]) or "nothing"
    found = ", ".join(f"{f.rule} ({f.confidence})" for f in case.findings) or "nothing"
    true = next((d["path_mtu"] for d in sidecar["truth"]["diagnosis"] if d.get("path_mtu")), None)
    bracket = "; ".join(f"{p.mtu_at_least or '?'} to {p.mtu_below - 1}" for p in case.paths if p.mtu_below is not None)
    return f"| {capture.stem} | {expected} | {found} | {bracket} | {true or ''} | {'; '.join(wrong) or 'right'} |"


def write_readme(rows: list[str], right: int, tiers: Counter[tuple[str, bool]]) -> None:
    """The scoreboard in sample_pcaps/README.md, between its two marks (made at the end when they are missing)."""
    readme = ROOT / "sample_pcaps" / "README.md"
    text = readme.read_text()
    if BEGIN not in text:
        text += f"\n## Scoreboard\n\n{BEGIN}{END}"
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    lines = [
        f"Written by `make lab-score`: {right} of {len(rows)} recordings wholly right.",
        "",
        "| confidence | findings that the truth asks for or allows | findings that it forbids |",
        "|---|---|---|",
        *(f"| {tier} | {tiers[tier, True]} | {tiers[tier, False]} |" for tier in reversed(CONFIDENCES)),
        "",
        "| recording | must be found | found | path MTU lies in | truly | verdict |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]
    readme.write_text(head + BEGIN + "\n".join(lines) + END + tail)


def recordings(folder: Path, names: list[str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every capture under the folder that has a sidecar, in the order of names."""
    for sidecar in sorted(folder.glob("**/*.json")):
        if names and not any(sidecar.name.startswith(n) for n in names):
            continue
        try:
            data = json.loads(sidecar.read_text())
        except ValueError:
            continue
        if not isinstance(data, dict) or "truth" not in data:
            continue
        for suffix in (".pcap", ".pcapng"):
            capture = sidecar.with_suffix(suffix)
            if capture.exists():
                yield capture, data


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="begin of the names of recordings (default: all)")
    parser.add_argument("--dir", type=Path, default=ROOT / "sample_pcaps", help="folder with captures and sidecars")
    parser.add_argument("--accept", action="store_true", help="write what was found into the sidecars that are right")
    parser.add_argument("--readme", action="store_true", help="write the table in sample_pcaps/README.md anew")
    parser.add_argument("--quiet", action="store_true", help="only what is not right")
    args = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from analyzer.analysis import analyze

    right = total = 0
    rows: list[str] = []
    tiers: Counter[tuple[str, bool]] = Counter()
    for capture, sidecar in recordings(args.dir, args.names):
        total += 1
        case = analyze([str(capture)])
        wrong = faults(case, sidecar)
        right += not wrong
        if args.accept and not wrong:
            accept(capture, sidecar, case)
        rows.append(_row(capture, sidecar, case, wrong))
        forbidden = set(sidecar["truth"].get("forbidden", [])) - {d["rule"] for d in sidecar["truth"]["diagnosis"]}
        tiers.update((f.confidence, f.rule not in forbidden) for f in case.findings)
        if wrong or not args.quiet:
            found = ", ".join(f"{f.rule} {f.confidence}" for f in case.findings) or "nothing"
            print(
                f"{'ok   ' if not wrong else 'WRONG'} {capture.stem}: {found}" + "".join(f"\n      {w}" for w in wrong)
            )
    if args.readme:
        write_readme(rows, right, tiers)
    print(f"{right} of {total} recordings wholly right")
    return 0 if right == total else 1


if __name__ == "__main__":
    sys.exit(main())
