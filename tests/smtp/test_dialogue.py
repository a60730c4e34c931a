"""Whole streams: who said what, which reply belongs to which command, what became of the mails."""

from __future__ import annotations

import pytest

from analyzer.smtp.dialogue import read_dialogue

from .talk import ENVELOPE, Stream, spoken, streams, talk

ONE_MAIL = """
    S: 220 mx.example.com ESMTP Postfix
    C: EHLO me.example.org
    S: 250-mx.example.com
    S: 250-PIPELINING
    S: 250-SIZE 10240000
    S: 250 8BITMIME
    C: MAIL FROM:<alice@example.org> SIZE=42 BODY=8BITMIME
    S: 250 2.1.0 Ok
    C: RCPT TO:<bob@example.com>
    S: 250 2.1.5 Ok
    C: DATA
    S: 354 End data with <CR><LF>.<CR><LF>
    C: Subject: hello
    C:
    C: Hello.
    C: .
    S: 250 2.0.0 Ok: queued as ABC
    C: QUIT
    S: 221 2.0.0 Bye
"""
# Up to the mail itself, for what is about its end only.
GO_AHEAD = (
    """
    S: 220 mx
"""
    + ENVELOPE
)


class TestOneMail:
    def test_every_command_has_its_reply(self) -> None:
        """Replies are given in the order of the commands; the greeting is the first."""
        dialogue = talk(ONE_MAIL)
        assert dialogue.greeting is not None
        assert dialogue.greeting.lines == ("mx.example.com ESMTP Postfix",)
        assert spoken(dialogue) == ["EHLO 250", "MAIL 250", "RCPT 250", "DATA 354", "QUIT 221"]
        assert dialogue.unasked == []
        assert dialogue.notes == []
        assert dialogue.awaited is None
        assert dialogue.phase == "quit"

    def test_the_client_is_known_by_its_ehlo(self) -> None:
        """Name and keywords come from EHLO and its reply; the first line of the reply is no keyword."""
        dialogue = talk(ONE_MAIL)
        assert (dialogue.helo, dialogue.client_name) == ("EHLO", "me.example.org")
        assert dialogue.keywords == ("PIPELINING", "SIZE", "8BITMIME")

    def test_the_mail_is_a_range_of_bytes(self) -> None:
        """The body begins behind DATA and ends with CR LF . CR LF; its size is the one of RFC 1870."""
        client, server = streams(ONE_MAIL)
        (mail,) = read_dialogue(client, server, from_start=True).mails
        body = b"Subject: hello\r\n\r\nHello.\r\n"
        assert mail.body_start is not None and mail.body_end is not None and mail.terminator_end is not None
        assert bytes(client.data[mail.body_start :]).startswith(body)
        assert client.data[mail.body_end : mail.terminator_end] == b"\r\n.\r\n"
        assert mail.size == len(body)
        assert (mail.mail_from, mail.recipients, mail.declared_size) == ("alice@example.org", ("bob@example.com",), 42)
        assert (mail.outcome, mail.via, mail.complete, mail.ended_by) == ("delivered", "data", True, "reply")
        assert mail.reply is not None and mail.reply.code == 250

    def test_acknowledgements_are_not_needed(self) -> None:
        """A complete stream says everything by its order alone."""
        assert talk(ONE_MAIL, acknowledged=False) == talk(ONE_MAIL)

    def test_bodies_are_not_kept(self) -> None:
        """Nothing of a mail's content is left."""
        assert "Hello" not in repr(talk(ONE_MAIL))


class TestEndOfMail:
    @pytest.mark.parametrize("line", ["..", "...", ".x", " .", ". ", "x."])
    def test_only_a_lone_dot_ends_a_mail(self, line: str) -> None:
        """A stuffed dot is part of the mail (RFC 5321 4.5.2)."""
        dialogue = talk(ONE_MAIL.replace("C: Hello.", f"C: {line}"))
        (mail,) = dialogue.mails
        assert mail.size == len("Subject: hello\r\n\r\n\r\n") + len(line)
        assert spoken(dialogue)[-1] == "QUIT 221"

    def test_a_dot_right_behind_data_is_an_empty_mail(self) -> None:
        """The CR LF of the DATA line counts as the first CR LF (RFC 5321 4.1.1.4)."""
        dialogue = talk(f"""{GO_AHEAD}
            C: .
            C: QUIT
            S: 250 queued
            S: 221 bye
        """)
        (mail,) = dialogue.mails
        assert (mail.size, mail.outcome) == (0, "delivered")
        assert mail.body_start is not None and mail.body_end == mail.body_start - 2
        assert mail.terminator_end == mail.body_start + 3
        assert spoken(dialogue)[-1] == "QUIT 221"

    def test_quit_may_leave_with_the_dot(self) -> None:
        """Postfix and Exim send the end of the mail and QUIT in one write."""
        script = ONE_MAIL.replace(
            "S: 250 2.0.0 Ok: queued as ABC\n    C: QUIT", "C: QUIT\n    S: 250 2.0.0 Ok: queued as ABC"
        )
        dialogue = talk(script)
        assert spoken(dialogue) == ["EHLO 250", "MAIL 250", "RCPT 250", "DATA 354", "QUIT 221"]
        assert dialogue.mails[0].outcome == "delivered"

    def test_a_mail_without_an_answer_is_awaited(self) -> None:
        """The dot was sent, and nothing came back: how it ended is not known."""
        head = ONE_MAIL.split("    S: 250 2.0.0 Ok", maxsplit=1)[0]
        dialogue = talk(head)
        assert dialogue.awaited == "BODY"
        assert dialogue.phase == "end-of-data"
        (mail,) = dialogue.mails
        assert (mail.outcome, mail.complete, mail.reply) == (None, True, None)

    def test_a_mail_that_stops_in_the_middle(self) -> None:
        """Without its dot a mail has no size, and the dialogue stays in the body."""
        head = ONE_MAIL.split("    C: Hello.", maxsplit=1)[0]
        dialogue = talk(head)
        (mail,) = dialogue.mails
        assert dialogue.phase == "body"
        assert (mail.size, mail.body_end, mail.complete, mail.outcome) == (None, None, False, None)
        assert mail.seen_bytes == len("Subject: hello\r\n\r\n")

    def test_a_refusal_may_come_before_the_end(self) -> None:
        """A server that will not read the rest answers early; that is the mail's reply."""
        dialogue = talk(f"""{GO_AHEAD}
            C: a line of a long mail
            S: 552 too big
        """)
        (mail,) = dialogue.mails
        assert (mail.outcome, mail.complete, mail.ended_by) == ("rejected", False, "reply")

    def test_a_bare_lf_client(self) -> None:
        """Where a client ends its commands with LF alone, it ends its mail like that as well."""
        dialogue = talk(r"""
            S: 220 mx
            C: HELO me\n
            S: 250 mx
            C: MAIL FROM:<a@b>\n
            S: 250 ok
            C: RCPT TO:<c@d>\n
            S: 250 ok
            C: DATA\n
            S: 354 go
            C: hi\n
            C: .\n
            C: QUIT\n
            S: 250 queued
            S: 221 bye
        """, acknowledged=False)  # fmt: skip
        assert spoken(dialogue) == ["HELO 250", "MAIL 250", "RCPT 250", "DATA 354", "QUIT 221"]
        assert dialogue.mails[0].size == 3
        assert "the client ends lines with a bare LF" in dialogue.notes

    def test_a_lenient_server(self) -> None:
        """A reply that comes before any CR LF . CR LF shows that the server took LF . CR LF for the end."""
        dialogue = talk(rf"""{GO_AHEAD}
            C: hi\n
            C: .
            S: 250 queued
            C: QUIT
            S: 221 bye
        """)
        assert spoken(dialogue)[-1] == "QUIT 221"
        assert dialogue.mails[0].outcome == "delivered"
        assert "a mail ended by a line that only lenient servers take for the end" in dialogue.notes


class TestEnvelope:
    def test_pipelining(self) -> None:
        """Commands of one flight are answered in their order (RFC 2920)."""
        dialogue = talk("""
            S: 220 mx
            C: EHLO me
            S: 250-mx
            S: 250 PIPELINING
            C: MAIL FROM:<a@b>
            C: RCPT TO:<c@d>
            C: RCPT TO:<nobody@d>
            C: DATA
            S: 250 ok
            S: 250 ok
            S: 550 no such user
            S: 354 go
            C: hi
            C: .
            S: 250 queued
        """)
        assert spoken(dialogue) == ["EHLO 250", "MAIL 250", "RCPT 250", "RCPT 550", "DATA 354"]
        (mail,) = dialogue.mails
        assert (mail.recipients, mail.refused_recipients) == (("c@d",), ("nobody@d",))
        assert mail.outcome == "delivered"

    def test_a_pipelined_data_without_a_recipient(self) -> None:
        """After a refused recipient the client ends the mail that it has begun with a lone dot (RFC 2920 3.1)."""
        dialogue = talk("""
            S: 220 mx
            C: EHLO me
            S: 250 PIPELINING
            C: MAIL FROM:<a@b>
            C: RCPT TO:<nobody@d>
            C: DATA
            S: 250 ok
            S: 550 no such user
            S: 354 go
            C: .
            S: 554 no valid recipients
        """)
        (mail,) = dialogue.mails
        assert (mail.outcome, mail.size, mail.recipients) == ("rejected", 0, ())

    @pytest.mark.parametrize(("code", "outcome"), [(550, "rejected"), (450, "deferred")])
    @pytest.mark.parametrize("verb", ["MAIL", "RCPT", "DATA"])
    def test_a_refused_envelope(self, verb: str, code: int, outcome: str) -> None:
        """A mail whose envelope was refused ended like a mail refused: 5xx for good, 4xx for now."""
        said = {"MAIL": 250, "RCPT": 250, "DATA": 354}
        lines = ["S: 220 mx"]
        for command, text in (("MAIL", "MAIL FROM:<a@b>"), ("RCPT", "RCPT TO:<c@d>"), ("DATA", "DATA")):
            lines += [f"C: {text}", f"S: {code if command == verb else said[command]} text"]
            if command == verb:
                break
        dialogue = talk("\n".join([*lines, "C: RSET", "S: 250 ok", "C: QUIT", "S: 221 bye"]))
        (mail,) = dialogue.mails
        assert mail.outcome == outcome
        assert dialogue.commands[-1].verb == "QUIT"

    @pytest.mark.parametrize(("command", "by"), [("RSET", "rset"), ("QUIT", "quit"), ("EHLO again", "ehlo")])
    def test_a_mail_that_the_client_gives_up(self, command: str, by: str) -> None:
        """RSET, QUIT and EHLO end a mail before its content without a refusal: aborted."""
        dialogue = talk(f"""
            S: 220 mx
            C: MAIL FROM:<a@b>
            S: 250 ok
            C: RCPT TO:<c@d>
            S: 250 ok
            C: {command}
            S: 250 ok
        """)
        (mail,) = dialogue.mails
        assert (mail.outcome, mail.ended_by, mail.body_start) == ("aborted", by, None)

    def test_a_closed_connection_is_no_abort(self) -> None:
        """Without a word from the client the dialogue alone cannot tell."""
        (mail,) = talk("S: 220 mx\nC: MAIL FROM:<a@b>\nS: 250 ok").mails
        assert (mail.outcome, mail.ended_by) == (None, None)

    def test_several_mails(self) -> None:
        """Each MAIL begins a mail of its own."""
        mail = """
            C: MAIL FROM:<a{0}@b>
            S: 250 ok
            C: RCPT TO:<c@d>
            S: 250 ok
            C: DATA
            S: 354 go
            C: {0}
            C: .
            S: {1} done
            C: RSET
            S: 250 ok
        """
        dialogue = talk("\n            S: 220 mx" + mail.format(1, 250) + mail.format(2, 451) + mail.format(3, 554))
        assert [(m.mail_from, m.outcome) for m in dialogue.mails] == [
            ("a1@b", "delivered"),
            ("a2@b", "deferred"),
            ("a3@b", "rejected"),
        ]

    def test_a_mail_command_inside_a_mail(self) -> None:
        """A MAIL that the server refuses as nested leaves the mail under way as it is (RFC 5321 4.1.4)."""
        dialogue = talk("""
            S: 220 mx
            C: MAIL FROM:<a@b>
            S: 250 ok
            C: MAIL FROM:<x@y>
            S: 503 nested MAIL command
            C: RCPT TO:<c@d>
            S: 250 ok
            C: DATA
            S: 354 go
            C: .
            S: 250 queued
        """)
        assert [(m.mail_from, m.recipients, m.outcome) for m in dialogue.mails] == [("a@b", ("c@d",), "delivered")]

    def test_data_again_after_a_refusal(self) -> None:
        """A refused DATA does not end the mail: after another RCPT it may go through."""
        dialogue = talk("""
            S: 220 mx
            C: MAIL FROM:<a@b>
            S: 250 ok
            C: DATA
            S: 503 need RCPT
            C: RCPT TO:<c@d>
            S: 250 ok
            C: DATA
            S: 354 go
            C: hi
            C: .
            S: 250 queued
        """)
        (mail,) = dialogue.mails
        assert (mail.outcome, mail.recipients, mail.size) == ("delivered", ("c@d",), 4)

    @pytest.mark.parametrize(
        ("argument", "mailbox"),
        [
            ("<a@b>", "a@b"),
            (" <a@b> SIZE=1", "a@b"),
            ("<>", ""),
            ("<@relay.example,@other:a@b>", "a@b"),
            ('<"odd > one"@b> SIZE=1', '"odd > one"@b'),
            ("a@b", "a@b"),
            ("<грета@example.com> SMTPUTF8", "грета@example.com"),
            ("<a@b> RET=HDRS ENVID=QQ314159", "a@b"),
            ("<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"),
            ("<a@b", None),
            ("", None),
        ],
    )
    def test_paths(self, argument: str, mailbox: str | None) -> None:
        """Null senders, source routes, quoted and SMTPUTF8 local parts, DSN and other parameters."""
        (mail,) = talk(f"S: 220 mx\nC: MAIL FROM:{argument}\nS: 250 ok").mails
        assert mail.mail_from == mailbox


class TestOtherCommands:
    def test_the_lesser_commands(self) -> None:
        """They are answered in turn like all others; their arguments are not kept."""
        dialogue = talk("""
            S: 220 mx
            C: NOOP secret
            S: 250 ok
            C: VRFY secret
            S: 252 perhaps
            C: expn secret
            S: 502 no
            C: HELP secret
            S: 214-one
            S: 214 two
            C: ETRN secret
            S: 250 queuing
        """)
        assert spoken(dialogue) == ["NOOP 250", "VRFY 252", "EXPN 502", "HELP 214", "ETRN 250"]
        assert "secret" not in repr(dialogue)

    def test_unknown_commands_leave_no_trace_but_their_place(self) -> None:
        """Neither the argument nor the verb of an unknown command is kept: either may be a secret."""
        dialogue = talk("S: 220 mx\nC: hunter2 geheim\nS: 500 what\nC: \nS: 500 what\nC: QUIT\nS: 221 bye")
        assert spoken(dialogue) == ["UNKNOWN 500", "UNKNOWN 500", "QUIT 221"]
        assert "hunter2" not in repr(dialogue) and "geheim" not in repr(dialogue)

    def test_a_client_that_never_says_ehlo(self) -> None:
        """A mail without EHLO is a mail."""
        dialogue = talk("S: 220 mx\nC: MAIL FROM:<>\nS: 503 EHLO first")
        assert (dialogue.helo, dialogue.mails[0].outcome, dialogue.is_smtp) == (None, "rejected", True)

    def test_ehlo_refused_then_helo(self) -> None:
        """The greeting that counts is the accepted one."""
        dialogue = talk("S: 220 **\nC: EHLO me\nS: 502 unknown\nC: HELO me2\nS: 250 mx")
        assert (dialogue.helo, dialogue.client_name, dialogue.keywords) == ("HELO", "me2", ())

    def test_ftp_is_not_smtp(self) -> None:
        """A 220 greeting alone does not make a service SMTP; and its password is not kept."""
        dialogue = talk("S: 220 FTP\nC: USER anonymous\nS: 331 password\nC: PASS me@example.org\nS: 230 ok")
        assert not dialogue.is_smtp
        assert "anonymous" not in repr(dialogue) and "me@example" not in repr(dialogue)

    def test_masked_commands(self) -> None:
        """Of a command turned to X the length stays."""
        dialogue = talk("S: 220 ****\nC: XXXX me\nS: 500 what")
        assert spoken(dialogue) == ["XXXX 500"]


class TestChunking:
    def test_a_mail_in_chunks(self) -> None:
        """BDAT carries its bytes behind its line, whatever they are, and every chunk is answered (RFC 3030)."""
        dialogue = talk(r"""
            S: 220 mx
            C: EHLO me
            S: 250 CHUNKING
            C: MAIL FROM:<a@b>
            C: RCPT TO:<c@d>
            C: BDAT 9
            C: QUIT\r\n.\r\n
            S: 250 ok
            S: 250 ok
            S: 250 9 bytes
            C: BDAT 5 LAST
            C: QUIT\n
            S: 250 queued
            C: QUIT
            S: 221 bye
        """)  # fmt: skip
        assert spoken(dialogue) == ["EHLO 250", "MAIL 250", "RCPT 250", "BDAT 250", "BDAT 250", "QUIT 221"]
        (mail,) = dialogue.mails
        assert (mail.via, mail.size, mail.outcome, mail.terminator_end) == ("bdat", 14, "delivered", None)
        assert mail.complete

    def test_the_last_chunk_may_be_empty(self) -> None:
        """``BDAT 0 LAST`` ends a mail."""
        dialogue = talk("S: 220 mx\nC: MAIL FROM:<a@b>\nS: 250 ok\nC: BDAT 0 LAST\nS: 554 no recipients")
        (mail,) = dialogue.mails
        assert (mail.size, mail.complete, mail.outcome) == (0, True, "rejected")

    def test_a_chunk_that_stops_in_the_middle(self) -> None:
        """Fewer bytes than announced: not complete, and its size is not told."""
        dialogue = talk("S: 220 mx\nC: MAIL FROM:<a@b>\nS: 250 ok\nC: BDAT 100 LAST\nC: hello")
        (mail,) = dialogue.mails
        assert (mail.size, mail.complete, mail.seen_bytes, dialogue.phase) == (None, False, 7, "body")

    def test_a_malformed_chunk_has_no_bytes(self) -> None:
        """Without a number there is nothing to skip."""
        assert spoken(talk("S: 220 mx\nC: BDAT x\nS: 501 no\nC: QUIT\nS: 221 bye")) == ["BDAT 501", "QUIT 221"]


class TestAuth:
    @pytest.mark.parametrize(
        "exchange",
        [
            "C: AUTH PLAIN AGFsaWNlAHNlY3JldA==\nS: 235 2.7.0 ok",
            "C: auth plain AGFsaWNlAHNlY3JldA==\nS: 235 2.7.0 ok",
            "C: AUTH PLAIN\nS: 334\nC: AGFsaWNlAHNlY3JldA==\nS: 235 2.7.0 ok",
            "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: YWxpY2U=\nS: 334 UGFzc3dvcmQ6\nC: c2VjcmV0\nS: 235 2.7.0 ok",
            "C: AUTH LOGIN YWxpY2U=\nS: 334 UGFzc3dvcmQ6\nC: c2VjcmV0\nS: 535 5.7.8 Error: c2VjcmV0",
            "C: AUTH LOGIN\nS: 334 VXNlcm5hbWU6\nC: QUIT\nS: 334 UGFzc3dvcmQ6\nC: c2VjcmV0\nS: 235 ok",
            "C: AUTH CRAM-MD5\nS: 334 PDE4OTYuNj4=\nC: YWxpY2Ugc2VjcmV0\nS: 235 ok",
            "C: AUTH XOAUTH2 YWxpY2VzZWNyZXQ=\nS: 334 eyJzdGF0dXMi\nC:\nS: 535 5.7.8 no",
            "C: AUTH GSSAPI\nS: 334\nC: *\nS: 501 5.7.0 cancelled",
            "C: AUTH LOGIN\nC: YWxpY2U=\nC: c2VjcmV0\nS: 503 5.5.1 not now\nS: 500 what\nS: 500 what",
            "C: X-EXPS LOGIN\nS: 334 VXNlcm5hbWU6\nC: YWxpY2U=\nS: 334 UGFzc3dvcmQ6\nC: c2VjcmV0\nS: 235 2.7.0 ok",
        ],
    )
    def test_nothing_of_an_exchange_is_kept(self, exchange: str) -> None:
        """Whatever the form, neither side's words are kept; the dialogue goes on in step."""
        dialogue = talk(f"S: 220 mx\nC: EHLO me\nS: 250 AUTH PLAIN LOGIN\n{exchange}\nC: QUIT\nS: 221 bye")
        told = repr(dialogue)
        for secret in exchange.split():
            if len(secret) >= 8 and secret not in ("CRAM-MD5", "XOAUTH2", "cancelled", "cancelled"):
                assert secret not in told
        assert spoken(dialogue)[-1] == "QUIT 221"
        assert all(c.reply for c in dialogue.commands)

    def test_without_the_server_nothing_is_kept_either(self) -> None:
        """In a capture of one direction, what follows AUTH is taken for a part of it, until a command comes."""
        dialogue = talk("C: EHLO me\nC: AUTH LOGIN\nC: YWxpY2U=\nC: c2VjcmV0\nC: MAIL FROM:<a@b>\nC: QUIT")
        assert [c.verb for c in dialogue.commands] == ["EHLO", "AUTH", "AUTH-RESPONSE", "AUTH-RESPONSE", "MAIL", "QUIT"]
        assert "YWxpY2U" not in repr(dialogue) and "c2VjcmV0" not in repr(dialogue)

    def test_the_identity_behind_a_mail_is_not_kept(self) -> None:
        """``MAIL FROM:<> AUTH=`` tells who logged in."""
        dialogue = talk("S: 220 mx\nC: MAIL FROM:<a@b> AUTH=alice+40secret SIZE=7\nS: 250 ok")
        assert "alice" not in repr(dialogue)
        assert dialogue.mails[0].declared_size == 7


class TestTls:
    HELLO = r"\x16\x03\x01\x00\x05hello\n"

    def test_starttls(self) -> None:
        """Behind the 220 to STARTTLS there is no text any more, on either side."""
        client, server = streams(rf"""
            S: 220 mx
            C: EHLO me
            S: 250-mx
            S: 250 STARTTLS
            C: STARTTLS
            S: 220 2.0.0 Ready
            C: {self.HELLO}
            S: {self.HELLO}
        """)  # fmt: skip
        dialogue = read_dialogue(client, server, from_start=True)
        assert (dialogue.tls, dialogue.phase) == ("starttls", "tls")
        assert client.data[dialogue.tls_client_start :].startswith(b"\x16\x03\x01")
        assert server.data[dialogue.tls_server_start :].startswith(b"\x16\x03\x01")
        assert spoken(dialogue) == ["EHLO 250", "STARTTLS 220"]

    def test_starttls_refused(self) -> None:
        """After a 454 the dialogue goes on in clear."""
        dialogue = talk("S: 220 mx\nC: STARTTLS\nS: 454 not now\nC: MAIL FROM:<a@b>\nS: 250 ok")
        assert dialogue.tls == "none"
        assert spoken(dialogue) == ["STARTTLS 454", "MAIL 250"]

    def test_starttls_without_the_server(self) -> None:
        """In a capture of one direction the ClientHello tells."""
        client, server = streams(f"C: EHLO me\nC: STARTTLS\nC: {self.HELLO}")
        dialogue = read_dialogue(client, server, from_start=True)
        assert dialogue.tls == "starttls"
        assert client.data[dialogue.tls_client_start :].startswith(b"\x16\x03\x01")

    def test_implicit_tls(self) -> None:
        """A client that begins with a TLS record speaks TLS from the start (port 465)."""
        dialogue = talk(f"C: {self.HELLO}\nS: {self.HELLO}")
        assert (dialogue.tls, dialogue.tls_client_start, dialogue.tls_server_start) == ("implicit", 0, 0)
        assert dialogue.commands == [] and dialogue.replies == []

    def test_one_byte_of_tls(self) -> None:
        """A stream cut behind its first byte is still TLS."""
        client, server = Stream(b"\x16"), Stream()
        assert read_dialogue(client, server, from_start=True).tls == "implicit"


class TestUnusualOrder:
    def test_lmtp(self) -> None:
        """An LMTP server answers the mail once per accepted recipient (RFC 2033)."""
        dialogue = talk("""
            S: 220 lmtp
            C: LHLO me
            S: 250 PIPELINING
            C: MAIL FROM:<a@b>
            C: RCPT TO:<one@d>
            C: RCPT TO:<no@d>
            C: RCPT TO:<two@d>
            C: DATA
            S: 250 ok
            S: 250 ok
            S: 550 unknown
            S: 250 ok
            S: 354 go
            C: hi
            C: .
            C: QUIT
            S: 250 one has it
            S: 452 two is full
            S: 221 bye
        """)
        (mail,) = dialogue.mails
        assert [r.code for r in mail.replies] == [250, 452]
        assert mail.outcome == "delivered"
        assert spoken(dialogue)[-1] == "QUIT 221"

    def test_an_early_talker(self) -> None:
        """A client that does not wait for the greeting is answered in order nevertheless."""
        dialogue = talk("C: EHLO me\nC: QUIT\nS: 220 mx\nS: 250 mx\nS: 221 bye")
        assert dialogue.greeting is not None and dialogue.greeting.code == 220
        assert spoken(dialogue) == ["EHLO 250", "QUIT 221"]
        assert "the client spoke before the greeting" in dialogue.notes

    def test_a_mail_before_its_354(self) -> None:
        """A client may send everything in one write: the mail begins behind DATA when the 354 comes."""
        dialogue = talk("""
            C: HELO me
            C: MAIL FROM:<a@b>
            C: RCPT TO:<c@d>
            C: DATA
            C: hi
            C: .
            C: QUIT
            S: 220 mx
            S: 250 mx
            S: 250 ok
            S: 250 ok
            S: 354 go
            S: 250 queued
            S: 221 bye
        """)
        assert dialogue.mails[0].outcome == "delivered"
        assert spoken(dialogue)[-1] == "QUIT 221"

    def test_a_mail_before_a_refused_data(self) -> None:
        """When DATA is refused, the lines behind it are commands, and the server says so line by line."""
        dialogue = talk("""
            S: 220 mx
            C: DATA
            C: hello
            C: .
            C: QUIT
            S: 503 no
            S: 500 what
            S: 500 what
            S: 221 bye
        """)
        assert spoken(dialogue) == ["DATA 503", "UNKNOWN 500", "UNKNOWN 500", "QUIT 221"]
        assert dialogue.mails == []

    def test_an_unasked_421(self) -> None:
        """A server may close at any time (RFC 5321 3.8): the 421 answers nothing that came later."""
        dialogue = talk("""
            S: 220 mx
            C: EHLO me
            S: 250 mx
            S: 421 timeout
            C: QUIT
        """)
        assert spoken(dialogue) == ["EHLO 250", "QUIT -"]
        assert [r.code for r in dialogue.unasked] == [421]

    def test_a_421_that_crosses_a_command(self) -> None:
        """A 421 sent before the command had arrived does not answer it."""
        dialogue = talk("S: 220 mx\nC: EHLO me\nS: 250 mx\nC: MAIL FROM:<a@b>\nS> 421 timeout")
        assert spoken(dialogue) == ["EHLO 250", "MAIL -"]
        assert dialogue.mails[0].outcome == "deferred"

    def test_a_421_in_answer(self) -> None:
        """A 421 may also be the answer to a command."""
        dialogue = talk("S: 220 mx\nC: EHLO me\nS: 421 too busy")
        assert spoken(dialogue) == ["EHLO 421"]
        assert dialogue.unasked == []

    def test_a_421_while_a_mail_is_under_way(self) -> None:
        """The server gave up waiting for the rest of the mail: deferred."""
        dialogue = talk(f"""{GO_AHEAD}
            C: part of a mail
            S: 421 timeout
        """)
        assert dialogue.mails[0].outcome == "deferred"

    def test_a_greeting_that_refuses(self) -> None:
        """554 instead of 220 (RFC 5321 3.1)."""
        dialogue = talk("S: 554 no service\nC: QUIT\nS: 221 bye")
        assert dialogue.greeting is not None and dialogue.greeting.code == 554
        assert spoken(dialogue) == ["QUIT 221"]

    def test_a_server_that_says_nothing(self) -> None:
        """Without a greeting the greeting is awaited."""
        dialogue = talk("C: QUIT")
        assert (dialogue.greeting, dialogue.awaited) == (None, "CONNECT")
        assert talk("").awaited == "CONNECT"
        assert talk("").phase == "connect"

    def test_a_reply_of_several_lines(self) -> None:
        """A greeting may have several lines; texts may be missing."""
        dialogue = talk("S: 220-mx\nS: 220-\nS: 220")
        assert dialogue.greeting is not None
        assert dialogue.greeting.lines == ("mx", "", "")
        assert dialogue.phase == "greeting"

    def test_lines_that_are_no_replies(self) -> None:
        """They are counted as an oddity and change nothing."""
        dialogue = talk("S: 220 mx\nC: EHLO me\nS: hello there\nS: 250 mx")
        assert spoken(dialogue) == ["EHLO 250"]
        assert "the server sent lines that are no replies" in dialogue.notes
