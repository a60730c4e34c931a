"""A stream of bytes as a row of windows in memory.

Files are read, not mapped: a mapped file that is cut short while it is read kills the process (SIGBUS), a read merely
ends early. What takes time to come (a pipe, what has to be unpacked) is read ahead by a thread. Of a file that is not in
memory yet the system is told to read ahead, and the copy is left to the thread that works on it: bytes that another
processor wrote are as far away as if they had not been copied at all (measured: a sixth of all that reading costs).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import time
from typing import Protocol

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

# Large enough that the fixed cost of NumPy calls, and of judging what is over, is spread over ten thousand packets and a
# hundred connections; small enough for flat memory. Half of it takes a tenth more time (measured).
WINDOW_BYTES = 16 << 20
# What a window leaves unread (less than a record) is copied in front of the next one; longer leftovers get a buffer of
# their own. Packets are 256 KiB at most (framing.MAX_PACKET_BYTES).
HEADROOM_BYTES = 512 << 10
# Rows of fixed width are gathered around each header; the last rows of a window reach beyond its end. These bytes may
# be read, and are never believed.
PADDING_BYTES = 512

# Buffers that are used in turn: one being filled, one being decoded, one that the reader's last batch points into, one that
# the decoder looks back into for a handshake. More may be held, and are not used again.
MAX_BUFFERS = 4

# Freed memory is kept for the next array, not given back to the system to be fetched again page by page, once a block of
# such a size has been freed (glibc: M_MMAP_THRESHOLD and M_TRIM_THRESHOLD grow with it; elsewhere it does nothing).
_KEPT_BYTES = 4 << 20

# Bytes that are in memory already are copied in a fifth of this time, on a busy machine in half of it. To ask the system to
# read ahead what it has takes a fortieth of the work on it.
COPIED_S_PER_BYTE = 0.5e-9

# What getrefcount says of an object that a list holds and nobody else (versions of Python count differently).
_HELD = [np.empty(1)]
HELD_BY_A_LIST_ONLY = sys.getrefcount(_HELD[0])


class Stream(Protocol):
    """What windows are filled from: an open file, a pipe, a decompressor."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...

    def close(self) -> None: ...


class Border(ctypes.Structure):
    """Where one process stops to read a file and another goes on, in memory that both see.

    Who reads tells how far it is; who has nothing left to read may bid it stop earlier, well behind that.
    """

    _fields_ = (("claimed", ctypes.c_int64), ("stop", ctypes.c_int64))
    claimed: int  # bytes of the file that are read, or under way
    stop: int  # the offset at which to stop; 0: nothing was said. It comes too late when more is claimed already

    @classmethod
    def shared(cls, begin: int) -> Border:
        border = cls.from_buffer(mmap.mmap(-1, ctypes.sizeof(cls)))
        border.claimed = begin
        return border


class Windows:
    """`buffer[start:end]` is what can be read now; `position + base` is the offset of a position in the stream.

    Buffers are used again only when nobody else holds them: whoever keeps one costs memory, never gets wrong bytes.
    """

    def __init__(
        self,
        stream: Stream,
        *,
        window_bytes: int = WINDOW_BYTES,
        max_bytes: int | None = None,
        descriptor: int | None = None,  # of the file, if it is one that needs no thread
        skipped_bytes: int = 0,  # of the file, that the stream leaves out behind the file header
        stop: int | None = None,  # offset at which somebody else reads on
        border: Border | None = None,  # or where it is while this is read
    ) -> None:
        np.empty(_KEPT_BYTES, np.uint8)
        self._stream = stream
        self._window_bytes = window_bytes
        self._max_bytes = max_bytes if stop is None else stop
        self.stops = stop is not None  # before the end: somebody else reads on
        self._border = border
        self._descriptor = descriptor
        self._buffers: list[Bytes] = []
        self._next: tuple[Bytes, int] | None = None
        self._thread: threading.Thread | None = None
        self._read_bytes = skipped_bytes
        self._exhausted = False
        self._waited = False  # for bytes that were not in memory yet
        self.error: Exception | None = None  # why reading ended before the end of the stream
        self.limit_reached = False  # there is more than max_bytes
        self.goes_on = False  # it was still being written when reading was stopped
        self.start = self.end = HEADROOM_BYTES
        self.base = skipped_bytes - HEADROOM_BYTES
        self.buffer: Bytes = np.empty(HEADROOM_BYTES + PADDING_BYTES, np.uint8)

    @property
    def offset(self) -> int:
        """Offset in the stream of the first byte after the window."""
        return self.end + self.base

    def head(self, size: int) -> bytes:
        """The first bytes of the window, fewer where it is shorter: what lies behind its end is left from before."""
        return self.buffer[self.start : min(self.start + size, self.end)].tobytes()

    def advance(self, position: int) -> bool:
        """Lets go of what lies before `position` (which may lie beyond the window) and reads on.

        False when nothing more comes; what was left unread then stays where it is.
        """
        while True:
            left = max(self.end - position, 0)
            filled = self._take()
            if filled is None:
                self.start = min(position, self.end)
                return False
            buffer, got = filled
            first = HEADROOM_BYTES
            if left > first:
                buffer = np.concatenate((self.buffer[self.end - left : self.end], buffer[first:]))
                first = left
            elif left:
                buffer[first - left : first] = self.buffer[self.end - left : self.end]
            beyond = max(position - self.end, 0)
            self.base += self.end - first
            self.buffer, self.start, self.end = buffer, first - left + min(beyond, got), first + got
            del buffer, filled
            self._read_ahead()  # only now: what was just left may be filled again
            if beyond < got or not beyond:
                return True
            position = self.end + beyond - got

    def close(self) -> None:
        """Lets the stream go. A thread that is still stuck in a read (a pipe that stalls) is left to end by itself."""
        if self._thread is not None:
            self._thread.join(timeout=1)
        if self._thread is None or not self._thread.is_alive():
            self._stream.close()

    def _take(self) -> tuple[Bytes, int] | None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        elif not self._exhausted:
            self._fill(self._free_buffer())
        filled, self._next = self._next, None
        return filled if filled is not None and filled[1] else None

    def _read_ahead(self) -> None:
        if self._exhausted:
            return
        if self._descriptor is None:
            self._thread = threading.Thread(target=self._fill, args=(self._free_buffer(),), daemon=True)
            self._thread.start()
        elif self._waited and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, self._read_bytes, self._window_bytes, os.POSIX_FADV_WILLNEED)

    def _free_buffer(self) -> Bytes:
        for i in range(len(self._buffers)):
            if sys.getrefcount(self._buffers[i]) == HELD_BY_A_LIST_ONLY:
                return self._buffers[i]
        buffer = np.empty(HEADROOM_BYTES + self._window_bytes + PADDING_BYTES, np.uint8)
        if len(self._buffers) >= MAX_BUFFERS:
            self._buffers.pop(0)  # its holder keeps it alive
        self._buffers.append(buffer)
        return buffer

    def _fill(self, buffer: Bytes) -> None:
        got = 0
        if self._border is not None and self._border.stop > self._read_bytes:
            self._max_bytes, self.stops = self._border.stop, True
        # windows end at the same bytes of a file, wherever reading began
        size = self._window_bytes - self._read_bytes % self._window_bytes
        if self._max_bytes is not None:
            size = min(size, self._max_bytes - self._read_bytes)
        if self._border is not None:
            self._border.claimed = self._read_bytes + size
        view = memoryview(buffer)[HEADROOM_BYTES : HEADROOM_BYTES + size]
        began_s = time.perf_counter()
        try:
            while got < size:
                n = self._stream.readinto(view[got:])
                if not n:
                    self._exhausted = True
                    break
                got += n
            else:
                if self._max_bytes is not None and self._read_bytes + got >= self._max_bytes:
                    self._exhausted = True
                    self.limit_reached = not self.stops and bool(self._stream.readinto(memoryview(bytearray(1))))
        except Exception as error:  # noqa: BLE001 - a decompressor may raise anything; the reader reports it
            self.error = error
            self._exhausted = True
        self._waited = time.perf_counter() - began_s > got * COPIED_S_PER_BYTE
        self._read_bytes += got
        self._next = (buffer, got)
