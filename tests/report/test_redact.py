"""Redaction: nothing that names somebody is left, and equal things stay equal."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from analyzer.capture.packets import IcmpError
from analyzer.case import Case
from analyzer.errors import UsageError
from analyzer.report import html, json, junit, markdown, sarif, text
from analyzer.report.redact import read_key, redact

KEY = b"0123456789abcdef"
SECRETS = (
    "192.0.2.10",
    "198.51.100.",
    "203.0.113.",
    "2001:db8:1::10",
    "2001:db8:40::25",
    "example",
    "incident",
    "user7",
    "news",
)


def everything(case: Case) -> str:
    """All formats of one case."""
    return "\n".join([
        text.render(case), json.render(case), html.render(case, plots=False), markdown.render(case),
        junit.render(case, []), sarif.render(case, "1"),
    ])  # fmt: skip


def test_no_address_and_no_name_is_left(incident: Case, too_big: IcmpError) -> None:
    """In every format, in sentences, filters and commands alike."""
    incident.icmp = [too_big]
    incident.captures[0].problems = ["/home/alice/incident.pcapng: cut off after a packet of 192.0.2.10"]
    incident.findings[0].facts["seen"] = {"server": "198.51.100.20", "names": ["mx.example.net"]}
    out = everything(redact(incident, KEY))
    assert [secret for secret in SECRETS if secret in out] == []


def test_one_host_has_one_pseudonym(incident: Case) -> None:
    """The sender of a path, the client of its connections and the address in the sentence are the same; no two hosts become one."""
    hidden = redact(incident, KEY)
    sender = hidden.paths[0].sender
    assert sender == hidden.connections[0].client.ip
    assert f"from {sender} to {hidden.paths[0].receiver}" in hidden.findings[0].title
    assert f"ip.addr == {hidden.paths[0].receiver} " in hidden.findings[0].evidence[2].display_filter
    assert len({c.server.ip for c in hidden.connections}) == len({c.server.ip for c in incident.connections})


def test_pseudonyms_are_addresses_that_are_never_routed(incident: Case) -> None:
    """Of the same version, reserved or for documentation: nobody takes them for real hosts."""
    for before, after in zip(incident.connections, redact(incident, KEY).connections, strict=True):
        ip = ip_address(after.server.ip)
        assert ip.version == ip_address(before.server.ip).version
        assert ip.is_reserved or ip in ip_network("2001:db8::/32")


def test_the_same_key_gives_the_same_pseudonyms(incident: Case) -> None:
    """Two reports with one key can be compared; without a key none can."""
    assert redact(incident, KEY) == redact(incident, KEY)
    assert redact(incident, KEY).paths != redact(incident, KEY[::-1]).paths
    assert redact(incident).paths != redact(incident).paths
    assert {f.fingerprint for f in redact(incident, KEY).findings}.isdisjoint(f.fingerprint for f in incident.findings)


def test_mails_to_one_domain_stay_recognizable(incident: Case) -> None:
    """The halves of an address have pseudonyms of their own; the empty sender stays empty."""
    incident.messages[0] = replace(incident.messages[0], mail_from="", recipients=("A@Example.net", "<b@example.NET>"))
    one, two = redact(incident, KEY).messages[0].recipients
    assert one.split("@")[0] != two.split("@")[0]
    assert one.split("@")[1] == two.split("@")[1]
    assert redact(incident, KEY).messages[0].mail_from == ""


def test_what_diagnoses_is_kept(incident: Case) -> None:
    """Masked greetings, keywords, sizes, ports, MTUs and outcomes are untouched."""
    incident.connections[0].ehlo_keywords = ("SIZE 52428800", "XXXXXXXA", "X-ACME-SECRET yes", "AUTH LOGIN PLAIN")
    hidden = redact(incident, KEY)
    assert hidden.connections[2].banner == incident.connections[2].banner
    assert hidden.connections[0].banner is not None
    assert hidden.connections[0].banner.endswith(".invalid ESMTP")
    assert hidden.connections[0].ehlo_keywords == ("SIZE 52428800", "XXXXXXXA", "(another keyword)", "AUTH LOGIN PLAIN")
    assert [(p.mtu_at_least, p.mtu_below, p.links) for p in hidden.paths] == [
        (p.mtu_at_least, p.mtu_below, p.links) for p in incident.paths
    ]
    assert [(m.size, m.outcome, m.terminator) for m in hidden.messages] == [
        (m.size, m.outcome, m.terminator) for m in incident.messages
    ]


def test_numbers_in_sentences_are_no_addresses(incident: Case) -> None:
    """Times, versions, filters and sizes stay as they are."""
    said = "PIX 5.2(4), at 14:03:11, tcp.port == 25, MTU 1,400, net.ipv4.tcp_mtu_probing=1, 0:25 h"
    incident.limits = [said]
    assert redact(incident, KEY).limits == [said]


def test_the_case_itself_is_not_changed(incident: Case) -> None:
    """Redaction gives a copy."""
    before = json.render(incident)
    redact(incident, KEY)
    assert json.render(incident) == before


def test_a_key_comes_from_a_file(tmp_path: Path) -> None:
    """Its content without the last line end; a short one is refused in one line that says what to do."""
    good, short = tmp_path / "good", tmp_path / "short"
    good.write_bytes(KEY + b"\n")
    short.write_bytes(b"secret")
    assert read_key(good) == KEY
    with pytest.raises(UsageError, match=r"6 bytes can be guessed; 16 or more are needed \(head -c 32"):
        read_key(short)
    with pytest.raises(UsageError, match=re.escape(str(tmp_path / "none"))):
        read_key(tmp_path / "none")
