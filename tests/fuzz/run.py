"""make fuzz: broken captures through the whole analysis, in one process that is watched.

    python tests/fuzz/run.py                 300,000 mutants, from where the last run stopped
    python tests/fuzz/run.py --count 1000 --seed 7 --start 0
    python tests/fuzz/run.py --only 12345    one mutant again, with its traceback

A mutant fails when there is a traceback, when it takes more than 5 seconds of processor time (or 60 by the clock, for
what waits instead of working), when the process needs more than 500 MB, or when a capture that was cut is called whole.
What failed is kept under build/fuzz/, with its number; the run goes on.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import io
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from analyzer import analysis
from analyzer.capture import reading
from analyzer.detect import rule
from analyzer.report import html, junit, markdown, pcapng, sarif, text
from analyzer.report import json as document

if __package__:  # in a test
    from .mutate import Mutant, Mutants
else:
    from mutate import Mutant, Mutants  # type: ignore[import-not-found,no-redef]

ROOT = Path(__file__).resolve().parents[2]
CPU_S, CLOCK_S = 5.0, 60.0  # for one mutant
MEMORY_BYTES = 500 << 20  # of the process, the samples in memory included
BATCH = 200  # mutants between two notes of how far it is


class TooSlow(BaseException):
    """No Exception, so that nothing on the way takes it for a fault of the capture."""


class Trial:
    """Tries mutants in this process."""

    def __init__(self, samples: Path, seed: int) -> None:
        self.mutants = Mutants(samples, seed)
        self.pack = rule.load(())
        analysis.load = lambda _: self.pack  # type: ignore[assignment]  # 16 ms otherwise, for each mutant
        # Random bytes look like other formats and link types; starting tshark for each would test tshark.
        reading._needs_tshark = lambda _: False  # type: ignore[attr-defined]
        for timer in (signal.SIGVTALRM, signal.SIGALRM):
            signal.signal(timer, self._too_slow)
        # In memory where there is such a place: a disk would be worn out.
        memory = Path("/dev/shm")
        self.file = tempfile.NamedTemporaryFile(dir=memory if os.access(memory, os.W_OK) else None, suffix=".pcap")  # noqa: SIM115

    @staticmethod
    def _too_slow(signum: int, _: Any) -> None:
        raise TooSlow("more than 5 s of processor time" if signum == signal.SIGVTALRM else "more than 60 s")

    def why_it_fails(self, mutant: Mutant) -> str | None:
        """None when all is well."""
        self.file.seek(0)
        self.file.truncate()
        self.file.write(mutant.data)
        self.file.flush()
        signal.setitimer(signal.ITIMER_VIRTUAL, CPU_S)
        signal.setitimer(signal.ITIMER_REAL, CLOCK_S)
        faulthandler.dump_traceback_later(5 * CLOCK_S, exit=True)  # for what holds the interpreter
        try:
            self._go(mutant)
        except (Exception, TooSlow):  # noqa: BLE001 - that is what is looked for
            return traceback.format_exc()
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.cancel_dump_traceback_later()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        return f"the process needed {peak >> 20} MB\n" if peak > MEMORY_BYTES else None

    def _go(self, mutant: Mutant) -> None:
        turn = mutant.number // len(self.mutants.families)
        options = analysis.Options(
            engine="dpkt" if turn % 4 == 1 else "columnar", shortcuts=turn % 4 != 2, all_tcp=turn % 8 == 3
        )
        case = analysis.analyze([self.file.name], options)
        capture = case.captures[0]
        assert capture.complete or capture.problems, "incomplete without a reason"
        if mutant.shortened and len(mutant.data) >= 24:
            whole = capture.complete
            ends = {at for at, _, _ in next(s for s in self.mutants.samples if s.name == mutant.sample).records}
            assert not whole or len(mutant.data) in ends, "a capture that was cut is called whole"
        told = document.render(case)
        if turn % 8 == 0:
            assert json.loads(told)["schema"]
            assert text.render(case).replace("\n", "").isprintable()
        if turn % 32 == 0:
            html.render(case, plots=False)
            markdown.render(case)
            junit.render(case, [r.id for r in self.pack])
            sarif.render(case, "1", {r.id: r.about for r in self.pack})
            if case.findings:
                traces = analysis.traces(case, pcapng.connections_of(case))
                pcapng.write(case, traces, io.BytesIO())


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--count", type=int, default=300_000, help="mutants in all (default: 300,000)")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--start", type=int, help="the first mutant (default: where the last run stopped)")
    arguments.add_argument("--only", type=int, help="this mutant and no other")
    arguments.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    arguments.add_argument("--samples", type=Path, default=ROOT / "sample_pcaps")
    arguments.add_argument("--out", type=Path, default=ROOT / "build" / "fuzz")
    chosen = arguments.parse_args()
    trial = Trial(chosen.samples, chosen.seed)
    if chosen.only is not None:
        mutant = trial.mutants[chosen.only]
        print(mutant)
        why = trial.why_it_fails(mutant)
        print(why or "all is well")
        return bool(why)
    chosen.out.mkdir(parents=True, exist_ok=True)
    notes = chosen.out / f"seed-{chosen.seed}.json"
    done: dict[str, Any] = {"seed": chosen.seed, "next": 0, "failed": [], "families": {}, "cpu_s": 0.0}
    if notes.exists() and chosen.start is None:
        done = json.loads(notes.read_text())
    first = done["next"] if chosen.start is None else chosen.start
    families = Counter(done["families"])
    until = time.monotonic() + chosen.seconds
    gc.freeze()
    for number in range(first, chosen.count):
        before = time.process_time()
        mutant = trial.mutants[number]
        why = trial.why_it_fails(mutant)
        done["cpu_s"] += time.process_time() - before
        families[mutant.family] += 1
        if why:
            done["failed"].append(number)
            kept = chosen.out / f"failed-{chosen.seed}-{number}.pcap"
            kept.write_bytes(mutant.data)
            kept.with_suffix(".txt").write_text(f"{mutant}\n\n{why}")
            print(f"FAILED {mutant}\n{why.strip().splitlines()[-1]}", flush=True)
        if (number + 1) % BATCH == 0 or number + 1 == chosen.count or time.monotonic() > until:
            gc.collect()
            done |= {"next": number + 1, "families": dict(families)}
            done["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            notes.write_text(json.dumps(done, indent=1))
            if (number + 1) % (25 * BATCH) == 0:
                print(f"{number + 1:,} mutants, {len(done['failed'])} failed, {done['peak_mb']} MB", flush=True)
            if time.monotonic() > until:
                break
    print(
        f"{done['next']:,} mutants of seed {chosen.seed}, {len(done['failed'])} failed, {done['cpu_s']:.0f} s of processor time"
    )
    return bool(done["failed"])


if __name__ == "__main__":
    sys.exit(main())
