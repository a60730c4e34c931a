"""What a scenario is, and the words that scenarios.py is written in.

The truth of a vantage point is stated here from what the network was told to do, never from reading the capture.
Rules that are neither in `diagnosis` nor in `allowed` must not be found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from mta import Mail, Script
from topology import RECEIVER4, RECEIVER6, SENDER4, SENDER6, Network, Path_


@dataclass(frozen=True)
class Finding:
    """One finding that must be there."""

    rule: str
    role: str = "cause"
    path_mtu: int | None = None
    connections: int | None = 1
    """How many connections the finding names; None where that depends on chance or on taste."""
    sender: str = SENDER4
    receiver: str | None = RECEIVER4
    """None: any of several."""
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
    buffer_kib: int = 65536
    """Of the capturing program; a small one makes it miss packets."""
    drops: bool = False
    """The capture itself must have missed packets; otherwise it must not."""
    from_data: bool = False
    """Drop everything before the first large data packet, and `skip` packets more: a capture started late."""
    skip: int = 0
    until_s: float | None = None
    """Drop everything later than this after the first large data packet: a capture stopped early."""
    shows: str = ""


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
    tls: int = 0
    """Bits of the receiver's RSA certificate; 0: no STARTTLS."""
    attempts: int = 1
    expect: str = ""
    """Python expression over `c`, the sender's connections, and `o`, all outcomes in a row."""


# ---- vantage points --------------------------------------------------------------------------------
SENDER = View("sender", "eth0")
NEAR = View("r1", "b0")
"""Between the routers, before a userspace box on link B."""
MIDDLE = View("r2", "b0")
RECEIVER = View("receiver", "eth0")

# A black hole leaves these behind as well, depending on which side gives up first.
HANGS = ("end-of-data-timeout", "lost-after-data")
DELIVERED = "o == ['delivered'] * len(o)"


def three(sender: View = SENDER, middle: View = MIDDLE, receiver: View = RECEIVER) -> dict[str, View]:
    return {"sender": sender, "middle": middle, "receiver": receiver}


def same(*finds: Finding, allowed: tuple[str, ...] = (), check: str = "", middle: View = MIDDLE) -> dict[str, View]:
    """All three vantage points show the same."""
    return three(*(replace(v, finds=finds, allowed=allowed, check=check) for v in (SENDER, middle, RECEIVER)))


def black_hole_views(mtu: int, *, six: bool = False, connections: int = 1, resends: int = 6, middle: View = MIDDLE, more: tuple[Finding, ...] = (),
                     allowed: tuple[str, ...] = (), icmp_middle: bool = False, icmp_sender: bool = False, ends: dict | None = None) -> dict[str, View]:
    """The three sides of mail that is too large for a narrow place beyond `middle`."""
    ends = ends or ({"sender": SENDER6, "receiver": RECEIVER6} if six else {})
    lost = Finding("pmtud-black-hole", path_mtu=mtu, connections=connections, **ends)
    likely = {"confidence_at_least": "likely"}
    at_sender = replace(lost, rule="icmp-frag-needed-ignored") if icmp_sender else replace(lost, extra=likely)
    at_middle = replace(lost, extra=likely | ({"facts": {"icmp_lost_between": True}} if icmp_middle else {}))
    allowed = (*HANGS, *allowed)
    return three(
        replace(SENDER, finds=(at_sender, *more), allowed=allowed, check=f"resends >= {resends} and icmp {'>' if icmp_sender else '=='} 0"),
        replace(middle, finds=(at_middle, *more), allowed=allowed, check=f"resends >= {resends} and icmp {'>' if icmp_middle else '=='} 0"),
        # not every hole shows there: a connection may end without a packet beyond it
        replace(RECEIVER, finds=(replace(lost, connections=1 if connections == 1 else None, extra={"confidence_at_most": "likely"}), *more), allowed=allowed,
                check=f"largest <= {mtu} and icmp == 0 and hole"))


def black_hole(name: str, mtu: int, shows: str, *, six: bool = False, path: dict | None = None, resends: int = 6, **kwargs) -> Scenario:
    """One mail into a silent black hole; `path` changes single settings of the network."""
    network = Path_(**{"mtu": mtu, "icmp": "filtered-at-r2"} | (path or {}))
    views = kwargs.pop("views", None) or black_hole_views(mtu, six=six, resends=resends)
    kwargs.setdefault("expect", "'timeout' in o")
    kwargs.setdefault("server", RECEIVER6 if six else RECEIVER4)
    return Scenario(name, shows, network, views, **kwargs)


def plain(name: str, shows: str, path: Path_ | None = None, allowed: tuple[str, ...] = (), check: str = "", **kwargs) -> Scenario:
    """Nothing to find, from any side."""
    kwargs.setdefault("expect", DELIVERED)
    middle = NEAR if path and path.relay else MIDDLE
    return Scenario(name, shows, path or Path_(), kwargs.pop("views", None) or same(allowed=allowed, check=check, middle=middle), **kwargs)


def whole(segments: int, cut: int, mss: int = 1448) -> int:
    """The mail size that puts a packet boundary after `cut` bytes of the final CR LF . CR LF."""
    return segments * mss - (cut - 2)


# ---- ways of sending that one mailer's configuration can not express ---------------------------------
def with_script(settings: dict, mails: tuple[Mail, ...]) -> Callable:
    """After the scenario's own mails, send these with the scripted client."""

    def drive(net: Network, sender: Any, scenario: Scenario) -> list[dict]:
        connections = sender.send(list(scenario.mails), scenario.limit_s)
        return connections + Script(net, settings, scenario.server).send(list(mails), scenario.limit_s)

    return drive


def each_to_its_server(net: Network, sender: Any, scenario: Scenario) -> list[dict]:
    """Every mail to the address that it names, one after the other."""
    connections = []
    for number, mail in enumerate(scenario.mails, 1):
        connections += Script(net, scenario.sender_settings, mail.server).send([replace(mail, to=f"harbour{number:03d}@example.net")], scenario.limit_s)
    return connections


def one_mail_to_each_server(net: Network, sender: Any, scenario: Scenario) -> list[dict]:
    """The very same mail to one server of the destination after the other."""
    connections = []
    for mail in scenario.mails:
        connections += Script(net, scenario.sender_settings, mail.server).send([mail], scenario.limit_s)
    return connections


def python_client(code: str) -> Callable:
    """Another protocol: run Python in the sender's namespace; it is no mail, so there are no outcomes."""

    def drive(net: Network, sender: Any, scenario: Scenario) -> list[dict]:
        net.run("sender", "python3", "-c", code, check=False, timeout=scenario.limit_s + 60)
        return []

    return drive
