"""The mail log beside the packets: each line joined to its connection and mail, never to another's."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from analyzer import analysis, maillog
from analyzer.capture.packets import CaptureInfo
from analyzer.case import Case, Connection, Endpoint, Frame, Message
from analyzer.cli import main
from analyzer.maillog.stamps import read
from analyzer.maillog.words import understand

SAMPLES = Path(__file__).parents[1] / "sample_pcaps"
S = 10**9
T0 = int(datetime(2026, 11, 22, 13, 0, tzinfo=UTC).timestamp()) * S


def recorded() -> list[str]:
    """Runs whose sending mailer has written queue ids."""
    names = []
    for sidecar in sorted(SAMPLES.glob("*.sender.json")):
        text = sidecar.read_text()
        if '"queue_id"' in text and sidecar.with_suffix("").with_suffix(".maillog").exists():
            names.append(sidecar.name.removesuffix(".sender.json"))
    return names


@pytest.mark.parametrize("name", recorded()[::6])  # every sixth: the whole set takes a minute
def test_lines_of_lab_runs_are_joined_exactly(name: str) -> None:
    """Every delivery in the sender's log belongs to the connection that the lab knows for its queue id."""
    capture, log = SAMPLES / f"{name}.sender.pcap", SAMPLES / f"{name}.maillog"
    case = analysis.analyze([str(capture)], analysis.Options(maillog=(str(log),), log_timezone="UTC"))
    truth = json.loads((SAMPLES / f"{name}.sender.json").read_text())["truth"]["outcomes"]
    ports: dict[str, set[int]] = {}
    for outcome in truth:
        for mail in outcome["mails"]:
            if mail.get("queue_id"):
                ports.setdefault(mail["queue_id"], set()).add(outcome["client_port"])
    port_of = {c.id: c.client.port for c in case.connections}
    deliveries = [x for x in case.log if x.side == "client" and x.said in ("sent", "deferred", "bounced")]
    for line in deliveries:
        if line.queue_id in ports:
            assert line.connection is not None, line
            assert port_of[line.connection] in ports[line.queue_id]
    assert {x.queue_id for x in deliveries} >= {q for q in ports if any(p in port_of.values() for p in ports[q])}
    assert not [note for note in case.log_notes if "duplicate" in note]  # nothing the lab's logs and packets contradict


def concurrent(n: int, *, same_recipient: bool = False, tls: bool = False) -> Case:
    """n connections to one server that all begin within a second and take 2 s."""
    case = Case(captures=[CaptureInfo(1, "made.pcap", first_ns=T0 - 60 * S, last_ns=T0 + 600 * S)])
    for i in range(1, n + 1):
        start = T0 + i * S // n
        case.connections.append(
            Connection(
                i, Endpoint("192.0.2.1", 30000 + i), Endpoint("198.51.100.2", 25), start, start + 2 * S, 20, True,
                "client-fin", "none", "mx ESMTP", "client-side", Frame(1, i),
            )
        )  # fmt: skip
        to = () if tls else ("a@example.net" if same_recipient else f"user{i}@example.net",)
        case.messages.append(
            Message(i, i, 1, "b@example.org", to, 1000, "tls" if tls else "data", None, 250, "delivered", start_ns=start + S // 10, end_ns=start + 2 * S)
        )  # fmt: skip
    return case


def postfix_line(i: int, to: str, status: str = "sent (250 2.0.0 Ok: queued as ABCDEF1)", second: int = 3) -> str:
    return (
        f"Nov 22 13:00:0{second} mail postfix/smtp[99]: A{i:08X}: to=<{to}>, relay=mx[198.51.100.2]:25, delay=2.1, "
        f"delays=0.1/0/0.1/1.9, dsn=2.0.0, status={status}"
    )


def joined(case: Case, tmp_path: Path, lines: list[str], zone: str = "UTC") -> Case:
    log = tmp_path / "mail.log"
    log.write_text("\n".join(lines) + "\n")
    maillog.join(case, [str(log)], maillog.zone(zone))
    return case


def test_two_hundred_at_once_are_told_apart(tmp_path: Path) -> None:
    """200 connections in one second: each delivery is joined to the mail of its recipient."""
    case = joined(concurrent(200), tmp_path, [postfix_line(i, f"user{i}@example.net") for i in range(200, 0, -1)])
    assert {(x.queue_id, x.message) for x in case.log} == {(f"A{i:08X}", i) for i in range(1, 201)}


@pytest.mark.parametrize("tls", [False, True])
def test_what_can_not_be_told_apart_is_not_joined(tmp_path: Path, tls: bool) -> None:
    """The same recipient 200 times in one second, or TLS: no false join, and it is said."""
    case = joined(
        concurrent(200, same_recipient=True, tls=tls), tmp_path, [postfix_line(i, "a@example.net") for i in range(200)]
    )
    assert not [x for x in case.log if x.message is not None]


def test_server_sessions_are_known_by_the_client_port(tmp_path: Path) -> None:
    """Interleaved sessions of many smtpd processes: connect, queue id and disconnect go to the connection of that port."""
    lines = []
    for i in range(1, 201):
        lines += [
            f"Nov 22 13:00:01 mx postfix/smtpd[{i}]: connect from unknown[192.0.2.1]:{30000 + i}",
            f"Nov 22 13:00:01 mx postfix/smtpd[{i}]: {i:010X}: client=unknown[192.0.2.1]:{30000 + i}",
        ]
    for i in range(1, 201):
        lines += [
            f"Nov 22 13:00:02 mx postfix/qmgr[7]: {i:010X}: from=<b@example.org>, size=1100, nrcpt=1 (queue active)",
            f"Nov 22 13:00:03 mx postfix/smtpd[{i}]: disconnect from unknown[192.0.2.1]:{30000 + i} ehlo=1 quit=1",
        ]
    case = joined(concurrent(200, same_recipient=True), tmp_path, lines)
    assert len(case.log) == 800
    for line in case.log:
        assert line.queue_id is None or line.message == line.connection == int(line.queue_id, 16)


def test_a_deferral_of_an_accepted_mail_explains_the_duplicate(tmp_path: Path) -> None:
    """The log says timed out, the packets show the 250: said, with the reason of the log."""
    status = "deferred (conversation with mx timed out while sending end of data -- message may be sent more than once)"
    case = joined(concurrent(3), tmp_path, [postfix_line(2, "user2@example.net", status)])
    assert any(
        "Mail 2" in note and "packets show the server's 250" in note and "duplicate" in note for note in case.log_notes
    )


def test_a_server_that_took_an_unanswered_mail_explains_the_duplicate(tmp_path: Path) -> None:
    """The receiver's log has the mail in its queue, the sender's log has deferred it."""
    case = concurrent(1)
    case.messages[0].outcome, case.messages[0].reply_code = "end-of-data-timeout", None
    joined(case, tmp_path, [
        "Nov 22 13:00:01 mx postfix/smtpd[5]: connect from unknown[192.0.2.1]:30001",
        "Nov 22 13:00:01 mx postfix/smtpd[5]: ABCDEF1: client=unknown[192.0.2.1]:30001",
        "Nov 22 13:00:02 mx postfix/qmgr[7]: ABCDEF1: from=<b@example.org>, size=1100, nrcpt=1 (queue active)",
        postfix_line(1, "user1@example.net", "deferred (lost connection with mx while sending end of data)"),
    ])  # fmt: skip
    assert any("taken it as ABCDEF1" in note for note in case.log_notes)


def test_a_delivery_that_the_capture_does_not_hold_is_told(tmp_path: Path) -> None:
    """A mail in the log, and no packets of it: it went another way."""
    line = postfix_line(9, "other@example.net").replace("198.51.100.2", "203.0.113.9")
    case = joined(concurrent(1), tmp_path, [line, postfix_line(1, "user1@example.net")])
    assert any(note.startswith("In the log, not in the capture: 1 deliveries") for note in case.log_notes)


def test_a_log_of_another_day_is_one_clear_note(tmp_path: Path) -> None:
    """Nothing fits: the two spans of time are said."""
    case = joined(concurrent(1), tmp_path, [postfix_line(1, "user1@example.net").replace("Nov 22", "Nov 12")])
    assert case.log == []
    assert len(case.log_notes) == 1
    assert "no line of the log belongs to a connection" in case.log_notes[0]


def test_a_wrong_time_zone_is_recognised(tmp_path: Path) -> None:
    """Times that fit two hours away: the option is named that would help."""
    case = joined(concurrent(1), tmp_path, [postfix_line(1, "user1@example.net").replace("13:00", "15:00")])
    assert "+02:00 from the zone assumed: try --log-timezone" in case.log_notes[0]
    case = joined(concurrent(1), tmp_path, [postfix_line(1, "user1@example.net").replace("13:00", "15:00")], "+02:00")
    assert [x.message for x in case.log] == [1]


@pytest.mark.parametrize(
    ("line", "said", "side", "queue_id"),
    [
        (postfix_line(1, "a@b"), "sent", "client", "A00000001"),
        ("<22>1 2026-11-22T13:00:03.123456Z mail postfix/smtp 99 - - A1B2C3D: to=<a@b>, relay=mx[192.0.2.9]:25, delays=0/0/0/1, status=bounced (no)", "bounced", "client", "A1B2C3D"),
        ("2026-11-22T13:00:03.5+00:00 mx postfix/smtpd[1]: timeout after DATA (1200 bytes) from unknown[192.0.2.1]:30001", "timeout", "server", None),
        ("2026-11-22 13:00:03 1xV7fP-0005WO-35 == a@b R=r T=t defer (110): Connection timed out H=mx [198.51.100.2]:25: SMTP timeout", "deferred", "client", "1xV7fP-0005WO-35"),
        ("2026-11-22 13:00:03 1xV7fP-0005WO-35 => a@b R=r T=t H=mx [198.51.100.2]:25 C=\"250 OK id=1xV7fQ-0005WO-01\"", "sent", "client", "1xV7fP-0005WO-35"),
        ("Nov 22 13:00:03 mail sendmail[77]: 4AMD03aa000123: to=<a@b>, delay=00:00:05, xdelay=00:00:04, mailer=esmtp, relay=mx. [198.51.100.2], dsn=2.0.0, stat=Sent (Ok: queued as 1)", "sent", "client", "4AMD03aa000123"),
        ("Nov 22 13:00:03 mail sm-mta[77]: 4AMD03aa000123: to=<a@b>, xdelay=00:05:00, relay=mx. [198.51.100.2], stat=Deferred: Connection timed out with mx.", "deferred", "client", "4AMD03aa000123"),
    ],
)  # fmt: skip
def test_the_words_of_the_mailers(tmp_path: Path, line: str, said: str, side: str, queue_id: str | None) -> None:
    """Postfix, Exim and sendmail, by syslog of both RFCs and Exim's own file; compressed or not."""
    log = tmp_path / "mail.log.1.gz"
    log.write_bytes(gzip.compress(line.encode() + b"\nno log line\n"))
    entries = [e for x in read(str(log), UTC, T0) if (e := understand(x))]
    assert [(e.said, e.side, e.queue_id) for e in entries] == [(said, side, queue_id)]
    assert abs(entries[0].line.time_ns - (T0 + 3 * S)) < S


def test_microsoft_protocol_logs_name_both_ends(tmp_path: Path) -> None:
    """Exchange's log has addresses and ports of both ends: every line of a session goes to that connection."""
    log = tmp_path / "SEND.LOG"
    log.write_text(
        "#Software: Microsoft Exchange Server\n#Fields: date-time,connector-id,session-id,sequence-number,local-endpoint,remote-endpoint,event,data,context\n"
        "2026-11-22T13:00:00.900Z,c,08D1,0,192.0.2.1:30002,198.51.100.2:25,*,,attempting to connect\n"
        "2026-11-22T13:00:01.000Z,c,08D1,1,192.0.2.1:30002,198.51.100.2:25,+,,\n"
        '2026-11-22T13:00:01.100Z,c,08D1,2,192.0.2.1:30002,198.51.100.2:25,<,"220 mx, hello",\n'
    )
    case = concurrent(2)
    maillog.join(case, [str(log)], None)
    assert [(x.connection, x.mta) for x in case.log] == [(2, "microsoft")] * 3


@pytest.mark.parametrize(
    ("option", "words"),
    [(["--maillog", "nowhere.log"], "nowhere.log"), (["--maillog", "{log}", "--log-timezone", "Mars"], "no such zone")],
)
def test_bad_input_is_one_line(option: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A log that is not there and a zone that is none: exit status 2 and one line."""
    capture, log = SAMPLES / "blackhole-1400.sender.pcap", SAMPLES / "blackhole-1400.maillog"
    assert main(["analyze", "--no-config", str(capture), *(o.format(log=log) for o in option)]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


def test_documents_hold_the_log_and_redaction_hides_it(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has the lines; with --redact neither address nor name of the log is left."""
    arguments = ["analyze", "--no-config", str(SAMPLES / "blackhole-1400.sender.pcap"), "--json", "-"]
    arguments += ["--maillog", str(SAMPLES / "blackhole-1400.maillog"), "--log-timezone", "UTC"]
    assert main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert [x["said"] for x in document["log"]].count("deferred") == 1
    assert main([*arguments, "--redact"]) == 0
    hidden = capsys.readouterr().out
    assert "harbour001" not in hidden
    assert "10.3.0.2" not in hidden
    assert '"log"' in hidden
