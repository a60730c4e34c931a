"""Where captures come from: files, folders, globs, standard input, compressed files, fsspec URLs.

A source is opened when its turn comes. Compression is told by the first bytes, not by the name. In a folder or a glob
what is no capture is passed over and counted; a file that was named is tried, and complained about.
"""

from __future__ import annotations

import glob
import importlib
import io
import os
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, cast

from ..errors import CaptureError, NotACapture
from .framing import is_capture
from .windows import Stream

HEAD_BYTES = 64 << 10  # enough to see the format and, in nearly all captures, the first packet's time
PACKED_BYTES = 256 << 10  # compressed bytes are read in pieces of this size

# Magic -> name of the compression.
COMPRESSIONS: dict[bytes, str] = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bz2",
    b"\x04\x22\x4d\x18": "lz4",
}


@dataclass(slots=True)
class Source:
    """One capture to be: `open` gives its unpacked bytes."""

    name: str
    opener: Callable[[], BinaryIO]
    again: bool = True  # can be opened a second time (a pipe can not)
    size: int | None = None  # bytes as stored, where it is known
    error: str | None = None  # why it can not be read, known without opening it
    compression: str = ""
    identity: tuple[int, int] | None = None  # device and inode: the same file under two names is read once
    _held: Stream | None = field(default=None, repr=False)

    def open(self) -> Stream:
        """The unpacked bytes from the first one on. Raises CaptureError or OSError."""
        if self._held is not None:
            held, self._held = self._held, None
            return held
        raw = self.opener()
        try:
            return self._unpacked(raw)
        except BaseException:
            raw.close()
            raise

    def open_behind(self, header_bytes: int, at: int) -> Stream:
        """The first bytes of a file that is not packed, and what begins at byte `at` behind them. Raises OSError."""
        raw = self.opener()
        try:
            header = raw.read(header_bytes)
            raw.seek(at)
        except BaseException:
            raw.close()
            raise
        return _Rejoined(header, cast(Stream, raw))

    def open_file(self) -> BinaryIO:
        """The same as a file object."""
        return io.BufferedReader(_AsFile(self.open()), PACKED_BYTES)

    def head(self) -> bytes:
        """The first bytes, unpacked, as far as they can be read. Raises what `open` raises."""
        stream = self.open()
        data, error = read_up_to(stream, HEAD_BYTES)
        if self.again:
            stream.close()
        else:
            self._held = _Rejoined(data, stream, error)
        return data

    def _unpacked(self, raw: BinaryIO) -> Stream:
        head, error = read_up_to(cast(Stream, raw), 6)
        packed: Stream = _Rejoined(head, cast(Stream, raw), error)
        self.compression = _compression(head)
        if not self.compression:
            return packed
        file = _AsFile(packed, ends_at_error=True)
        unpacked = _Unpacked(_decompressor(self.compression, io.BufferedReader(file, PACKED_BYTES)), file)
        inner, error = read_up_to(unpacked, 6)
        if _compression(inner):
            unpacked.close()
            raise NotACapture(f"compressed twice ({self.compression}, then {_compression(inner)}): unpack it first")
        return _Rejoined(inner, unpacked, error, beneath=raw)


def expand(args: Sequence[str], skipped: list[str] | None = None) -> list[Source]:
    """The sources that the arguments name. Files passed over because they are no captures go to `skipped`."""
    passed_over: list[str] = [] if skipped is None else skipped
    sources: list[Source] = []
    for arg in args:
        sources += _expand_one(arg, passed_over)
    unique: dict[object, Source] = {}
    for source in sources:
        unique.setdefault(source.identity or source.name, source)
    return list(unique.values())


def _expand_one(arg: str, skipped: list[str]) -> list[Source]:
    if arg == "-":
        return [Source("-", _standard_input, again=False)]
    if "://" in arg:
        return _expand_url(arg, skipped)
    if os.path.isdir(arg):
        return _of_folder(arg, skipped)
    if not os.path.lexists(arg) and glob.has_magic(arg):
        names = sorted(glob.glob(arg, recursive=True))
        if not names:
            return [_unreadable(arg, "no file matches this pattern")]
        found = _captures_among([n for n in names if os.path.isfile(n)], skipped)
        return found or [_unreadable(arg, f"no capture among the {len(names)} files that match")]
    return [_of_file(arg)]


def _standard_input() -> BinaryIO:
    if sys.stdin is None or sys.stdin.closed:
        raise CaptureError("standard input is closed")
    return sys.stdin.buffer


def _of_folder(folder: str, skipped: list[str]) -> list[Source]:
    names = []
    for where, folders, files in os.walk(folder):
        folders.sort()
        names += [os.path.join(where, name) for name in sorted(files)]
    found = _captures_among([n for n in names if os.path.isfile(n)], skipped)
    if found:
        return found
    if not os.access(folder, os.R_OK | os.X_OK):
        return [_unreadable(folder, "permission denied")]
    return [
        _unreadable(
            folder, "no capture in this folder" + (f" ({len(names)} other files)" if names else ": it is empty")
        )
    ]


def _captures_among(names: Sequence[str], skipped: list[str]) -> list[Source]:
    found = []
    for name in names:
        source = _of_file(name)
        if source.error is None:
            try:
                head = source.head()
            except (OSError, CaptureError, EOFError, ValueError) as error:
                if isinstance(error, PermissionError) or source.compression:
                    found.append(source)  # reading it will say what is wrong
                else:
                    skipped.append(name)
                continue
            except Exception:  # noqa: BLE001 - a decompressor's own error: it is damaged, not foreign
                found.append(source)
                continue
            damaged = source.compression and not head
            if not is_capture(head) and not is_foreign_capture(head) and not damaged:
                skipped.append(name)
                continue
        found.append(source)
    return found


# Formats that are left to tshark: magic -> name. Capture files only, nothing that merely contains packets.
FOREIGN_MAGICS: dict[bytes, str] = {
    b"snoop\x00\x00\x00": "snoop",
    b"RTSS": "Microsoft Network Monitor 1",
    b"GMBU": "Microsoft Network Monitor 2",
    b"TRSNIFF data    \x1a": "Sniffer",
    b"XCP\x00": "NetXray",
    b"\xaa\xaa\xaa\xaa": "5Views",
    b"\x01\x10\x4c\x00\x01\x05Trace ": "LANalyzer",
    b"ObserverPktBuffe": "Observer",
    b"TR\x00d": "HP-UX nettl",
    b"\x05VNF": "Visual Networks",
    b"+---------+---------------+----------+": "K12 text",
}


def is_foreign_capture(head: bytes) -> bool:
    return bool(foreign_format(head))


def foreign_format(head: bytes) -> str:
    return next((name for magic, name in FOREIGN_MAGICS.items() if head.startswith(magic)), "")


def _of_file(name: str) -> Source:
    try:
        found = os.stat(name)
    except (OSError, ValueError) as error:
        return _unreadable(name, (getattr(error, "strerror", None) or "cannot be read").lower())
    if stat.S_ISREG(found.st_mode):
        identity = (found.st_dev, found.st_ino)
        return Source(name, lambda: open(name, "rb", buffering=0), size=found.st_size, identity=identity)
    if stat.S_ISFIFO(found.st_mode) or stat.S_ISCHR(found.st_mode):
        return Source(name, lambda: open(name, "rb", buffering=0), again=False)
    return _unreadable(name, "neither a file nor a folder nor a pipe")


def _expand_url(url: str, skipped: list[str]) -> list[Source]:
    """An fsspec URL (s3://, https://, memory://, ...): a file, a folder, or a glob."""
    try:
        fsspec = importlib.import_module("fsspec")
    except ImportError:
        return [_unreadable(url, "URLs need the package fsspec (pip install 'smtpscope[remote]')")]
    try:
        file_system, path = fsspec.core.url_to_fs(url)
        if glob.has_magic(path):
            paths = sorted(file_system.glob(path))
        elif file_system.isdir(path):
            paths = sorted(file_system.find(path))
        else:
            return [_of_url(file_system, path, url)]
        found = [_of_url(file_system, p, file_system.unstrip_protocol(p)) for p in paths]
    except Exception as error:  # noqa: BLE001 - every file system has its own errors
        return [_unreadable(url, f"{type(error).__name__}: {error}")]
    captures = []
    for source in found:
        try:
            head = source.head()
        except Exception:  # noqa: BLE001 - reading it will say what is wrong
            captures.append(source)
            continue
        if is_capture(head) or is_foreign_capture(head):
            captures.append(source)
        else:
            skipped.append(source.name)
    return captures or [_unreadable(url, "no capture there")]


def _of_url(file_system: Any, path: str, name: str) -> Source:
    return Source(name, lambda: file_system.open(path, "rb"))


def _unreadable(name: str, why: str) -> Source:
    def refuse() -> BinaryIO:
        raise CaptureError(why)

    return Source(name, refuse, error=why)


def _compression(head: bytes) -> str:
    return next((name for magic, name in COMPRESSIONS.items() if head.startswith(magic)), "")


def _decompressor(name: str, packed: BinaryIO) -> Stream:
    """A stream of the unpacked bytes, by the fastest library that is installed."""
    if name == "gzip":
        return _Gzip(packed)
    if name == "xz":
        return _Xz(packed)
    if name == "bz2":
        return cast(Stream, importlib.import_module("bz2").BZ2File(packed))
    if name == "zstd":
        module = _needed("zstandard", "zstd")
        return cast(Stream, module.ZstdDecompressor().stream_reader(packed, read_across_frames=True))
    return cast(Stream, _needed("lz4.frame", "lz4").LZ4FrameFile(packed))


def _first_module(*names: str) -> Any:
    for name in names[:-1]:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return importlib.import_module(names[-1])


def _needed(module: str, compression: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise CaptureError(
            f"{compression}-compressed: needs the package {package} (pip install 'smtpscope[compress]')"
        ) from None


def read_up_to(stream: Stream, size: int) -> tuple[bytes, Exception | None]:
    """The next bytes of a stream, fewer than `size` only at its end or where an error stops it."""
    data = bytearray(size)
    view = memoryview(data)
    got = 0
    try:
        while got < size:
            n = stream.readinto(view[got:])
            if not n:
                break
            got += n
    except Exception as error:  # noqa: BLE001 - kept for when reading comes to this place
        return bytes(data[:got]), error
    return bytes(data[:got]), None


class _Rejoined:
    """A stream with what was already taken from it (bytes, or an error behind them) put back in front."""

    def __init__(
        self, head: bytes, rest: Stream, error: Exception | None = None, beneath: BinaryIO | None = None
    ) -> None:
        self._head = memoryview(head)
        self._rest = rest
        self._error = error
        self._beneath = beneath  # the packed file, which not every decompressor closes

    def readinto(self, buffer: memoryview, /) -> int | None:
        if len(self._head):
            n = min(len(self._head), len(buffer))
            buffer[:n] = self._head[:n]
            self._head = self._head[n:]
            return n
        if self._error is not None:
            raise self._error
        return self._rest.readinto(buffer)

    def fileno(self) -> int:
        """Of what the rest comes from; raises OSError where that is no file."""
        return cast(BinaryIO, self._rest).fileno()

    def close(self) -> None:
        self._rest.close()
        if self._beneath is not None:
            self._beneath.close()


class _Unpacked:
    """What a decompressor makes of a file. When the file could not be read on, that is why it ends."""

    def __init__(self, unpacker: Stream, packed: _AsFile) -> None:
        self._unpacker = unpacker
        self._packed = packed

    def readinto(self, buffer: memoryview, /) -> int | None:
        try:
            got = self._unpacker.readinto(buffer)
        except Exception:
            if self._packed.error is not None:
                raise self._packed.error from None
            raise
        if not got and self._packed.error is not None:
            raise self._packed.error
        return got

    def close(self) -> None:
        self._unpacker.close()


class _Gzip:
    """gzip (RFC 1952) piece by piece: of a file that was cut off comes out all that went in, which GzipFile holds back."""

    WBITS = 31  # zlib.h: 15 for the largest window, and 16 for the header and trailer of gzip

    def __init__(self, packed: BinaryIO) -> None:
        self._zlib = _first_module("isal.isal_zlib", "zlib")
        self._packed = packed
        self._unpacker = self._zlib.decompressobj(wbits=self.WBITS)

    def readinto(self, buffer: memoryview, /) -> int:
        size = min(len(buffer), 4 << 20)
        while True:
            if self._unpacker.eof:  # members may follow each other, with zeros between and behind them
                packed = self._unpacker.unused_data.lstrip(b"\0")
                while not packed:
                    more = self._packed.read(PACKED_BYTES)
                    if not more:
                        return 0
                    packed = more.lstrip(b"\0")
                self._unpacker = self._zlib.decompressobj(wbits=self.WBITS)
            else:
                packed = self._unpacker.unconsumed_tail or self._packed.read(PACKED_BYTES)
            data = self._unpacker.decompress(packed, size)
            if data:
                buffer[: len(data)] = data
                return len(data)
            if not packed and not self._unpacker.eof:
                raise EOFError("the compressed file ends in the middle")

    def close(self) -> None:
        self._packed.close()


class _Xz:
    """xz with a limit on memory, which Python's LZMAFile does not have: a few bytes can ask for a dictionary of 4 GB."""

    # xz -9 needs 65 MiB to unpack.
    MEMORY_BYTES = 256 << 20

    def __init__(self, packed: BinaryIO) -> None:
        self._lzma = importlib.import_module("lzma")
        self._packed = packed
        self._unpacker = self._new()

    def _new(self) -> Any:
        return self._lzma.LZMADecompressor(format=self._lzma.FORMAT_XZ, memlimit=self.MEMORY_BYTES)

    def readinto(self, buffer: memoryview, /) -> int:
        size = min(len(buffer), 4 << 20)
        packed = b""
        while True:
            if self._unpacker.eof:  # streams may follow each other
                packed = self._unpacker.unused_data or self._packed.read(PACKED_BYTES)
                if not packed.lstrip(b"\0"):
                    return 0
                self._unpacker = self._new()
            elif self._unpacker.needs_input:
                packed = self._packed.read(PACKED_BYTES)
                if not packed:
                    raise EOFError("the compressed file ends in the middle")
            data = self._unpacker.decompress(packed, size)
            packed = b""
            if data:
                buffer[: len(data)] = data
                return len(data)

    def close(self) -> None:
        self._packed.close()


class _AsFile(io.RawIOBase):
    """What decompressors want to read from.

    ends_at_error: a read that fails looks like the end of the file, and `error` tells why. A decompressor that meets an
    exception forgets what it had read until then.
    """

    def __init__(self, stream: Stream, *, ends_at_error: bool = False) -> None:
        self._stream = stream
        self._ends_at_error = ends_at_error
        self.error: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if self.error is not None:
            return 0
        try:
            return self._stream.readinto(memoryview(buffer)) or 0
        except OSError as error:
            if not self._ends_at_error:
                raise
            self.error = error
            return 0

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
