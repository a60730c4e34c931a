"""What TLS lets through: records of real shape, made here, and their estimates."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.smtp.dialogue import Dialogue, read_dialogue
from analyzer.smtp.tls import read_session

from .talk import Stream


def record(kind: int, content: bytes) -> bytes:
    return bytes([kind, 3, 3]) + len(content).to_bytes(2) + content


def client_hello(size: int) -> bytes:
    """A ClientHello whose message has `size` bytes behind its four of header."""
    return record(22, b"\x01" + size.to_bytes(3) + bytes(size))


def server_hello(suite: int) -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\x20" + bytes(32) + suite.to_bytes(2) + b"\x00"
    return record(22, b"\x02" + len(body).to_bytes(3) + body)


def sealed(plain: int, overhead: int = 17) -> bytes:
    """Application data of TLS 1.3: one byte of content type and a tag of 16."""
    return record(23, bytes(plain + overhead))


CCS = record(20, b"\x01")


class Session:
    """Flights in both directions, as they hear each other."""

    def __init__(self) -> None:
        self.client, self.server = Stream(), Stream()

    def c(self, *records: bytes) -> Session:
        self.client.say(b"".join(records), len(self.server.data))
        return self

    def s(self, *records: bytes) -> Session:
        self.server.say(b"".join(records), len(self.client.data))
        return self

    def read(self) -> Dialogue:
        return read_dialogue(self.client, self.server, from_start=True)


def tls13() -> Session:
    """A handshake of TLS 1.3 and the greeting, as on port 465."""
    session = Session().c(client_hello(500))
    return session.s(server_hello(0x1302), CCS, sealed(2000)).c(CCS, sealed(36)).s(sealed(30))


def mail13(session: Session, *sizes: int) -> Session:
    session.c(sealed(20)).s(sealed(150)).c(sealed(120)).s(sealed(60))
    return session.c(*(sealed(size) for size in sizes))


def test_a_mail_is_estimated() -> None:
    """The one flight larger than commands is the mail: its size without records and final dot."""
    dialogue = mail13(tls13(), 5000, 3003).s(sealed(40)).c(sealed(6)).s(sealed(15)).read()
    session = dialogue.tls_session
    assert session is not None
    assert (session.version, session.handshake_complete, session.client_flights) == ("TLS 1.3", True, 4)
    (mail,) = dialogue.mails
    assert (mail.via, mail.size, mail.size_estimated, mail.complete) == ("tls", 8000, True, True)
    assert (mail.answered_in_tls, mail.outcome, mail.mail_from) == (True, None, None)
    assert dialogue.phase == "tls"


def test_a_mail_that_hangs() -> None:
    """Nothing came back: the dialogue hangs at the end of the data."""
    dialogue = mail13(tls13(), 8000).read()
    assert (dialogue.phase, dialogue.awaited) == ("end-of-data", "BODY")
    assert dialogue.mails[0].answered_in_tls is False


def test_a_mail_cut_off() -> None:
    """A record that was not sent to its end: the body is under way."""
    session = mail13(tls13(), 8000)
    session.client.cut = session.client.end - 100
    dialogue = session.read()
    assert (dialogue.phase, dialogue.mails[0].complete) == ("body", False)


def test_small_mails_are_not_told_from_commands() -> None:
    """An estimate must not invent: up to a thousand bytes may be commands."""
    assert mail13(tls13(), 900).s(sealed(40)).read().mails == []


@pytest.mark.parametrize(("suite", "overhead"), [(0xC02F, 24), (0xCCA8, 16), (0x009C, 24)])
def test_tls_1_2(suite: int, overhead: int) -> None:
    """Before TLS 1.3 Finished follows ChangeCipherSpec, and records have another overhead."""
    session = Session().c(client_hello(200)).s(server_hello(suite), record(22, bytes(3000)))
    session.c(record(22, bytes(70)), CCS, record(22, bytes(40))).s(CCS, record(22, bytes(40)))
    session.s(sealed(30, overhead)).c(sealed(20, overhead)).s(sealed(150, overhead)).c(sealed(2003, overhead)).s(
        sealed(9)
    )
    dialogue = session.read()
    assert dialogue.tls_session is not None
    assert (dialogue.tls_session.version, dialogue.tls_session.client_flights) == ("TLS 1.2 or older", 2)
    assert [m.size for m in dialogue.mails] == [2000]


def test_the_client_hello() -> None:
    """Its bytes on the wire; a post-quantum key share makes it larger than a segment."""
    session = Session().c(client_hello(1700)).read().tls_session
    assert session is not None
    assert (session.client_hello_bytes, session.client_hello_end) == (1709, 1709)
    assert (session.server_answered, session.handshake_complete) == (False, False)


def test_a_client_hello_in_two_records() -> None:
    """A handshake message may be cut into records."""
    message = b"\x01" + (1700).to_bytes(3) + bytes(1700)
    session = Session().c(record(22, message[:1000]), record(22, message[1000:])).read().tls_session
    assert session is not None
    assert session.client_hello_bytes == 1704 + 10


def test_a_client_hello_of_which_the_beginning_is_known() -> None:
    """Its length stands at its beginning: how long it is shows even when the rest was not captured."""
    session = Session().c(client_hello(1700))
    session.client.lose(100, 1709)
    found = session.read().tls_session
    assert found is not None
    assert found.client_hello_bytes == 1709


def test_a_handshake_that_failed() -> None:
    """A fatal alert in clear says why (40: handshake failure)."""
    session = Session().c(client_hello(200)).s(record(21, b"\x02\x28")).read().tls_session
    assert session is not None
    assert (session.alert, session.handshake_complete) == (40, False)


def test_an_incomplete_handshake() -> None:
    """The server's part alone completes nothing."""
    dialogue = Session().c(client_hello(200)).s(server_hello(0x1301), CCS, sealed(3000)).read()
    assert dialogue.tls_session is not None
    assert not dialogue.tls_session.handshake_complete
    assert (dialogue.phase, dialogue.mails) == ("tls", [])


def test_records_in_a_gap() -> None:
    """Behind a gap the records are found again, and the session says that it may have missed some."""
    session = mail13(tls13(), 5000, 5000, 5000, 3003).s(sealed(40))
    end = session.client.end
    session.client.lose(end - 12000, end - 6000)
    dialogue = session.read()
    assert dialogue.tls_session is not None
    assert dialogue.tls_session.gaps
    (mail,) = dialogue.mails
    assert mail.size_estimated and mail.complete


def test_starttls() -> None:
    """The same inside a dialogue in clear; mails before it stay as they are."""
    session = Session().s(b"220 mx\r\n").c(b"EHLO me\r\n").s(b"250 STARTTLS\r\n").c(b"STARTTLS\r\n").s(b"220 go\r\n")
    session.c(client_hello(500)).s(server_hello(0x1302), CCS, sealed(2000)).c(CCS, sealed(36))
    dialogue = mail13(session, 2003).read()
    assert (dialogue.tls, [m.size for m in dialogue.mails]) == ("starttls", [2000])
    assert [c.verb for c in dialogue.commands] == ["EHLO", "STARTTLS"]


@settings(deadline=None)
@given(st.data())
def test_any_records_can_be_read(data: st.DataObject) -> None:
    """Random records, gaps and ends never raise."""
    kinds = st.sampled_from(
        [CCS, sealed(5), sealed(3000), client_hello(30), server_hello(0x1301), b"\x17\x03", b"x", b"\x16"]
    )
    sides = [Stream(b"".join(data.draw(st.lists(kinds, max_size=6)))) for _ in range(2)]
    for side in sides:
        at = data.draw(st.integers(0, side.end))
        side.lose(at, data.draw(st.integers(at, side.end)))
        side.acknowledged = data.draw(st.booleans())
    session = read_session(*sides, data.draw(st.integers(0, 20)), data.draw(st.integers(0, 20)))
    assert all(mail.size >= 0 for mail in session.mails)
