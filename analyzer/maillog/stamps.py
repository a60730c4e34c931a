"""Log files -> lines with the time at which they were written.

Known: syslog as RFC 3164 (no year, no zone: `Nov 22 13:34:01`), RFC 5424 and rsyslog (ISO 8601), Exim's main log
(`2026-11-22 13:31:39`, sometimes with a zone), Microsoft's SMTP protocol logs (W3C extended and Exchange's CSV, in UTC).
Files may be compressed; bytes that are no UTF-8 are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import BinaryIO, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..capture.sources import expand
from ..errors import CaptureError, UsageError

LINE_LIMIT = 4096  # RFC 5424 6.1 asks receivers for 2048 bytes; longer lines are cut
READ_BYTES = 4 * LINE_LIMIT + 2  # UTF-8 takes up to 4 bytes for a character

_MONTHS = {m: n for n, m in enumerate("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split(), 1)}
# RFC 3164 4.1.2: Mmm dd hh:mm:ss, a day below 10 after a space; some add a year before the time or a fraction behind it.
_RFC3164 = re.compile(r"(?:<\d{1,3}>)?([A-Z][a-z]{2}) +(\d{1,2}) (?:(\d{4}) )?(\d\d):(\d\d):(\d\d)(\.\d{1,9})? (.*)")
# RFC 5424 6: <PRI>VERSION TIMESTAMP HOST APP PROCID MSGID SD MSG; rsyslog's file format begins with the timestamp.
_ISO = re.compile(
    r"(?:<\d{1,3}>\d )?(\d{4})-(\d\d)-(\d\d)[T ,](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(Z| ?[+-]\d\d:?\d\d)?[ ,\t](.*)"
)
_HEADER_5424 = re.compile(r"(\S+) (\S+) (\S+) \S+ (?:-|(?:\[(?:[^\]\\]|\\.)*\])+) ?(?:\ufeff)?(.*)")
_TAG = re.compile(r"(\S+) ([^\s:\[]+)(?:\[(\d+)\])?: (.*)")  # HOST TAG[PID]: MESSAGE


class Line(NamedTuple):
    """One line. `time_ns` is when it was written at the earliest, `width_ns` how much later it may have been."""

    file: str
    number: int
    time_ns: int
    width_ns: int
    host: str
    program: str
    process: str
    text: str  # what is left behind the header
    fields: tuple[tuple[str, str], ...] = ()  # of a Microsoft log: name and value


def zone(name: str | None) -> tzinfo | None:
    """`Europe/Berlin`, `UTC`, `+01:00`; None is the zone of this machine."""
    if name is None:
        return None
    offset = re.fullmatch(r"(?:UTC)?([+-])(\d{1,2}):?(\d\d)?", name)
    if offset:
        sign = 1 if offset[1] == "+" else -1
        return timezone(sign * timedelta(hours=int(offset[2]), minutes=int(offset[3] or 0)))
    try:
        return UTC if name.upper() in ("UTC", "Z") else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"--log-timezone {name}: no such zone; write UTC, +01:00 or a name as Europe/Berlin") from None


def read(path: str, of: tzinfo | None, near_ns: int | None) -> Iterator[Line]:
    """The lines of one file. `near_ns` tells the year where a log does not: the one nearest to the captures."""
    sources = expand([path])
    try:
        if len(sources) != 1:
            raise UsageError(f"--maillog {path}: this is no single file")
        with sources[0].open_file() as file:
            yield from _lines(path, (raw.decode("utf-8", "surrogateescape") for raw in _cut(file)), of, near_ns)
    except (OSError, CaptureError, EOFError) as error:
        raise UsageError(f"--maillog {path}: {getattr(error, 'strerror', None) or error}") from None


def _cut(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, each as far as it is looked at: one may be as long as the file."""
    while line := file.readline(READ_BYTES):
        rest = line
        while len(rest) == READ_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(READ_BYTES)
        yield line


def _lines(path: str, raw: Iterator[str], of: tzinfo | None, near_ns: int | None) -> Iterator[Line]:
    names: list[str] = []
    for number, line in enumerate(raw, 1):
        text = line.rstrip("\r\n")[:LINE_LIMIT]
        if text.startswith("#Fields:"):
            names = [n.strip() for n in re.split(r"[,\s]+", text.removeprefix("#Fields:").strip())]
            continue
        if not text or text.startswith("#"):
            continue
        found = _microsoft(path, number, text, names) if names else _syslog(path, number, text, of, near_ns)
        if found is not None:
            yield found


def _syslog(path: str, number: int, text: str, of: tzinfo | None, near_ns: int | None) -> Line | None:
    old = _RFC3164.match(text)
    if old and old[1] in _MONTHS:
        month, day, year, hour, minute, second, fraction, rest = old.groups()
        when = _nearest(year, _MONTHS[month], int(day), (int(hour), int(minute), int(second)), of, near_ns)
        digits, header = (fraction or "").lstrip("."), _TAG.match(rest)
    else:
        iso = _ISO.match(text)
        if not iso:
            return None
        *date, digits, offset, rest = iso.groups()
        at = _moment(*(int(x) for x in date))
        when = None if at is None else _in_zone(at, zone(offset.strip()) if offset else of)
        digits = digits or ""
        full = _HEADER_5424.match(rest) if text.startswith("<") else None
        header = None if full else _TAG.match(rest)
        if full:
            return _line(path, number, when, digits, (full[1], full[2], full[3], full[4]))
    return _line(
        path, number, when, digits, (header[1], header[2], header[3] or "", header[4]) if header else ("", "", "", rest)
    )


def _moment(year: int, month: int, day: int, hour: int, minute: int, second: int) -> datetime | None:
    """That time by some clock on a wall; None when there is none (30 February, a 61st second)."""
    try:
        return datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - the zone comes next
    except ValueError:
        return None


def _line(path: str, number: int, when: datetime | None, digits: str, header: tuple[str, str, str, str]) -> Line | None:
    if when is None:
        return None
    fraction = int(digits.ljust(9, "0")) if digits else 0
    time_ns = int(when.timestamp()) * 1_000_000_000 + fraction
    return Line(path, number, time_ns, 10 ** (9 - len(digits)), *header)


def _in_zone(naive: datetime, of: tzinfo | None) -> datetime:
    return naive.astimezone() if of is None else naive.replace(tzinfo=of)


def _nearest(
    year: str | None, month: int, day: int, clock: tuple[int, int, int], of: tzinfo | None, near_ns: int | None
) -> datetime | None:
    """The time in the year that the line names, else in the one that brings it nearest to the captures."""
    near = datetime.fromtimestamp((near_ns or 0) / 1e9, UTC) if near_ns else datetime.now(UTC)
    years = [int(year)] if year else [near.year - 1, near.year, near.year + 1]
    moments = [_moment(candidate, month, day, *clock) for candidate in years]
    candidates = [_in_zone(moment, of) for moment in moments if moment is not None]
    return min(candidates, key=lambda t: abs(t - near), default=None)


def _microsoft(path: str, number: int, text: str, names: list[str]) -> Line | None:
    """One record of IIS's W3C format (blanks) or of Exchange's (commas); times are UTC in both."""
    values = _csv(text) if "," in text and "date-time" in names else text.split()
    record = dict(zip(names, values, strict=False))
    stamp = record.get("date-time") or f"{record.get('date', '')}T{record.get('time', '')}Z"
    try:
        when = datetime.fromisoformat(stamp)
    except ValueError:
        return None
    digits = re.search(r"\.(\d+)", stamp)
    time_ns = int(when.timestamp()) * 1_000_000_000 + when.microsecond * 1000
    width = 10 ** (9 - len(digits[1])) if digits else 1_000_000_000
    return Line(
        path, number, time_ns, width, record.get("s-computername", ""), "microsoft", "", text, tuple(record.items())
    )


def _csv(text: str) -> list[str]:
    import csv

    return next(csv.reader([text]), [])
