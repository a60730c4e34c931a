"""kill -9 at random moments of a batch, many times: what it leaves is whole, and in the end nothing differs.

    python tests/fuzz/killed.py                  100 kills
    python tests/fuzz/killed.py --kills 10 --seed 3

The same captures are analysed once in peace. Then a batch over them is started and killed, its leading process or all of
its processes, until one run comes to its end; then in a new folder again, until there were as many kills as asked for.
After each kill every file must be whole under its name; after each end the results must equal those made in peace.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from pyarrow import parquet

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 150  # of the smallest: a few seconds of work
OUT_OF_COMPARISON = (".lock", "journal.jsonl")  # who did what when


class Batch:
    """`smtpscope batch` over the same captures, into one folder or another."""

    def __init__(self, place: Path) -> None:
        self.captures = place / "captures"
        self.captures.mkdir()
        samples = sorted((ROOT / "sample_pcaps").glob("*.pcap"), key=lambda file: (file.stat().st_size, file.name))
        for sample in samples[:SAMPLES]:
            shutil.copy(sample, self.captures)
        # A copy of the program: results belong to the program that made them, and somebody may be working on it.
        self.program = place / "program"
        for part in ("analyzer", "rules"):
            shutil.copytree(ROOT / part, self.program / part, ignore=shutil.ignore_patterns("__pycache__"))

    def start(self, out: Path) -> subprocess.Popen[bytes]:
        words = ["batch", str(self.captures), "--out", str(out), "--jobs", "2", "--quiet"]
        # A session of its own, so that all of its processes can be killed at once.
        return subprocess.Popen(
            [sys.executable, "-m", "analyzer", *words], cwd=self.program, env=os.environ | {"PYTHONPATH": str(self.program)},
            stdout=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def is_killed(self, out: Path, random: Random, longest_s: float) -> bool:
        """Start it and kill it at some moment; False when it came to its end before."""
        process = self.start(out)
        try:
            status = process.wait(timeout=random.uniform(0.05, longest_s))
        except subprocess.TimeoutExpired:
            if random.random() < 0.5:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
            process.wait()
            return True
        assert status in (0, 3), f"exit status {status}"
        return False


def contents(out: Path, *, at_end: bool) -> dict[str, object]:
    """Every result by its name: documents as bytes, tables as rows. Raises for a file that is not whole."""
    found: dict[str, object] = {}
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        if file.suffix == ".part":
            assert not at_end, f"{name} is left over"
        elif file.is_file() and name not in OUT_OF_COMPARISON:
            if file.suffix == ".parquet":
                found[name] = sorted(map(repr, parquet.read_table(file, partitioning=None).to_pylist()))
            else:
                found[name] = file.read_bytes()
                if file.suffix == ".json":
                    json.loads(file.read_bytes())
    return found


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--kills", type=int, default=100)
    arguments.add_argument("--seed", type=int, default=1)
    chosen = arguments.parse_args()
    random = Random(chosen.seed)
    with tempfile.TemporaryDirectory(prefix="smtpscope-killed-") as place:
        batch = Batch(Path(place))
        began = time.monotonic()
        status = batch.start(Path(place) / "calm").wait()
        longest_s = time.monotonic() - began
        assert status in (0, 3), f"exit status {status}"
        expected = contents(Path(place) / "calm", at_end=True)
        kills = ends = 0
        while kills < chosen.kills:
            out = Path(place) / "out"
            while batch.is_killed(out, random, longest_s):
                kills += 1
                if out.exists():
                    contents(out, at_end=False)
            ends += 1
            found = contents(out, at_end=True)
            different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
            assert not different, f"after {kills} kills {len(different)} files differ: {different[:5]}"
            print(f"{kills} kills, {ends} batches came to their end: equal in {len(expected)} files", flush=True)
            shutil.rmtree(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
