"""Each rule of the built-in pack: the facts on which it fires, and the near misses on which it stays quiet.

The facts are those of recorded captures in words; the captures themselves are tried by `smtpscope rules test`.
"""

from __future__ import annotations

import re

import pytest

from analyzer.detect import rule
from analyzer.detect.engine import judge
from analyzer.detect.facts import Subject, check

PACK = rule.load()
A, B = "192.0.2.1", "198.51.100.2"


def found(kind, *, rule_id=None, **facts):
    """rule -> (severity, confidence, role) of the findings about one subject."""
    subject = Subject(kind, facts, A, B, (1,), (1,), (1,))
    assert check(subject) == []
    drafts = judge(PACK, [subject])
    return {draft.rule: (draft.severity, draft.confidence, draft.role) for draft in drafts}


STUCK = {  # Postfix over a path of 1400 bytes, captured at the sender
    "captured_at": "at_sender", "ip_version": 4, "sender_is": "client", "reverse_seen": True,
    "stuck_sends": 9, "stuck_span_s": 53.2, "stuck_ip_bytes": 1500, "stuck_df": True, "stuck_acked": False, "stuck_messages": 1,
    "largest_delivered_bytes": 1397, "delivered_at_or_above_stuck": False, "small_passed_after": True, "small_passed_how": "sack",
    "small_failed_after": False, "both_directions_silent": False, "loss_size_blind_p": 0.0001, "queue_lets_large_pass": False,
    "window_shut": False, "ack_past_hole": False, "icmp_seen": False, "icmp_valid": False, "mtu_at_least": 1397, "mtu_below": 1500,
}  # fmt: skip
CAUSE = ("critical", "certain", "cause")


def black_hole(**changes):
    return found("path", **{**STUCK, **changes}).get("pmtud-black-hole")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ip_version": 6, "stuck_ip_bytes": 1280, "largest_delivered_bytes": 1200},
        {"captured_at": "middle"},
        {"largest_delivered_bytes": None},
    ],
)
def test_black_hole(changes):
    """Nine sends in 53 s, never acknowledged, small ones pass: certain."""
    assert black_hole(**changes) == CAUSE


@pytest.mark.parametrize(
    ("changes", "confidence"),
    [
        ({"stuck_df": False}, "likely"),
        ({"loss_size_blind_p": 0.1}, "likely"),
        ({"small_passed_after": False}, "possible"),
        ({"reverse_seen": False}, "possible"),
        ({"small_passed_after": None}, "possible"),
        ({"stuck_sends": 3, "capture_ends_early": True}, "possible"),
        ({"stuck_span_s": 0.7, "capture_ends_early": True}, "possible"),
    ],
)
def test_black_hole_weaker(changes, confidence):
    """Less proof, less confidence."""
    assert black_hole(**changes) == ("critical", confidence, "cause")


@pytest.mark.parametrize(
    "changes",
    [
        {"stuck_sends": 3},
        {"stuck_span_s": 0.9},
        {"stuck_acked": True},
        {"stuck_acked": None},
        {"stuck_ip_bytes": 576},
        {"loss_size_blind_p": 0.5},
        {"ip_version": 6, "stuck_ip_bytes": 1279},
        {"largest_delivered_bytes": 1500},
        {"delivered_at_or_above_stuck": True},
        {"small_failed_after": True},
        {"both_directions_silent": True},
        {"nothing_heard": True},
        {"queue_lets_large_pass": True},
        {"window_shut": True},
        {"ack_past_hole": True},
        {"recovered": True},
        {"sack_outside_window": True},
        {"window_scaling_broken": True},
        {"filter_after_bytes": 400},
    ],
    ids=str,
)
def test_no_black_hole(changes):
    """Each rival that is in play keeps the rule quiet."""
    assert black_hole(**changes) is None


HOLE = {
    "captured_at": "at_receiver", "ip_version": 4, "reverse_seen": True, "hole_s": 59.0, "hole_bytes": 8688,
    "later_bytes_or_jumped_ack": True, "hole_fits_segments": True, "hole_after_go_ahead": True, "hole_filled": False,
    "ack_past_hole": False, "capture_dropped": 0, "mtu_at_least": 1397, "mtu_below": 1500,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "confidence"),
    [
        ({}, "likely"),
        ({"hole_fits_segments": False}, "likely"),
        ({"hole_fits_segments": False, "hole_after_go_ahead": False}, "possible"),
        ({"capture_dropped": 12}, "possible"),
        ({"bad_checksums_in": 3}, None),
        ({"hole_s": 2.9}, None),
        ({"later_bytes_or_jumped_ack": False}, None),
        ({"hole_filled": True}, None),
        ({"ack_past_hole": True}, None),
        ({"delivered_at_or_above_stuck": True}, None),
        ({"both_directions_silent": True}, None),
    ],
    ids=str,
)
def test_black_hole_at_the_receiver(changes, confidence):
    """A hole that stays while later bytes arrive is likely a black hole, never certain."""
    got = found("path", **{**HOLE, **changes}).get("pmtud-black-hole")
    assert got == (("critical", confidence, "cause") if confidence else None)


IGNORED = {
    **STUCK,
    "icmp_seen": True,
    "icmp_valid": True,
    "icmp_mtu": 1400,
    "icmp_from": "192.0.2.254",
    "resends_above_icmp_mtu": 7,
}


def test_icmp_ignored():
    """At the sending host, a valid ICMP and two resends above its MTU: ignored, and no second verdict for the path."""
    assert found("path", **IGNORED) == {"icmp-frag-needed-ignored": CAUSE}
    assert "icmp-frag-needed-ignored" not in found("path", **{**IGNORED, "resends_above_icmp_mtu": 1})
    assert "icmp-frag-needed-ignored" not in found("path", **{**IGNORED, "shrank_after_icmp": True})


def test_icmp_passing_a_middle_point():
    """Elsewhere than at the sender the same picture is a black hole whose ICMP gets lost."""
    subject = Subject(
        "path",
        {**IGNORED, "captured_at": "middle", "icmp_lost_between": "between r1 and the sender"},
        A,
        B,
        (1,),
        (1,),
        (1,),
    )
    (draft,) = judge(PACK, [subject])
    assert draft.rule == "pmtud-black-hole"
    assert draft.facts["icmp_lost_between"] == "between r1 and the sender"
    assert "between r1 and the sender" in draft.explanation
    assert "No ICMP" not in draft.explanation


RECOVERED = {**STUCK, "recovered": True, "recovered_after_s": 3.1, "recovered_payload_bytes": 1024, "stuck_sends": 5}


@pytest.mark.parametrize(
    ("changes", "confidence"),
    [
        ({}, "certain"),
        ({"stuck_sends": 3}, "likely"),
        ({"stuck_sends": 2}, None),
        ({"recovered_after_s": 0.4}, None),
        ({"icmp_valid": True}, None),
    ],
    ids=str,
)
def test_recovered(changes, confidence):
    """A sender that shrinks by itself after about 3 s has found a way around the hole."""
    got = found("path", **{**RECOVERED, **changes})
    assert got == ({"black-hole-recovered": ("medium", confidence, "cause")} if confidence else {})


def test_pmtud_working():
    """ICMP seen, packets shrank, data went on: information, nothing more."""
    working = {
        "icmp_seen": True,
        "icmp_valid": True,
        "shrank_after_icmp": True,
        "went_on_after_icmp": True,
        "stuck_sends": 2,
        "stuck_acked": True,
    }
    assert found("path", **working) == {"pmtud-working": ("info", "certain", "observation")}


def test_suspicious_icmp():
    """An ICMP that no stack should believe is an observation; one with MTU 0 alone is not."""
    assert found("path", icmp_suspicious=1, icmp_suspicion="mtu-not-below-packet")["suspicious-icmp"] == (
        "low",
        "likely",
        "observation",
    )
    assert (
        found("path", icmp_suspicious=1, icmp_suspicion="sequence-outside-window")["suspicious-icmp"][1] == "possible"
    )
    assert found("path", icmp_suspicious=0, icmp_mtu_zero=True, icmp_valid=True) == {}


OUTAGE = {
    **STUCK,
    "small_passed_after": False,
    "small_failed_after": True,
    "both_directions_silent": True,
    "peer_resends": 8,
    "outage_s": 53.2,
}


@pytest.mark.parametrize(
    ("changes", "confidence"),
    [
        ({}, "certain"),
        ({"both_directions_silent": False}, "likely"),
        ({"unreachable_seen": True, "small_failed_after": False, "both_directions_silent": False}, "certain"),
        ({"small_failed_after": False, "peer_resends": 0}, "possible"),
        ({"small_failed_after": False, "peer_resends": 0, "delivered_at_or_above_stuck": True}, "likely"),
        ({"outage_s": 1.0}, None),
        ({"small_passed_after": True}, None),
        ({"window_shut": True}, None),
        ({"reverse_seen": False}, None),
    ],
    ids=str,
)
def test_outage(changes, confidence):
    """Every size stops: an outage, and never a black hole beside it."""
    got = found("path", **{**OUTAGE, **changes})
    assert got.get("path-outage") == (("high", confidence, "cause") if confidence else None)
    assert "pmtud-black-hole" not in got or not confidence


@pytest.mark.parametrize(
    ("facts", "severity"),
    [
        (
            {
                "lost_segments": 9,
                "sent_segments": 180,
                "loss_ratio": 0.05,
                "delayed_mail_s": 0.3,
                "loss_size_blind_p": 0.6,
            },
            "info",
        ),
        ({"lost_segments": 9, "sent_segments": 180, "loss_ratio": 0.05, "delayed_mail_s": 2.0}, "low"),
        ({"lost_segments": 1, "sent_segments": 1000, "loss_ratio": 0.001, "delayed_mail_s": 1.0}, "low"),
        ({"lost_segments": 1, "sent_segments": 20, "loss_ratio": 0.05, "delayed_mail_s": 0.2}, None),
        ({"lost_segments": 3, "sent_segments": 1000, "loss_ratio": 0.003, "delayed_mail_s": 0.2}, None),
        (
            {
                "lost_segments": 9,
                "sent_segments": 100,
                "loss_ratio": 0.09,
                "delayed_mail_s": 9.0,
                "loss_size_blind_p": 0.001,
            },
            None,
        ),
        ({"lost_segments": 9, "loss_ratio": 0.09, "delayed_mail_s": 9.0, "other_way_stuck": True}, None),
        ({"lost_segments": 9, "loss_ratio": 0.09, "delayed_mail_s": 9.0, "nothing_heard": True}, None),
        ({"lost_segments": 0, "sent_segments": 100, "loss_ratio": 0.0, "delayed_mail_s": 5.0}, None),
    ],
)
def test_loss(facts, severity):
    """Loss blind to size is low when a mail was late, information when nobody noticed, nothing when it is rare."""
    assert found("path", **facts) == ({"packet-loss": (severity, "likely", "cause")} if severity else {})


@pytest.mark.parametrize(("zero_window_s", "fires"), [(9.9, False), (10.0, True)])
def test_stalled(zero_window_s, fires):
    """A window shut for 10 s is a stalled receiver."""
    assert ("receiver-stalled" in found("connection", zero_window_s=zero_window_s, zero_window_by="server")) is fires


SPLIT = {
    "cut_at_3_or_4": True,
    "cut_after": 3,
    "answered": False,
    "body_acked": True,
    "whole_answered_same_server": 0,
    "whole_hung_same_server": 0,
    "banner_masked": False,
    "waited_s": 60.0,
    "gave_up_by": "client",
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"answered": True}, ("low", "certain", "observation")),
        ({}, ("medium", "possible", "cause")),
        ({"whole_answered_same_server": 1}, ("high", "likely", "cause")),
        ({"banner_masked": True}, ("high", "likely", "cause")),
        ({"whole_answered_same_server": 1, "cut_inferred": True}, ("high", "possible", "cause")),
        ({"whole_answered_same_server": 5, "split_answered_same_server": 1}, ("high", "possible", "cause")),
        ({"whole_hung_same_server": 1}, ("low", "likely", "observation")),
        ({"whole_hung_same_server": 1, "whole_answered_same_server": 3}, ("low", "likely", "observation")),
        ({"body_acked": False}, ("low", "likely", "observation")),
        ({"answered": None}, ("low", "possible", "observation")),
        ({"gave_up_by": "nobody", "waited_s": 3.0}, ("low", "possible", "observation")),
        ({"gave_up_by": "nobody", "waited_s": 3.0, "end_sends": 5}, ("medium", "possible", "cause")),
        ({"cut_at_3_or_4": False}, None),
    ],
    ids=str,
)
def test_split_terminator(changes, expected):
    """A split end is blamed only when it hung and whole ones to the same server did not."""
    assert found("message", **{**SPLIT, **changes}).get("split-terminator") == expected


def test_pix_workaround():
    """An end held back 2 s and sent alone, or HELO because of the mask."""
    assert "pix-workaround" in found("message", hold_back_s=10.0, end_alone=True)
    assert "pix-workaround" in found("message", helo_for_mask=True)
    assert found("message", hold_back_s=1.9, end_alone=True) == {}
    assert found("message", hold_back_s=10.0, end_alone=False) == {}


@pytest.mark.parametrize(
    ("lines", "masked", "stars", "fires"),
    [(1, 1, 70, True), (2, 2, 3, True), (2, 1, 70, False), (1, 1, 2, False), (0, 0, 0, False)],
)
def test_masked_banner(lines, masked, stars, fires):
    """Every line must be masked, with three asterisks at least."""
    assert (
        "masked-banner" in found("server", banner_lines=lines, banner_masked_lines=masked, banner_stars=stars)
    ) is fires


def test_esmtp_inspection():
    """Masked keywords or commands, or EHLO refused behind a masked banner; a refusal alone is an old server."""
    assert found("server", ehlo_masked_keywords=3, ehlo_keywords=5)["esmtp-inspection"][1] == "certain"
    assert (
        found("server", ehlo_masked_keywords=1, ehlo_keywords=5, starttls_masked="possible")["esmtp-inspection"][1]
        == "likely"
    )
    assert "esmtp-inspection" in found("server", ehlo_refused=True, banner_masked=True)
    assert found("server", ehlo_refused=True, banner_masked=False) == {}


def test_starttls_stripped():
    """STARTTLS offered elsewhere and missing here, or different bytes at two points; a server without TLS is none."""
    assert found("server", starttls_differs=True)["starttls-stripped"] == ("high", "certain", "cause")
    assert found("server", starttls_offered_elsewhere=2, starttls_missing=1)["starttls-stripped"] == (
        "high",
        "likely",
        "cause",
    )
    assert found("server", starttls_offered_elsewhere=0, starttls_missing=3) == {}
    assert found("server", starttls_refused=True, starttls_offered_elsewhere=2, starttls_missing=0) == {}


@pytest.mark.parametrize(
    ("facts", "fires"),
    [
        ({"end_acked": True, "answered": False, "gave_up_by": "client", "waited_s": 60.0}, True),
        ({"end_acked": True, "answered": False, "gave_up_by": "nobody", "waited_s": 300.0}, True),
        ({"end_acked": True, "answered": False, "gave_up_by": "nobody", "waited_s": 20.0}, False),
        ({"end_acked": True, "answered": None, "gave_up_by": "nobody", "waited_s": 20.0}, False),
        ({"end_acked": False, "answered": False, "gave_up_by": "client", "waited_s": 60.0}, False),
        ({"end_acked": True, "answered": True}, False),
    ],
)
def test_end_of_data_timeout(facts, fires):
    """The end acknowledged, no reply, and the client gave up or 300 s passed."""
    assert ("end-of-data-timeout" in found("message", **facts)) is fires


def test_lost_after_data():
    """A connection that ends between DATA and the reply; when the end arrived whole, the time-out says it better."""
    lost = {"closed_in_data": True, "answered": False, "end_acked": False, "gave_up_by": "client"}
    assert found("message", **lost) == {"lost-after-data": ("high", "certain", "symptom")}
    assert found("message", **{**lost, "end_acked": True}) == {"end-of-data-timeout": ("high", "certain", "symptom")}
    assert found("message", **{**lost, "answered": None}) == {}


def test_duplicates():
    """A copy after an acknowledged but unanswered end; not after a black hole, whose end never arrived."""
    copy = {"copies": 2, "earlier_end_acked": True, "earlier_answered": False}
    assert found("message", **copy)["duplicate-delivery"] == ("medium", "likely", "symptom")
    assert found("message", **copy, earlier_accepted=True, accepted=True)["duplicate-delivery"] == (
        "high",
        "likely",
        "symptom",
    )
    assert found("message", **{**copy, "earlier_end_acked": False}) == {}
    assert found("message", **{**copy, "earlier_answered": True}) == {}


SIZES = {
    "mails_passed": 3,
    "mails_hung": 3,
    "largest_passed_packet_bytes": 900,
    "smallest_hung_packet_bytes": 1500,
    "passed_after_first_hang": 1,
}


@pytest.mark.parametrize(
    ("changes", "fires"),
    [
        ({}, True),
        ({"mails_passed": 2}, False),
        ({"mails_hung": 2}, False),
        ({"largest_passed_packet_bytes": 1500}, False),
        ({"passed_after_first_hang": 0}, False),
    ],
    ids=str,
)
def test_size_dependent(changes, fires):
    """Three of each, perfectly separated by packet size, one passing after the first failure."""
    assert ("size-dependent-delivery" in found("path", **{**SIZES, **changes})) is fires


@pytest.mark.parametrize(
    ("facts", "fires"),
    [
        ({"ip_version": 4, "mss_announced": 1360, "full_segments": 3}, True),
        ({"ip_version": 4, "mss_announced": 1460, "full_segments": 3}, False),
        ({"ip_version": 6, "mss_announced": 1440, "full_segments": 3}, False),
        ({"ip_version": 6, "mss_announced": 1420, "full_segments": 1}, True),
        ({"ip_version": 4, "mss_announced": 1360, "full_segments": 0}, False),
        ({"ip_version": 4, "mss_announced": 1360, "mss_own": 1460}, True),
        ({"ip_version": 4, "mss_announced": 1360, "mss_own": 1360}, False),
        ({"ip_version": 4, "mss_announced": 65495, "full_segments": 1}, False),
    ],
)
def test_small_mss(facts, fires):
    """An MSS below Ethernet's that kept data small, or that is below what the sender announces itself."""
    assert ("small-mss" in found("path", **facts)) is fires


def test_df_off():
    """IPv4 data without DF, never set or switched off; IPv6 has none."""
    assert found("path", ip_version=4, df_off_packets=3) == {"df-off": ("info", "certain", "observation")}
    assert found("path", ip_version=4, df_cleared=True) == {"df-off": ("info", "certain", "observation")}
    assert found("path", ip_version=4, df_off_packets=0) == {}
    assert found("path", ip_version=6) == {}


@pytest.mark.parametrize(
    "facts", [STUCK, HOLE, IGNORED, RECOVERED, OUTAGE], ids=["stuck", "hole", "ignored", "recovered", "outage"]
)
@pytest.mark.parametrize("ip_version", [4, 6])
def test_texts_are_whole(facts, ip_version):
    """No text, command or check shows a brace of a placeholder, or None; a cause says what to do, to at least one party."""
    for draft in judge(PACK, [Subject("path", {**facts, "ip_version": ip_version}, A, B, (1,), (1,), (1,))]):
        texts = [draft.explanation, *(t for r in draft.remedies for t in (r.what, r.check, *r.commands))]
        assert all(text and "None" not in text and not re.search(r"\{\w", text) for text in texts)
        assert draft.remedies
