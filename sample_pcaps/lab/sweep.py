"""Scenarios drawn at random: recordings that nobody has looked at, to test the analyzer against.

    python3 sample_pcaps/lab/run.py --sweep 60 --seed 7 --out /tmp/sweep --publish --to /tmp/sweep-samples
    python3 sample_pcaps/lab/score.py --dir /tmp/sweep-samples

The truth follows from what was drawn, as it does for the scenarios that are written by hand. A kind is one fate
(`KINDS`); hosts, mailers, sizes and links are drawn for all of them, and so is what the captures leave out (`_partly`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from mta import Mail
from scenario import (
    DELIVERED,
    HANGS,
    MIDDLE,
    NEAR,
    RECEIVER,
    SENDER,
    Finding,
    Scenario,
    View,
    black_hole_views,
    three,
    whole,
)
from topology import RECEIVER4, RECEIVER6, SENDER4, SENDER6, Path_

SHORT = {  # 25 s hold seven resends at a round trip of 100 ms
    "postfix": {f"smtp_{step}_timeout": "25s" for step in ("connect", "data_init", "data_xfer", "data_done", "helo", "mail")},
    "exim": {"data_timeout": "25s", "final_timeout": "25s"},
    "sendmail": {"confTO_DATABLOCK": "25s", "confTO_DATAFINAL": "25s"},
    "swaks": {},
    "smtplib": {"timeout_s": 25},
}
MTUS = [1280, 1300, 1358, 1380, 1400, 1420, 1436, 1446, 1450, 1454, 1462, 1476, 1480, 1488, 1492]
DEAD = ("lost-after-data", "end-of-data-timeout")
LINGERS = (*DEAD, "duplicate-delivery")
"""What any mail may leave behind that was not answered in time."""


@dataclass(frozen=True)
class Draw:
    """What is drawn for every kind."""

    rng: random.Random
    six: bool
    mtu: int
    path: Path_
    sender: str
    mails: tuple[Mail, ...]

    @property
    def large(self) -> int:
        return sum(m.size > 3000 for m in self.mails)

    @property
    def ends(self) -> dict[str, str]:
        return {"sender": SENDER6, "receiver": RECEIVER6} if self.six else {}

    @property
    def back(self) -> dict[str, str]:
        return {"sender": RECEIVER6, "receiver": SENDER6} if self.six else {"sender": RECEIVER4, "receiver": SENDER4}

    def all_views(self, *finds: Finding, allowed: tuple[str, ...] = (), check: str = "", middle: View = MIDDLE) -> dict[str, View]:
        """The same at all three points; the receiver's may miss it."""
        before = (replace(v, finds=finds, allowed=allowed, check=check) for v in (SENDER, middle))
        return three(*before, replace(RECEIVER, allowed=(*allowed, *(f.rule for f in finds))))


def _hole(d: Draw) -> dict[str, Any]:
    return {"path": replace(d.path, mtu=d.mtu, icmp="filtered-at-r2"), "expect": f"o.count('timeout') == {d.large}",
            "views": black_hole_views(d.mtu, six=d.six, connections=d.large, resends=4)}


def _layer_2(d: Draw) -> dict[str, Any]:
    return {"path": replace(d.path, relay=f"max-size={d.mtu}"), "expect": f"o.count('timeout') == {d.large}",
            "views": black_hole_views(d.mtu, six=d.six, connections=d.large, resends=4, middle=NEAR)}


def _ignored(d: Draw) -> dict[str, Any]:
    where = d.rng.choice(["filtered-at-sender", "filtered-at-r1"])
    views = black_hole_views(d.mtu, six=d.six, connections=d.large, resends=4, icmp_middle=True, icmp_sender=where == "filtered-at-sender")
    return {"path": replace(d.path, mtu=d.mtu, icmp=where), "expect": f"o.count('timeout') == {d.large}", "views": views}


def _nat(d: Draw) -> dict[str, Any]:
    views = {k: replace(v, finds=tuple(replace(f, sender=SENDER4 if k == "sender" else "10.2.0.1") for f in v.finds))
             for k, v in black_hole_views(d.mtu, connections=d.large, resends=4).items()}
    return {"path": replace(d.path, mtu=d.mtu, icmp="filtered-at-r2", nat=True), "expect": f"o.count('timeout') == {d.large}", "views": views,
            "server": RECEIVER4}


def _jumbo(d: Draw) -> dict[str, Any]:
    mtu = d.rng.choice([1500, 1500, 2000, 4000, d.mtu])
    return {"path": replace(d.path, mtu=mtu, icmp="filtered-at-r2", host_mtu=9000, receiver_mtu=9000, offload=False), "mails": (Mail(500), Mail(60000)),
            "expect": "o.count('timeout') == 1", "views": black_hole_views(mtu, six=d.six, resends=4)}


def _reverse(d: Draw) -> dict[str, Any]:
    finding = Finding("pmtud-black-hole", path_mtu=d.mtu, connections=None, **d.back)
    seen = {"finds": (finding,), "allowed": HANGS}
    return {"path": replace(d.path, mtu_back=d.mtu, icmp="filtered-at-r2", offload=False), "sender": "smtplib", "mails": (Mail(600),), "receiver": "script",
            "receiver_settings": {"ehlo_reply_lines": d.rng.randrange(45, 120)}, "expect": "'timeout' in o",
            "views": three(replace(SENDER, finds=(replace(finding, extra={"confidence_at_most": "likely"}),), allowed=HANGS, check="hole_server"),
                           replace(MIDDLE, **seen, check="resends_server >= 4"), replace(RECEIVER, **seen, check="resends_server >= 4"))}


def _works(d: Draw) -> dict[str, Any]:
    view = {"finds": (Finding("pmtud-working", "observation", path_mtu=d.mtu, **d.ends),), "check": "icmp > 0"}
    return {"path": replace(d.path, mtu=d.mtu), "expect": DELIVERED,
            "views": three(replace(SENDER, **view), replace(MIDDLE, **view), replace(RECEIVER, allowed=("packet-loss",)))}


def _probing(d: Draw) -> dict[str, Any]:
    path = replace(d.path, mtu=d.mtu, icmp="filtered-at-r2", sysctl=d.path.sysctl | {"net.ipv4.tcp_mtu_probing": "1"})
    view = {"finds": (Finding("black-hole-recovered", path_mtu=d.mtu, connections=None, **d.ends),), "allowed": ("packet-loss",), "check": "icmp == 0 and resends >= 3"}
    return {"path": path, "expect": DELIVERED, "mails": (Mail(d.rng.randrange(8000, 40000)),),
            "views": three(replace(SENDER, **view), replace(MIDDLE, **view), replace(RECEIVER, allowed=("packet-loss", "black-hole-recovered")))}


def _clamped(d: Draw) -> dict[str, Any]:
    header = 60 if d.six else 40
    path = replace(d.path, mtu=d.mtu, icmp="filtered-at-r2", r1_rule=f"tcp flags syn tcp option maxseg size set {d.mtu - header}")
    return {"path": path, "expect": DELIVERED, "views": d.all_views(allowed=("small-mss",))}


def _well(d: Draw) -> dict[str, Any]:
    return {"path": d.path, "expect": DELIVERED, "views": d.all_views()}


def _df_off(d: Draw) -> dict[str, Any]:
    path = replace(d.path, mtu=d.mtu, sysctl=d.path.sysctl | {"net.ipv4.ip_no_pmtu_disc": "1"})
    return {"path": path, "expect": DELIVERED, "server": RECEIVER4, "views": d.all_views(Finding("df-off", "observation", connections=None))}


def _loss(d: Draw) -> dict[str, Any]:
    there, back = (f"numgen random mod 100 < {d.rng.choice([1, 2, 3, 5, 8, 10, 15, 20])}" if yes else "" for yes in (True, d.rng.random() < 0.3))
    return {"path": replace(d.path, loss=there, loss_back=back), "expect": "len(o) > 0", "views": d.all_views(allowed=("packet-loss", *LINGERS))}


def _acks_lost(d: Draw) -> dict[str, Any]:
    rule = f'iifname "c0" meta length < 120 numgen random mod 100 < {d.rng.choice([20, 40, 60])} drop'
    return {"path": replace(d.path, r2_rule=rule), "expect": "len(o) > 0", "views": d.all_views(allowed=("packet-loss", *LINGERS))}


def _queue(d: Draw) -> dict[str, Any]:
    share = d.rng.choice([20, 40, 60])
    rule = f"meta length > {d.rng.choice([600, 1000, 1300])} numgen random mod 100 < {share} drop"
    return {"path": replace(d.path, r2_rule=rule, mtu_unclear=True), "expect": "len(o) > 0", "views": d.all_views(allowed=("packet-loss", *LINGERS))}


def _policer(d: Draw) -> dict[str, Any]:
    rule = f'oifname "c0" limit rate over {d.rng.choice([10, 20, 40])} kbytes/second burst {d.rng.choice([4000, 8000, 16000])} bytes drop'
    return {"path": replace(d.path, r2_rule=rule), "expect": "len(o) > 0", "views": d.all_views(allowed=("packet-loss", "path-outage", *LINGERS))}


def _dead(d: Draw) -> dict[str, Any]:
    path = replace(d.path, r2_rule=f"meta l4proto tcp quota over {d.rng.randrange(14000, 26000)} bytes drop")
    finding = Finding("path-outage", connections=None, **d.ends)
    return {"path": path, "expect": "'timeout' in o", "mails": (*d.mails[:1], Mail(d.rng.randrange(30000, 70000))),
            "views": three(*(replace(v, finds=(finding,), allowed=("packet-loss", *HANGS), check="resends >= 4") for v in (SENDER, MIDDLE)),
                           replace(RECEIVER, allowed=("path-outage", "packet-loss", *DEAD)))}


def _blackout(d: Draw) -> dict[str, Any]:
    path = replace(d.path, r2_rule=f"meta l4proto tcp quota over {d.rng.randrange(6000, 20000)} bytes drop")
    back_s = d.rng.choice([4, 7, 11, 16])
    return {"path": path, "expect": "len(o) > 0", "mails": (*d.mails[:1], Mail(d.rng.randrange(30000, 70000))),
            "events": ((back_s, lambda net: net.flush("r2", "forward")),), "views": d.all_views(allowed=("packet-loss", "path-outage", *LINGERS))}


def _zero_window(d: Draw) -> dict[str, Any]:
    settings = {"stop_reading_after": 6000, "stop_reading_s": d.rng.choice([14, 20]), "receive_buffer": 8192}
    return {"path": replace(d.path, offload=False), "receiver": "script", "receiver_settings": settings, "sender": "smtplib", "mails": (Mail(60000),),
            "sender_settings": {"timeout_s": 60}, "expect": DELIVERED,
            "views": {k: replace(v, finds=(Finding("receiver-stalled", connections=None, **d.ends),)) for k, v in three().items()}}


def _server_slow(d: Draw) -> dict[str, Any]:
    settings = d.rng.choice([{"reply_delay_s": 12}, {"banner_delay_s": 9}, {"line_pause_s": 0.01, "receive_buffer": 4096}])
    return {"path": d.path, "receiver": "script", "receiver_settings": settings, "sender": "smtplib", "sender_settings": {"timeout_s": 90},
            "mails": (Mail(d.rng.randrange(500, 30000)),), "expect": DELIVERED, "views": d.all_views(allowed=("receiver-stalled",))}


def _reordered(d: Draw) -> dict[str, Any]:
    return {"path": replace(d.path, relay=f"reorder={d.rng.choice([2, 3, 5, 9])}"), "expect": DELIVERED, "views": d.all_views(allowed=("packet-loss",))}


def _bad_checksums(d: Draw) -> dict[str, Any]:
    path = replace(d.path, relay=f"bad-checksum={d.rng.choice([900, 1200])}", mtu_unclear=True, offload=False)
    lost = replace(SENDER, allowed=("pmtud-black-hole", *HANGS)), replace(NEAR, allowed=("pmtud-black-hole", *HANGS))
    return {"path": path, "expect": "'timeout' in o", "views": three(*lost, replace(RECEIVER, allowed=("packet-loss", "path-outage", *HANGS)))}


def _stop_at(d: Draw) -> dict[str, Any]:
    path = replace(d.path, relay="stop-at=65536", offload=False)
    lost = (replace(v, allowed=("path-outage", *DEAD), check="resends >= 4") for v in (SENDER, NEAR))
    return {"path": path, "mails": (Mail(d.rng.randrange(90000, 140000)),), "expect": "'timeout' in o",
            "views": three(*lost, replace(RECEIVER, allowed=("path-outage", *DEAD)))}


def _split(d: Draw) -> dict[str, Any]:
    cut = d.rng.choice([3, 4])
    swallowed = d.rng.random() < 0.5
    size = whole(d.rng.randrange(2, 9), cut, 1428 if d.six else 1448)
    found = Finding("split-terminator", "cause" if swallowed else "observation", connections=None, **d.ends)
    path = replace(d.path, relay=f"swallow-split={d.rng.choice(['drop', 'ack'])}" if swallowed else "", sysctl={}, offload=False)
    views = {"sender": replace(SENDER, finds=(found,), allowed=DEAD if swallowed else ())}
    if not swallowed:
        views |= {"middle": replace(MIDDLE, finds=(found,)), "receiver": replace(RECEIVER, finds=(found,))}
    return {"path": path, "sender": "postfix", "sender_settings": {"strip_received": "yes"}, "mails": (Mail(2000), Mail(size)), "views": views,
            "expect": "o.count('timeout') == 1" if swallowed else DELIVERED}


def _masked(d: Draw) -> dict[str, Any]:
    boxes, finds = ["mask-banner"], [Finding("masked-banner", "observation", connections=None, **d.ends)]
    if d.rng.random() < 0.5:
        boxes.append("mask-keywords")
        finds.append(Finding("esmtp-inspection", "observation", connections=None, **d.ends))
    allowed = ("pix-workaround", "esmtp-inspection")
    return {"path": replace(d.path, relay=" ".join(boxes)), "sender": d.rng.choice(["exim", "swaks", "smtplib"]), "expect": DELIVERED,
            "views": {"sender": replace(SENDER, finds=tuple(finds), allowed=allowed), "receiver": replace(RECEIVER, allowed=allowed)}}


KINDS: dict[str, tuple[int, Callable[[Draw], dict[str, Any]]]] = {  # how often, relative to the others
    "hole": (6, _hole), "layer-2": (1, _layer_2), "ignored": (2, _ignored), "nat": (1, _nat), "jumbo": (1, _jumbo), "reverse": (2, _reverse),
    "works": (3, _works), "probing": (2, _probing), "clamped": (1, _clamped), "well": (2, _well), "df-off": (1, _df_off), "loss": (3, _loss),
    "acks-lost": (1, _acks_lost), "queue": (2, _queue), "policer": (1, _policer), "dead": (2, _dead), "blackout": (2, _blackout),
    "zero-window": (1, _zero_window), "server-slow": (1, _server_slow), "reordered": (1, _reordered), "bad-checksums": (1, _bad_checksums),
    "stop-at": (1, _stop_at), "split": (2, _split), "masked": (1, _masked),
}  # fmt: skip


def _partly(rng: random.Random, kind: str, views: dict[str, View], six: bool) -> dict[str, View]:
    """What the captures of this scenario leave out. Of a finding that a part can not show it is enough that it is allowed."""
    def each(**kwargs: Any) -> dict[str, View]:
        return {k: replace(v, **kwargs) for k, v in views.items()}

    def loosely(**kwargs: Any) -> dict[str, View]:
        return {k: replace(v, finds=(), allowed=(*v.allowed, *(f.rule for f in v.finds), *DEAD), check="", **kwargs) for k, v in views.items()}

    text = kind in ("split", "masked")  # needs the words of the dialogue
    cut = rng.choice(["any", "any-sll", "snaplen", "pcapng", "stops", "begins", "one-way"])
    if cut == "any":
        return each(interface="any", check="")
    if cut == "any-sll":
        return each(interface="any", link_type="LINUX_SLL", check="")
    if cut == "pcapng":
        return each(pcapng=True)
    if cut == "snaplen":
        length = rng.choice([96, 128, 160])
        return loosely(snaplen=length) if text else each(snaplen=length)
    if cut == "stops":
        return loosely(until_s=rng.choice([0.5, 1.5, 4, 9, 15]))
    if cut == "begins" and kind in ("hole", "ignored", "nat", "dead", "loss", "queue", "works", "well"):
        changed = loosely(from_data=True, skip=rng.choice([0, 2, 5, 12, 25]))
        return {k: v for k, v in changed.items() if k != "receiver"}
    if cut == "one-way":
        host = rng.choice([SENDER6, RECEIVER6] if six else [SENDER4, RECEIVER4])
        return {k: replace(v, filter_=f"src host {host}") for k, v in loosely().items() if k != "middle" or kind != "nat"}
    return views


def draw(rng: random.Random, name: str) -> Scenario:
    kind = rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    six = rng.random() < 0.3 and kind != "df-off"
    sysctl = {k: "0" for k in ("net.ipv4.tcp_sack", "net.ipv4.tcp_timestamps", "net.ipv4.tcp_window_scaling") if rng.random() < 0.12}
    if rng.random() < 0.1:
        sysctl["net.ipv4.tcp_early_retrans"] = "0"  # no tail-loss probes
    path = Path_(rtt_ms=rng.choice([0, 0, 4, 20, 60, 100, 180]), offload=rng.random() < 0.25, congestion=rng.choice(["cubic", "cubic", "reno", "bbr"]),
                 sysctl=sysctl, sysctl_receiver={k: "0" for k in ("net.ipv4.tcp_sack", "net.ipv4.tcp_timestamps") if rng.random() < 0.08})
    sender = rng.choice(["postfix", "postfix", "exim", "sendmail", "swaks", "smtplib"])
    # Either surely below every MTU here in one packet with its headers, or surely above in several.
    mails = tuple(Mail(rng.randrange(400, 700) if rng.random() < 0.4 else rng.randrange(3200, 70000)) for _ in range(rng.randrange(1, 4)))
    if not any(m.size > 3000 for m in mails):
        mails = (*mails[:1], Mail(rng.randrange(30000, 70000)))
    mtu = rng.choice(MTUS) if rng.random() < 0.5 else rng.randrange(1280, 1493)
    d = Draw(rng, six and kind != "nat", mtu, path, sender, mails)
    fields = KINDS[kind][1](d)
    if rng.random() < 0.35:
        fields["views"] = _partly(rng, kind, fields["views"], d.six)
    mailer = fields.get("sender", sender)
    # without CHUNKING the mail goes by DATA: its end is visible
    settings = {"smtpd_discard_ehlo_keywords": "chunking"} if rng.random() < 0.6 and fields.get("receiver", "postfix") == "postfix" else {}
    defaults = {"mails": mails, "sender": sender, "receiver_settings": settings, "server": RECEIVER6 if d.six else RECEIVER4, "limit_s": 100}
    fields["sender_settings"] = SHORT[mailer] | fields.get("sender_settings", {})
    return Scenario(f"{name}-{kind}", f"Drawn at random: {kind}, {mailer}, {'IPv6' if d.six else 'IPv4'}.", **(defaults | fields))


def sweep(count: int, seed: int) -> list[Scenario]:
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    return [draw(rng, f"sweep-{seed}-{number:03d}") for number in range(count)]
