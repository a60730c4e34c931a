"""What holds for every dialogue, however TCP cut it up and whatever the capture missed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from analyzer.smtp.dialogue import Dialogue, read_dialogue

from .talk import Stream

# ---------------------------------------------------------------- dialogues to draw from


@dataclass
class Script:
    """Flights in the order of time: (side, bytes, the least that its sender must have heard)."""

    flights: list[tuple[str, bytes, int]] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=lambda: {"C": 0, "S": 0})
    pairs: set[tuple[int, int]] = field(default_factory=set)  # (start of a command, start of its reply)

    def ask(self, *lines: bytes, replies: tuple[bytes, ...]) -> None:
        """The client sends lines in one flight, having heard everything; the server answers each in turn."""
        heard = self.sent["S"]
        starts, ends = [], []
        for line in lines:
            starts.append(self.sent["C"])
            self.say("C", line, heard)
            ends.append(self.sent["C"])
        for start, end, reply in zip(starts, ends, replies, strict=True):
            self.pairs.add((start, self.sent["S"]))
            self.say("S", reply, end)

    def say(self, side: str, data: bytes, heard: int) -> None:
        self.flights.append((side, data, heard))
        self.sent[side] += len(data)


BODY_LINES = st.sampled_from(
    [b"Subject: x", b"", b"..", b"...stuffed", b"a" * 70, b".\tx", b" .", b"bare\nlf", b"cr\ronly"]
)
BODIES = st.lists(BODY_LINES, max_size=4).map(lambda lines: b"".join(line + b"\r\n" for line in lines))
CODES = st.sampled_from([250, 250, 250, 451, 550])


@st.composite
def scripts(draw: st.DrawFn, *, pipelining: bool = True, auth: bool = True) -> Script:
    script = Script()
    script.say("S", draw(st.sampled_from([b"220 mx\r\n", b"220-mx\r\n220 ESMTP\r\n", b"220 ****\r\n"])), 0)
    script.ask(b"EHLO me\r\n", replies=(draw(st.sampled_from([b"250 mx\r\n", b"250-mx\r\n250-SIZE\r\n250 DSN\r\n"])),))
    for number in range(draw(st.integers(0, 3))):
        mail(draw, script, number, pipelining=pipelining, auth=auth)
    if draw(st.booleans()):
        script.ask(b"QUIT\r\n", replies=(b"221 bye\r\n",))
    return script


def mail(draw: st.DrawFn, script: Script, number: int, *, pipelining: bool, auth: bool) -> None:
    sender = b"MAIL FROM:<a%d@b>\r\n" % number
    kind = draw(st.sampled_from(["data", "data", "bdat", "rset", "noop", *(["auth"] if auth else [])]))
    if kind == "auth":
        script.ask(b"AUTH LOGIN\r\n", replies=(b"334 VXNlcm5hbWU6\r\n",))
        script.ask(b"YWxpY2U=\r\n", replies=(b"334 UGFzc3dvcmQ6\r\n",))
        script.ask(b"c2VjcmV0\r\n", replies=(b"235 ok\r\n",))
    elif kind == "noop":
        script.ask(b"NOOP\r\n", replies=(b"250 ok\r\n",))
    elif kind == "rset":
        script.ask(sender, replies=(b"250 ok\r\n",))
        script.ask(b"RSET\r\n", replies=(b"250 ok\r\n",))
    elif kind == "bdat":
        body = draw(BODIES)
        script.ask(sender, replies=(b"250 ok\r\n",))
        script.ask(b"RCPT TO:<c@d>\r\n", replies=(b"250 ok\r\n",))
        script.ask(b"BDAT %d LAST\r\n%s" % (len(body), body), replies=(b"%d done\r\n" % draw(CODES),))
    else:
        envelope = [sender, b"RCPT TO:<c@d>\r\n", b"DATA\r\n"]
        replies = [b"250 ok\r\n", b"%d to\r\n" % draw(CODES), b"354 go\r\n"]
        if pipelining and draw(st.booleans()):
            script.ask(*envelope, replies=tuple(replies))
        else:
            for line, reply in zip(envelope, replies, strict=True):
                script.ask(line, replies=(reply,))
        script.say("C", draw(BODIES) + b".\r\n", script.sent["S"])
        script.say("S", b"%d done\r\n" % draw(CODES), script.sent["C"])


def views(script: Script, choose: Callable[[int, int], int] | None = None) -> tuple[Stream, Stream]:
    """The streams, with acknowledgements that `choose` draws between what a sender must and may have heard."""
    streams = {"C": Stream(), "S": Stream()}
    for side, data, heard in script.flights:
        said = len(streams["S" if side == "C" else "C"].data)
        streams[side].say(data, choose(heard, said) if choose else heard)
    return streams["C"], streams["S"]


def commands_of(dialogue: Dialogue) -> list[tuple[str, int, int]]:
    return [(c.verb, c.start, c.end) for c in dialogue.commands]


# ---------------------------------------------------------------- the truths


@settings(deadline=None)
@given(scripts(), st.data())
def test_segmentation_does_not_matter(script: Script, data: st.DataObject) -> None:
    """Whatever TCP's acknowledgements were, as far as cause and effect allow: the dialogue is the same."""
    drawn = views(script, lambda least, most: data.draw(st.integers(min(least, most), most)))
    plain = read_dialogue(*views(script), from_start=True)
    assert read_dialogue(*drawn, from_start=True) == plain
    for stream in drawn:
        stream.acknowledged = False
    assert read_dialogue(*drawn, from_start=True) == plain


@settings(deadline=None)
@given(scripts())
def test_replies_go_to_their_commands(script: Script) -> None:
    """Every command has its own reply, all replies are used, every mail that was sent has an outcome."""
    dialogue = read_dialogue(*views(script), from_start=True)
    assert {(c.start, c.reply.start) for c in dialogue.commands if c.reply} == script.pairs
    assert dialogue.unasked == []
    assert dialogue.awaited is None
    assert all(m.outcome for m in dialogue.mails)
    assert "c2VjcmV0" not in repr(dialogue)


@settings(deadline=None)
@given(scripts(), st.data())
def test_a_capture_cut_short_is_a_beginning(script: Script, data: st.DataObject) -> None:
    """Cut at any byte, the dialogue is the beginning of the whole one."""
    whole = read_dialogue(*views(script), from_start=True)
    last = data.draw(st.integers(0, len(script.flights) - 1))
    side, text, _ = script.flights[last]
    kept = data.draw(st.integers(0, len(text)))
    short = Script([*script.flights[:last], (side, text[:kept], script.flights[last][2])])
    dialogue = read_dialogue(*views(short), from_start=True)
    assert commands_of(dialogue) == commands_of(whole)[: len(dialogue.commands)]
    assert dialogue.replies == whole.replies[: len(dialogue.replies)]
    senders = [m.mail_from for m in whole.mails]
    assert [m.mail_from for m in dialogue.mails] == senders[: len(dialogue.mails)]


@settings(deadline=None)
@given(scripts(), st.data())
def test_every_byte_alone(script: Script, data: st.DataObject) -> None:
    """One-byte pieces are the same stream."""
    client, server = views(script)
    whole = read_dialogue(client, server, from_start=True)
    client.pieces = lambda: [(i, bytes([b])) for i, b in enumerate(client.data)]  # type: ignore[method-assign]
    server.pieces = lambda: [(i, bytes([b])) for i, b in enumerate(server.data)]  # type: ignore[method-assign]
    assert read_dialogue(client, server, from_start=True) == whole


def lose_some(data: st.DataObject, stream: Stream) -> None:
    for _ in range(data.draw(st.integers(0, 2))):
        start = data.draw(st.integers(0, max(len(stream.data) - 1, 0)))
        stream.lose(start, min(start + data.draw(st.integers(1, 60)), len(stream.data)))


@settings(deadline=None, max_examples=300)
@given(scripts(pipelining=False, auth=False), st.data())
def test_gaps_hide_but_do_not_lie(script: Script, data: st.DataObject) -> None:
    """With bytes missing on both sides: no command appears that was not sent, none gets another one's reply.

    AUTH exchanges apart: their lines look like nothing, so a hole in one may shift the replies inside it.
    """
    client, server = views(script)
    whole = read_dialogue(client, server, from_start=True)
    true_starts = {(c.verb, c.start) for c in whole.commands}
    lose_some(data, client)
    lose_some(data, server)
    dialogue = read_dialogue(client, server, from_start=True)
    assert {(c.verb, c.start) for c in dialogue.commands} <= true_starts
    for command in dialogue.commands:
        if command.reply:
            truth = next(reply for start, reply in script.pairs if start == command.start)
            length = next(r.end - r.start for r in whole.replies if r.start == truth)
            assert truth <= command.reply.start < truth + length


@settings(deadline=None)
@given(scripts(), st.booleans(), st.data())
def test_gaps_betray_nothing(script: Script, from_start: bool, data: st.DataObject) -> None:
    """However an AUTH exchange is torn, no part of it is kept, nor of a mail."""
    client, server = views(script)
    lose_some(data, client)
    lose_some(data, server)
    told = repr(read_dialogue(client, server, from_start=from_start))
    assert not any(secret in told for secret in ("c2Vj", "jcmV0", "YWxp", "stuffed", "aaaa"))


@settings(deadline=None)
@given(scripts(), st.data())
def test_a_gap_in_a_mail_alone_changes_nothing_else(script: Script, data: st.DataObject) -> None:
    """Bytes missing inside a mail, its end apart, leave the dialogue as it is."""
    client, server = views(script)
    whole = read_dialogue(client, server, from_start=True)
    mails = [m for m in whole.mails if m.terminator_end and (m.size or 0) > 2]
    assume(mails)
    lost = data.draw(st.sampled_from(mails))
    assert lost.body_start is not None and lost.body_end is not None
    client.lose(lost.body_start, data.draw(st.integers(lost.body_start + 1, lost.body_end)))
    assert read_dialogue(client, server, from_start=True) == whole


WORDS = (
    [b"\r\n", b".", b"\n", b"x", b"250-", b"250 ", b"DATA\r\n", b"RSET\r\n", b"STARTTLS\r\n", b"AUTH LOGIN\r\n"],
    [
        b"MAIL FROM:<a>\r\n",
        b"RCPT TO:<a>\r\n",
        b"BDAT 3 LAST\r\n",
        b"LHLO x\r\n",
        b"220 x\r\n",
        b"334 \r\n",
        b"354 x\r\n",
    ],
    [b"421 x\r\n", b"503 x\r\n", b"\x16\x03\x01", b"\x17\x03\x03\x00\x05hello", b"\x16\x03\x03\x00\x00"],
)
ANY_BYTES = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([word for group in WORDS for word in group]), max_size=30).map(b"".join),
)


@settings(deadline=None, max_examples=400)
@given(ANY_BYTES, ANY_BYTES, st.booleans(), st.data())
def test_anything_can_be_read(client_bytes: bytes, server_bytes: bytes, from_start: bool, data: st.DataObject) -> None:
    """Random bytes, random gaps, acknowledgements that make no sense: never an exception, every offset in its stream."""
    client, server = Stream(client_bytes), Stream(server_bytes)
    for stream in (client, server):
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, 200))
            stream.flights = sorted([*stream.flights, (at, data.draw(st.integers(0, 300)))])
        if stream.data:
            lose_some(data, stream)
        stream.acknowledged = data.draw(st.booleans())
    dialogue = read_dialogue(client, server, from_start=from_start)
    for command in dialogue.commands:
        assert 0 <= command.start <= command.end <= client.end
    starts = [c.start for c in dialogue.commands]
    assert starts == sorted(starts)
    for m in dialogue.mails:
        assert m.size is None or m.size >= 0
        assert m.seen_bytes >= 0
        assert m.terminator_end is None or m.terminator_end <= client.end


# ---------------------------------------------------------------- time

LINEAR = {
    "one endless line": lambda n: (b"x" * n * 100, b"220 mx\r\n"),
    "an endless reply line": lambda n: (b"NOOP\r\n" * n, b"220 mx\r\n" + b"250" + b"x" * n * 100),
    "many commands": lambda n: (b"NOOP\r\n" * n, b"220 mx\r\n" + b"250 ok\r\n" * n),
    "many commands unanswered": lambda n: (b"NOOP\r\n" * n, b""),
    "a reply of many lines": lambda n: (b"EHLO x\r\n", b"220 mx\r\n" + b"250-x\r\n" * n),
    "many mails": lambda n: (
        b"MAIL FROM:<a>\r\nDATA\r\nx\r\n.\r\n" * n,
        b"220 mx\r\n" + b"250 ok\r\n354 go\r\n250 ok\r\n" * n,
    ),
    "many mails with bare LF": lambda n: (b"DATA\nx\n.\n" * n, b"220 mx\r\n" + b"354 go\r\n250 ok\r\n" * n),
    "many mails without an end": lambda n: (b"DATA\r\n" * n, b"220 mx\r\n" + b"354 go\r\n" * n),
    "many chunks": lambda n: (b"BDAT 1\r\nx" * n, b"220 mx\r\n" + b"250 ok\r\n" * n),
    "a mail of dots": lambda n: (b"DATA\r\n" + b"\r\n..\r\n" * n, b"220 mx\r\n354 go\r\n"),
    "replies nobody asked for": lambda n: (b"NOOP\r\n", b"250 x\r\n" * n),
}


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("gaps", [False, True])
def test_time_is_linear(name: str, gaps: bool) -> None:
    """Four times the bytes take about four times as long, also with a gap every kilobyte."""

    def seconds(n: int) -> float:
        client, server = map(Stream, LINEAR[name](n))
        for stream in (client, server):
            stream.flights = [(at, at) for at in range(0, len(stream.data) + 1, 500)]
            if gaps:
                stream.lost = [(at, at + 7) for at in range(1000, len(stream.data), 1000)]
        begun = time.process_time()
        read_dialogue(client, server, from_start=True)
        return time.process_time() - begun

    small, large = min(seconds(2500) for _ in range(3)), min(seconds(10000) for _ in range(2))
    assert large < max(small, 0.02) * 12  # quadratic would be 16; small times drown in noise
