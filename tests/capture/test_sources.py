"""Captures are found wherever they lie and however they are packed, and read in the order of their packets."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from analyzer.capture import sources
from analyzer.capture.packets import CaptureInfo
from analyzer.capture.reading import ReadOptions, read

from . import build
from .tables import assert_equal, read_all

PACKETS = [build.ethernet(build.ip4(build.tcp(b"x" * 50, seq=n))) for n in range(500)]
PCAP = build.pcap(PACKETS)


def zstd(data: bytes) -> bytes:
    return pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(data)


def lz4(data: bytes) -> bytes:
    return pytest.importorskip("lz4.frame").compress(data)


COMPRESSORS = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zstd": zstd, "lz4": lz4}


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain.pcap"
    path.write_bytes(PCAP)
    return path


@pytest.mark.parametrize("name", COMPRESSORS)
def test_compression_is_told_by_the_content(tmp_path: Path, plain: Path, name: str) -> None:
    """Whatever the file is called; the frames are those of the plain file."""
    packed = tmp_path / "capture.dat"
    packed.write_bytes(COMPRESSORS[name](PCAP))
    result = read_all(packed)
    assert_equal(result, read_all(plain))
    assert result.captures[0].format == f"pcap, {name}"
    assert result.captures[0].bytes == len(PCAP)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_parts_packed_one_by_one_are_one_capture(tmp_path: Path, plain: Path, name: str) -> None:
    """Compressed files may be joined (pigz, zstd -T, cat)."""
    packed = tmp_path / "capture.dat"
    packed.write_bytes(COMPRESSORS[name](PCAP[:10_000]) + COMPRESSORS[name](PCAP[10_000:]))
    assert_equal(read_all(packed), read_all(plain))


@pytest.mark.parametrize("name", COMPRESSORS)
@pytest.mark.parametrize("keep", [0.5, 0.99])
def test_cut_off_compressed_file(tmp_path: Path, name: str, keep: float) -> None:
    """What could be unpacked is read; the capture is not complete."""
    packed = tmp_path / "capture.dat"
    data = COMPRESSORS[name](build.pcap([p + os.urandom(400) for p in PACKETS]))
    packed.write_bytes(data[: int(len(data) * keep)])
    result = read_all(packed)
    assert not result.captures[0].complete
    assert len(result.problems) == 1
    if name in ("gzip", "xz"):  # the others unpack whole blocks, of 64 KB and more
        assert len(result.packets) > (keep - 0.1) * len(PACKETS)


def test_damaged_compressed_file(tmp_path: Path) -> None:
    """A checksum that does not fit is said, never raised."""
    for name, compress in COMPRESSORS.items():
        data = bytearray(compress(PCAP))
        data[len(data) // 2] ^= 0xFF
        packed = tmp_path / name
        packed.write_bytes(data)
        result = read_all(packed)
        assert not result.captures[0].complete, name


def test_nested_compression_is_refused(tmp_path: Path) -> None:
    """The way bombs are built."""
    packed = tmp_path / "capture.gz"
    packed.write_bytes(gzip.compress(bz2.compress(PCAP)))
    result = read_all(packed)
    assert result.problems == ["compressed twice (gzip, then bz2): unpack it first"]


def test_bombs_are_read_in_flat_memory_up_to_a_limit(tmp_path: Path) -> None:
    """Gigabytes of zeros stop where --max-bytes says."""
    packed = tmp_path / "bomb.gz"
    packed.write_bytes(gzip.compress(PCAP + build.pcap([bytes(60_000)] * 1000)[24:]))
    result = read_all(packed, max_bytes=1_000_000)
    assert len(result.packets) == 500
    assert result.problems == ["only the first 1000000 bytes were read (--max-bytes)"]
    assert result.captures[0].bytes == 1_000_000


def test_the_limit_is_not_reached_by_a_file_of_that_size(plain: Path) -> None:
    """Exactly the limit is allowed."""
    assert read_all(plain, max_bytes=len(PCAP)).captures[0].complete
    assert not read_all(plain, max_bytes=len(PCAP) - 1).captures[0].complete


def test_xz_that_asks_for_too_much_memory(tmp_path: Path) -> None:
    """A dictionary of 1.5 GB is refused."""
    packed = tmp_path / "capture.xz"
    packed.write_bytes(_xz_with_dictionary(1536 << 20))
    assert "emory" in read_all(packed).problems[0]


def _xz_with_dictionary(size: int) -> bytes:
    """An xz file whose block header asks for a dictionary of this size (the xz format, sections 2, 3.1 and 5.3.1)."""
    bits = next(b for b in range(41) if (2 | b & 1) << (b // 2 + 11) >= size)
    block = bytes([2, 0, 0x21, 1, bits, 0, 0, 0])
    flags = b"\x00\x01"
    return (
        b"\xfd7zXZ\x00"
        + flags
        + zlib.crc32(flags).to_bytes(4, "little")
        + block
        + zlib.crc32(block).to_bytes(4, "little")
        + bytes(100)
    )


def test_folders_pass_over_what_is_no_capture(tmp_path: Path, plain: Path) -> None:
    """And count it; subfolders are read as well."""
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b.cap").write_bytes(build.pcapng(PACKETS, start_s=1_800_000_000))
    (tmp_path / "notes.txt").write_text("not a capture")
    (tmp_path / "empty").touch()
    skipped: list[str] = []
    captures: list[CaptureInfo] = []
    frames = sum(b.counts["frames"] for b in read([str(tmp_path)], ReadOptions(), captures, skipped))
    assert frames == 1000
    assert [Path(c.path).name for c in captures] == ["plain.pcap", "b.cap"]
    assert sorted(Path(s).name for s in skipped) == ["empty", "notes.txt"]


def test_folder_without_captures(tmp_path: Path) -> None:
    """Is a capture that could not be read."""
    assert "no capture in this folder: it is empty" in read_all(tmp_path).problems
    (tmp_path / "notes.txt").write_text("x")
    assert "no capture in this folder (1 other files)" in read_all(tmp_path).problems


def test_globs(tmp_path: Path, plain: Path) -> None:
    """A pattern that the shell did not expand is expanded here; one that fits nothing is an error."""
    assert len(read_all(f"{tmp_path}/*.pcap").packets) == 500
    assert "no file matches this pattern" in read_all(f"{tmp_path}/*.nothing").problems


def test_a_file_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    """A file of that very name comes first."""
    path = tmp_path / "a[1].pcap"
    path.write_bytes(PCAP)
    assert len(read_all(path).packets) == 500


def test_what_does_not_exist_is_a_problem_not_an_exception(tmp_path: Path) -> None:
    """The other captures are read all the same."""
    (tmp_path / "b").write_bytes(PCAP)
    result = read_all(tmp_path / "a", tmp_path / "b", "nul\0byte", "/dev/null/x")
    assert len(result.packets) == 500
    assert [c.complete for c in result.captures] == [True, False, False, False]
    assert "no such file or directory" in result.problems


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_no_permission(plain: Path) -> None:
    """Said as such."""
    plain.chmod(0)
    assert read_all(plain).problems == ["permission denied"]


def test_the_same_file_twice_is_read_once(tmp_path: Path, plain: Path) -> None:
    """Under another name as well."""
    link = tmp_path / "link.pcap"
    link.symlink_to(plain)
    assert len(read_all(plain, plain, link).packets) == 500


def test_rotated_sets_follow_each_other(tmp_path: Path) -> None:
    """By the time of the first packet, whatever the names; captures are numbered in that order."""
    for name, start in (("z", 100), ("a", 300), ("m", 200)):
        (tmp_path / name).write_bytes(build.pcap(PACKETS, start_s=start))
    (tmp_path / "b").write_bytes(build.pcap([]))
    (tmp_path / "n.gz").write_bytes(gzip.compress(build.pcap(PACKETS, start_s=250)))
    result = read_all(*(tmp_path / n for n in ("a", "b", "m", "n.gz", "z")))
    assert [Path(c.path).name for c in result.captures] == ["z", "m", "n.gz", "a", "b"]
    assert [c.id for c in result.captures] == [1, 2, 3, 4, 5]
    times = result.packets.time_ns
    assert (times[1:] >= times[:-1]).all()


def test_standard_input(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` is read once, in pieces as they come, compressed or not."""
    for data in (PCAP, gzip.compress(PCAP)):
        raw, feed = os.pipe()
        writer = threading.Thread(target=_trickle, args=(feed, data))
        writer.start()
        with os.fdopen(raw, "rb") as pipe:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe, closed=False))
            result = read_all("-")
        writer.join()
        assert_equal(result, read_all(plain))


def _trickle(feed: int, data: bytes) -> None:
    with os.fdopen(feed, "wb", buffering=0) as out:
        for at in range(0, len(data), 3000):
            out.write(data[at : at + 3000])


def test_fifo_in_a_rotated_set(tmp_path: Path, plain: Path) -> None:
    """What can be opened only once is looked at and read in one go."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    later = build.pcap(PACKETS, start_s=1_900_000_000)
    writer = threading.Thread(target=lambda: fifo.write_bytes(later))
    writer.start()
    result = read_all(fifo, plain)
    writer.join()
    assert [Path(c.path).name for c in result.captures] == ["plain.pcap", "fifo"]
    assert len(result.packets) == 1000


def test_fsspec_urls() -> None:
    """Files, folders and globs of any file system that fsspec knows."""
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.pipe({"/captures/a.pcap": PCAP, "/captures/b.pcap.gz": gzip.compress(PCAP), "/captures/notes": b"hello"})
    assert len(read_all("memory://captures/a.pcap").packets) == 500
    assert len(read_all("memory://captures").packets) == 1000
    assert len(read_all("memory://captures/*.gz").packets) == 500
    assert not read_all("memory://captures/none").captures[0].complete
    assert not read_all("nosuchscheme://x/y").captures[0].complete


def test_urls_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    """The missing package is named."""
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert "fsspec" in read_all("s3://bucket/x.pcap").problems[0]


@pytest.mark.parametrize(("name", "module"), [("zstd", "zstandard"), ("lz4", "lz4.frame")])
def test_missing_decompressor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str) -> None:
    """The missing package is named."""
    path = tmp_path / "x"
    path.write_bytes(COMPRESSORS[name](PCAP))
    monkeypatch.setitem(sys.modules, module, None)
    assert "smtpscope[compress]" in read_all(path).problems[0]


def test_gzip_without_the_fast_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's does as well."""
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(PCAP))
    monkeypatch.setitem(sys.modules, "isal", None)
    monkeypatch.setitem(sys.modules, "isal.igzip", None)
    assert len(read_all(path).packets) == 500


def test_reading_errors_end_one_capture(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails in the middle: what came before counts, the place is said."""

    class Failing(io.RawIOBase):
        def __init__(self) -> None:
            self.left = 20_000

        def readinto(self, buffer: memoryview) -> int:
            if not self.left:
                raise OSError(5, "Input/output error")
            n = min(len(buffer), self.left)
            buffer[:n] = PCAP[20_000 - self.left : 20_000 - self.left + n]
            self.left -= n
            return n

    monkeypatch.setattr(sources, "open", lambda *_, **__: Failing(), raising=False)
    result = read_all(plain)
    assert result.problems == ["reading failed at byte 20000: Input/output error"]
    assert len(result.packets) > 100


def test_file_cut_short_while_it_is_read(tmp_path: Path) -> None:
    """No signal kills the reader; the missing end is said."""
    path = tmp_path / "capture.pcap"
    record = build.pcap(PACKETS)[24:]
    path.write_bytes(build.pcap([]) + record * 1200)  # about 75 MB: several windows
    captures: list[CaptureInfo] = []
    reader = read([str(path)], ReadOptions(), captures)
    next(reader)
    os.truncate(path, 40_000_000)
    rest = list(reader)
    assert rest
    assert not captures[0].complete


def test_reading_in_the_middle_can_be_left(plain: Path) -> None:
    """Closing the generator closes the file; no thread stays behind."""
    before = threading.active_count()
    reader = read([str(plain)], ReadOptions(), [])
    next(reader)
    reader.close()
    assert threading.active_count() <= before + 1


def test_importing_is_cheap() -> None:
    """No optional package is imported before it is needed."""
    code = "import sys, analyzer.capture.reading; print([m for m in ('pyshark', 'pandas', 'fsspec', 'isal', 'zstandard', 'lzma', 'asyncio') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
