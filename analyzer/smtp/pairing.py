"""Replies -> requests: which reply answers what, also where bytes of either side are missing.

Without gaps this is a queue (see states.py). Behind gaps TCP's acknowledgements decide, by what no server and no client
can get around:

* a reply was sent after its request had arrived: the packet that first carried the reply acknowledges the request;
* what the client had acknowledged before it sent a request does not answer it;
* a client goes on behind EHLO, AUTH, STARTTLS and DATA only when it has the answer.

What they leave open goes by counting from the end, and by which reply a request may get at all. A reply that cannot be
given to a request for certain is "unasked": better none than the wrong one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import chain, islice, pairwise, takewhile

from . import grammar
from .body import Body, Final
from .lines import Cursor, StreamView
from .record import Dialogue, Tls
from .replies import Gap, Read, Reply, ReplyReader
from .states import BODY, Expect, Machine, Request

AUTH_VERBS = ("AUTH", "X-EXPS", grammar.AUTH_RESPONSE)

# RFC 2920 3.1: these end a group of pipelined commands (of the others that do, nobody sends any).
_WAITED = ("EHLO", "HELO", "LHLO", "STARTTLS", "DATA", *AUTH_VERBS)

# Behind a gap so many alignments of replies to requests are tried; each costs as much again. Real groups of pipelined
# commands are MAIL, some RCPT, DATA.
_ALIGN_LIMIT = 32

# The most replies of one dialogue: one for each command, in LMTP two for each recipient. And the most bytes that are kept
# of their texts (the same holds for those of the commands): a reply may have a thousand long lines.
REPLIES_LIMIT = 200_000
TEXT_LIMIT = 16 << 20


class Pairing:
    """Feeds the machine with the server's replies. `client` and `bodies` are the reading's own, and move on meanwhile."""

    def __init__(
        self,
        views: tuple[StreamView, StreamView],
        client: Cursor,
        machine: Machine,
        out: Dialogue,
        bodies: list[Body],
        *,
        uncertain: bool,
    ) -> None:
        self.client_view, self.server_view = views
        self.client, self.machine, self.out, self.bodies = client, machine, out, bodies
        self.reader = ReplyReader(self.server_view)
        self.ahead: deque[Read] = deque()  # replies read but not yet fed
        self.over = False  # no more will be read
        self.uncertain = uncertain  # bytes of either side are missing up to here
        self.client_gap: int | None = None  # where the last gap among the client's commands began
        self.hidden_body = False  # a 354 to a DATA that was not seen: its mail begins at `body_from`
        self.body_from: int | None = None
        self.text_bytes = 0  # of the replies that were fed
        self.first_greeting: Reply | None = None  # of a connection whose beginning was not seen

    @property
    def is_full(self) -> bool:
        return len(self.out.replies) >= REPLIES_LIMIT or self.text_bytes >= TEXT_LIMIT

    def peek(self) -> Read | None:
        """The next reply that was not fed yet; None as well when no more may be kept."""
        if self.is_full:
            return None
        return self.ahead[0] if self.ahead or self.read_ahead() else None

    def final(self) -> Final | None:
        """The same, as a mail's end looks at it."""
        read = self.peek()
        if read is None:
            return None
        return Final(read.reply, self.server_view.peer_at(read.reply.start), not self.machine.owed)

    def read_ahead(self) -> bool:
        """Read one more reply; False when there is none."""
        if self.over or self.out.tls_server_start is not None:
            return False
        read = self.reader.read()
        if read is None:
            self.over = True
            return False
        self.ahead.append(read)
        return True

    def lose_requests(self, gap_start: int) -> None:
        """Bytes of the client are missing from `gap_start` on: it may have sent anything."""
        self.machine.lose_requests()
        self.uncertain, self.client_gap = True, gap_start

    def begin_tls(self, tls: Tls, client_start: int, server_start: int) -> None:
        out = self.out
        out.tls, out.tls_client_start, out.tls_server_start = tls, client_start, server_start
        self.ahead.clear()  # what looked like replies behind a gap

    # ------------------------------------------------------------ feeding

    def feed_due(self) -> None:
        """All replies that belong to what the client has sent so far."""
        machine = self.machine
        while (read := self.peek()) is not None:
            if read.gap is not None and not self.settle_gap(read.gap):
                return
            reply = self.ahead[0].reply
            request = machine.oldest
            if request is not None:
                self.feed(reply, asked=self.can_answer(reply, request))
            elif machine.shape.expect is not Expect.BODY and self.is_orphan(reply):
                self.feed(reply, asked=False)
            else:
                return

    def feed_rest(self) -> None:
        """All that are left, when the client has nothing more to say."""
        while (read := self.peek()) is not None:
            if read.gap is not None:
                self.settle_gap(read.gap)
                self.gap_settled()
            request, reply = self.machine.oldest, self.ahead[0].reply
            self.feed(reply, asked=request is not None and self.can_answer(reply, request))
        if self.reader.cursor.hidden_end:  # whatever is owed may have come there
            while self.machine.owed:
                self.machine.skip()

    def feed(self, reply: Reply, *, asked: bool) -> None:
        self.ahead.popleft()
        machine, out = self.machine, self.out
        request = machine.oldest if asked else None
        if (request and request.verb in AUTH_VERBS) or reply.code == 334:
            reply.lines = tuple(grammar.status_only(line) for line in reply.lines)
        out.replies.append(reply)
        self.text_bytes += sum(map(len, reply.lines))
        machine.reply(reply.code, asked=asked)
        if request and machine.shape.expect is Expect.TLS:
            self.begin_tls("starttls", self.client.pos, reply.end)
        if not asked and machine.shape.expect is Expect.BODY and reply.code == 354:
            self.hidden_body, self.body_from = True, self.server_view.peer_at(reply.start)
        if not asked and len(out.replies) == 1 and not out.commands and reply.code in (220, 421, 554):
            self.first_greeting = reply

    def can_answer(self, reply: Reply, request: Request) -> bool:
        """False when it is certain that `reply` does not answer `request`, the oldest one."""
        received = self.server_view.peer_at(reply.start)
        end = self.end_of(request)
        if received is not None and end is not None and received < end:
            # A final reply may come before the end of a mail; a 421 then is the server's own word.
            return request.verb == BODY and reply.code != 421
        return not self.uncertain or grammar.may_answer(request.verb, reply.code)

    def is_orphan(self, reply: Reply) -> bool:
        """True when `reply` came before the client's next bytes: it answers nothing that was seen, nor will it."""
        client = self.client
        if client.done or client.at_gap:
            return False
        known = self.client_view.peer_at(client.pos)
        if known is not None and known >= reply.end:
            return True
        received = self.server_view.peer_at(reply.start)
        return received is not None and received <= client.pos

    def end_of(self, request: Request) -> int | None:
        """Offset behind the request in the client's stream; None: not seen, or the connection itself."""
        if request.verb == BODY and request.mail is not None:
            body = self.bodies[request.mail.bodies[-1]]
            return body.end if request.mail.via == "bdat" else body.terminator_end
        return None if request.command is None else self.out.commands[request.command].end

    # ------------------------------------------------------------ gaps in the server's stream

    def settle_gap(self, gap: Gap) -> bool:
        """Decide which requests were answered inside the gap; False: not before more of the client is read."""
        machine = self.machine
        self.uncertain = True
        oldest = machine.oldest
        received = self.server_view.peer_at(gap.end)
        end = self.end_of(oldest) if oldest else self.client.next_start
        if received is not None and end is not None and received < end:
            return self.gap_settled()  # it ends before the server had received the request
        if self.client.done:
            limit = None
        else:
            limit = self.client_view.peer_at(self.client.next_start)
            if limit is None or limit < gap.end:
                return False
        if oldest is not None:
            self.skip_before_lost_requests()
            count = self.count_replies(limit, machine.owed)
            for _ in range(self.answered_inside(gap, count)):
                machine.skip()
        return self.gap_settled()

    def gap_settled(self) -> bool:
        if self.ahead:
            self.ahead[0] = self.ahead[0]._replace(gap=None)
        return True

    def count_replies(self, limit: int | None, most: int) -> int:
        """How many replies, at `most`, the client had when it had acknowledged `limit` bytes (None: in the end)."""
        while len(self.ahead) < most and self.read_ahead():
            pass
        replies = (read.reply for read in islice(self.ahead, most))
        return sum(1 for reply in replies if limit is None or reply.end <= limit)

    def skip_before_lost_requests(self) -> None:
        """Behind a gap on both sides a reply may answer a request that was not seen either.

        Only what the server sent before it had received anything of the client's gap answers a request before it.
        """
        gap = self.client.pos if self.client.pos < self.client.next_start else self.client_gap
        if gap is None:
            return
        older = list(takewhile(lambda request: (self.end_of(request) or 0) <= gap, self.machine.requests))
        self.count_replies(None, len(older))
        replies = (self.server_view.peer_at(read.reply.start) for read in self.ahead)
        theirs = sum(1 for _ in takewhile(lambda received: received is not None and received <= gap, replies))
        for _ in range(len(older) - theirs):
            self.machine.skip()

    def answered_inside(self, gap: Gap, count: int) -> int:
        """How many of the oldest requests were answered inside the gap, when `count` replies behind it are left.

        Replies come in order, so the last `count` requests got them, unless a reply is one that its request never
        gets. A request that was sent when the client had seen the end of the gap was not answered inside.
        """
        requests = self.machine.requests
        least = self.surely_inside(requests) if self.ahead else 0
        most: int = 0
        for request in requests:
            end = self.end_of(request)
            seen = None if end is None else self.client_view.peer_at(end - 1)
            if seen is not None and seen >= gap.end:
                break
            most += 1
        most = max(least, most)
        likeliest = min(max(len(requests) - count, least), most)
        if len(requests) > _ALIGN_LIMIT:
            return likeliest
        codes = [read.reply.code for read in islice(self.ahead, min(count, len(requests)))]
        for skipped in chain(range(likeliest, least - 1, -1), range(likeliest + 1, most + 1)):
            pairs = zip(islice(requests, skipped, None), codes, strict=False)
            if all(grammar.may_answer(request.verb, code) for request, code in pairs):
                return skipped
        return likeliest

    def surely_inside(self, requests: Sequence[Request]) -> int:
        """How many of the oldest requests were answered before the next reply that was seen.

        A client goes on behind a request of `_WAITED` only when it has the answer: the answer lies within what it
        had acknowledged by then.
        """
        least = 0
        first_end = self.ahead[0].reply.end
        for number, (request, follower) in enumerate(pairwise(requests), start=1):
            if request.verb in _WAITED:
                known = self.client_view.peer_at(self.start_of(follower))
                if known is not None and known < first_end:
                    least = number
        return least

    def start_of(self, request: Request) -> int:
        """Offset of the request in the client's stream."""
        if request.command is not None:
            return self.out.commands[request.command].start
        return self.bodies[request.mail.bodies[0]].seen_from if request.mail else self.client_view.start
