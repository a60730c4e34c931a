"""A compressed bomb: 10 MB that unpack to 100 GB, read in flat memory.

    python tests/fuzz/bomb.py                              zstd, 100 GB; minutes
    python tests/fuzz/bomb.py --gigabytes 5 --max-bytes 1000000000

The bomb is a capture of large packets of zeros: one gigabyte of it is packed once, and its packed form written again and
again, which is a zstd (or bz2) file as good as any.
"""

from __future__ import annotations

import argparse
import bz2
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zstandard

ROOT = Path(__file__).resolve().parents[2]
PACKET_BYTES = 262_144  # the most that capture programs write
RECORD = struct.pack("<IIII", 1_700_000_000, 0, PACKET_BYTES, PACKET_BYTES) + bytes(PACKET_BYTES)
HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, PACKET_BYTES, 1)
RECORDS = 10**9 // len(RECORD)  # in a gigabyte


def write(path: Path, gigabytes: int, how: str = "zstd") -> None:
    """The bomb, at once: only one gigabyte is packed, piece by piece."""
    with path.open("wb") as out:
        if how == "bz2":
            out.write(bz2.compress(HEADER))
            packer = bz2.BZ2Compressor()
            part = b"".join([*(packer.compress(RECORD) for _ in range(RECORDS)), packer.flush()])
        else:
            out.write(zstandard.compress(HEADER))
            pack = zstandard.ZstdCompressor(level=3).compressobj()
            part = b"".join([*(pack.compress(RECORD) for _ in range(RECORDS)), pack.flush()])
        for _ in range(gigabytes):
            out.write(part)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gigabytes", type=int, default=100)
    arguments.add_argument("--how", choices=("zstd", "bz2"), default="zstd")
    arguments.add_argument("--max-bytes", type=int)
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as place:
        bomb = Path(place) / "bomb.pcap"
        write(bomb, chosen.gigabytes, chosen.how)
        limit = ["--max-bytes", str(chosen.max_bytes)] if chosen.max_bytes else []
        begun = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "analyzer", "analyze", str(bomb), "--quiet", *limit], cwd=ROOT, capture_output=True, text=True
        )  # fmt: skip
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(done.stdout + done.stderr, end="")
        print(
            f"{bomb.stat().st_size / 1e6:.1f} MB that unpack to {chosen.gigabytes} GB: status {done.returncode}, "
            f"{used.ru_maxrss >> 10} MB of memory, {used.ru_utime + used.ru_stime:.0f} s of processor time, "
            f"{time.monotonic() - begun:.0f} s"
        )
    return done.returncode not in (0, 3)


if __name__ == "__main__":
    sys.exit(main())
