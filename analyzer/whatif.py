"""What if: which remedies would have let which mails through a path that is too narrow, from the case's own sizes.

Nothing is simulated. A mail passes when no packet that it needs is larger than the path MTU, of which the case knows two
bounds, [mtu_at_least, mtu_below): below the first it surely would have passed, between the two perhaps. That a remedy is
uncertain is part of the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil

from .case import Case, Finding, Message, Path, WhatIf, numbered

BLACK_HOLES = ("pmtud-black-hole", "icmp-frag-needed-ignored")
TIMESTAMPS_BYTES = 12  # TCP option in every segment of today's stacks (RFC 7323 3.2, padded to 32 bits)

# Linux, net.ipv4.tcp_mtu_probing=1: after some time-outs of the same segment it begins anew with tcp_base_mss = 1024 bytes;
# recorded runs needed 3.2 s for that. When these do not pass either it halves the size with each further time-out.
PROBING_PAYLOAD_BYTES = 1024
PROBING_DELAY_S = 3.2
FLOOR_BYTES = {4: 576, 6: 1280}  # what every host must take (RFC 791 3.1, RFC 8200 5)


def what_if(case: Case) -> list[WhatIf]:
    """For each path whose large packets die: the remedies, in the order in which they should be thought of."""
    found = []
    blamed: dict[int, Finding] = {}
    for f in case.findings:
        if f.rule in BLACK_HOLES:
            for number in f.paths:
                blamed.setdefault(number, f)
    for path in numbered(case.paths, blamed):
        if path.mtu_below is not None:
            found += list(_remedies(case, path, blamed[path.id], path.mtu_below))
    return found


def _remedies(case: Case, path: Path, finding: Finding, below: int) -> Iterator[WhatIf]:
    version = 6 if ":" in path.sender else 4
    sure = max(path.mtu_at_least or 0, _said_by_router(path, finding))
    mails = _stuck(case, path, finding)
    servers = {c.server.ip for c in numbered(case.connections, path.connections)}
    of_client = path.receiver in servers
    for mtu in _candidates(finding, sure, below, version):
        certain = mtu <= sure
        yield WhatIf(
            path.id, "mss-clamp", mtu, mtu - _headers(version), "yes" if certain else "perhaps",
            **_passing(mails, certain=certain), not_through=(),
            extra_packets=_more_packets(mails, mtu, below, version),
            delay_s=0.0,
            why=_because(mtu, sure, path),
        )  # fmt: skip
        yield WhatIf(
            path.id, "route-mtu", mtu, mtu - _headers(version), "yes" if certain else "perhaps",
            **_passing(mails, certain=certain), not_through=(),
            extra_packets=_more_packets(mails, mtu, below, version),
            delay_s=0.0,
            why=f"only what {path.sender} sends; {_because(mtu, sure, path)}",
        )  # fmt: skip
    yield _probing(path, mails, sure, below, version, of_client=of_client)
    if version == 4:
        yield _fragmenting(path, finding, mails)


def _said_by_router(path: Path, finding: Finding) -> int:
    """The next-hop MTU of an ICMP that is to be believed: a rule has weighed it."""
    return path.icmp_mtu or 0 if finding.rule == "icmp-frag-needed-ignored" else 0


def _stuck(case: Case, path: Path, finding: Finding) -> list[Message]:
    """The mails of this path that the finding says are stuck."""
    return [m for m in numbered(case.messages, finding.messages) if m.connection in path.connections]


def _headers(version: int) -> int:
    return 60 if version == 6 else 40  # IP and TCP without options: what an MSS is less than the MTU (RFC 9293 3.7.1)


def _candidates(finding: Finding, sure: int, below: int, version: int) -> list[int]:
    """The MTU that the advice names, and the largest one that is proven where that is another."""
    chosen = finding.facts.get("mtu_to_set")
    advised = chosen if isinstance(chosen, int) else max(FLOOR_BYTES[version], min(1280, below - 1))
    proven = [sure] if FLOOR_BYTES[version] <= sure < below else []
    return sorted({n for n in (advised, *proven) if n < below}, reverse=True)


def _passing(mails: Sequence[Message], *, certain: bool) -> dict[str, tuple[int, ...]]:
    ids = tuple(m.id for m in mails)
    return {"through": ids, "perhaps": ()} if certain else {"through": (), "perhaps": ids}


def _more_packets(mails: Sequence[Message], mtu: int, below: int, version: int) -> int | None:
    """How many packets more these mails need than with those that were too large (`below` bytes and more)."""
    sizes = [m.size for m in mails if m.size]
    if not sizes:
        return None
    overhead = _headers(version) + TIMESTAMPS_BYTES
    largest = max([below, *(m.largest_packet_bytes or 0 for m in mails)])
    return sum(ceil(n / (mtu - overhead)) - ceil(n / (largest - overhead)) for n in sizes)


def _because(mtu: int, sure: int, path: Path) -> str:
    if mtu <= (path.mtu_at_least or 0):
        return f"packets of {path.mtu_at_least} bytes were seen to arrive"
    if mtu <= sure:
        return f"the router's ICMP says that {path.icmp_mtu} bytes pass"
    seen = f"{sure} bytes are proven" if sure else "no size is proven"
    return f"{mtu} bytes lie between what is proven and what is lost ({seen}, {path.mtu_below} are lost)"


def _probing(path: Path, mails: Sequence[Message], sure: int, below: int, version: int, *, of_client: bool) -> WhatIf:
    """tcp_mtu_probing on the sending host: it finds the way by itself, some seconds later in each connection."""
    packet = PROBING_PAYLOAD_BYTES + _headers(version) + TIMESTAMPS_BYTES
    side = "client" if of_client else "server"
    why = f"where {path.sender} (the {side}) runs Linux; its first try then has {packet} bytes"
    if packet >= below:
        why += f", which is too large still: it halves its segments with each further time-out until they pass below {below} bytes"
        return WhatIf(
            path.id, "mtu-probing", None, None, "perhaps", (), tuple(m.id for m in mails), (), None, None, why
        )
    certain = packet <= sure
    return WhatIf(
        path.id, "mtu-probing", packet, PROBING_PAYLOAD_BYTES, "yes" if certain else "perhaps",
        **_passing(mails, certain=certain), not_through=(),
        extra_packets=_more_packets(mails, packet, below, version), delay_s=PROBING_DELAY_S, why=why,
    )  # fmt: skip


def _fragmenting(path: Path, finding: Finding, mails: Sequence[Message]) -> WhatIf:
    """Without "don't fragment" a router cuts what is too large; a layer-2 limit does not, and firewalls drop fragments."""
    ids = tuple(m.id for m in mails)
    tried = finding.facts.get("stuck_df") is False
    if tried:
        why = "it was off already: the large packets vanished without it, so fragments are dropped or the limit is one of layer 2"
        return WhatIf(path.id, "df-off", None, None, "no", (), (), ids, None, None, why)
    why = "if a router is at the narrow place (a layer-2 limit never fragments) and nothing drops the fragments"
    return WhatIf(path.id, "df-off", None, None, "perhaps", (), ids, (), None, 0.0, why)


SAID = {
    "mss-clamp": "MSS clamped to {mss} by a router or firewall (packets of {mtu} bytes)",
    "route-mtu": "MTU of the sender's route set to {mtu}",
    "mtu-probing": "net.ipv4.tcp_mtu_probing = 1 on the sender",
    "df-off": "don't-fragment switched off on the sender",
}


def told(answer: WhatIf) -> str:
    """One sentence."""
    what = SAID[answer.remedy].format(mss=answer.mss, mtu=answer.mtu)
    mails = answer.through + answer.perhaps + answer.not_through
    verb = {"yes": "would have passed", "perhaps": "may have passed", "no": "would not have passed"}[answer.helps]
    result = f"{_mails(mails)} {verb}" if mails else f"what hangs here {verb}"
    cost = []
    if answer.extra_packets:
        cost.append(f"in {answer.extra_packets} more packet{'s' if answer.extra_packets > 1 else ''}")
    if answer.delay_s:
        cost.append(f"each connection about {answer.delay_s:.0f} s later")
    return f"{what}: {', '.join([result, *cost])}; {answer.why}."


def _mails(ids: Sequence[int]) -> str:
    if len(ids) == 1:
        return f"mail {ids[0]}"
    shown = ", ".join(str(i) for i in ids[:8])
    return f"{len(ids)} mails ({shown}{', …' if len(ids) > 8 else ''})"
