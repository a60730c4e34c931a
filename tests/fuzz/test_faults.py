"""Disks that are full, files that change, pipes that stall: one line that says what, and the right exit status."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from analyzer import analysis

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "sample_pcaps" / "blackhole-1400.sender.pcap"


def command(*args: object, **settings: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "analyzer", *map(str, args)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120, **settings)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB."""
    place = tmp_path / "small"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", place], capture_output=True).returncode
    ):
        pytest.skip("needs root, to mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("option", ["--json", "--html", "--sarif", "--parquet", "--plots"])
def test_a_full_disk_leaves_no_half_document(full_disk: Path, option: str) -> None:
    """It is named in one line, with status 2; what could not be written to its end is not there."""
    (full_disk / "rest").write_bytes(bytes(56 << 10))
    done = command("analyze", ROOT / "sample_pcaps" / "incident.pcapng", option, full_disk / "out", "--quiet")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "No space left on device" in done.stderr
    assert str(full_disk) in done.stderr
    left = [file for file in full_disk.rglob("*") if file.is_file() and file.name != "rest"]
    assert all(file.stat().st_size for file in left)
    assert not (full_disk / "out").is_file()


def test_a_limit_on_file_sizes_leaves_no_half_document(tmp_path: Path) -> None:
    """The same, without root: the shell's ulimit -f."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    done = command("analyze", SAMPLE, "--json", tmp_path / "out.json", "--quiet", preexec_fn=limited)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert str(tmp_path / "out.json") in done.stderr
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize("option", ["--json", "--html", "--parquet", "--plots"])
def test_a_place_that_cannot_be_written_is_named(option: str) -> None:
    """/proc takes no files, not even from root."""
    done = command("analyze", SAMPLE, option, "/proc/nothing", "--quiet")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "/proc/nothing" in done.stderr


def test_control_c_while_a_pipe_stalls(tmp_path: Path) -> None:
    """Half a capture comes, then nothing: the interrupt ends it, with 130 and what was read until then."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    # A background job of a shell without job control ignores the interrupt, and would hand that down.
    process = subprocess.Popen(
        [sys.executable, "-m", "analyzer", "analyze", str(pipe)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )  # fmt: skip
    with open(pipe, "wb", buffering=0) as out:
        out.write(SAMPLE.read_bytes()[:20_000])
        time.sleep(3)
        process.send_signal(signal.SIGINT)
        said, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in said + err


def test_a_growing_file_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    """A capture that is still written: no error but that its last record is cut off."""
    data = SAMPLE.read_bytes()
    file = tmp_path / "growing.pcap"
    file.write_bytes(data[:1000])
    done = threading.Event()

    def grow() -> None:
        for i in range(1000, len(data), 500):
            with open(file, "ab") as out:
                out.write(data[i : i + 500])
            time.sleep(0.001)
        done.set()

    threading.Thread(target=grow).start()
    frames = [0]
    while not done.is_set():
        (capture,) = analysis.analyze([str(file)]).captures
        assert capture.complete or all("cut" in problem for problem in capture.problems)
        frames.append(capture.frames)
    (whole,) = analysis.analyze([str(file)]).captures
    assert whole.complete
    assert max(frames) <= whole.frames


SAYS_VERSION = 'case "$*" in *-v*) echo "TShark (Wireshark) %s."; exit 0;; esac\n'
ONE_FRAME = "echo '{\"index\":{}}'; echo '{\"layers\":%s}'\n"


@pytest.mark.parametrize(
    ("version", "acts", "said"),
    [
        ("1.4.0", "exit 0", "2.2.0"),
        ("4.0.17", "kill -SEGV $$", "status -11|crashed"),
        ("4.0.17", "printf '\\033]0;evil\\007 \\033[31mred\\n' >&2; sleep 1; exit 2", "red|crashed"),
        ("4.0.17", "head -c 100000 /dev/urandom", "tshark"),
        ("4.0.17", "echo '[1, 2]'; echo null", "tshark"),
        ("4.0.17", "exit 0", "found no frame"),
        ("9.9.9", ONE_FRAME % '{"frame":{}}', "not known here"),
        ("9.9.9", ONE_FRAME % '{"frame":{"frame_frame_number":"x"}}', "not known here"),
        (
            "9.9.9",
            ONE_FRAME % '{"frame":{"frame_frame_number":"1","frame_frame_protocols":"eth:ip:tcp"},"tcp":{},"ip":[]}',
            "not known here",
        ),
    ],
)
def test_a_tshark_that_does_otherwise(tmp_path: Path, version: str, acts: str, said: str) -> None:
    """Old, new, dying, or talking nonsense: one line, status 3, and the other capture is analysed all the same."""
    program = tmp_path / "tshark"
    program.write_text("#!/bin/sh\n" + SAYS_VERSION % version + acts)
    program.chmod(0o755)
    foreign = tmp_path / "x.snoop"
    foreign.write_bytes(b"snoop\0\0\0" + struct.pack(">II", 2, 4) + bytes(2000))
    env = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = command("analyze", foreign, SAMPLE, env=env)
    assert done.returncode == 3, done.stderr
    assert re.search(said, done.stderr), done.stderr
    assert "\033" not in done.stderr + done.stdout
    assert "internal error" not in done.stderr
    assert "black hole" in done.stdout


# A disk that fails: read() of the file named FAILS_IN gives EIO from byte FAILS_AT on.
FAILING_DISK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t read(int file, void *into, size_t size) {
    ssize_t (*real)(int, void *, size_t) = dlsym(RTLD_NEXT, "read");
    char link[40], path[4096];
    const char *name = getenv("FAILS_IN");
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (name && length > 0) {
        path[length] = 0;
        long fails_at = atol(getenv("FAILS_AT"));
        off_t at = lseek(file, 0, SEEK_CUR);
        if (!strcmp(path, name) && at >= fails_at) { errno = EIO; return -1; }
        if (!strcmp(path, name) && at + (off_t)size > fails_at) size = fails_at - at;
    }
    return real(file, into, size);
}
"""


@pytest.fixture(scope="module")
def failing_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    place = tmp_path_factory.mktemp("disk")
    (place / "disk.c").write_text(FAILING_DISK)
    library = place / "disk.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, place / "disk.c", "-ldl"], check=True)
    return library


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": lambda data: gzip.compress(data, 0),  # as long as it was, so that it can fail in the middle
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.mark.parametrize(
    ("packed", "fails_at", "frames"),
    [("plain", 0, 0), ("plain", 3, 0), ("plain", 100, 1), ("plain", 20_000, 5), ("gzip", 3, 0), ("gzip", 20_000, 5),
     ("bz2", 1000, 0), ("xz", 1000, 1)],
)  # fmt: skip
def test_a_disk_that_fails_while_it_is_read(
    failing_disk: Path, tmp_path: Path, packed: str, fails_at: int, frames: int
) -> None:
    """EIO at some byte: said with its place, status 3, and what came before it is analysed; so is the other capture."""
    capture = tmp_path / "capture"
    capture.write_bytes(PACKED[packed](SAMPLE.read_bytes()))
    env = os.environ | {"LD_PRELOAD": str(failing_disk), "FAILS_IN": str(capture), "FAILS_AT": str(fails_at)}
    done = command("analyze", capture, ROOT / "sample_pcaps" / "clean-swaks.sender.pcap", "--json", "-", env=env)
    assert done.returncode == 3, done.stderr
    assert "input/output error" in done.stderr.lower()
    case = json.loads(done.stdout)
    broken, whole = sorted(case["captures"], key=lambda c: c["complete"])
    assert "input/output error" in " ".join(broken["problems"]).lower()
    assert whole["complete"]
    assert (broken["frames"] > 0) == (frames > 0)
    assert broken["frames"] >= frames


def test_temporary_files_are_private_and_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What tshark needs as a file is written with mode 0600, and removed after use."""
    from analyzer.capture import wireshark

    seen: list[int] = []

    def look(name: str, *_: object) -> Iterator[object]:
        seen.append(os.stat(name).st_mode & 0o777)
        return iter(())

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(wireshark, "read_file", look)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    feed: Callable[[], object] = lambda: pipe.write_bytes(SAMPLE.read_bytes())  # noqa: E731
    threading.Thread(target=feed).start()
    analysis.analyze([str(pipe)], analysis.Options(engine="tshark"))
    assert seen == [0o600]
    assert sorted(tmp_path.iterdir()) == [pipe]
