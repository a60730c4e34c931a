"""What mailers say: SMTP conversations as turns, with the place of every mail in the client's byte stream.

The habits are those of real mailers: Postfix writes 5792 bytes at a time (4 x 1448) and ends the last mail with
`CRLF . CRLF QUIT CRLF` in one write; Exim writes 8191; sendmail writes 4096 and sends `. CRLF` alone; Python's
smtplib waits for each reply and writes the body at once; BDAT (RFC 3030) has no terminator; STARTTLS hides it all.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from tcp_model import CLIENT, MS, SECOND, SERVER, Turn

TOKEN = (
    b"#token##"  # replaced by eight hex digits of the connection's number: each copy of a template has its own mails
)
END = b"\r\n.\r\n"
WORDS = (
    "the mail server queue message delivery report meeting invoice attached please find regards network packet size "
    "path router tunnel provider customer order number address reply sender today tomorrow week month change request"
).split()
BASE64 = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", np.uint8)


@dataclass
class Mail:
    """One mail as planned. Offsets are relative sequence numbers of the client's stream."""

    sender: str  # with TOKEN in it
    via: str
    outcome: str
    body_bytes: int
    body_start: int = 0
    body_end: int = 0  # of the mail without the dot: its last CRLF is part of the terminator CRLF.CRLF
    cut_at: tuple[int, ...] = ()


@dataclass
class Script:
    """A conversation: its turns, the mails in it, and what the server greets with."""

    turns: list[Turn] = field(default_factory=list)
    mails: list[Mail] = field(default_factory=list)
    tls: bool = False
    greeter: int = 0  # which greeting and keywords: tells the servers apart
    client_bytes: int = 0

    def client(self, *writes: bytes, think_ns: int = 0, close: bool = False) -> None:
        self.client_bytes += sum(map(len, writes))
        self.turns.append(Turn(CLIENT, writes, think_ns, close))

    def server(self, text: bytes, think_ns: int = MS, *, close: bool = False) -> None:
        self.turns.append(Turn(SERVER, (text,) if text else (), think_ns, close))


def mail_bytes(rng: np.random.Generator, size: int, sender: str, number: int) -> bytes:
    """A mail of about `size` bytes ending in CRLF, no line of it beginning with a dot."""
    head = (
        f"Received: from desk{number}.example.org (desk{number}.example.org [10.1.2.{number + 3}])\r\n"
        f"\tby relay.example.org (Postfix) with ESMTP id {TOKEN.decode()}\r\n"
        f"From: {sender}\r\nTo: someone@example.net\r\nSubject: {' '.join(rng.choice(WORDS, 4))}\r\n"
        f"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n"
    ).encode()
    left = size - len(head)
    if left <= 0:
        return head + b"Yes.\r\n"
    if size < 6000:
        words = " ".join(rng.choice(WORDS, left // 4))[: left - 2]
        text = "\r\n".join(words[i : i + 70] for i in range(0, len(words), 70)).encode()
    else:
        rows = left // 78 + 1
        lines = np.empty((rows, 78), np.uint8)
        lines[:, :76] = BASE64[rng.integers(0, 64, (rows, 76), np.uint8)]
        lines[:, 76:] = (13, 10)
        text = lines.tobytes()[: left - 2]
    return head + text.replace(b"\r\n.", b"\r\n,").rstrip(b"\r\n") + b"\r\n"


def cut(data: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(data[i : i + size] for i in range(0, len(data), size))


GREETINGS = (
    b"220 mx.example.net ESMTP Postfix (Debian/GNU)\r\n",
    b"220-mx.example.net ESMTP Exim 4.96 Mon, 05 Jan 2026 09:00:00 +0000\r\n220 No bulk mail.\r\n",
    b"220 mail.example.net Microsoft ESMTP MAIL Service ready at Mon, 5 Jan 2026 09:00:00 +0000\r\n",
    b"220 mx.example.net ESMTP Sendmail 8.17.1/8.17.1; Mon, 5 Jan 2026 09:00:00 GMT\r\n",
)
MASKED = b"220 **************************************0******0*********20 ****200**0*********0*00\r\n"
KEYWORDS = (
    b"250-mx.example.net\r\n250-PIPELINING\r\n250-SIZE 52428800\r\n250-ETRN\r\n250-STARTTLS\r\n"
    b"250-ENHANCEDSTATUSCODES\r\n250-8BITMIME\r\n250-DSN\r\n250 CHUNKING\r\n"
)
FEW_KEYWORDS = b"250-mx.example.net\r\n250-SIZE 35882577\r\n250 8BITMIME\r\n"
MASKED_KEYWORDS = b"250-mx.example.net\r\n250-XXXXXXXXXX\r\n250-SIZE 35882577\r\n250-XXXXXXXA\r\n250 8BITMIME\r\n"

MAILERS = ("postfix", "exim", "sendmail", "smtplib", "bdat")


def conversation(
    rng: np.random.Generator,
    mailer: str,
    sizes: list[int],
    *,
    name: str = "u",
    outcomes: list[str] | None = None,
    greeting: bytes | None = None,
    starttls: bool = False,
    answered: bool = True,
    exact_body: bytes | None = None,
) -> Script:
    """One connection of one mailer with a mail for each of `sizes`.

    `outcomes` says how the server answers the end of each mail. With `answered=False` it never answers the last one:
    the client waits a minute and hangs up. `exact_body` replaces the last mail's bytes (they end in CRLF).
    """
    s = Script()

    def think() -> int:
        return int(rng.exponential(2 * MS))

    if greeting is None:
        greeting = GREETINGS[int(rng.integers(len(GREETINGS)))]
    pipelining = mailer in ("postfix", "exim", "bdat") and greeting != MASKED
    s.server(greeting, 1 + int(rng.exponential(8 * MS)))
    s.client(b"EHLO relay.example.org\r\n", think_ns=think())
    keywords = MASKED_KEYWORDS if greeting == MASKED else KEYWORDS if pipelining or starttls else FEW_KEYWORDS
    s.server(keywords)
    s.greeter = 2 * ((*GREETINGS, MASKED).index(greeting)) + (keywords == FEW_KEYWORDS)
    if starttls:
        _tls(s, rng, sizes)
        return s
    for i, size in enumerate(sizes):
        last = i + 1 == len(sizes)
        sender = f"{name}{TOKEN.decode()}.{i}@example.org"
        outcome = (outcomes or ["delivered"] * len(sizes))[i]
        reply = {
            "delivered": b"250 2.0.0 Ok: queued as " + TOKEN + b"\r\n",
            "rejected": b"554 5.7.1 Message rejected as spam\r\n",
            "deferred": b"451 4.3.0 Try again later\r\n",
        }.get(outcome, b"")
        body = exact_body if exact_body is not None and last else mail_bytes(rng, size, sender, i)
        mail = Mail(sender, "bdat" if mailer == "bdat" else "data", outcome, len(body))
        s.mails.append(mail)
        from_line = b"MAIL FROM:<" + sender.encode() + b"> SIZE=%d\r\n" % len(body)
        recipients = [b"RCPT TO:<user%d@example.net>\r\n" % k for k in range(int(rng.choice([1, 1, 1, 2, 3])))]
        accepted = b"250 2.1.0 Ok\r\n" + b"250 2.1.5 Ok\r\n" * len(recipients)
        if mailer == "bdat":
            mail.body_start = 1 + s.client_bytes + len(from_line) + sum(map(len, recipients))
            header = b"BDAT %d LAST\r\n" % len(body)
            mail.body_start += len(header)
            data = from_line + b"".join(recipients) + header + body
            s.client(*cut(data, 8192), think_ns=think())
            mail.body_end = mail.body_start + len(body)
            s.server(accepted + reply, int(rng.exponential(15 * MS)))
        else:
            go = b"354 End data with <CR><LF>.<CR><LF>\r\n"
            if pipelining:
                s.client(from_line + b"".join(recipients) + b"DATA\r\n", think_ns=think())
                s.server(accepted + go, think())
            else:
                for line in (from_line, *recipients, b"DATA\r\n"):
                    s.client(line, think_ns=think())
                    s.server(go if line == b"DATA\r\n" else b"250 2.1.0 Ok\r\n", think())
            mail.body_start = 1 + s.client_bytes
            mail.body_end = mail.body_start + len(body) - 2
            quit_too = last and pipelining and mailer in ("postfix", "exim")
            ending = b".\r\n" + (b"QUIT\r\n" if quit_too else b"")
            if mailer == "sendmail":
                s.client(*cut(body, 4096), b".\r\n", think_ns=think())
            elif mailer == "smtplib":
                s.client(body + ending, think_ns=think())
            else:
                s.client(*cut(body + ending, 5792 if mailer == "postfix" else 8191), think_ns=think())
            if last and not answered:
                s.client(think_ns=60 * SECOND, close=True)
                s.server(b"", close=True)
                return s
            if quit_too:
                s.server(reply + b"221 2.0.0 Bye\r\n", int(rng.exponential(20 * MS)), close=True)
                s.client(close=True)
                return s
            s.server(reply, int(rng.exponential(20 * MS)))
    s.client(b"QUIT\r\n", think_ns=think())
    s.server(b"221 2.0.0 Bye\r\n", close=True)
    s.client(close=True)
    return s


def _tls(s: Script, rng: np.random.Generator, sizes: list[int]) -> None:
    """STARTTLS, a TLS 1.3 handshake by its sizes, and the mails as records of at most 16 KB (RFC 8446 5.2)."""

    def record(kind: int, size: int) -> bytes:
        return bytes((kind, 3, 3)) + size.to_bytes(2, "big") + rng.bytes(size)

    s.tls = True
    s.client(b"STARTTLS\r\n")
    s.server(b"220 2.0.0 Ready to start TLS\r\n")
    s.client(client_hello(rng), think_ns=MS)
    s.server(server_hello(rng) + CHANGE_CIPHER + record(23, 3200), 3 * MS)
    s.client(CHANGE_CIPHER + record(23, 53) + record(23, 45), think_ns=MS)
    s.server(record(23, 210))
    for size in sizes:
        s.client(record(23, 130))
        s.server(record(23, 110))
        data = [record(23, min(size - at, 16384) + 17) for at in range(0, size, 16384)]
        s.client(*data, record(23, 26), think_ns=MS)
        s.server(record(23, 60), 10 * MS)
    s.client(record(23, 23))
    s.server(record(23, 32), close=True)
    s.client(close=True)


CHANGE_CIPHER = b"\x14\x03\x03\x00\x01\x01"


def _handshake_record(kind: int, body: bytes) -> bytes:
    message = bytes((kind,)) + len(body).to_bytes(3, "big") + body
    return b"\x16\x03\x03" + len(message).to_bytes(2, "big") + message


def client_hello(rng: np.random.Generator) -> bytes:
    """517 bytes, as browsers and OpenSSL pad it (RFC 8446 4.1.2, padding RFC 7685)."""
    versions = b"\x00\x2b\x00\x03\x02\x03\x04"
    key_share = b"\x00\x33\x00\x26\x00\x24\x00\x1d\x00\x20" + rng.bytes(32)
    fixed = b"\x03\x03" + rng.bytes(32) + b"\x20" + rng.bytes(32) + b"\x00\x04\x13\x01\x13\x02\x01\x00"
    padding = 517 - 9 - len(fixed) - 2 - len(versions) - len(key_share) - 4
    extensions = versions + key_share + b"\x00\x15" + padding.to_bytes(2, "big") + bytes(padding)
    return _handshake_record(1, fixed + len(extensions).to_bytes(2, "big") + extensions)


def server_hello(rng: np.random.Generator) -> bytes:
    versions = b"\x00\x2b\x00\x02\x03\x04"
    extensions = versions + b"\x00\x33\x00\x24\x00\x1d\x00\x20" + rng.bytes(32)
    body = b"\x03\x03" + rng.bytes(32) + b"\x20" + rng.bytes(32) + b"\x13\x01\x00"
    return _handshake_record(2, body + len(extensions).to_bytes(2, "big") + extensions)


def dns(rng: np.random.Generator) -> tuple[bytes, bytes]:
    """A question for an address, and its answer (RFC 1035 4)."""
    label = bytes(rng.integers(97, 123, int(rng.integers(4, 20)), np.uint8))
    number = rng.bytes(2)
    question = bytes((len(label),)) + label + b"\x07example\x03net\x00\x00\x01\x00\x01"
    answer = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x0e\x10\x00\x04" + rng.bytes(4)
    answers = int(rng.integers(1, 9))
    return (
        number + b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + question,
        number + b"\x81\x80\x00\x01" + answers.to_bytes(2, "big") + bytes(4) + question + answer * answers,
    )


def https(rng: np.random.Generator, size: int) -> list[Turn]:
    """A web download or upload over TLS: what most of a mixed capture consists of."""

    def record(size: int) -> bytes:
        return b"\x17\x03\x03" + size.to_bytes(2, "big") + rng.bytes(size)

    bulk = tuple(record(min(size - at, 16384)) for at in range(0, size, 16384))
    turns = [
        Turn(CLIENT, (client_hello(rng),)),
        Turn(SERVER, (server_hello(rng) + CHANGE_CIPHER + record(3000),), MS),
        Turn(CLIENT, (CHANGE_CIPHER + record(74) + record(400),), MS),
    ]
    if rng.random() < 0.85:
        turns.append(Turn(SERVER, bulk, 5 * MS))
    else:
        turns += [Turn(CLIENT, bulk, MS), Turn(SERVER, (record(300),), 5 * MS)]
    return [*turns, Turn(CLIENT, (record(24),), 20 * MS, True), Turn(SERVER, (), 0, True)]


def chatter(rng: np.random.Generator, exchanges: int) -> list[Turn]:
    """An interactive session of small packets both ways (SSH)."""
    turns = [Turn(SERVER, (b"SSH-2.0-OpenSSH_9.2\r\n",)), Turn(CLIENT, (b"SSH-2.0-OpenSSH_9.6\r\n",), MS)]
    for _ in range(exchanges):
        turns.append(Turn(CLIENT, (rng.bytes(36),), int(rng.exponential(150 * MS))))
        turns.append(Turn(SERVER, (rng.bytes(int(rng.integers(36, 600))),), MS))
    return [*turns, Turn(CLIENT, (), MS, True), Turn(SERVER, (), 0, True)]
