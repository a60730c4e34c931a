"""What is recorded: every scenario is data. `run.py` makes it happen, checks that it did, and writes the truth beside it.

The truth of a vantage point is stated here from what the network was told to do, never from reading the capture.
Rules that are neither in `diagnosis` nor in `allowed` must not be found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mta import Mail
from topology import RECEIVER4, RECEIVER6, SENDER4, SENDER6, Network, Path_


@dataclass(frozen=True)
class Finding:
    """One finding that must be there."""

    rule: str
    role: str = "cause"
    path_mtu: int | None = None
    connections: int = 1
    sender: str = SENDER4
    receiver: str = RECEIVER4
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """One vantage point: where the capture is taken, what must be found there, and a check that the thing happened."""

    node: str
    interface: str
    finds: tuple[Finding, ...] = ()
    allowed: tuple[str, ...] = ()
    check: str = ""
    """Python expression over run.Seen: what an independent reader (tshark) must count in this capture."""
    snaplen: int = 0
    link_type: str = ""
    filter_: str = ""
    pcapng: bool = False
    cut: tuple[float | None, float | None] = (None, None)
    """Keep only this part of the recording, in seconds from the first packet."""
    shows: str = ""
    outcomes_from: str = ""


@dataclass(frozen=True)
class Scenario:
    name: str
    shows: str
    path: Path_
    views: dict[str, View]
    mails: tuple[Mail, ...] = (Mail(8000),)
    sender: str = "postfix"
    sender_settings: dict[str, Any] = field(default_factory=dict)
    receiver: str = "postfix"
    receiver_settings: dict[str, Any] = field(default_factory=dict)
    server: str = RECEIVER4
    limit_s: float = 75
    after_s: float = 1.0
    """Keep capturing this long after the last mail's fate."""
    events: tuple[tuple[float, Callable[[Network], None]], ...] = ()
    drive: Callable[..., list[dict]] | None = None
    """Instead of the sender's `send`: f(network, sender, scenario) -> connections."""
    tls: bool = False
    attempts: int = 1
    expect: str = ""
    """Python expression over `c`, the list of connections with the sender's outcomes."""


# ---- vantage points --------------------------------------------------------------------------------
SENDER = View("sender", "eth0")
MIDDLE = View("r2", "b0")
RECEIVER = View("receiver", "eth0")

# A black hole leaves these behind as well, depending on which side gives up first.
HANGS = ("end-of-data-timeout", "lost-after-data", "df-off")
# The sender really pauses and goes on: small losses that no rule has to mention.


def three(sender: View = SENDER, middle: View = MIDDLE, receiver: View = RECEIVER) -> dict[str, View]:
    return {"sender": sender, "middle": middle, "receiver": receiver}


def black_hole_views(mtu: int, *, six: bool = False, connections: int = 1, resends: int = 6, rule: str = "pmtud-black-hole",
                     middle_icmp: bool = False, sender_icmp: bool = False) -> dict[str, View]:
    """The three sides of mail that is too large for a narrow place beyond r2."""
    ends = {"sender": SENDER6, "receiver": RECEIVER6} if six else {}
    too_big = "icmp > 0" if middle_icmp else "icmp == 0"
    lost = Finding("pmtud-black-hole", path_mtu=mtu, connections=connections, **ends)
    at_sender = replace(lost, rule="icmp-frag-needed-ignored") if sender_icmp else replace(lost, extra={"confidence_at_least": "likely"})
    at_middle = replace(lost, extra={"confidence_at_least": "likely", **({"facts": {"icmp_lost_between": True}} if middle_icmp else {})})
    return three(
        replace(SENDER, finds=(at_sender,), allowed=HANGS, check=f"resends >= {resends} and {'icmp > 0' if sender_icmp else 'icmp == 0'}"),
        replace(MIDDLE, finds=(at_middle,), allowed=HANGS, check=f"resends >= {resends} and {too_big}"),
        replace(RECEIVER, finds=(replace(lost, extra={"confidence_at_most": "likely"}),), allowed=HANGS,
                check=f"largest <= {mtu} and icmp == 0 and hole"))


def black_hole(name: str, mtu: int, shows: str, *, six: bool = False, path: Path_ | None = None, resends: int = 6, **kwargs) -> Scenario:
    path = path or Path_(mtu=mtu, icmp="filtered-at-r2")
    views = kwargs.pop("views", None) or black_hole_views(mtu, six=six, resends=resends)
    kwargs.setdefault("expect", "c[0]['mails'][0]['outcome'].startswith('timeout')")
    return Scenario(name, shows, path, views, server=RECEIVER6 if six else RECEIVER4, **kwargs)


SCENARIOS: list[Scenario] = [
    black_hole("blackhole-1400", 1400, "A silent path-MTU black hole: Postfix sends an 8 KB mail over a path of 1400 bytes, no ICMP comes back."),
]
