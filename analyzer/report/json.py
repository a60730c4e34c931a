"""The case as one JSON document, schema `smtpscope/1` (described by case.schema.json beside this file).

Times are ISO 8601 in UTC with nine decimals, durations seconds (`_s`), sizes bytes, a frame is {capture, frame}, and null
is what the capture can not tell. Fields may be added, none renamed or removed.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from json.encoder import encode_basestring_ascii as _escaped
from typing import Any

from ..capture.packets import CaptureInfo, IcmpError, address_text
from ..case import (
    Case,
    Connection,
    Endpoint,
    Evidence,
    Finding,
    Frame,
    LogLine,
    Message,
    Path,
    SizeFate,
    Terminator,
    WhatIf,
)

SCHEMA = "smtpscope/1"
LINES_AT_ONCE = 256  # of a document that is written piece by piece
# Of so many rows one half is made in 25 ms, and a second process has started.
ROWS_WORTH_SHARING = 15_000

_SURROGATE = re.compile("[\ud800-\udfff]")


# The members that stand before the paths: of a large case about half of its text.
_BEFORE_PATHS = frozenset("schema complete interrupted summary limits captures connections messages".split())


def document(case: Case) -> dict[str, Any]:
    """The case as JSON values, in the order of the contract."""
    return {name: list(value) if isinstance(value, Iterator) else value for name, value in _members(case)}


def _members(case: Case) -> Iterator[tuple[str, Any]]:
    """The document's members; lists that may be long are made element by element."""
    yield "schema", SCHEMA
    yield "complete", case.complete
    yield "interrupted", case.interrupted
    yield "summary", [_text(line) for line in case.summary]
    yield "limits", [_text(line) for line in case.limits]
    yield "captures", map(_capture, case.captures)
    yield "connections", map(_connection, case.connections)
    yield "messages", map(_message, case.messages)
    yield "paths", map(_path, case.paths)
    yield "findings", map(finding, case.findings)
    yield "icmp", map(_icmp, case.icmp)
    if case.what_if:
        yield "what_if", [_what_if(answer) for answer in case.what_if]
    if case.log or case.log_notes:
        yield "log", map(_log_line, case.log)
        yield "log_notes", [_text(note) for note in case.log_notes]
    yield "services", {str(port): packets for port, packets in sorted(case.services.items())}
    yield "counts", dict(case.counts)


def render(case: Case, *, indent: int | None = 1) -> str:
    """The document as text: ASCII only, so that no terminal and no parser trips over what a capture says."""
    return "".join(lines(case, indent=indent))


def lines(case: Case, *, indent: int | None = 1, processes: int = 1) -> Iterator[str]:
    """The text in pieces, so that a long document need not be in memory at once.

    Connections, messages, paths and ICMP errors stand on a line each: json's encoder in C knows no indents, and is ten
    times as quick as the one that does. What people read, findings above all, is indented.
    Where the document is long, one half of it is made by a second process, if there may be one.
    """
    if indent is None:
        yield _encoded(document(case), None) + "\n"
        return
    rows = len(case.connections) + len(case.messages) + len(case.paths)
    yield "{\n"
    if processes < 2 or rows < ROWS_WORTH_SHARING or not hasattr(os, "memfd_create"):
        yield from _lines(case, _members(case), indent)
    else:
        yield from _lines_of_two(case, indent)
    yield "\n}\n"


def _lines_of_two(case: Case, indent: int) -> Iterator[str]:
    def half(*, behind: bool) -> Iterator[str]:
        return _lines(case, (m for m in _members(case) if (m[0] in _BEFORE_PATHS) != behind), indent)

    with open(os.memfd_create("smtpscope"), "w+", encoding="ascii") as rest:
        try:
            child = os.fork()
        except OSError:  # there may be no more processes
            yield from _lines(case, _members(case), indent)
            return
        if not child:
            failed = 1
            try:
                rest.writelines(half(behind=True))
                rest.flush()
                failed = 0
            finally:
                os._exit(failed)
        try:
            yield from half(behind=False)
        finally:
            _, failed = os.waitpid(child, 0)
        yield ",\n"
        if failed:  # it was killed, or there was no memory for it
            yield from half(behind=True)
        else:
            rest.seek(0)
            yield from iter(lambda: rest.read(1 << 20), "")


def _lines(case: Case, members: Iterator[tuple[str, Any]], indent: int) -> Iterator[str]:
    """Some members of the document, with a comma between them."""
    comma = ""
    for name, value in members:
        if not isinstance(value, Iterator):
            text = _encoded(value, indent).replace("\n", "\n" + " " * indent)
            yield f'{comma}{" " * indent}"{name}": {text}'
        else:
            yield f'{comma}{" " * indent}"{name}": ['
            between = "\n" + " " * 2 * indent
            written = _written(case, name, value, indent)
            while some := list(islice(written, LINES_AT_ONCE)):
                yield between + f",\n{' ' * 2 * indent}".join(some)
                between = ",\n" + " " * 2 * indent
            yield "]" if between[0] == "\n" else "\n" + " " * indent + "]"
        comma = ",\n"


_one_line = json.JSONEncoder(ensure_ascii=True, allow_nan=False).encode


def _encoded(value: Any, indent: int | None) -> str:
    text = _one_line(value) if indent is None else json.dumps(value, indent=indent, ensure_ascii=True, allow_nan=False)
    return text.replace("\x7f", "\\u007f")


def _written(case: Case, name: str, elements: Iterator[Any], indent: int) -> Iterator[str]:
    """Each element of a list, in one line where it may be long; `elements` are the JSON values, made where asked for."""
    if name in ("captures", "findings"):
        return (_encoded(element, indent).replace("\n", "\n" + " " * 2 * indent) for element in elements)
    if name == "connections":
        return map(_connection_line, case.connections)
    if name == "messages":
        return map(_message_line, case.messages)
    if name == "paths":
        return map(_path_line, case.paths)
    return (_one_line(element).replace("\x7f", "\\u007f") for element in elements)


# What a case has many of is written without a dictionary in between, in a fifth of the time. `_connection`, `_message`
# and `_path` below say the same; a test compares them. What many rows say alike is put into words once.


def _connection_line(c: Connection) -> str:
    client, server, first, mss, peer_mss, rtt_s = c.client, c.server, c.first_frame, c.client_mss, c.server_mss, c.rtt_s
    log = ""
    if c.expected_log:
        log = ", ".join([f"{_quoted(side)}: {_quoted(line)}" for side, line in c.expected_log.items()])
    return (
        f'{{"id": {c.id}, "client": {{"ip": {_word(client.ip)}, "port": {client.port}}}, '
        f'"server": {{"ip": {_word(server.ip)}, "port": {server.port}}}, '
        f'"start": {_time_line(c.start_ns)}, "end": {_time_line(c.end_ns)}, '
        f'"frame_count": {c.frame_count}, "handshake_seen": {_BOOL[c.handshake_seen]}, '
        f'"closed_by": {_word(c.closed_by)}, "tls": {_word(c.tls)}, "banner": {_word(c.banner)}, '
        f'"vantage": {_word(c.vantage)}, "first_frame": {{"capture": {first.capture}, "frame": {first.frame}}}, '
        f'{_spoken(c.is_smtp, c.client_name, c.phase, c.ehlo_keywords)}, "client_mss": {"null" if mss is None else mss}, '
        f'"server_mss": {"null" if peer_mss is None else peer_mss}, "rtt_s": {"null" if rtt_s is None else rtt_s}, '
        f'"client_bytes": {c.client_bytes}, "server_bytes": {c.server_bytes}, "expected_log": {{{log}}}}}'
    )


@lru_cache(maxsize=4096)
def _spoken(is_smtp: bool, client_name: str | None, phase: str | None, keywords: tuple[str, ...]) -> str:
    return (
        f'"is_smtp": {_BOOL[is_smtp]}, "client_name": {_quoted(client_name)}, "phase": {_quoted(phase)}, '
        f'"ehlo_keywords": [{", ".join(map(_quoted, keywords))}]'
    )


def _message_line(m: Message) -> str:
    size, code, delay_s, largest = m.size, m.reply_code, m.reply_delay_s, m.largest_packet_bytes
    return (
        f'{{"id": {m.id}, "connection": {m.connection}, "index": {m.index}, "mail_from": {_quoted(m.mail_from)}, '
        f'"recipients": [{", ".join(map(_quoted, m.recipients))}], "size": {"null" if size is None else size}, '
        f'"size_estimated": {_BOOL[m.size_estimated]}, "via": {_word(m.via)}, '
        f'"terminator": {_terminator_line(m.terminator)}, "reply_code": {"null" if code is None else code}, '
        f'"outcome": {_word(m.outcome)}, "start": {_time_line(m.start_ns)}, "end": {_time_line(m.end_ns)}, '
        f'"reply_delay_s": {"null" if delay_s is None else delay_s}, '
        f'"largest_packet_bytes": {"null" if largest is None else largest}}}'
    )


def _terminator_line(t: Terminator | None) -> str:
    return "null" if t is None else _cut_line(t.pieces, t.cut_at, t.inferred) % ", ".join(map(_frame_line, t.frames))


@lru_cache(maxsize=4096)
def _cut_line(pieces: tuple[int, ...], cut_at: tuple[int, ...], inferred: bool) -> str:
    """The terminator's line, with a place for its frames."""
    return f'{{"pieces": {list(pieces)}, "cut_at": {list(cut_at)}, "inferred": {_BOOL[inferred]}, "frames": [%s]}}'


def _path_line(p: Path) -> str:
    at_least, below, icmp_mtu = p.mtu_at_least, p.mtu_below, p.icmp_mtu
    return (
        f'{{"id": {p.id}, "sender": {_word(p.sender)}, "receiver": {_word(p.receiver)}, '
        f'"verdict": {_word(p.verdict)}, "mtu_at_least": {"null" if at_least is None else at_least}, '
        f'"mtu_below": {"null" if below is None else below}, "icmp_mtu": {"null" if icmp_mtu is None else icmp_mtu}, '
        f'"links": [{", ".join(map(_word, p.links))}], "connections": [{", ".join(map(str, p.connections))}], '
        f'"messages_stuck": {p.messages_stuck}, "sizes": [{", ".join(map(_size_line, p.sizes))}], '
        f'"icmp_frames": [{", ".join(map(_frame_line, p.icmp_frames))}], "vantage": {_word(p.vantage)}}}'
    )


@lru_cache(maxsize=65536)
def _size_line(fate: SizeFate) -> str:
    size, delivered, lost, unknown = fate
    return f'{{"ip_bytes": {size}, "delivered": {delivered}, "lost": {lost}, "unknown": {unknown}}}'


_BOOL = {False: "false", True: "true"}


def _quoted(text: str | None) -> str:
    if text is None:
        return "null"
    return _escaped(text if text.isascii() else _text(text)).replace("\x7f", "\\u007f")


_word = lru_cache(maxsize=65536)(_quoted)  # for what occurs again and again


def _time_line(time_ns: int | None) -> str:
    if time_ns is None:
        return "null"
    return f'"{_second(time_ns // 1_000_000_000)}.{time_ns % 1_000_000_000:09d}Z"'


def _frame_line(frame: Frame) -> str:
    return f'{{"capture": {frame.capture}, "frame": {frame.frame}}}'


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) that every document fulfils."""
    from importlib.resources import files  # 5 ms that hardly anybody needs

    loaded: dict[str, Any] = json.loads(files(__package__).joinpath("case.schema.json").read_text("utf-8"))
    return loaded


def timestamp(time_ns: int) -> str:
    """ISO 8601 UTC with nine decimals: 2024-03-05T14:03:11.123456789Z."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    return f"{_second(seconds)}.{nanoseconds:09d}Z"


@lru_cache(maxsize=4096)  # neighbouring packets share their second
def _second(seconds: int) -> str:
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    return f"{when:%Y-%m-%dT%H:%M:%S}".rjust(19, "0")  # strftime does not pad years below 1000


def _time(time_ns: int | None) -> str | None:
    return None if time_ns is None else timestamp(time_ns)


def _text(text: str) -> str:
    """Lone surrogates (bytes of the capture that are no UTF-8) can not be exchanged: they become U+FFFD."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _maybe(text: str | None) -> str | None:
    return None if text is None else _text(text)


def _value(value: Any) -> Any:
    """A fact as a JSON value; what is not a number becomes null."""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_text(str(k)): _value(v) for k, v in value.items()}
    if isinstance(value, Sequence | set | frozenset):
        return [_value(v) for v in value]
    return value


def _frame(frame: Frame) -> dict[str, int]:
    return {"capture": frame.capture, "frame": frame.frame}


def _frames(frames: Sequence[Frame]) -> list[dict[str, int]]:
    return [_frame(f) for f in frames]


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {"ip": endpoint.ip, "port": endpoint.port}


def _capture(c: CaptureInfo) -> dict[str, Any]:
    return {
        "id": c.id,
        "path": _text(c.path),
        "format": c.format,
        "link_types": list(c.link_types),
        "frames": c.frames,
        "bytes": c.bytes,
        "first": _time(c.first_ns),
        "last": _time(c.last_ns),
        "snaplen": c.snaplen,
        "complete": c.complete,
        "problems": [_text(p) for p in c.problems],
    }


def _connection(c: Connection) -> dict[str, Any]:
    return {
        "id": c.id,
        "client": _endpoint(c.client),
        "server": _endpoint(c.server),
        "start": timestamp(c.start_ns),
        "end": timestamp(c.end_ns),
        "frame_count": c.frame_count,
        "handshake_seen": c.handshake_seen,
        "closed_by": c.closed_by,
        "tls": c.tls,
        "banner": _maybe(c.banner),
        "vantage": c.vantage,
        "first_frame": _frame(c.first_frame),
        "is_smtp": c.is_smtp,
        "client_name": _maybe(c.client_name),
        "phase": c.phase,
        "ehlo_keywords": [_text(k) for k in c.ehlo_keywords],
        "client_mss": c.client_mss,
        "server_mss": c.server_mss,
        "rtt_s": c.rtt_s,
        "client_bytes": c.client_bytes,
        "server_bytes": c.server_bytes,
        "expected_log": {_text(side): _text(line) for side, line in c.expected_log.items()},
    }


def _terminator(t: Terminator) -> dict[str, Any]:
    return {"pieces": list(t.pieces), "cut_at": list(t.cut_at), "inferred": t.inferred, "frames": _frames(t.frames)}


def _message(m: Message) -> dict[str, Any]:
    return {
        "id": m.id,
        "connection": m.connection,
        "index": m.index,
        "mail_from": _maybe(m.mail_from),
        "recipients": [_text(r) for r in m.recipients],
        "size": m.size,
        "size_estimated": m.size_estimated,
        "via": m.via,
        "terminator": _terminator(m.terminator) if m.terminator else None,
        "reply_code": m.reply_code,
        "outcome": m.outcome,
        "start": _time(m.start_ns),
        "end": _time(m.end_ns),
        "reply_delay_s": m.reply_delay_s,
        "largest_packet_bytes": m.largest_packet_bytes,
    }


def _path(p: Path) -> dict[str, Any]:
    return {
        "id": p.id,
        "sender": p.sender,
        "receiver": p.receiver,
        "verdict": p.verdict,
        "mtu_at_least": p.mtu_at_least,
        "mtu_below": p.mtu_below,
        "icmp_mtu": p.icmp_mtu,
        "links": list(p.links),
        "connections": list(p.connections),
        "messages_stuck": p.messages_stuck,
        "sizes": [{"ip_bytes": n, "delivered": got, "lost": lost, "unknown": open_} for n, got, lost, open_ in p.sizes],
        "icmp_frames": _frames(p.icmp_frames),
        "vantage": p.vantage,
    }


def _evidence(e: Evidence) -> dict[str, Any]:
    return {
        "connection": e.connection,
        "frames": _frames(e.frames),
        "display_filter": _text(e.display_filter),
        "note": _text(e.note),
    }


def finding(f: Finding) -> dict[str, Any]:
    """One finding as in the document."""
    return {
        "id": f.id,
        "rule": f.rule,
        "title": _text(f.title),
        "role": f.role,
        "explained_by": f.explained_by,
        "severity": f.severity,
        "confidence": f.confidence,
        "scope": f.scope,
        "sender": _maybe(f.sender),
        "receiver": _maybe(f.receiver),
        "connections": list(f.connections),
        "messages": list(f.messages),
        "paths": list(f.paths),
        "evidence": [_evidence(e) for e in f.evidence],
        "facts": _value(f.facts),
        "explanation": _text(f.explanation),
        "against": [_text(a) for a in f.against],
        "rivals": [{"hypothesis": _text(r.hypothesis), "why_not": _text(r.why_not)} for r in f.rivals],
        "remedies": [
            {
                "who": r.who,
                "host": _maybe(r.host),
                "what": _text(r.what),
                "commands": [_text(c) for c in r.commands],
                "check": _text(r.check),
            }
            for r in f.remedies
        ],
        "fingerprint": f.fingerprint,
    }


def _icmp(e: IcmpError) -> dict[str, Any]:
    """An ICMP error; `mtu` 0 is a router older than RFC 1191."""
    quoted = {"src": (e.quoted_src, e.quoted_src_port), "dst": (e.quoted_dst, e.quoted_dst_port)}
    return {
        "time": timestamp(e.time_ns),
        "capture": e.capture,
        "frame": e.frame,
        "type": e.type,
        "code": e.code,
        "mtu": e.mtu,
        "src": _address(e.src),
        "dst": _address(e.dst),
        "quoted": {side: {"ip": _address(ip), "port": port} for side, (ip, port) in quoted.items()},
        "quoted_ip_bytes": e.quoted_ip_bytes,
        "quoted_df": e.quoted_df,
    }


def _address(address: int) -> str:
    return address_text(address >> 64, address & (1 << 64) - 1)


def _log_line(line: LogLine) -> dict[str, Any]:
    return {
        "file": _text(line.file),
        "line": line.line,
        "time": timestamp(line.time_ns),
        "mta": line.mta,
        "side": line.side,
        "said": line.said,
        "queue_id": _maybe(line.queue_id),
        "text": _text(line.text),
        "connection": line.connection,
        "message": line.message,
    }


def _what_if(answer: WhatIf) -> dict[str, Any]:
    return {name: _value(value) for name, value in answer._asdict().items()}
