"""Writes the `examples` of the built-in rules anew from the sidecars of the samples.

usage: fill_examples.py

A rule must fire on every sample whose sidecar has it in its diagnosis. It must stay quiet on its near misses: the
scenarios named below, as far as they are published and their sidecar forbids the rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
SAMPLES = ROOT / "sample_pcaps"
NEAR_MISSES = {
    "pmtud-black-hole": "pmtud-working pmtud-working-offload outage-mid-mail outage-ipv6 blackout-12s loss-5 loss-30 loss-of-large "
    "zero-window-forever firewall-after-envelope host-unreachable sack-shifted window-scaling-broken bad-checksums recovered-probing-1 "
    "reordering pix-split-compared client-pauses icmp-ignored clean-offload server-slow",
    "icmp-frag-needed-ignored": "pmtud-working pmtud-working-40k pmtud-working-offload icmp-lost-between icmp-forged blackhole-1400",
    "black-hole-recovered": "blackhole-1400 pmtud-working loss-30 recovered-probing-2",
    "pmtud-working": "blackhole-1400 icmp-forged icmp-ignored clean-pipelining",
    "suspicious-icmp": "pmtud-working icmp-mtu-zero icmp-ignored host-unreachable",
    "path-outage": "blackhole-1400 blackhole-1454 zero-window-forever loss-30 server-slow split-server-hangs-anyway",
    "packet-loss": "clean-pipelining reordering loss-of-acks pmtud-working blackhole-1400",
    "receiver-stalled": "zero-window-short server-slow client-pauses",
    "split-terminator": "clean-sendmail clean-dots clean-pipelining clean-exim-bdat blackhole-1400",
    "pix-workaround": "clean-sendmail server-slow masked-banner",
    "masked-banner": "banner-decorated service-ftp-masked clean-pipelining",
    "esmtp-inspection": "server-helo-only starttls-not-offered masked-banner",
    "starttls-stripped": "starttls-not-offered esmtp-inspection clean-starttls",
    "end-of-data-timeout": "server-slow clean-reject-at-end clean-pipelining",
    "lost-after-data": "clean-reject-at-end server-421 clean-pipelining",
    "duplicate-delivery": "clean-bulk blackhole-retry greylisted-then-accepted",
    "size-dependent-delivery": "clean-reject-size blackhole-1400 clean-smtplib",
    "small-mss": "clean-pipelining clean-jumbo blackhole-1400",
    "df-off": "clean-pipelining clean-smtplib pmtud-working",
}


def samples() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """File name, scenario and truth of every published capture."""
    for sidecar in sorted(SAMPLES.glob("*.json")):
        told = json.loads(sidecar.read_text(encoding="utf-8"))
        for suffix in (".pcap", ".pcapng"):
            capture = sidecar.with_suffix(suffix)
            if "truth" in told and capture.exists():
                yield capture.name, told["scenario"], told["truth"]


def examples(rule_id: str) -> tuple[list[str], list[str]]:
    """The samples on which a rule must fire, and those on which it must stay quiet."""
    near = NEAR_MISSES[rule_id].split()
    fires_on, quiet_on = [], []
    for name, scenario, truth in samples():
        if any(finding["rule"] == rule_id for finding in truth["diagnosis"]):
            fires_on.append(name)
        elif scenario in near and rule_id in truth["forbidden"]:
            quiet_on.append(name)
    return fires_on, quiet_on


def block(rule_id: str) -> str:
    """The end of the rule's file."""
    lines = ["examples:"]
    for key, names in zip(("fires_on", "quiet_on"), examples(rule_id), strict=True):
        lines += [f"  {key}:", *(f"    - {name}" for name in names)] if names else [f"  {key}: []"]
    return "\n".join(lines) + "\n"


def main() -> None:
    for rule_id in NEAR_MISSES:
        path = ROOT / "rules" / f"{rule_id}.yaml"
        text = path.read_text(encoding="utf-8")
        path.write_text(text[: text.index("\nexamples:\n") + 1] + block(rule_id), encoding="utf-8")


if __name__ == "__main__":
    main()
