"""The scoreboard over mutations: every recording, changed on purpose, against what the change may do to its diagnosis.

usage: mutation_score.py [--dir DIR] [--only MUTATION]... [--verbose] [--readme] [NAME...]

`EXPECT` says for each mutation what may change, and why. Whatever the mutation: a cause that is certain or likely is
true, a path-MTU bracket holds the true value, and no black hole is reported that is none. `UNDECIDABLE` names what is
left of these, each with its reason. Exit status 1 when anything else is broken, or has changed as it may not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent.parent)]

import mutate  # noqa: E402  (the script's own folder)
import score  # noqa: E402

BLACK_HOLE = "pmtud-black-hole"
# Other names of the same fault: which one it gets depends on what the capture shows.
LIKE_BLACK_HOLE = {BLACK_HOLE, "icmp-frag-needed-ignored", "black-hole-recovered"}
RANK = {name: i for i, name in enumerate(score.CONFIDENCES)}


@dataclass(frozen=True)
class Change:
    """What a mutation may do. same: nothing changes at all. Else findings may vanish or weaken, and `may_add` may come.

    smaller: bytes that every packet lost; brackets move by as much.
    """

    why: str
    same: bool = False
    may_add: frozenset[str] = frozenset()
    may_lose: frozenset[str] | None = frozenset()  # rules; None: any
    may_weaken: bool = False
    may_strengthen: bool = False
    smaller: int = 0
    outcomes_may_hide: bool = False


ANY = None
_SAME = {
    "cooked": "the link layer says nothing about the path",
    "cooked-2": "the link layer says nothing about the path",
    "sequence-wrap": "sequence numbers are modulo 2^32 (RFC 9293 3.4)",
    "other-addresses": "addresses are names",
    "swapped-hosts": "roles follow from who opens the connection",
    "mirror-port": "the second copy is no packet of its own",
    "ecn": "flags of congestion are not read",
    "ttl-128": "hops are counted from the nearest initial value",
    "jitter": "milliseconds matter to nobody",
}
EXPECT: dict[str, Change] = {name: Change(why, same=True) for name, why in _SAME.items()}
EXPECT |= {
    "raw-ip": Change("what is not IP is left out, so that the clock may stop earlier", may_weaken=True,
                     may_lose=frozenset({BLACK_HOLE, "path-outage", "receiver-stalled"})),
    "router-twice": Change("copies with one hop less: the point of capture is a router", may_weaken=True, may_lose=ANY,
                           may_add=frozenset({BLACK_HOLE})),
    "ip-id-0": Change("without identification a mirrored packet or an overtaken one is harder to tell", may_weaken=True,
                      may_lose=frozenset({"packet-loss"}), may_add=frozenset({"packet-loss"})),
    "no-scale": Change("windows are smaller than they were", may_weaken=True,
                       may_lose=frozenset({"packet-loss", "receiver-stalled"})),
    "no-timestamps": Change("every packet is 12 bytes smaller", smaller=12, may_weaken=True, may_lose=frozenset({"small-mss"}),
                            may_add=frozenset({"small-mss"})),
    "no-sack": Change("what SACK proved must be proven by other signs, or not at all", may_weaken=True, may_lose=ANY,
                      may_add=frozenset({"packet-loss"})),
    "df-off": Change("'don't fragment' is evidence, not a precondition; what a router may have cut bounds no path", may_weaken=True,
                     may_add=frozenset({"df-off"}), may_lose=frozenset({"small-mss"})),
    "rst-for-fin": Change("how a connection ends", may_lose=ANY, may_weaken=True,
                          may_add=frozenset({"lost-after-data", "end-of-data-timeout"})),
    "slower": Change("longer pauses are more pauses", may_strengthen=True, may_add=frozenset({"packet-loss", "receiver-stalled", BLACK_HOLE}),
                     may_lose=frozenset({"pix-workaround"})),
    "thin": Change("what the capture missed proves nothing", may_lose=ANY, may_weaken=True, outcomes_may_hide=True),
    "snap-96": Change("the content is gone, headers stay: whether the end was sent cannot be told", may_lose=ANY, may_weaken=True,
                      outcomes_may_hide=True, may_add=frozenset({"lost-after-data"})),
    "no-icmp": Change("what the ICMP proved is gone: a silent black hole is left", may_lose=ANY, may_weaken=True,
                      may_add=frozenset({"packet-loss"})),
    "foreign-icmp": Change("no host would believe it", may_lose=ANY, may_weaken=True, may_strengthen=True,
                           may_add=frozenset({"suspicious-icmp", "packet-loss"})),
    "client-only": Change("no answers: nothing is proven", may_lose=ANY, may_weaken=True, outcomes_may_hide=True,
                          may_add=frozenset({"packet-loss"})),
    "server-only": Change("no questions: nothing is proven", may_lose=ANY, may_weaken=True, outcomes_may_hide=True,
                          may_add=frozenset({"packet-loss"})),
    "ends-after-1s": Change("too early to tell", may_lose=ANY, may_weaken=True, outcomes_may_hide=True),
    "ends-after-3s": Change("early", may_lose=ANY, may_weaken=True, outcomes_may_hide=True),
    "ends-after-30s": Change("before anybody gives up", may_lose=ANY, may_weaken=True, outcomes_may_hide=True),
    "begins-late": Change("no handshake; a later one may show another MSS", may_lose=ANY, may_weaken=True,
                          outcomes_may_hide=True, may_add=frozenset({"small-mss"})),
    "begins-after-loss": Change("no dialogue, and the first sends are gone", may_lose=ANY, may_weaken=True,
                                outcomes_may_hide=True, may_add=frozenset({BLACK_HOLE, "packet-loss"})),
}  # fmt: skip

_LARGE_ONLY = (
    "Of the five seconds in which only large packets were lost the capture holds the first: one packet of 1500 bytes sent again "
    "and again, a later one of 55 bytes acknowledged at once (SACK). A narrow path begins with exactly these frames; the packet "
    "that passes at full size comes only later."
)
UNDECIDABLE: dict[tuple[str, str], str] = {
    (f"loss-of-large-5s.{point}", f"ends-after-{seconds}s"): _LARGE_ONLY
    for point in ("sender", "middle")
    for seconds in (1, 3)
}


def rows(case: Any, back: dict[str, str] | None = None) -> list[tuple[str, ...]]:
    """The findings, without frames and ids; addresses by their names before the mutation."""
    names = back or {}
    return sorted(
        (f.rule, f.role, f.severity, f.confidence, f.scope, names.get(f.sender, f.sender or ""),
         names.get(f.receiver, f.receiver or ""), str(len(f.connections)), str(len(f.messages)))
        for f in case.findings
    )  # fmt: skip


def path_rows(case: Any, back: dict[str, str] | None = None) -> list[tuple[Any, ...]]:
    names = back or {}
    return sorted(
        (names.get(p.sender, p.sender), names.get(p.receiver, p.receiver), p.verdict, p.mtu_at_least or 0, p.mtu_below or 0,
         p.messages_stuck)
        for p in case.paths
    )  # fmt: skip


def _allowed(sidecar: dict[str, Any]) -> set[str]:
    """Rules that the recording, or a part of it, may bear out: where the fault is there, whatever became of it later
    (a sender that found a way around it, a filter that was taken away), a part may show it by any of its names."""
    truth = sidecar["truth"]
    named = {d["rule"] for d in truth["diagnosis"]} | set(truth.get("allowed", []))
    return named | (LIKE_BLACK_HOLE if named & LIKE_BLACK_HOLE else set())


def unsafe(
    case: Any, sidecar: dict[str, Any], smaller: int = 0, back: dict[str, str] | None = None, *, cuts: bool = False
) -> list[str]:
    """What no mutation may do: a false black hole, a certain cause that is none, a bracket without the true value."""
    truth = sidecar["truth"]
    allowed = _allowed(sidecar)
    out = []
    for f in case.findings:
        if f.rule in LIKE_BLACK_HOLE and f.rule not in allowed:
            out.append(f"FALSE {f.rule} ({f.confidence})")
        elif f.role == "cause" and f.confidence == "certain" and f.rule not in allowed:
            out.append(f"CERTAIN and wrong: {f.rule}")
        elif f.role == "cause" and f.confidence == "likely" and f.rule not in allowed:
            out.append(f"likely and wrong: {f.rule}")
    # a route that changes on the way has no single MTU; of a part of its capture nobody says which of them holds
    if not smaller and not (cuts and sidecar["parameters"].get("path_mtu") is None):
        names = {v: k for k, v in (back or {}).items()}
        for d in truth["diagnosis"]:
            if d.get("path_mtu"):
                ends = [names.get(d[k], d[k]) for k in ("sender", "receiver")]
                out += [f"BRACKET {x}" for x in score._bracket(case, *ends, d["path_mtu"])]
    return sorted(set(out))


def changes(
    before: Any, after: Any, change: Change, back: dict[str, str] | None = None, allowed: frozenset[str] = frozenset()
) -> list[str]:
    """Differences between two cases that this mutation may not make."""
    out = []
    if change.same:
        one, two = rows(before), rows(after, back)
        out += [f"lost {' '.join(x)}" for x in one if x not in two] + [
            f"new {' '.join(x)}" for x in two if x not in one
        ]
        one_p, two_p = path_rows(before), path_rows(after, back)
        out += [f"path was {x}" for x in one_p if x not in two_p] + [f"path is {x}" for x in two_p if x not in one_p]
        if [m.outcome for m in before.messages] != [m.outcome for m in after.messages]:
            out.append(f"outcomes {[m.outcome for m in before.messages]} -> {[m.outcome for m in after.messages]}")
        return out
    had: dict[str, int] = {}
    for f in before.findings:
        had[f.rule] = max(had.get(f.rule, 0), RANK[f.confidence])
    has = {f.rule for f in after.findings}
    like = LIKE_BLACK_HOLE & set(had)
    for f in after.findings:
        if f.rule not in had and f.rule not in change.may_add | allowed and not (like and f.rule in LIKE_BLACK_HOLE):
            out.append(f"new {f.rule} ({f.role}, {f.confidence})")
        elif f.rule in had and RANK[f.confidence] > had[f.rule] and not change.may_strengthen:
            out.append(f"stronger {f.rule}: {f.confidence}")
    if change.may_lose is not None:
        out += [f"lost {rule}" for rule in had if rule not in has and rule not in change.may_lose]
    if not change.outcomes_may_hide and change.may_lose is not None:
        one_o, two_o = [m.outcome for m in before.messages], [m.outcome for m in after.messages]
        if one_o != two_o:
            out.append(f"outcomes {one_o} -> {two_o}")
    return out


def names_back(original: mutate.Recording, changed: mutate.Recording) -> dict[str, str]:
    """Address after the mutation -> address before it, as text."""
    from ipaddress import ip_address

    out: dict[str, str] = {}
    for a, b in zip(mutate.packets(original), mutate.packets(changed), strict=True):
        if a.ip is not None and b.ip is not None:
            for x, y in zip(a.addresses(), b.addresses(), strict=True):
                out[str(ip_address(y))] = str(ip_address(x))
    return out


def applies(name: str, r: mutate.Recording, plain: bool) -> bool:
    """Whether the mutation means anything for this recording."""
    if name in ("mirror-port", "router-twice") and r.link_type != mutate.ETHERNET:
        return False  # seen twice already
    if name in ("no-icmp", "foreign-icmp"):
        return plain and any(p.icmp is not None for p in mutate.packets(r))
    if name in ("snap-96", "thin"):
        return r.snaplen > 96
    return plain


def judge(
    capture: Path, sidecar: dict[str, Any], only: tuple[str, ...] = ()
) -> dict[str, tuple[list[str], list[str], Any]]:
    """mutation -> (unsafe, changed, findings as text) for one recording."""
    from analyzer.analysis import analyze

    original = mutate.load(capture)
    plain = mutate.is_plain(original)
    before = analyze([str(capture)])
    out: dict[str, tuple[list[str], list[str], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, mutation in mutate.MUTATIONS.items():
            if (only and name not in only) or not applies(name, original, plain):
                continue
            try:
                changed = mutation(original)
            except ValueError:
                continue
            if not changed.frames:
                continue
            file = Path(folder) / f"{name}.pcap"
            file.write_bytes(mutate.pcap(changed, nano=True))
            after = analyze([str(file)])
            renamed = name in ("other-addresses", "swapped-hosts")
            back = names_back(original, changed) if renamed else None
            change = EXPECT[name]
            found = told(after) if (capture.stem, name) in UNDECIDABLE else ""
            found = found or ", ".join(f"{f.rule} {f.confidence}" for f in after.findings) or "nothing"
            broken = unsafe(after, sidecar, change.smaller, back, cuts=name.startswith(("ends", "begins")))
            moved = changes(before, after, change, back, frozenset(_allowed(sidecar)))
            out[name] = (broken, moved, found)
    return out


BEGIN, END = "<!-- mutations -->\n", "<!-- end of mutations -->\n"


def write_readme(
    total: Counter[str], broken: Counter[str], moved: Counter[str], left: list[tuple[str, str, str]]
) -> None:
    """The section of sample_pcaps/README.md between its two marks (made at the end when they are missing)."""
    readme = score.ROOT / "sample_pcaps" / "README.md"
    text = readme.read_text()
    if BEGIN not in text:
        text += f"\n## Mutations\n\n{BEGIN}{END}"
    head, rest = text.split(BEGIN, 1)
    lines = [
        "Every recording, changed on purpose by `lab/mutate.py`, and what became of its diagnosis. Wrong: a false black hole, a likely or certain",
        "cause that is none, a bracket without the true path MTU. Changed: otherwise than the change may do it.",
        "Written by `python3 sample_pcaps/lab/mutation_score.py --readme`.",
        "",
        "| mutation | recordings | wrong | changed | what may change, and why |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {total[name]} | {broken[name]} | {moved[name]} | "
            f"{'nothing' if EXPECT[name].same else 'weaker'}: {EXPECT[name].why} |"
            for name in mutate.MUTATIONS
        ),
        "",
        "What is wrong there, and why it can not be told apart:",
        "",
        *(
            f"- {stem}, {name}: {found}. {UNDECIDABLE.get((stem, name), 'Not explained yet.')}"
            for stem, name, found in left
        ),
        "",
    ]
    readme.write_text(head + BEGIN + "\n".join(lines) + END + rest.split(END, 1)[1])


def told(case: Any) -> str:
    """The findings, each with the frames that it rests on."""
    return "; ".join(
        f"{f.rule} {f.confidence} (frames {', '.join(str(x.frame) for e in f.evidence for x in e.frames)})"
        for f in case.findings
    )


def _job(item: tuple[Path, dict[str, Any], tuple[str, ...]]) -> tuple[str, dict[str, tuple[list[str], list[str], Any]]]:
    try:
        return item[0].stem, judge(*item)
    except FileNotFoundError:  # recorded anew meanwhile
        return item[0].stem, {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="begin of the names of recordings (default: all)")
    parser.add_argument("--dir", type=Path, default=HERE.parent)
    parser.add_argument("--only", action="append", default=[], help="this mutation only (repeatable)")
    parser.add_argument("--jobs", type=int, default=0, help="processes (default: all processors)")
    parser.add_argument("--readme", action="store_true", help="write the section in sample_pcaps/README.md anew")
    parser.add_argument("--verbose", action="store_true", help="what was found, too")
    args = parser.parse_args()
    items = [(path, data, tuple(args.only)) for path, data in score.recordings(args.dir, args.names)]
    total, broken, moved = Counter[str](), Counter[str](), Counter[str]()
    left: list[tuple[str, str, str]] = []
    with ProcessPoolExecutor(args.jobs or None) as pool:
        for stem, results in pool.map(_job, items, chunksize=4):
            for name, (bad, changed, found) in results.items():
                total[name] += 1
                broken[name] += bool(bad)
                moved[name] += bool(changed)
                if bad or changed:
                    left.append((stem, name, found))
                if bad or changed or args.verbose:
                    print(f"{stem} {name}: {found}" + "".join(f"\n      {x}" for x in bad + changed))
    print(f"{'mutation':20}{'recordings':>11}{'unsafe':>8}{'changed':>9}")
    for name in mutate.MUTATIONS:
        print(f"{name:20}{total[name]:11}{broken[name]:8}{moved[name]:9}")
    if args.readme:
        write_readme(total, broken, moved, left)
    return 1 if {(stem, name) for stem, name, _ in left} - set(UNDECIDABLE) else 0


if __name__ == "__main__":
    sys.exit(main())
