"""Scenarios drawn at random: recordings that nobody has looked at, to test the analyzer against.

    python3 sample_pcaps/lab/run.py --sweep 60 --seed 7 --out /tmp/sweep --publish --to /tmp/sweep-samples
    python3 sample_pcaps/lab/score.py --dir /tmp/sweep-samples

The truth follows from what was drawn, as it does for the scenarios that are written by hand.
"""

from __future__ import annotations

import random
from dataclasses import replace

from mta import Mail
from scenario import DELIVERED, HANGS, MIDDLE, RECEIVER, SENDER, Finding, Scenario, black_hole_views, three
from topology import RECEIVER4, RECEIVER6, SENDER6, Path_

SHORT = {  # 25 s hold seven resends at a round trip of 100 ms
    "postfix": {f"smtp_{step}_timeout": "25s" for step in ("data_init", "data_xfer", "data_done", "helo", "mail")},
    "exim": {"data_timeout": "25s", "final_timeout": "25s"},
    "sendmail": {"confTO_DATABLOCK": "25s", "confTO_DATAFINAL": "25s"},
    "swaks": {},
    "smtplib": {"timeout_s": 25},
}
MTUS = [1280, 1300, 1358, 1380, 1400, 1420, 1436, 1446, 1450, 1454, 1462, 1476, 1480, 1488, 1492]
DEAD = ("lost-after-data", "end-of-data-timeout")


def draw(rng: random.Random, name: str) -> Scenario:
    kind = rng.choice(["hole", "hole", "hole", "works", "ignored", "well", "loss", "dead"])
    six = rng.random() < 0.3
    mtu = rng.choice(MTUS)
    path = Path_(rtt_ms=rng.choice([0, 0, 4, 20, 60, 100]), offload=rng.random() < 0.25, congestion=rng.choice(["cubic", "cubic", "reno", "bbr"]),
                 sysctl={k: "0" for k in ("net.ipv4.tcp_sack", "net.ipv4.tcp_timestamps") if rng.random() < 0.15})
    sender = rng.choice(["postfix", "postfix", "exim", "sendmail", "swaks", "smtplib"])
    # Either surely below every MTU here in one packet with its headers, or surely above in several.
    mails = tuple(Mail(rng.randrange(400, 700) if rng.random() < 0.4 else rng.randrange(3200, 70000)) for _ in range(rng.randrange(1, 4)))
    if kind == "dead" or not any(m.size > 3000 for m in mails):
        mails = (*mails[:1], Mail(rng.randrange(30000, 70000)))
    large = sum(m.size > 3000 for m in mails)
    ends = {"sender": SENDER6, "receiver": RECEIVER6} if six else {}
    timed_out = f"o.count('timeout') == {large}"

    if kind == "hole":
        path, views, expect = replace(path, mtu=mtu, icmp="filtered-at-r2"), black_hole_views(mtu, six=six, connections=large, resends=4), timed_out
    elif kind == "ignored":
        where = rng.choice(["filtered-at-sender", "filtered-at-r1"])
        path = replace(path, mtu=mtu, icmp=where)
        views = black_hole_views(mtu, six=six, connections=large, resends=4, icmp_middle=True, icmp_sender=where == "filtered-at-sender")
        expect = timed_out
    elif kind == "works":
        path, expect = replace(path, mtu=mtu), DELIVERED
        view = {"finds": (Finding("pmtud-working", "observation", path_mtu=mtu, **ends),), "check": "icmp > 0"}
        views = three(replace(SENDER, **view), replace(MIDDLE, **view), replace(RECEIVER, allowed=("packet-loss",)))
    elif kind == "loss":
        path, expect = replace(path, loss=f"numgen random mod 100 < {rng.choice([2, 5, 10])}"), "len(o) > 0"
        views = three(*(replace(v, allowed=("packet-loss", *DEAD)) for v in (SENDER, MIDDLE, RECEIVER)))
    elif kind == "dead":
        path = replace(path, r2_rule=f"meta l4proto tcp quota over {rng.randrange(14000, 26000)} bytes drop")
        expect = "'timeout' in o"
        views = three(*(replace(v, finds=(Finding("path-outage", connections=None, **ends),), allowed=("packet-loss", *HANGS), check="resends >= 4")
                        for v in (SENDER, MIDDLE)), replace(RECEIVER, allowed=("path-outage", "packet-loss", *DEAD)))
    else:
        expect, views = DELIVERED, three(*(replace(v, allowed=()) for v in (SENDER, MIDDLE, RECEIVER)))

    receiver_settings = {"smtpd_discard_ehlo_keywords": "chunking"} if rng.random() < 0.6 else {}
    return Scenario(f"{name}-{kind}", f"Drawn at random: {kind}, {sender}, {'IPv6' if six else 'IPv4'}.", path, views, mails=mails, sender=sender,
                    sender_settings=SHORT[sender], receiver_settings=receiver_settings, server=RECEIVER6 if six else RECEIVER4, limit_s=100, expect=expect)


def sweep(count: int, seed: int) -> list[Scenario]:
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    return [draw(rng, f"sweep-{seed}-{number:03d}") for number in range(count)]
