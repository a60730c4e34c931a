"""Captures that are still being written: a file that grows, a folder in which a capture program turns its ring, a pipe.

    files as they appear  ->  windows that wait at the end of a file  ->  framing  ->  batches

A file is read to its end and looked at again and again. Once a newer one is there (a capture program closes one file of
its ring before it opens the next) it is read to its end a last time. No byte is read twice, but for the first ones of a
file: they tell a capture from other files, and the order of those that were there at the start.
"""

from __future__ import annotations

import glob
import os
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO

from ..errors import UsageError
from . import framing
from .packets import Batch, CaptureInfo
from .reading import ReadOptions, decode, in_time_order, read_source
from .sources import Source, expand
from .wanted import Wanted
from .windows import HEADROOM_BYTES, WINDOW_BYTES, Bytes, Windows

# Resends of a black hole are 0.2 s apart at first, and soon seconds; a person does not notice less.
POLL_S = 0.25
MAGIC_BYTES = 12  # of a section header: type, length, byte-order magic
# A capture's first bytes with the time of its first packet: behind a pcapng section and interface (some 400 bytes).
HEAD_BYTES = 4096


class GrowingWindows(Windows):
    """Windows over what is there now. At the end `wait` is asked: True to look again, False when nothing more comes."""

    def __init__(self, file: _File, wait: Callable[[GrowingWindows], bool], max_bytes: int | None) -> None:
        super().__init__(file, max_bytes=max_bytes)
        self._file = file
        self._wait = wait

    def _read_ahead(self) -> None:
        """Nothing is read ahead: that would be waiting."""

    def _fill(self, buffer: Bytes) -> None:
        size = WINDOW_BYTES if self._max_bytes is None else min(WINDOW_BYTES, self._max_bytes - self._read_bytes)
        self.limit_reached = not size
        view = memoryview(buffer)[HEADROOM_BYTES : HEADROOM_BYTES + size]
        got = 0
        try:
            while size and not got:
                got = self._file.readinto(view)
                if not got and not self._wait(self):
                    break
        except OSError as error:
            self.error = error
        self._exhausted = not got
        self._read_bytes += got
        self._next = (buffer, got)


class _File:
    """A file, or a pipe, that is read as far as it goes at the moment."""

    def __init__(self, name: str) -> None:
        self.name = name
        if name == "-" and (sys.stdin is None or sys.stdin.closed):
            raise OSError("standard input is closed")
        # a pipe without a writer must not stop us here: whether there is something to read is asked later
        number = sys.stdin.fileno() if name == "-" else os.open(name, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        self._raw = FileIO(number, closefd=name != "-")
        found = os.fstat(number)
        self.is_pipe = not stat.S_ISREG(found.st_mode)
        self.identity = found.st_dev, found.st_ino
        self.read_bytes = 0
        self.head = b""
        self.ended = False  # the writer of the pipe has gone

    def readinto(self, buffer: memoryview, /) -> int:
        if self.is_pipe and not select.select([self._raw], [], [], 0)[0]:
            return 0
        got = self._raw.readinto(buffer) or 0
        # a pipe that nobody has opened for writing yet looks as if its writer had gone
        self.ended = self.is_pipe and not got and (self.read_bytes > 0 or self.name == "-")
        self.read_bytes += got
        if len(self.head) < HEAD_BYTES:
            self.head += bytes(buffer[: min(got, HEAD_BYTES - len(self.head))])
        return got

    def now(self) -> os.stat_result:
        return os.fstat(self._raw.fileno())

    def close(self) -> None:
        self._raw.close()


@dataclass(slots=True)
class _Done:
    """A file that was read to its end, by which it is known again."""

    info: CaptureInfo
    size: int
    changed_ns: int
    head: bytes


class Growing:
    """What grows at one place: a file, a folder, a glob, a pipe, or `-` for stdin.

    `idle` is called whenever all that is there has been read. `stop` is asked then, too; when it says so, everything
    ends there, and a packet of which only the beginning was written counts as not captured yet.
    """

    def __init__(self, place: str, idle: Callable[[], None], stop: Callable[[], bool]) -> None:
        if "://" in place:
            raise UsageError(f"{place}: a URL cannot be followed; follow a file, a folder or - (stdin)")
        above = os.path.dirname(place) or "."
        if place != "-" and not glob.has_magic(place) and not os.path.isdir(above):
            raise UsageError(f"{place}: there is no folder {above}")
        self.place = place
        self._idle, self._stop = idle, stop
        self._is_pipe = place == "-" or _is_pipe(place)
        self._current: _File | None = None
        self._closing = False  # the current file gets no more: it is read to its end a last time
        self._stopped = False
        self._given_up = False  # the file read last could not be read to its end
        self._next: list[str] = []  # newer files, oldest first
        self._done: dict[tuple[int, int], _Done] = {}

    def batches(self, options: ReadOptions, captures: list[CaptureInfo]) -> Iterator[Batch]:
        """The packets, as they come. `captures` gets an entry for each file."""
        wanted = Wanted(options.ports, all_tcp=options.all_tcp, only=options.only)
        for source in self._at_start():
            info = CaptureInfo(id=len(captures) + 1, path=source.name)
            captures.append(info)
            yield from read_source(source, info, wanted, options)
            with suppress(OSError):  # a ring may have deleted it
                found = os.stat(source.name)
                self._done[found.st_dev, found.st_ino] = _Done(info, found.st_size, found.st_mtime_ns, b"")
            self._given_up = True  # as one that was named: nothing comes after it
        for name in self._names():
            info = CaptureInfo(id=len(captures) + 1, path=name)
            captures.append(info)
            yield from self._read(name, info, wanted, options)

    @property
    def behind(self) -> bool:
        """There is more than one window that was not read yet."""
        file = self._current
        more = file is not None and not file.is_pipe and file.now().st_size - file.read_bytes > WINDOW_BYTES
        return more or bool(self._next)

    # -- which file -------------------------------------------------------------------------------------------------

    def _at_start(self) -> Iterator[Source]:
        """What can not grow: compressed files, other formats. All else that is there is put in order."""
        if self._is_pipe or not self._listed():
            return
        for source in in_time_order([s for s in expand([self.place]) if s.error is None]):
            if _may_grow(source):
                self._next.append(source.name)
            else:
                yield source

    def _names(self) -> Iterator[str]:
        """The files to read, one after the other, until nothing more is to be expected or we are told to stop."""
        if self._is_pipe:
            yield self.place
            return
        while not self._stopped:
            if not self._next:
                self._look_for_newer()
            if self._next:
                yield self._next.pop(0)
            elif self._stop() or (self._given_up and self._is_one_file):
                return
            else:
                self._idle()
                time.sleep(POLL_S)

    @property
    def _is_one_file(self) -> bool:
        return os.path.isfile(self.place)

    def _listed(self) -> list[str]:
        if os.path.isdir(self.place):
            return [os.path.join(where, name) for where, _, names in os.walk(self.place) for name in names]
        if os.path.lexists(self.place):
            return [self.place]
        return glob.glob(self.place, recursive=True) if glob.has_magic(self.place) else []

    def _look_for_newer(self) -> None:
        fresh = [name for name in self._listed() if self._is_new(name)]
        if len(fresh) > 1:
            fresh = [source.name for source in in_time_order(expand(fresh))]
        self._next += fresh

    def _is_new(self, name: str) -> bool:
        """A capture that was not read: another file, or one whose place in the ring was written anew."""
        try:
            found = os.stat(name)
            if not stat.S_ISREG(found.st_mode) or found.st_size < MAGIC_BYTES:
                return False
            identity = found.st_dev, found.st_ino
            if self._current is not None and identity == self._current.identity:
                return False
            done = self._done.get(identity)
            if done is not None and (found.st_size, found.st_mtime_ns) == (done.size, done.changed_ns):
                return False
            with open(name, "rb") as file:
                head = file.read(max(MAGIC_BYTES, len(done.head) if done is not None else 0))
        except OSError:
            return False
        if not framing.is_capture(head):
            return False
        if done is None or not done.info.frames or head != done.head:
            return True
        framing.problem(done.info, "it grew after a newer capture had begun; what came then was not read")
        done.size, done.changed_ns = found.st_size, found.st_mtime_ns
        return False

    # -- one file ---------------------------------------------------------------------------------------------------

    def _read(self, name: str, info: CaptureInfo, wanted: Wanted, options: ReadOptions) -> Iterator[Batch]:
        try:
            file = self._current = _File(name)
        except OSError as error:
            framing.problem(info, (error.strerror or str(error)).lower())
            return
        self._closing = False
        windows = GrowingWindows(file, self._wait, options.max_bytes)
        try:
            yield from decode(windows, info, wanted, options, at_once=True)
        finally:
            info.bytes = windows.offset
            found = file.now()
            self._done[file.identity] = _Done(info, file.read_bytes, found.st_mtime_ns, file.head)
            self._current = None
            windows.close()
        self._given_up = not info.complete

    def _wait(self, windows: GrowingWindows) -> bool:
        """The end of the file is reached: whether to look again."""
        file = self._current
        if file is None or self._closing or file.ended:
            return False
        if not file.is_pipe and file.now().st_size < file.read_bytes:
            return False  # it was begun anew
        if not self._next and not self._is_pipe:
            self._look_for_newer()
        if self._next:
            self._closing = True
        elif self._stop():
            self._closing = self._stopped = windows.goes_on = True
        else:
            self._idle()
            time.sleep(POLL_S)
        return True


def _may_grow(source: Source) -> bool:
    try:
        head = source.head()
    except Exception:  # noqa: BLE001 - a decompressor may raise anything; reading it will tell what is wrong
        return False
    return not source.compression and (len(head) < MAGIC_BYTES or framing.is_capture(head))


def _is_pipe(name: str) -> bool:
    try:
        mode = os.stat(name).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)
