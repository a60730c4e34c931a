"""With the secrets of its sessions, what is inside TLS reads as in the clear."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analyzer import analysis, keylog
from analyzer.case import Case
from analyzer.cli import main

SAMPLES = Path(__file__).parents[1] / "sample_pcaps"
CAPTURE, KEYS = SAMPLES / "clean-starttls-keys.sender.pcap", SAMPLES / "clean-starttls-keys.keys"
needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
pytestmark = pytest.mark.tshark


@needs_tshark
def test_the_dialogue_inside_tls_is_that_of_the_clear() -> None:
    """Three mails of 700, 20,000 and 900 bytes, as the lab sent them: envelope, size and outcome are exact."""
    case = analysis.analyze([str(CAPTURE)], analysis.Options(keylog=str(KEYS)))
    assert [(m.id, m.index, m.recipients, m.outcome, m.via) for m in case.messages] == [
        (n, n, (f"harbour00{n}@example.net",), "delivered", "data") for n in (1, 2, 3)
    ]
    assert [m.size for m in case.messages] == [700, 20001, 900]
    assert not any(m.size_estimated for m in case.messages)
    assert case.summary == ["1 SMTP connection, 3 mails: 3 answered. No fault found."]


def opened(name: str) -> Case:
    """A sample with the secrets that its client wrote."""
    keys = SAMPLES / f"{name.rpartition('.')[0]}.keys"
    return analysis.analyze([str(SAMPLES / f"{name}.pcap")], analysis.Options(keylog=str(keys)))


@needs_tshark
@pytest.mark.parametrize("name", ["clean-starttls-keys.sender", "clean-smtps-465-keys.sender"])
def test_inside_tls_is_what_is_in_the_clear(name: str) -> None:
    """The same three mails, sent once behind STARTTLS, once on port 465 and once without TLS: envelopes, sizes, replies."""
    clear = analysis.analyze([str(SAMPLES / "clean-three-mails.sender.pcap")])
    tls = opened(name)

    def said(case: Case) -> list[tuple[object, ...]]:
        return [(m.index, m.mail_from, m.recipients, m.size, m.via, m.reply_code, m.outcome) for m in case.messages]

    assert said(tls) == said(clear)
    assert [c.phase for c in tls.connections] == [c.phase for c in clear.connections] == ["quit"]
    assert tls.summary == clear.summary
    for mine, other in zip(tls.messages, clear.messages, strict=True):
        assert mine.start_ns is not None
        assert mine.end_ns is not None
        assert 0 < mine.end_ns - mine.start_ns < 10**9
        assert mine.reply_delay_s is not None
        # TLS makes packets longer: a record adds 22 bytes (RFC 8446 5.2), one packet may hold the end of another record
        assert abs((mine.largest_packet_bytes or 0) - (other.largest_packet_bytes or 0)) <= 60


@needs_tshark
@pytest.mark.parametrize("point", ["sender", "middle", "receiver"])
def test_the_rules_see_what_is_inside(point: str) -> None:
    """Mails that end whole behind STARTTLS and are never answered: all three, with their sizes, and who waited for whom."""
    case = opened(f"server-hangs-tls-keys.{point}")
    assert [(f.rule, f.messages) for f in case.findings] == [("end-of-data-timeout", (1, 2, 3))]
    assert [(m.size, m.outcome) for m in case.messages] == [(n, "end-of-data-timeout") for n in (700, 9000, 3000)]


@needs_tshark
@pytest.mark.parametrize("point", ["sender", "middle", "receiver"])
def test_a_black_hole_behind_starttls_names_its_mail(point: str) -> None:
    """The short mail passed, the long one is stuck: at every point of capture the verdict names the second."""
    case = opened(f"blackhole-starttls-keys.{point}")
    (finding,) = (f for f in case.findings if f.rule == "pmtud-black-hole")
    assert finding.messages == (2,)
    short, long = case.messages
    assert (short.recipients, short.size, short.outcome) == (("harbour001@example.net",), 500, "delivered")
    # behind the narrow place the large packets never came by
    assert (long.recipients, long.size) == (("harbour002@example.net",), None if point == "receiver" else 12001)
    assert [f.rule for f in case.findings] == [f.rule for f in without(f"blackhole-starttls-keys.{point}").findings]


def without(name: str) -> Case:
    return analysis.analyze([str(SAMPLES / f"{name}.pcap")])


@needs_tshark
def test_no_firewall_sees_an_end_inside_tls() -> None:
    """`.` and CRLF in records and packets of their own are no split terminator."""
    case = opened("split-at-3-tls-keys.sender")
    assert case.findings == []
    assert case.messages[0].terminator is None
    assert case.messages[0].outcome == "delivered"


@needs_tshark
def test_a_packet_that_came_late_hides_nothing(tmp_path: Path) -> None:
    """Records are opened in the order of their bytes: two packets of a mail that changed places."""
    data = CAPTURE.read_bytes()
    at, records = 24, []
    while at < len(data):
        size = 16 + int.from_bytes(data[at + 8 : at + 12], "little")
        records.append(data[at : at + size])
        at += size
    mail = next(n for n in range(len(records)) if min(map(len, records[n : n + 3])) > 1400)
    records[mail], records[mail + 1] = records[mail + 1], records[mail]
    late = tmp_path / "late.pcap"
    late.write_bytes(data[:24] + b"".join(records))
    case = analysis.analyze([str(late)], analysis.Options(keylog=str(KEYS)))
    assert [m.size for m in case.messages] == [700, 20001, 900]


def test_without_secrets_sizes_are_estimates() -> None:
    """TLS hides the mails; what its records tell is marked as estimated."""
    case = analysis.analyze([str(CAPTURE)])
    assert {m.via for m in case.messages} == {"tls"}
    assert all(m.size_estimated for m in case.messages)


@needs_tshark
def test_secrets_of_another_session_are_told(tmp_path: Path) -> None:
    """A well-formed key file that opens nothing: a limit of the case, and the estimates stay."""
    other = tmp_path / "other.keys"
    other.write_text(f"CLIENT_TRAFFIC_SECRET_0 {'0' * 64} {'1' * 64}\n")
    case = analysis.analyze([str(CAPTURE)], analysis.Options(keylog=str(other)))
    assert any("opens 0 of 1 TLS connections" in limit for limit in case.limits)
    assert {m.via for m in case.messages} == {"tls"}


@pytest.mark.parametrize(("content", "words"), [(None, "No such file"), ("hello\n", "no TLS secret in it")])
def test_a_wrong_key_file_is_one_line(
    tmp_path: Path, content: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is not there, or holds no secrets: exit status 2 before any work."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    assert main(["analyze", "--no-config", str(CAPTURE), "--keylog", str(path)]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@needs_tshark
@pytest.mark.parametrize("cut", [25, 40, 50])
def test_a_session_goes_on_in_the_next_file(tmp_path: Path, cut: int) -> None:
    """Cut between two mails, inside one, inside a record: the files of a rotated set are opened in one piece."""
    data = CAPTURE.read_bytes()
    at, records = 24, []
    while at < len(data):
        size = 16 + int.from_bytes(data[at + 8 : at + 12], "little")
        records.append(data[at : at + size])
        at += size
    files = [tmp_path / "b.pcap", tmp_path / "a.pcap"]
    for file, part in zip(files, (records[:cut], records[cut:]), strict=True):
        file.write_bytes(data[:24] + b"".join(part))
    case = analysis.analyze([str(file) for file in files], analysis.Options(keylog=str(KEYS)))
    assert [(m.size, m.outcome) for m in case.messages] == [
        (700, "delivered"),
        (20001, "delivered"),
        (900, "delivered"),
    ]
    assert not any("TLS connections" in limit for limit in case.limits)


@pytest.mark.parametrize("name", ["-", "s3://bucket/x.pcap"])
def test_what_can_not_be_read_twice_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """tshark wants files: stdin and URLs are wrong usage."""
    assert main(["analyze", "--no-config", name, "--keylog", str(KEYS)]) == 2
    assert "--keylog needs files" in capsys.readouterr().err


def test_the_output_of_tshark_is_read() -> None:
    """An entry per record: the frame, who sent it, when, and the content in base64, over as many lines as it takes."""
    text = """peers:
  - peer: 0
    host: 10.3.0.2
    port: 25
packets:
  - packet: 19
    peer: 1
    timestamp: 1795360114.252736092
    data: !!binary |
      ZWhsbyBtYWls
      DQo=
  - packet: 20
    peer: 0
    index: 3
    timestamp: 1795360114.252845049
    data: !!binary |
      MjUwIG9r
"""
    assert list(keylog._followed(text)) == [(19, b"ehlo mail\r\n"), (20, b"250 ok")]
