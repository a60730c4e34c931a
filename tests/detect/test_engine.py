"""The engine: which grade, which finding, tied to which cause, in which words."""

from __future__ import annotations

import random
import time

import pytest

from analyzer.detect.engine import MAX_EVIDENCE, judge, screen
from analyzer.detect.facts import Subject

A, B, C, D = "192.0.2.1", "198.51.100.2", "198.51.100.3", "203.0.113.4"


def path(number: int = 1, sender: str = A, receiver: str = B, **facts: object) -> Subject:
    return Subject("path", dict(facts), sender, receiver, (number,), (number,), (number,))  # type: ignore[arg-type]


def message(number: int, sender: str = A, receiver: str = B, connection: int = 1, **facts: object) -> Subject:
    return Subject("message", dict(facts), sender, receiver, (connection,), (number,))  # type: ignore[arg-type]


SYMPTOM = """\
id: no-answer
about: No answer.
title: No answer
role: symptom
subject: message
scope: server
when: answered is false
grades: [{severity: high, confidence: certain}]
merge: endpoints
explained_by: {connections: [slow-reply]}
explanation: ["{messages_count:mail} without answer."]
remedies: []
examples: {}
"""


@pytest.fixture
def pack(minimal, pack_of):
    return pack_of(minimal)


def test_first_grade_that_holds(pack):
    """Severity and confidence are those of the first grade that holds."""
    (sure,) = judge(pack, [path(stuck_sends=3, small_passed_after=True)])
    (unsure,) = judge(pack, [path(stuck_sends=3)])
    assert (sure.severity, sure.confidence) == ("high", "certain")
    assert (unsure.severity, unsure.confidence) == ("low", "possible")


def test_no_grade_no_finding(minimal, pack_of):
    """A rule none of whose grades holds stays quiet."""
    strict = pack_of(minimal.replace("  - {severity: low, confidence: possible}\n", ""))
    assert judge(strict, [path(stuck_sends=3)]) == []


def test_quiet_without_facts(pack):
    """A subject about which nothing was seen makes no finding."""
    assert judge(pack, [path(), path(stuck_sends=2), message(1, answered=False)]) == []


def test_sentence_without_its_value_is_left_out(pack):
    """A sentence that needs a value which was not seen is not said at all."""
    assert judge(pack, [path(stuck_sends=3, stuck_span_s=1.52)])[0].explanation == "3 times in 1.5 s."
    assert judge(pack, [path(stuck_sends=3)])[0].explanation == ""


def test_shown_facts(minimal, pack_of):
    """A finding shows the facts that its rule names (None when not seen), and the others it uses when they were seen."""
    pack = pack_of(minimal + "facts: [hole_s]\n")
    assert judge(pack, [path(stuck_sends=3, icmp_count=7)])[0].facts == {"stuck_sends": 3, "hole_s": None}


def test_yields_on_the_same_subject_only(minimal, pack_of):
    """A rule gives way to one that it names, on the same subject; elsewhere both stand."""
    weaker = minimal.replace("id: slow-reply", "id: weaker") + "yields_to: [slow-reply]\n"
    stronger = minimal.replace("when: stuck_sends >= $least", "when: [stuck_sends >= $least, stuck_df is true]")
    found = judge(
        pack_of(weaker, stronger), [path(1, stuck_sends=3, stuck_df=True), path(2, receiver=C, stuck_sends=3)]
    )
    assert [(draft.rule, draft.paths) for draft in found] == [("slow-reply", (1,)), ("weaker", (2,))]


def test_symptom_is_tied_to_its_cause(minimal, pack_of):
    """A symptom that shares a connection with a cause names it; another, merged apart, does not."""
    subjects = [
        message(11, connection=1, answered=False),
        message(12, connection=1, answered=False),
        message(13, connection=9, answered=False),
        path(1, stuck_sends=3),
    ]
    cause, explained, unexplained = judge(pack_of(minimal, SYMPTOM), subjects)
    assert cause.rule == "slow-reply"
    assert cause.explained_by is None
    assert (explained.messages, explained.explained_by) == ((11, 12), 0)
    assert (unexplained.messages, unexplained.explained_by) == ((13,), None)
    assert explained.explanation == "2 mails without answer."
    assert explained.fingerprint != unexplained.fingerprint


@pytest.mark.parametrize(
    ("sharing", "tied"),
    [("messages", False), ("connections", True), ("endpoints", True), ("receiver", True), ("paths", False)],
)
def test_what_cause_and_symptom_share(minimal, pack_of, sharing, tied):
    """`explained_by` says what the two must have in common."""
    pack = pack_of(minimal, SYMPTOM.replace("connections: [slow", f"{sharing}: [slow"))
    found = judge(pack, [path(1, stuck_sends=3), message(11, connection=1, answered=False)])
    assert (found[1].explained_by == 0) is tied


def test_merging_by_endpoints(minimal, pack_of):
    """Mails between the same two hosts make one finding; the worst and surest speaks for it."""
    pack = pack_of(minimal.replace("remedies:", "merge: endpoints\nremedies:"))
    found = judge(
        pack,
        [path(1, stuck_sends=4), path(2, stuck_sends=5, small_passed_after=True), path(3, receiver=C, stuck_sends=3)],
    )
    assert [(draft.connections, draft.severity, draft.facts["stuck_sends"]) for draft in found] == [
        ((1, 2), "high", 5),
        ((3,), "low", 3),
    ]


BROKEN = {"stuck_sends": 5, "mtu_at_least": 1397, "mtu_below": 1500, "stuck_messages": 2}


@pytest.fixture
def host_pack(minimal, pack_of):
    text = minimal.replace("remedies:", "one_host_from: 2\nfacts: [stuck_messages, mtu_at_least, mtu_below]\nremedies:")
    return pack_of(text.replace('"{stuck_sends:time} in {stuck_span_s}."', '"From {sender} to {receiver}."'))


def test_all_paths_of_a_host_are_one_finding(host_pack):
    """All paths of one sender broken alike, and none that works: one finding of scope host, with one bracket."""
    subjects = [
        path(1, **BROKEN),
        path(2, receiver=C, **{**BROKEN, "mtu_at_least": 1398}),
        path(3, receiver=D, largest_delivered_bytes=600),
    ]
    (found,) = judge(host_pack, subjects)
    assert (found.scope, found.sender, found.receiver, found.paths) == ("host", A, None, (1, 2))
    assert (found.facts["mtu_at_least"], found.facts["mtu_below"], found.facts["stuck_messages"]) == (1398, 1500, 4)
    assert found.explanation == f"From {A} to 2 hosts."


@pytest.mark.parametrize("seen", ["largest_delivered_bytes", "mtu_at_least"])
def test_a_working_path_keeps_them_apart(host_pack, seen):
    """When another path of the same sender carries what these lose, each is broken by itself."""
    subjects = [path(1, **BROKEN), path(2, receiver=C, **BROKEN), path(3, receiver=D, **{seen: 1500})]
    assert [(draft.scope, draft.paths) for draft in judge(host_pack, subjects)] == [("path", (1,)), ("path", (2,))]


def test_different_bottlenecks_stay_apart(host_pack):
    """Paths whose brackets do not overlap have not the same narrow link."""
    subjects = [path(1, **BROKEN), path(2, receiver=C, **{**BROKEN, "mtu_at_least": 500, "mtu_below": 600})]
    assert len(judge(host_pack, subjects)) == 2


def test_all_senders_to_one_host(host_pack):
    """A narrow link before one receiver, seen there, is one finding as well."""
    (found,) = judge(host_pack, [path(1, sender=C, **BROKEN), path(2, sender=D, **BROKEN)])
    assert (found.scope, found.sender, found.receiver) == ("host", None, B)


def test_order_of_subjects_does_not_matter(minimal, pack_of):
    """The findings, their order and their fingerprints depend on the subjects alone."""
    pack = pack_of(minimal, SYMPTOM)
    subjects = [path(n, receiver=f"198.51.100.{n}", stuck_sends=3 + n % 3) for n in range(1, 9)]
    subjects += [message(20 + n, receiver=f"198.51.100.{n}", connection=n, answered=False) for n in range(1, 12)]
    expected = judge(pack, subjects)
    for seed in range(5):
        assert judge(pack, random.Random(seed).sample(subjects, len(subjects))) == expected


def test_fingerprint_is_about_what_happened(pack):
    """The fingerprint does not change with ids, frames, counts or times; it does with endpoints, what happened and the key."""
    (one,) = judge(pack, [path(1, stuck_sends=3, stuck_span_s=2.0)])
    (other,) = judge(pack, [path(77, stuck_sends=9, stuck_span_s=50.0)])
    (elsewhere,) = judge(pack, [path(1, receiver=C, stuck_sends=3)])
    keyed = path(1, stuck_sends=3)
    keyed.key = "at the handshake"
    (handshake,) = judge(pack, [keyed])
    (hidden,) = judge(pack, [path(1, stuck_sends=3)], b"secret")
    assert one.fingerprint == other.fingerprint
    assert len({one.fingerprint, elsewhere.fingerprint, handshake.fingerprint, hidden.fingerprint}) == 4


def test_evidence_by_topic_and_in_bounds(minimal, pack_of):
    """A rule shows the evidence of its topics, and of many mails a dozen pieces."""
    one = path(1, stuck_sends=3)
    one.evidence = [{"topic": "stuck", "note": "a"}, {"topic": "icmp", "note": "b"}, {"note": "c"}]
    pack = pack_of(minimal + "evidence: [stuck]\nmerge: endpoints\n")
    assert judge(pack, [one])[0].evidence == ({"note": "a"}, {"note": "c"})
    many = [path(n, stuck_sends=3) for n in range(1, 200)]
    for subject in many:
        subject.evidence = [{"note": str(subject.paths[0])}]
    found = judge(pack, many)[0]
    assert len(found.evidence) == MAX_EVIDENCE
    assert len(found.connections) == 199


def test_weighing_is_shown_where_asked(minimal, pack_of):
    """What speaks against and the rivals are shown by rules that weigh them."""
    subject = path(1, stuck_sends=3)
    subject.against, subject.rivals = ["df is off"], [("dead path", "small ones pass")]
    assert judge(pack_of(minimal), [subject])[0].rivals == ()
    found = judge(pack_of(minimal + "weighing: true\n"), [subject])[0]
    assert (found.against, found.rivals) == (("df is off",), (("dead path", "small ones pass"),))


REMEDY = """\
remedies:
  - who: sender-admin
    host: "{sender}"
    what: Set it.
    commands:
      - {for: Linux, run: "ip route replace {receiver} via GATEWAY mtu {mtu_to_set}"}
      - {for: Cisco IOS, run: "ip tcp adjust-mss {mss_clamp}"}
      - {run: "ping -s {ping_size_pass} {receiver}"}
      - {run: "echo {icmp_from}"}
    check: Try.
"""


def remedied(minimal: str) -> str:
    return minimal.replace("remedies: []\n", REMEDY)


def test_commands_are_computed(minimal, pack_of):
    """Commands hold the values of the case; one whose value was not seen is left out; each says what it is for."""
    (found,) = judge(pack_of(remedied(minimal)), [path(stuck_sends=3, ip_version=4, mtu_at_least=1397, mtu_below=1500)])
    (advice,) = found.remedies
    assert (advice.who, advice.host) == ("client-admin", A)
    assert advice.commands == (
        f"ip route replace {B} via GATEWAY mtu 1397  # Linux",
        "! Cisco IOS\nip tcp adjust-mss 1357",
        f"ping -s 1369 {B}",
    )


def test_the_server_may_send_the_data(minimal, pack_of):
    """The sender of the data is the server's admin when the server sends it."""
    (found,) = judge(pack_of(remedied(minimal)), [path(stuck_sends=3, sender_is="server")])
    assert found.remedies[0].who == "server-admin"


def test_hostile_value_never_gets_into_a_command(minimal, pack_of):
    """A value that is neither number nor address nor name makes its command disappear."""
    hostile = path(stuck_sends=3, icmp_from="10.0.0.1; rm -rf /")
    assert judge(pack_of(remedied(minimal)), [hostile])[0].remedies[0].commands == ()


def test_hundred_thousand_subjects(pack):
    """Judging stays linear: 10^5 mails and paths are judged within seconds."""
    subjects = [path(n, receiver=f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", stuck_sends=n % 5) for n in range(100_000)]
    assert len(judge(pack, subjects)) == 40_000


def test_many_causes_and_symptoms(host_pack, minimal, pack_of):
    """Neither many causes with many symptoms nor many hosts with broken paths make the work more than linear."""
    subjects = [path(n, receiver=f"10.{n >> 8}.{n & 255}.1", stuck_sends=3) for n in range(5_000)]
    subjects += [message(n, receiver=f"10.{n >> 8}.{n & 255}.1", connection=n, answered=False) for n in range(5_000)]
    began = time.process_time()
    assert sum(draft.explained_by is not None for draft in judge(pack_of(minimal, SYMPTOM), subjects)) == 5_000
    many = [
        path(n, sender=f"10.{n >> 9}.{n >> 1 & 255}.1", receiver=f"10.9.9.{n % 2}", **BROKEN) for n in range(10_000)
    ]
    assert judge(host_pack, many)
    assert time.process_time() - began < 20  # seconds; quadratic work would take minutes


def test_screen_asks_what_is_known(pack_of):
    """Beforehand only the demands on known facts are asked; a rule that demands nothing of them may always fire."""
    pack = pack_of(SYMPTOM)
    may_fire = screen(pack, "message", ("answered",))
    assert may_fire({"answered": False})
    assert not may_fire({"answered": True})
    assert not may_fire({})
    assert screen(pack, "message", ("end_acked",))({"end_acked": True})
    assert not screen(pack, "path", ("stuck_sends",))({"stuck_sends": 9})
