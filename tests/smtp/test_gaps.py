"""What was not captured is "not seen": never guessed, and never the end of the reading."""

from __future__ import annotations

import pytest

from analyzer.smtp.dialogue import Dialogue, read_dialogue

from .talk import ENVELOPE, Stream, spoken, streams, talk

SESSION = (
    """
    S: 220 mx
    C: EHLO me
    S: 250-mx
    S: 250 PIPELINING
"""
    + ENVELOPE
    + """\
    C: line one
    C: line two
    C: line three
    C: .
    S: 250 queued
    C: QUIT
    S: 221 bye
"""
)


def without(*missed: str, script: str = SESSION) -> Dialogue:
    """The session with some of its lines missed by the capture."""
    for line in missed:
        assert line in script
        script = script.replace(f"{line[0]}: {line[3:]}\n", f"{line[0]}! {line[3:]}\n")
    return talk(script)


class TestMissingReplies:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("S: 220 mx", "EHLO 250, MAIL 250, RCPT 250, DATA 354, QUIT 221"),
            ("S: 354 go", "EHLO 250, MAIL 250, RCPT 250, DATA -, QUIT 221"),
            ("S: 250 queued", "EHLO 250, MAIL 250, RCPT 250, DATA 354, QUIT 221"),
            ("S: 221 bye", "EHLO 250, MAIL 250, RCPT 250, DATA 354, QUIT -"),
        ],
    )
    def test_one_reply_missing(self, line: str, expected: str) -> None:
        """One reply that was not captured leaves its command without one, and no other command."""
        dialogue = without(line)
        assert ", ".join(spoken(dialogue)) == expected
        assert dialogue.unasked == []
        assert len(dialogue.mails) == 1
        assert dialogue.mails[0].size == len("line one\r\nline two\r\nline three\r\n")

    def test_both_replies_of_the_envelope_missing(self) -> None:
        """MAIL and RCPT stay without a reply; DATA gets its own."""
        assert spoken(without("S: 250 ok")) == ["EHLO 250", "MAIL -", "RCPT -", "DATA 354", "QUIT 221"]

    def test_the_final_reply_missing(self) -> None:
        """How the mail ended was not seen, although the dialogue went on."""
        dialogue = without("S: 250 queued")
        (mail,) = dialogue.mails
        assert (mail.complete, mail.reply, mail.outcome) == (True, None, None)

    def test_the_greeting_missing(self) -> None:
        assert without("S: 220 mx").greeting is None

    def test_what_hides_the_last_replies_hides_what_is_owed(self) -> None:
        """When the server is known to have said more, nobody can tell that a reply is still owed."""
        dialogue = without("S: 250 queued", "S: 221 bye")
        assert (spoken(dialogue)[-1], dialogue.awaited) == ("QUIT -", None)

    def test_the_first_half_of_a_reply_missing(self) -> None:
        """What is left of a reply of several lines is its reply."""
        dialogue = without("S: 250-mx")
        assert spoken(dialogue)[0] == "EHLO 250"
        assert dialogue.commands[1].verb == "MAIL"

    def test_the_end_of_a_reply_missing(self) -> None:
        """A reply whose last line is missing is not complete, and does not swallow the next one."""
        dialogue = without("S: 250 PIPELINING")
        assert spoken(dialogue) == ["EHLO 250", "MAIL 250", "RCPT 250", "DATA 354", "QUIT 221"]
        assert dialogue.commands[0].reply is not None
        assert not dialogue.commands[0].reply.complete

    def test_pipelined_replies_are_counted_from_the_end(self) -> None:
        """Of three replies to one flight the first is missing: the two that are left are the last two."""
        dialogue = talk("""
            S: 220 mx
            C: EHLO me
            S: 250 PIPELINING
            C: MAIL FROM:<a@b>
            C: RCPT TO:<c@d>
            C: DATA
            S! 250 ok
            S: 550 no such user
            S: 554 no valid recipients
            C: QUIT
            S: 221 bye
        """)
        assert spoken(dialogue) == ["EHLO 250", "MAIL -", "RCPT 550", "DATA 554", "QUIT 221"]

    def test_a_354_belongs_to_data(self) -> None:
        """Where counting does not help, a reply is given to a command that may get it."""
        dialogue = talk("""
            S: 220 mx
            C: MAIL FROM:<a@b>
            C: RCPT TO:<c@d>
            C: DATA
            S! 250 ok
            S! 250 ok
            S: 354 go
            C: hi
            C: .
        """)
        assert spoken(dialogue) == ["MAIL -", "RCPT -", "DATA 354"]
        assert dialogue.mails[0].size == 4


class TestMissingCommands:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("C: EHLO me", "MAIL 250, RCPT 250, DATA 354, QUIT 221"),
            ("C: MAIL FROM:<a@b>", "EHLO 250, RCPT 250, DATA 354, QUIT 221"),
            ("C: RCPT TO:<c@d>", "EHLO 250, MAIL 250, DATA 354, QUIT 221"),
            ("C: DATA", "EHLO 250, MAIL 250, RCPT 250, QUIT 221"),
            ("C: QUIT", "EHLO 250, MAIL 250, RCPT 250, DATA 354"),
        ],
    )
    def test_one_command_missing(self, line: str, expected: str) -> None:
        """The reply to a command that was not captured goes to no other command, and the mail is found."""
        dialogue = without(line)
        assert ", ".join(spoken(dialogue)) == expected
        (mail,) = dialogue.mails
        assert mail.outcome == "delivered"
        assert mail.size == len("line one\r\nline two\r\nline three\r\n")

    def test_the_354_says_where_a_mail_begins(self) -> None:
        """Its acknowledgement is the end of DATA, even if DATA and the first line are missing."""
        dialogue = without("C: DATA", "C: line one")
        (mail,) = dialogue.mails
        assert mail.size == len("line one\r\nline two\r\nline three\r\n")
        assert mail.recipients == ("c@d",)

    def test_a_command_cut_off_by_the_snap_length(self) -> None:
        """Of a line whose end is missing the verb is kept, and an address that is whole."""
        client, server = streams("""
            S: 220 mx
            C: MAIL FROM:<alice@example.com> SIZE=1234
            S: 250 ok
            C: RCPT TO:<somebody@example.com>
            S: 250 ok
            C: DATA
            S: 354 go
        """)
        for text, kept in ((b"MAIL", b"MAIL FROM:<alice@example.com> SIZE="), (b"RCPT", b"RCPT TO:<somebo")):
            at = client.data.index(text)
            client.lose(at + len(kept), client.data.index(b"\n", at) + 1)
        dialogue = read_dialogue(client, server, from_start=True)
        assert spoken(dialogue) == ["MAIL 250", "RCPT 250", "DATA 354"]
        (mail,) = dialogue.mails
        assert (mail.mail_from, mail.recipients, mail.declared_size) == ("alice@example.com", ("",), None)

    def test_replies_cut_off_by_the_snap_length(self) -> None:
        """Code and separator are enough."""
        client, server = streams(SESSION)
        for text in (b"250 ok", b"354 go", b"250 queued"):
            at = server.data.index(text)
            server.lose(at + 5, server.data.index(b"\n", at) + 1)
        dialogue = read_dialogue(client, server, from_start=True)
        assert spoken(dialogue) == ["EHLO 250", "MAIL 250", "RCPT 250", "DATA 354", "QUIT 221"]
        assert dialogue.mails[0].outcome == "delivered"

    def test_a_mail_cut_into_stumps_by_the_snap_length(self) -> None:
        """Of each segment only the beginning: no whole line, no DATA, no 354, but a long flight is a mail."""
        client, server = streams(SESSION.replace("line two", "a long line\\r\\n" * 400 + "\\n"))
        for at in range(client.data.index(b"DATA"), client.end, 1448):
            client.lose(at + 25, min(at + 1448, client.end))
        client.lose(client.data.index(b"DATA"), client.data.index(b"line one"))
        server.lose(server.data.index(b"354 go"), server.data.index(b"250 queued"))
        dialogue = read_dialogue(client, server, from_start=True)
        (mail,) = dialogue.mails
        assert (mail.mail_from, mail.outcome, mail.size, mail.complete) == ("a@b", "delivered", None, False)


class TestMissingBody:
    def test_a_hole_in_a_mail(self) -> None:
        """Behind a hole the mail goes on to its end, and its size is known by the offsets."""
        (mail,) = without("C: line two").mails
        assert mail.size == len("line one\r\nline two\r\nline three\r\n")
        assert mail.outcome == "delivered"

    def test_a_hole_that_nothing_filled(self) -> None:
        """The picture at the receiver of a black hole: a hole, the end behind it, and no reply."""
        head = SESSION.split("    S: 250 queued", maxsplit=1)[0]
        dialogue = without("C: line one", "C: line two", script=head)
        (mail,) = dialogue.mails
        assert (mail.complete, mail.outcome, dialogue.awaited) == (True, None, "BODY")
        assert mail.terminator_end is not None

    def test_a_421_over_a_hole(self) -> None:
        """The server gave up: it had not received the end of the mail, so the 421 is its own word."""
        client, server = streams(SESSION.split("    S: 250 queued", maxsplit=1)[0])
        hole = client.data.index(b"line two")
        client.lose(hole, hole + 10)
        server.say(b"421 timeout\r\n", hole)
        dialogue = read_dialogue(client, server, from_start=True)
        assert [r.code for r in dialogue.unasked] == [421]
        assert (dialogue.mails[0].outcome, dialogue.awaited) == ("deferred", "BODY")

    def test_the_end_of_a_mail_missing(self) -> None:
        """The final reply came before the client went on: the mail ended in the gap, where is not known."""
        dialogue = without("C: line three", "C: .")
        assert spoken(dialogue) == ["EHLO 250", "MAIL 250", "RCPT 250", "DATA 354", "QUIT 221"]
        (mail,) = dialogue.mails
        assert (mail.outcome, mail.complete, mail.size, mail.terminator_end) == ("delivered", False, None, None)

    def test_a_gap_up_to_the_end_of_the_stream(self) -> None:
        """The last bytes are known to exist but were not captured: the end of the mail was not seen."""
        head = SESSION.split("    S: 250 queued", maxsplit=1)[0]
        dialogue = without("C: line three", "C: .", script=head)
        (mail,) = dialogue.mails
        assert (mail.complete, mail.seen_bytes) == (False, len("line one\r\nline two\r\nline three\r\n.\r\n"))
        assert dialogue.phase == "body"

    @pytest.mark.parametrize("kept", [1, 2, 3, 4])
    def test_a_terminator_that_begins_in_a_gap(self, kept: int) -> None:
        """The server's acknowledgement shows that the bytes behind the gap end the mail."""
        client, server = streams(SESSION)
        end = client.data.index(b"\r\n.\r\n") + 5
        client.lose(end - 20, end - kept)
        dialogue = read_dialogue(client, server, from_start=True)
        (mail,) = dialogue.mails
        assert (mail.terminator_end, mail.complete, mail.outcome) == (end, True, "delivered")
        assert spoken(dialogue)[-1] == "QUIT 221"

    def test_a_lone_dot_behind_a_gap(self) -> None:
        """sendmail sends ``. CR LF`` in a segment of its own: it ends the mail without any reply, too."""
        head = SESSION.split("    S: 250 queued", maxsplit=1)[0]
        dialogue = without("C: line three", script=head)
        (mail,) = dialogue.mails
        assert mail.complete

    def test_a_dot_in_the_middle_behind_a_gap(self) -> None:
        """A mail may have ``. CR LF`` at the end of a line that a gap cut in two."""
        client, server = streams(SESSION.replace("line three", "line three."))
        at = client.data.index(b".\r\n")
        client.lose(at - 5, at)
        (mail,) = read_dialogue(client, server, from_start=True).mails
        assert mail.size == len("line one\r\nline two\r\nline three.\r\n")

    def test_a_gap_in_a_chunk(self) -> None:
        """The length of a chunk says where it ends."""
        dialogue = talk("""
            S: 220 mx
            C: MAIL FROM:<a@b>
            S: 250 ok
            C: RCPT TO:<c@d>
            S: 250 ok
            C: BDAT 10 LAST
            C! 12345678
            S: 250 ok
            C: QUIT
            S: 221 bye
        """)
        assert spoken(dialogue) == ["MAIL 250", "RCPT 250", "BDAT 250", "QUIT 221"]
        assert (dialogue.mails[0].size, dialogue.mails[0].outcome) == (10, "delivered")


class TestInTheMiddle:
    """Captures that begin when the connection is under way."""

    def test_from_a_command_on(self) -> None:
        """What came before is not invented: no greeting, no EHLO."""
        tail = SESSION[SESSION.index("    C: MAIL") :]
        dialogue = talk(tail, from_start=False)
        assert spoken(dialogue) == ["MAIL 250", "RCPT 250", "DATA 354", "QUIT 221"]
        assert (dialogue.greeting, dialogue.helo) == (None, None)
        assert dialogue.mails[0].outcome == "delivered"

    def test_from_a_reply_on(self) -> None:
        """A reply to a command before the capture answers nothing."""
        tail = SESSION[SESSION.index("    S: 250 ok") :]
        dialogue = talk(tail, from_start=False)
        assert spoken(dialogue) == ["RCPT 250", "DATA 354", "QUIT 221"]
        assert [r.code for r in dialogue.unasked] == [250]
        (mail,) = dialogue.mails
        assert (mail.mail_from, mail.recipients, mail.outcome) == (None, ("c@d",), "delivered")

    def test_from_a_354_on(self) -> None:
        """A mail with an unknown envelope, whole."""
        tail = SESSION[SESSION.index("    S: 354") :]
        dialogue = talk(tail, from_start=False)
        (mail,) = dialogue.mails
        assert (mail.mail_from, mail.recipients, mail.outcome) == (None, (), "delivered")
        assert mail.size == len("line one\r\nline two\r\nline three\r\n")
        assert spoken(dialogue) == ["QUIT 221"]

    def test_from_inside_a_mail(self) -> None:
        """Its beginning is not known, nor its size; its end and its reply are."""
        tail = SESSION[SESSION.index("    C: line two") :]
        dialogue = talk(tail, from_start=False)
        (mail,) = dialogue.mails
        assert (mail.body_start, mail.size, mail.complete, mail.outcome) == (None, None, True, "delivered")
        assert mail.seen_bytes == len("line two\r\nline three")
        assert spoken(dialogue) == ["QUIT 221"]

    def test_inside_a_mail_that_never_ends(self) -> None:
        """Lines without a word of the server between them are a mail under way."""
        dialogue = talk("C: line two\nC: line three\nC: line four", from_start=False)
        (mail,) = dialogue.mails
        assert (mail.body_start, mail.complete, mail.outcome, dialogue.phase) == (None, False, None, "body")

    def test_one_strange_line_is_no_mail(self) -> None:
        """Part of a line proves nothing."""
        dialogue = talk("C: xyz", from_start=False)
        assert dialogue.mails == []
        assert not dialogue.is_smtp

    def test_inside_an_auth_exchange(self) -> None:
        """Lines that are each answered are no mail; nothing of them is kept."""
        dialogue = talk(
            """
            S: 334 VXNlcm5hbWU6
            C: YWxpY2U=
            S: 334 UGFzc3dvcmQ6
            C: c2VjcmV0
            S: 235 ok
            C: MAIL FROM:<a@b>
            S: 250 ok
            """,
            from_start=False,
        )
        assert "c2VjcmV0" not in repr(dialogue) and "YWxpY2U" not in repr(dialogue)
        assert "VXNlcm5hbWU6" not in repr(dialogue)
        assert spoken(dialogue)[-1] == "MAIL 250"

    def test_commands_quoted_in_a_mail(self) -> None:
        """A mail may quote a whole dialogue; the acknowledgements show that nobody answered it."""
        dialogue = talk(
            """
            C: as he wrote:
            C: MAIL FROM:<x@y>
            C: RCPT TO:<x@y>
            C: DATA
            C: .
            S: 250 queued
            """,
            from_start=False,
        )
        assert dialogue.commands == []
        assert [m.outcome for m in dialogue.mails] == ["delivered"]

    def test_just_without_the_handshake(self) -> None:
        """A 220 before any byte of the client is the greeting."""
        dialogue = talk(SESSION, from_start=False)
        assert dialogue.greeting is not None and dialogue.greeting.code == 220
        assert spoken(dialogue) == ["EHLO 250", "MAIL 250", "RCPT 250", "DATA 354", "QUIT 221"]

    @pytest.mark.parametrize("acknowledged", [True, False])
    def test_without_acknowledgements(self, acknowledged: bool) -> None:
        """With nothing but the form of the lines to go by, the dialogue is still found."""
        dialogue = talk(SESSION, from_start=False, acknowledged=acknowledged)
        assert spoken(dialogue) == ["EHLO 250", "MAIL 250", "RCPT 250", "DATA 354", "QUIT 221"]

    def test_inside_tls(self) -> None:
        """Application data from before the capture: TLS, and how it began cannot be told."""
        dialogue = talk(r"C: \x17\x03\x03\x00\x05hello\n", from_start=False)
        assert dialogue.tls == "implicit"
        assert "TLS began before the capture: whether by STARTTLS cannot be told" in dialogue.notes


class TestOneDirection:
    def test_the_client_alone(self) -> None:
        """Commands and mails are found without any reply."""
        client, _ = streams(SESSION, acknowledged=False)
        dialogue = read_dialogue(client, Stream(), from_start=True)
        assert spoken(dialogue) == ["EHLO -", "MAIL -", "RCPT -", "DATA -", "QUIT -"]
        (mail,) = dialogue.mails
        assert (mail.complete, mail.outcome, mail.recipients) == (True, None, ("c@d",))

    def test_the_server_alone(self) -> None:
        """The greeting and the replies; no mail is invented."""
        _, server = streams(SESSION, acknowledged=False)
        dialogue = read_dialogue(Stream(), server, from_start=True)
        assert dialogue.greeting is not None
        assert [r.code for r in dialogue.replies] == [220, 250, 250, 250, 354, 250, 221]
        assert dialogue.commands == [] and dialogue.mails == []

    def test_the_client_missing_altogether(self) -> None:
        """Known to exist, but not captured: the 354 tells of a mail, whose envelope is not known."""
        client, server = streams(SESSION)
        client.lose(0, client.end)
        dialogue = read_dialogue(client, server, from_start=True)
        assert dialogue.commands == []
        assert dialogue.greeting is not None
