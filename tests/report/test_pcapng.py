"""The annotated capture, read by tshark."""

from __future__ import annotations

import re
import shutil
import subprocess
from io import BytesIO
from ipaddress import IPv4Address
from pathlib import Path

import dpkt
import pytest

from analyzer import analysis
from analyzer.case import Case
from analyzer.errors import CaptureError
from analyzer.report import pcapng

SAMPLES = Path(__file__).parents[2] / "sample_pcaps"
TSHARK = shutil.which("tshark")
needs_tshark = [pytest.mark.tshark, pytest.mark.skipif(not TSHARK, reason="needs tshark")]


def annotated(name: str, *, keep_content: bool = False) -> tuple[Case, pcapng.Written, bytes]:
    """The case of a sample, what was written, and the file."""
    case = analysis.analyze([str(SAMPLES / name)])
    ids = pcapng.connections_of(case, 5) or [c.id for c in case.connections]
    out = BytesIO()
    traces = {number: analysis.trace(case, number) for number in ids}
    return case, pcapng.write(case, traces, out, keep_content=keep_content), out.getvalue()


def tshark(file: Path, *arguments: str) -> list[str]:
    """Lines of tshark's output."""
    command = [TSHARK or "tshark", "-n", "-r", str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


class TestInTshark:
    pytestmark = needs_tshark

    def test_the_story_is_on_the_right_frames(self, tmp_path: Path) -> None:
        """Every frame of the evidence carries its note, and the number that it had in the capture."""
        case, _, data = annotated("blackhole-1400.sender.pcap")
        file = tmp_path / "out.pcapng"
        file.write_bytes(data)
        fields = ("-T", "fields", "-e", "frame.time_epoch", "-e", "frame.comment")
        said = {line.split("\t")[0]: line for line in tshark(file, "-Y", "frame.comment", *fields)}
        for evidence in case.findings[0].evidence:
            for frame in evidence.frames:
                (time,) = tshark(
                    SAMPLES / "blackhole-1400.sender.pcap", "-Y", f"frame.number == {frame.frame}", *fields[:4]
                )
                assert evidence.note in said[time.strip()]
                assert f"[frame {frame.frame} of" in said[time.strip()]
        first = tshark(file, "-Y", "frame.number == 1", "-T", "fields", "-e", "frame.comment")[0]
        assert case.findings[0].title in first

    @pytest.mark.parametrize("keep_content", [False, True])
    @pytest.mark.parametrize(
        "name",
        ["blackhole-1400.sender.pcap", "pmtud-working-ipv6.sender.pcap", "clean-starttls.sender.pcap", "masked-banner.sender.pcap",
         "pix-split-3-drop.sender.pcap", "clean-submission.sender.pcap", "blackhole-snaplen-68.sender.pcap"],
    )  # fmt: skip
    def test_no_packet_is_malformed(self, name: str, keep_content: bool, tmp_path: Path) -> None:
        """Overwritten packets are still packets; the checksum of a shortened ICMP message is right."""
        _, written, data = annotated(name, keep_content=keep_content)
        file = tmp_path / "out.pcapng"
        file.write_bytes(data)
        assert tshark(file, "-Y", "_ws.malformed || icmp.checksum.status == 0 || icmpv6.checksum.status == 0") == []
        assert len(tshark(file)) == written.frames
        assert written.left_out == []

    def test_the_dialogue_is_still_a_dialogue(self, tmp_path: Path) -> None:
        """Verbs, reply codes, sizes and the end of the mail are seen by Wireshark as before."""
        _, _, data = annotated("clean-submission.sender.pcap")
        file = tmp_path / "out.pcapng"
        file.write_bytes(data)
        fields = ("-Y", "smtp", "-T", "fields", "-e", "tcp.len", "-e", "smtp.req.command", "-e", "smtp.response.code")
        assert tshark(file, *fields) == tshark(SAMPLES / "clean-submission.sender.pcap", *fields)


def said_by(name: str) -> set[bytes]:
    """Words of eight letters and more in the payloads of a capture."""
    return set(re.findall(rb"[A-Za-z]{8,}", (SAMPLES / name).read_bytes()))


@pytest.mark.parametrize(
    "name", ["blackhole-1400.sender.pcap", "clean-submission.sender.pcap", "icmp-ignored.sender.pcap"]
)
def test_nothing_that_was_said_is_left(name: str) -> None:
    """No word of a mail, an address, a greeting or an ICMP quote; what is there is mostly X."""
    _, _, data = annotated(name)
    comments = {b"smtpscope", *re.findall(rb"[A-Za-z]{8,}", b" ".join(re.findall(rb"smtpscope: [^\0]*", data)))}
    left = {word for word in said_by(name) if word in data and word not in comments and set(word) != {ord("X")}}
    verbs = {b"STARTTLS"}
    assert {w for w in left if not any(w in c for c in comments)} <= verbs
    assert b"XXXXXXXX" in data


def recorded(folder: Path, talk: list[tuple[bool, bytes]]) -> Path:
    """A capture of (from the client, bytes) segments over IPv4, each acknowledged by the next."""
    ends = [(IPv4Address("192.0.2.1").packed, 40_000), (IPv4Address("192.0.2.2").packed, 25)]
    sent = {True: 1_000, False: 9_000}
    file = folder / "talk.pcap"
    with file.open("wb") as out:
        writer = dpkt.pcap.Writer(out)

        def send(from_client: bool, data: bytes, flags: int) -> None:
            (src, sport), (dst, dport) = ends if from_client else ends[::-1]
            ack = 0 if flags == dpkt.tcp.TH_SYN else sent[not from_client]
            tcp = dpkt.tcp.TCP(
                sport=sport, dport=dport, seq=sent[from_client], ack=ack, flags=flags, win=65_000, data=data
            )
            ip = dpkt.ip.IP(src=src, dst=dst, p=6, ttl=64, df=1, data=tcp, len=40 + len(data))
            writer.writepkt(bytes(dpkt.ethernet.Ethernet(src=b"a" * 6, dst=b"b" * 6, data=ip)), ts=writer_time())
            sent[from_client] += len(data) + (flags & dpkt.tcp.TH_SYN > 0)

        ticks = iter(range(1_000))
        writer_time = lambda: 1_700_000_000 + next(ticks) / 100  # noqa: E731
        send(True, b"", dpkt.tcp.TH_SYN)
        send(False, b"", dpkt.tcp.TH_SYN | dpkt.tcp.TH_ACK)
        send(True, b"", dpkt.tcp.TH_ACK)
        for from_client, data in talk:
            send(from_client, data, dpkt.tcp.TH_ACK | dpkt.tcp.TH_PUSH)
    return file


LOGIN = [
    (False, b"220 mx ESMTP\r\n"), (True, b"EHLO me\r\n"), (False, b"250-mx\r\n250 AUTH PLAIN LOGIN CRAM-MD5\r\n"),
    (True, b"AU"), (True, b"TH PLAIN Q0FOQVJZ"), (True, b"LTE=\r\n"), (False, b"535 no\r\n"),
    (True, b"AUTH LOGIN\r\n"), (False, b"334 Q0FOQVJZLTI=\r\n"), (True, b"Q0FOQVJZLTM=\r\n"), (False, b"334 UGFzc3dvcmQ6\r\n"),
    (True, b"Q0FOQVJZ"), (True, b"LTQ=\r\n"), (False, b"235 welcome\r\n"), (True, b"XSECRET CANARY5\r\n"), (False, b"500 what\r\n"),
    (True, b"MAIL FROM:<a@example.org>\r\n"), (False, b"250 ok\r\n"), (True, b"RCPT TO:<b@example.org>\r\n"), (False, b"250 ok\r\n"),
    (True, b"DATA\r\n"), (False, b"354 go\r\n"), (True, b"Subject: CANARY6\r\n\r\nHello\r\n.\r\n"), (False, b"250 ok\r\n"),
    (True, b"QUIT\r\n"), (False, b"221 bye\r\n"),
]  # fmt: skip


@pytest.mark.parametrize("keep_content", [False, True])
def test_a_password_is_never_left(keep_content: bool, tmp_path: Path) -> None:
    """AUTH exchanges and unknown commands are overwritten even where content is kept, however they were cut."""
    _, written, data = annotated(str(recorded(tmp_path, LOGIN)), keep_content=keep_content)
    assert written.frames == len(LOGIN) + 3
    for secret in (b"Q0FOQVJZ", b"LTE=", b"LTI=", b"LTM=", b"LTQ=", b"UGFzc3dvcmQ6", b"CANARY5"):
        assert secret not in data
    assert b"TH XXXXXXXXXXXXXX" in data  # as long as before
    assert b"334 XXXXXXXXXXXX\r\n" in data


def test_content_is_kept_when_asked_for(tmp_path: Path) -> None:
    """Then the mail is there, word for word; else its end and its line ends."""
    talk = recorded(tmp_path, LOGIN)
    _, _, kept = annotated(str(talk), keep_content=True)
    assert b"MAIL FROM:<a@example.org>\r\n" in kept
    assert b"Subject: CANARY6\r\n\r\nHello\r\n.\r\n" in kept
    _, _, hidden = annotated(str(talk))
    assert b"XXXXXXXXXXXXXXXX\r\n\r\nXXXXX\r\n.\r\n" in hidden
    assert b"CANARY" not in hidden


def test_line_ends_and_lengths_stay() -> None:
    """CR and LF stay at their places: where lines end, and where the end of the mail was cut, can still be seen."""
    spoken = pcapng._Spoken([], [], None, replies=False)
    payload = bytearray(b"To: me\r\n\r\nHello\nworld\r\n.\r")
    spoken.overwrite(payload, 0, keep_content=False)
    assert bytes(payload) == b"XXXXXX\r\n\r\nXXXXX\nXXXXX\r\nX\r"


def test_what_is_encrypted_stays() -> None:
    """From the first byte of TLS on the bytes are left alone: Wireshark shows the handshake."""
    spoken = pcapng._Spoken([], [], 14, replies=False)
    payload = bytearray(b"STARTTLS ab\r\n\x16\x03\x01secret")
    spoken.overwrite(payload, 1, keep_content=False)
    assert bytes(payload) == b"XXXXXXXXXXX\r\n\x16\x03\x01secret"


def test_an_auth_line_in_the_middle_of_nowhere_is_overwritten() -> None:
    """Where the dialogue could not be followed, the line itself is enough."""
    spoken = pcapng._Spoken([], [], None, replies=False)
    payload = bytearray(b"noop\r\nauth plain AGpvZQBzZWNyZXQ=\r\nquit\r\n")
    spoken.overwrite(payload, 77, keep_content=True)
    assert bytes(payload) == b"noop\r\nauth XXXXXXXXXXXXXXXXXXXXXX\r\nquit\r\n"


def test_a_capture_that_is_gone_is_one_clear_line(incident: Case) -> None:
    """The packets are read again; when they can not be, the error says which file."""
    case = analysis.analyze([str(SAMPLES / "blackhole-1400.sender.pcap")])
    traces = {1: analysis.trace(case, 1)}
    case.captures[0].path = "/nowhere/gone.pcap"
    with pytest.raises(CaptureError, match=r"/nowhere/gone\.pcap: cannot be read again"):
        pcapng.write(case, traces, BytesIO())


def test_connections_of_the_evidence_come_first(incident: Case) -> None:
    """So many at most, without repeats."""
    assert pcapng.connections_of(incident, 4) == [1, 141, 2, 142]
