"""The words in the logs, from how the dialogue ended."""

from __future__ import annotations

import pytest

from analyzer.smtp.dialogue import read_dialogue
from analyzer.smtp.mtalog import ClosedBy, Ending, predict

from .talk import ENVELOPE, streams, talk

HEAD = (
    """
    S: 220 mx
    C: EHLO me
    S: 250 mx
"""
    + ENVELOPE
)
MAIL = HEAD + "    C: a line\n    C: .\n"
CLIENT, SERVER = "out.example.org[192.0.2.1]", "mx.example.com[198.51.100.1]"


def ending(closed_by: ClosedBy, silence_s: float | None = 300.0, received: int | None = None) -> Ending:
    return Ending(closed_by, silence_s, received, CLIENT, SERVER)


def bytes_up_to_data() -> int:
    return len(streams(HEAD)[0].data)


def test_a_black_hole() -> None:
    """The line that people search for. The server never gets the FIN, so it runs into its own time-out."""
    said = predict(talk(MAIL), ending("client-fin", 45.0, bytes_up_to_data()))
    assert said == {
        "client": f"conversation with {SERVER} timed out while sending end of data -- message may be sent more than once",
        "server": f"timeout after DATA (0 bytes) from {CLIENT}",
    }


def test_a_long_mail_in_a_black_hole() -> None:
    """A mail that does not fit into the send buffer hangs before its end."""
    script = HEAD.replace("<a@b>", "<a@b> SIZE=70000") + "    C: a line of many\n"
    said = predict(talk(script), ending("client-rst", 180.0, len(streams(script)[0].data) - 18))
    assert said["client"] == f"conversation with {SERVER} timed out while sending message body"
    assert said["server"] == f"lost connection after DATA (0 bytes) from {CLIENT}"


def test_a_lost_terminator() -> None:
    """A firewall acknowledged everything but swallowed the end: for the server the mail goes on, as far as TCP tells."""
    said = predict(talk(MAIL), ending("server-fin", 300.0, bytes_up_to_data() + 10))
    assert said["server"] == f"timeout after DATA (10 bytes) from {CLIENT}"
    assert said["client"].startswith(f"lost connection with {SERVER} while sending end of data")


def test_the_server_says_why() -> None:
    """A 421 that arrives is quoted by the client."""
    said = predict(
        talk(MAIL + "    S> 421 4.4.2 Error: timeout exceeded\n"), ending("server-fin", 300.0, bytes_up_to_data())
    )
    assert said["client"] == f"host {SERVER} said: 421 4.4.2 Error: timeout exceeded (in reply to end of DATA command)"


@pytest.mark.parametrize(
    ("script", "doing", "after"),
    [
        ("", "receiving the initial server greeting", "CONNECT"),
        ("S: 220 mx\nC: EHLO me", "performing the EHLO handshake", "EHLO"),
        ("S: 220 mx\nC: EHLO me\nS: 250 mx\nC: MAIL FROM:<a@b>", "sending MAIL FROM", "MAIL"),
        (
            "S: 220 mx\nC: EHLO me\nS: 250 mx\nC: MAIL FROM:<a@b>\nS: 250 ok\nC: RCPT TO:<c@d>",
            "sending RCPT TO",
            "RCPT",
        ),
        ("S: 220 mx\nC: EHLO me\nS: 250 mx\nC: STARTTLS", "receiving the STARTTLS response", "STARTTLS"),
        (HEAD.replace("    S: 354 go\n", ""), "sending DATA command", "DATA"),
        (MAIL, "sending end of data -- message may be sent more than once", "END-OF-MESSAGE"),
    ],
)
def test_every_phase_has_its_words(script: str, doing: str, after: str) -> None:
    """Postfix names what it was doing; its server names what it had heard last."""
    dialogue = talk(script)
    assert predict(dialogue, ending("client-fin")) == {
        "client": f"conversation with {SERVER} timed out while {doing}",
        "server": f"lost connection after {after} from {CLIENT}",
    }
    assert predict(dialogue, ending("server-rst", 0.1)) == {"client": f"lost connection with {SERVER} while {doing}"}


def test_a_pipelined_envelope_without_replies() -> None:
    """The client waits for the first reply, the server has heard the last command."""
    dialogue = talk("S: 220 mx\nC: EHLO me\nS: 250 mx\nC: MAIL FROM:<a@b>\nC: RCPT TO:<c@d>\nC: DATA")
    said = predict(dialogue, ending("client-fin"))
    assert said["client"].endswith("while sending MAIL FROM")
    assert said["server"] == f"lost connection after DATA from {CLIENT}"


def test_a_connection_that_nobody_closed() -> None:
    """A FIN waits behind data that does not arrive: each side runs into its own time-out."""
    said = predict(talk(MAIL), ending("open", None, bytes_up_to_data()))
    assert said["client"].startswith(f"conversation with {SERVER} timed out while sending end of data")
    assert said["server"] == f"timeout after DATA (0 bytes) from {CLIENT}"


@pytest.mark.parametrize(
    ("size", "sent", "doing"),
    [
        ("SIZE=12112", 10000, "sending end of data -- message may be sent more than once"),
        ("SIZE=40112", 15928, "sending message body"),
        ("SIZE=70112", 15928, "sending message body"),
        ("", 10000, "sending end of data -- message may be sent more than once"),
        ("", 15928, "sending message body"),
    ],
)
def test_what_the_kernel_holds_back(size: str, sent: int, doing: str) -> None:
    """A mail that fits into the send buffer is sent as far as the mailer knows."""
    client, server = streams(HEAD.replace("<a@b>", f"<a@b> {size}"))
    start = len(client.data)
    client.say(b"x" * sent, len(server.data))
    said = predict(read_dialogue(client, server, from_start=True), ending("open", None, start))
    assert said["client"] == f"conversation with {SERVER} timed out while {doing}"


def test_what_ended_in_order() -> None:
    """Nothing is logged when nothing is owed, nor for a QUIT without an answer."""
    for tail in ("S: 250 queued", "S: 250 queued\nC: QUIT", "S: 250 queued\nC: QUIT\nS: 221 bye", "S: 550 no"):
        assert predict(talk(MAIL + tail), ending("client-fin", 0.0)) == {}


def test_a_client_that_leaves() -> None:
    """A client that closes without waiting knows why; the server has lost a connection."""
    assert predict(talk(MAIL), ending("client-fin", 0.2)) == {
        "server": f"lost connection after END-OF-MESSAGE from {CLIENT}"
    }


def test_a_tls_handshake_that_hangs() -> None:
    """A ClientHello that never arrives."""
    dialogue = talk("S: 220 mx\nC: STARTTLS\nS: 220 go\nC: \\x16\\x03\\x01\\x00\\x05hello\\n")
    said = predict(dialogue, ending("client-fin"))
    assert said["client"] == f"SSL_connect error to {SERVER}: Connection timed out"
    assert said["server"] == f"SSL_accept error from {CLIENT}: lost connection"


def test_exim_and_sendmail() -> None:
    """The same ending in the words of other mailers."""
    dialogue, end = talk(MAIL), ending("client-rst", 300.0, bytes_up_to_data())
    assert predict(dialogue, end, "exim") == {
        "client": f"H={SERVER}: SMTP timeout after end of data (11 bytes written): Connection timed out",
        "server": f"SMTP connection from {CLIENT} lost while reading message data",
    }
    assert predict(dialogue, end, "sendmail") == {
        "client": f"timeout waiting for input from {SERVER} during client DATA status",
        "server": "collect: premature EOM: unexpected close",
    }
