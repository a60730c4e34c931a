"""After a repair: fixed only where the thing that failed was done again, and worked."""

from __future__ import annotations

import json
from functools import lru_cache
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from analyzer import analysis, verify
from analyzer.case import Case
from analyzer.cli import main

SAMPLES = Path(__file__).parents[1] / "sample_pcaps"


@lru_cache
def case(name: str) -> Case:
    return analysis.analyze([str(SAMPLES / f"{name}.pcap")])


HOLE = "blackhole-1400.sender"

FIXED = [
    (HOLE, "clean-pipelining.sender"),  # the path is wide now
    (HOLE, "clean-starttls.sender"),  # large packets pass, whatever they hold
    (HOLE, "pmtud-working.sender"),  # the filter lets the ICMP through now
    (HOLE, "mss-clamped.sender"),  # a router clamps the MSS
    (HOLE, "repaired-route-mtu.sender"),  # the sender's route has the right MTU
    (HOLE, "df-off.sender"),  # the sender allows fragments
    (HOLE, "recovered-probing-1.sender"),  # the sender finds a way around
    (HOLE, "recovered-probing-2.sender"),  # the sender cuts small segments from the start
    ("blackhole-client-hello.sender", "clean-starttls.sender"),
    ("icmp-ignored.sender", "pmtud-working.sender"),
    ("pix-split-3-drop.sender", "split-at-3.sender"),
    ("pix-split-3-drop.sender", "pix-workaround.sender"),
    ("masked-banner.sender", "clean-pipelining.sender"),
    ("esmtp-inspection.sender", "clean-starttls.sender"),
    ("starttls-stripped.sender", "clean-starttls.sender"),
    ("server-hangs-at-end.sender", "clean-bulk.sender"),
]
STILL_BROKEN = [
    (HOLE, HOLE),
    (HOLE, "blackhole-1492.sender"),  # another bracket, the same hole
    (HOLE, "icmp-ignored.sender"),  # the ICMP arrives now, and is not heeded
    ("icmp-ignored.sender", "icmp-ignored.sender"),
    ("recovered-probing-1.sender", "recovered-probing-1.sender"),  # the way around is no repair of the path
    ("pix-split-3-drop.sender", "pix-split-4-drop.sender"),
    ("masked-banner.sender", "pix-workaround.sender"),
    ("starttls-stripped.sender", "starttls-stripped.sender"),
    ("starttls-stripped.sender", "starttls-not-offered.sender"),
]
NOT_EXERCISED = [
    (HOLE, "clean-small-only.sender"),  # short mails pass a black hole
    (HOLE, "blackhole-ipv6-1400.sender"),  # another destination
    ("blackhole-client-hello.sender", "clean-small-only.sender"),
    ("blackhole-reverse-ehlo.sender", "clean-pipelining.sender"),  # large mails say nothing about large replies
    ("blackhole-scope-host.sender", "clean-pipelining.sender"),  # one of five destinations was tried
    ("pix-split-3-drop.sender", "pix-split-harmless.sender"),  # no end was cut inside .CRLF
    ("clean-bulk.sender", "clean-bulk.sender"),  # there was no fault
]


@pytest.mark.parametrize(("before", "after"), FIXED)
def test_fixed(before: str, after: str) -> None:
    """What failed was done again and worked: every remedy of the handbook counts."""
    assert verify.verify(case(before), case(after)).state == "fixed"


@pytest.mark.parametrize(("before", "after"), STILL_BROKEN)
def test_still_broken(before: str, after: str) -> None:
    """The same fault is there, in the same or another shape."""
    assert verify.verify(case(before), case(after)).state == "still-broken"


@pytest.mark.parametrize(("before", "after"), NOT_EXERCISED)
def test_not_exercised(before: str, after: str) -> None:
    """What failed was not tried, so that its absence proves nothing."""
    assert verify.verify(case(before), case(after)).state == "not-exercised"


@pytest.mark.parametrize(("after", "status"), [("clean-pipelining", 0), ("blackhole-1400", 1), ("clean-small-only", 4)])
def test_exit_status(after: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """0 fixed, 1 still broken, 4 not exercised; the document says the same."""
    arguments = ["verify", "--json", "-", *(str(SAMPLES / f"{n}.sender.pcap") for n in ("blackhole-1400", after))]
    assert main(arguments) == status
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "smtpscope-verify/1"
    assert document["state"] == {0: "fixed", 1: "still-broken", 4: "not-exercised"}[status]
    assert document["checks"][0]["rule"] == "pmtud-black-hole"


def test_a_capture_that_ends_early_is_never_fixed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A capture cut off after the repair gives 3, although all that was read is well."""
    whole = (SAMPLES / "clean-pipelining.sender.pcap").read_bytes()
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(whole[:-7])
    assert main(["verify", str(SAMPLES / f"{HOLE}.pcap"), str(cut)]) == 3
    assert "was not read to its end" in " ".join(capsys.readouterr().out.split())


def test_a_missing_capture_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A path that does not exist: one line on stderr, exit status 3, as with analyze."""
    assert main(["verify", str(SAMPLES / f"{HOLE}.pcap"), str(tmp_path / "no.pcap")]) == 3
    assert capsys.readouterr().err.count("\n") == 1


def test_new_faults_are_told() -> None:
    """A fault that was not there before is said, whatever became of the old one."""
    told = verify.text(verify.verify(case(HOLE), case("masked-banner.sender")))
    assert told.startswith("Fixed.")
    assert "New since then: Masked greeting" in told
    assert all(len(line) <= 80 for line in told.splitlines())


def test_redaction_hides_both_captures(capsys: pytest.CaptureFixture[str]) -> None:
    """The same pseudonyms before and after, so that the answer is the same."""
    before, after = (str(SAMPLES / f"{name}.sender.pcap") for name in ("blackhole-1400", "mss-clamped"))
    assert main(["verify", "--redact", before, after, "--json", "-"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["state"] == "fixed"
    assert "10.1.0.2" not in str(document)
    assert ip_address(document["checks"][0]["sender"]) in ip_network("240.0.0.0/4")  # never routed
