"""Dialogues in columns say what the dialogues read one by one say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.smtp import grammar
from analyzer.smtp.dialogue import Dialogue, read_dialogue
from analyzer.smtp.plain import Pieces, Plain, read_plain

from .talk import ENVELOPE, Stream, streams
from .test_properties import Script, scripts, views

Talk = tuple[Stream, Stream]


def pieces_of(talks: Sequence[Talk], cuts: st.DataObject | None = None) -> Pieces:
    """The streams as the pieces that regular connections consist of, cut at random within what was sent at once."""
    rows: list[tuple[int, int, int, int]] = []  # stream, start, end, ack
    views = [stream for talk in talks for stream in talk]
    for number, stream in enumerate(views):
        bounds = {at for at, _ in stream.flights} | {0, stream.end}
        if cuts is not None and stream.end > 1:
            bounds |= set(cuts.draw(st.lists(st.integers(1, stream.end - 1), max_size=6)))
        ordered = sorted(at for at in bounds if at <= stream.end)
        for start, end in itertools.pairwise(ordered):
            rows.append((number, start, end, stream.peer_at(start) or 0))
    of, start, end, ack = np.array(rows, np.int64).reshape(-1, 4).T

    def data(pieces: np.ndarray, begin: np.ndarray, stop: np.ndarray) -> bytes:  # type: ignore[type-arg]
        ranges = zip(of[pieces].tolist(), begin.tolist(), stop.tolist(), strict=True)
        return b"".join(bytes(views[n].data[i:j]) for n, i, j in ranges)

    return Pieces(np.searchsorted(of, np.arange(len(views) + 1)), start, end, ack, data)


def said(plain: Plain, c: int) -> tuple[object, ...]:
    """What the columns tell of one connection, in the words of `told`."""
    commands, replies, bodies = plain.commands, plain.replies, plain.bodies
    outline, dialogue = plain.outline[c], plain.dialogue[c]
    assert outline is not None and dialogue is not None
    first, last = commands.bounds[c : c + 2].tolist()
    base, body = int(replies.bounds[c]), int(bodies.bounds[c])
    asked = []
    for i, command in zip(range(first, last), outline.commands, strict=True):
        answer = int(commands.answer[i])
        reply = (
            (int(replies.code[answer]), int(replies.start[answer]), int(replies.end[answer])) if answer >= 0 else None
        )
        mailbox = commands.mailbox[i] if command.verb in ("MAIL", "RCPT") else None
        asked.append((command.verb, int(commands.start[i]), int(commands.end[i]), mailbox, reply))
    mails = []
    for mail in outline.mails or ():
        content = None
        if mail.bodies is not None:
            begin, end = body + mail.bodies[0], body + mail.bodies[1]
            size = int(bodies.size[begin : end + 1].sum())
            content = int(bodies.start[begin]), int(bodies.end[end]), int(bodies.terminator_end[end]), size
        recipients = tuple(commands.mailbox[first + i] for i in mail.recipients)
        reply_start = int(replies.start[base + mail.reply]) if mail.reply is not None else None
        sender = commands.mailbox[first + mail.mail]
        mails.append((sender, recipients, content, mail.outcome, mail.via, mail.reply_code, reply_start))
    return asked, mails, about(dialogue)


def told(dialogue: Dialogue) -> tuple[object, ...]:
    asked = []
    for c in dialogue.commands:
        reply = (c.reply.code, c.reply.start, c.reply.end) if c.reply else None
        asked.append((c.verb, c.start, c.end, grammar.path(c.argument) if c.verb in ("MAIL", "RCPT") else None, reply))
    mails = []
    for m in dialogue.mails:
        content = None
        if m.body_start is not None:
            content = m.body_start, m.body_end, -1 if m.terminator_end is None else m.terminator_end, m.size
        recipients = m.recipients + m.refused_recipients
        code, start = (m.reply.code, m.reply.start) if m.reply else (None, None)
        mails.append((m.mail_from, recipients, content, m.outcome, m.via, code, start))
    return asked, mails, about(dialogue)


def about(dialogue: Dialogue) -> tuple[object, ...]:
    greeting = dialogue.greeting
    who = dialogue.helo, dialogue.client_name, dialogue.keywords, dialogue.phase, dialogue.awaited
    return who, greeting and (greeting.code, greeting.lines)


def check(talks: Sequence[Talk], cuts: st.DataObject | None = None) -> Plain:
    """Every connection that is plain is told alike in both ways."""
    plain = read_plain(pieces_of(talks, cuts))
    for c, (client, server) in enumerate(talks):
        if plain.plain[c] and plain.tls_start[c, 0] < 0:
            outline = plain.outline[c]
            assert outline is not None
            if outline.mails is not None:
                assert said(plain, c) == told(read_dialogue(client, server, from_start=True))
    return plain


@settings(deadline=None)
@given(st.lists(scripts(), min_size=1, max_size=4), st.data())
def test_columns_say_what_the_long_way_says(drawn: list[Script], data: st.DataObject) -> None:
    """However the streams were cut, and whoever else is in the columns."""
    check([views(script) for script in drawn], data)


@settings(deadline=None)
@given(st.lists(scripts(auth=False), min_size=1, max_size=3), st.data())
def test_ordinary_dialogues_are_plain(drawn: list[Script], data: st.DataObject) -> None:
    """The columns are not equal by declining: a dialogue of ordinary mails is read, unless a mail is empty."""
    plain = check([views(script) for script in drawn], data)
    for script, is_plain in zip(drawn, plain.plain.tolist(), strict=True):
        assert is_plain or (b".\r\n") in [line for side, line, _ in script.flights if side == "C"]


@settings(deadline=None)
@given(scripts(), st.data())
def test_a_dialogue_that_breaks_off(script: Script, data: st.DataObject) -> None:
    """Whatever was said last, with or without an answer."""
    length = data.draw(st.integers(2, len(script.flights)))
    check([views(replace(script, flights=script.flights[:length]))], data)


@settings(deadline=None)
@given(scripts(), st.data())
def test_impatient_clients(script: Script, data: st.DataObject) -> None:
    """Acknowledgements that tell of other orders than strict alternation: read right, or left to the long way."""
    check([views(script, lambda least, most: data.draw(st.integers(min(least, most), most)))], data)


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.binary(max_size=60)), max_size=12), st.booleans())
def test_anything_can_be_read(turns: list[tuple[bool, bytes]], lines: bool) -> None:
    """Bytes that are no SMTP at all, beside a dialogue that is."""
    client, server = Stream(), Stream()
    for by_client, content in turns:
        speaker, listener = (client, server) if by_client else (server, client)
        speaker.say(content + b"\r\n" * lines, len(listener.data))
    plain = check([(client, server), streams(ORDINARY)])
    assert plain.plain[1]


HELLO = "    S: 220 mx\n    C: EHLO me\n    S: 250 mx\n"
ORDINARY = f"""{HELLO}{ENVELOPE}
    C: Subject: x
    C:
    C: .
    C: QUIT
    S: 250 taken
    S: 221 bye
"""


def test_a_mail_with_quit_behind_it() -> None:
    """QUIT in the write of the mail (RFC 2920): the terminator is found before it."""
    plain = check([streams(ORDINARY)])
    client = streams(ORDINARY)[0]
    assert plain.bodies.terminator_end.tolist() == [client.data.index(b"QUIT")]


def test_tls_begins_behind_the_second_220() -> None:
    """Its place in both streams; what follows is not looked at."""
    client, server = streams("S: 220 mx\nC: EHLO me\nS: 250-mx\nS: 250 STARTTLS\nC: STARTTLS\nS: 220 go\n")
    start = len(client.data), len(server.data)
    client.say(b"\x16\x03\x01\x00\x01\n354 \r\n", start[1])
    server.say(b"\x16\x03\x03250 no reply\r\n", len(client.data))
    plain = check([(client, server), streams(ORDINARY)])
    assert plain.plain.tolist() == [True, True]
    assert plain.tls_start.tolist() == [list(start), [-1, -1]]


def test_two_terminators_are_odd() -> None:
    """Which of them ends the mail is for the long way to say."""
    two = ORDINARY.replace("    C: .\n", "    C: .\n    C: x\n    C: .\n")
    assert check([streams(two), streams(ORDINARY)]).plain.tolist() == [False, True]


def test_long_chunks_are_passed_over() -> None:
    """BDAT with far more bytes than lines have, which look like lines, and like replies (RFC 3030)."""
    chunk = "354 go\\r\\n.\\r\\nQUIT\\r\\n" * 300
    script = "S: 220 mx\nC: EHLO me\nS: 250 mx\nC: MAIL FROM:<a@b>\nS: 250 ok\nC: RCPT TO:<c@d>\nS: 250 ok\n"
    script += f"C: BDAT {17 * 300}\nC> {chunk}\nS: 250 ok\nC: BDAT 0 LAST\nS: 250 taken\nC: QUIT\nS: 221 bye\n"
    plain = check([streams(script), streams(ORDINARY)])
    assert plain.plain.tolist() == [True, True]
    assert plain.bodies.size.tolist()[:2] == [17 * 300, 0]
