"""What a batch works on: capture sets, each of which becomes one case.

A set is one capture, or the files that a capturing program rotated through, known by their names:

    ring.pcap0 ring.pcap1 ...                  tcpdump -C 100 -W 20
    ring.pcap ring.pcap1 ring.pcap2 ...        tcpdump -C 100
    mail-2026-01-05_09:00:00.pcap ...          tcpdump -G 3600 -w 'mail-%F_%T.pcap'
    mail_00001_20260105090000.pcapng ...       dumpcap -b

Only names and sizes are looked at, so that a bucket of millions is listed without opening anything. A series that never
ends (a year of hourly files) is cut: where files are missing, and where a unit would grow beyond `SET_BYTES`. A
connection that is open across such a cut shows up in two cases.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from glob import has_magic
from typing import Any

from ..capture.sources import expand
from ..errors import UsageError

# A unit of 4 GiB runs for ten to thirty seconds: long against the cost of placing it, short against a limit of time, and
# little is lost with a machine.
SET_BYTES = 4 << 30

# Between neighbours of a series: no rotation in use is slower than daily, and once a year a day has 25 hours.
SET_GAP = timedelta(hours=25)

# A case costs some 20 ms whatever it holds; hashing 16 MiB costs no more.
HASHED_WHOLE_BYTES = 16 << 20
SAMPLES = 16
SAMPLE_BYTES = 16 << 10

_PACKED = r"(?:\.(?:gz|zst|xz|bz2|lz4))?"
_DUMPCAP = re.compile(r"(?P<head>.+)_(?P<number>\d{5,})_(?P<time>\d{14})(?P<tail>(?:\.[^/]*)?)")
_NUMBERED = re.compile(rf"(?P<head>.+\.(?:pcapng|pcap|cap|dmp))\.?(?P<number>\d{{1,6}})(?P<tail>{_PACKED})")
_TIMED = re.compile(
    r"(?P<head>.*?)(?P<time>(?:19|20)\d\d-?[01]\d-?[0-3]\d[-_T. ]?[0-2]\d[-:._h]?[0-5]\d(?:[-:._m]?[0-6]\d)?)(?!\d)(?P<tail>[^/]*)"
)


@dataclass(frozen=True, slots=True)
class File:
    """A capture where it lies. `content` changes whenever its bytes do."""

    name: str
    size: int  # bytes as stored; 0 where the storage does not tell
    content: str
    named: bool  # by the user: then it must be a capture; what is met in a folder may be anything


@dataclass(frozen=True, slots=True)
class Unit:
    """A capture set: what one process makes one case of."""

    files: tuple[File, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(file.name for file in self.files)

    @property
    def title(self) -> str:
        """How people call it."""
        more = f" (+{len(self.files) - 1})" if len(self.files) > 1 else ""
        return self.files[0].name + more

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def key(self, settings: str) -> str:
        """Names the case of this set: the same for the same names, content and settings (their fingerprint)."""
        told = "\0".join([settings, *(part for file in self.files for part in (file.name, file.content))])
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[
            :20
        ]  # 80 bits: no two of 10**9 collide


def find(sources: Sequence[str], *, sets: bool = True) -> list[Unit]:
    """The units that files, folders, globs and URLs name, in the order of their names. Raises UsageError if none exists."""
    files: dict[str, File] = {}
    for source in sources:
        if source == "-":
            raise UsageError("batch reads files, which - (stdin) is not: name files, folders or URLs")
        for file in _at_url(source) if "://" in source else _here(source):
            files.setdefault(file.name, file)
    units = _sets(list(files.values())) if sets else [Unit((file,)) for file in files.values()]
    return sorted(units, key=lambda unit: unit.names)


# -- where they lie ------------------------------------------------------------------------------------------------


def _here(source: str) -> Iterator[File]:
    found = expand([source])
    for one in found:
        if one.error is not None:
            raise UsageError(f"{one.name}: {one.error}")
        if not one.again:
            raise UsageError(f"{one.name}: a pipe can not be read by another process: name files")
        yield File(one.name, one.size or 0, _content(one.name, one.size or 0), named=one.name == source)


def _content(name: str, size: int) -> str:
    """A hash of the bytes; of a large file, of samples, its size and its time of change."""
    try:
        with open(name, "rb") as stream:
            if size <= HASHED_WHOLE_BYTES:
                return hashlib.file_digest(stream, "sha256").hexdigest()
            digest = hashlib.sha256(f"{size} {os.fstat(stream.fileno()).st_mtime_ns}".encode())
            for k in range(SAMPLES):
                stream.seek(k * (size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
            return digest.hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"  # the case will say so; when it can be read, it is another case


def _at_url(url: str) -> Iterator[File]:
    """Objects of a bucket and the like, from their listing alone."""
    try:
        file_system, path = importlib.import_module("fsspec").core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(f"{url}: URLs need {error.name or error} (pip install 'smtpscope[remote]')") from None
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from None
    try:
        if has_magic(path):
            listing = file_system.glob(path, detail=True)
        elif file_system.isdir(path):
            listing = file_system.find(path, detail=True)
        else:
            yield _object(url, file_system.info(path), named=True)
            return
    except Exception as error:  # noqa: BLE001 - every file system has its own errors
        raise UsageError(f"{url}: {type(error).__name__}: {error}") from None
    if not listing:
        raise UsageError(f"{url}: nothing there")
    for name, info in sorted(listing.items()):
        if info.get("type") == "file":
            yield _object(file_system.unstrip_protocol(name), info, named=False)


def _object(name: str, info: dict[str, Any], *, named: bool) -> File:
    """ETag, checksum, version or time of change: whatever the storage has to tell two contents apart."""
    marks = [info.get(mark) for mark in ("size", "ETag", "etag", "md5", "checksum", "LastModified", "mtime")]
    # An ETag says it all; the time of an object that was copied would say too much.
    told = marks[:3] if marks[1] or marks[2] else marks
    return File(name, int(info.get("size") or 0), hashlib.sha256(repr(told).encode()).hexdigest(), named)


# -- rotated sets --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a file stands in its series."""

    series: tuple[str, ...]
    time: datetime | None
    number: int


def _place(name: str) -> _Place | None:
    if match := _DUMPCAP.fullmatch(name):
        return _Place(("dumpcap", match["head"], match["tail"]), _time(match["time"]), int(match["number"]))
    number, base = 0, name
    if match := _NUMBERED.fullmatch(name):
        number, base = int(match["number"]) + 1, match["head"] + match["tail"]
    folder, slash, last = base.rpartition("/")
    if match := _TIMED.fullmatch(last):
        return _Place(("timed", folder + slash + match["head"], match["tail"]), _time(match["time"]), number)
    return _Place(("numbered", base), None, number)


def _time(digits: str) -> datetime | None:
    digits = re.sub(r"\D", "", digits)
    try:
        return datetime.strptime(digits, "%Y%m%d%H%M%S" if len(digits) == 14 else "%Y%m%d%H%M")  # noqa: DTZ007 - compared among themselves
    except ValueError:
        return None


def _sets(files: Sequence[File]) -> list[Unit]:
    series: dict[tuple[str, ...], list[tuple[_Place, File]]] = {}
    for file in files:
        place = _place(file.name)
        series.setdefault(place.series if place else ("", file.name), []).append((place or _Place((), None, 0), file))
    return [Unit(tuple(part)) for members in series.values() for part in _cut(members)]


def _cut(members: list[tuple[_Place, File]]) -> Iterator[list[File]]:
    """A series, cut where files are missing and where it grows too large for one process."""
    members.sort(key=lambda m: (str(m[0].time or ""), m[0].number, m[1].name))
    part: list[File] = []
    before: datetime | None = None
    for place, file in members:
        gap = before is not None and place.time is not None and place.time - before > SET_GAP
        if part and (gap or sum(f.size for f in part) + file.size > SET_BYTES):
            yield part
            part = []
        part.append(file)
        before = place.time
    if part:
        yield part
