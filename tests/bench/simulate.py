#!/usr/bin/env python3
"""How long a batch takes on a thousand workers: its scheduling played with the measured times of cases.

    tests/bench/simulate.py                                   # with build/bench/batch/tasks.json, which batch.py writes
    tests/bench/simulate.py --rate 0.6 --driver-ms 2 --write  # GB/s of a core; the table goes into README.md

What is played is what analyzer/batch does. The driver keeps twice as many units in hand as there are workers; a worker
that is done takes the next of them at once; the driver handles one result after the other (writes it, starts another
unit), which takes its time. A worker may be slow all the time; it may die, which is noticed after a while: its unit is
done by another one, and it comes back later.

A case takes what it took when it was measured, plus its bytes at the rate of a core. Times are seconds.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

HERE = Path(__file__).resolve().parent
AHEAD = 2  # as in analyzer/batch/driver.py
DONE, LOST, BACK = range(3)  # what happens to a worker

NOTICED_S = (
    60  # until Dask takes a worker that went silent for dead: some minutes at worst, at once if its socket closes
)
BACK_S = 300  # until a machine that died is replaced


@dataclass(frozen=True)
class Cluster:
    workers: int = 1000
    slow_share: float = 0.0
    slow_factor: float = 3.0  # a busy neighbour, a throttled processor
    mtbf_s: float = float("inf")  # a worker's mean time between failures
    driver_s: float = 0.002  # what the driver does for each unit, one after the other


def makespan(tasks: Sequence[float], cluster: Cluster, chance: random.Random) -> tuple[float, int, float]:
    """Seconds until everything is done, units that were done again, and the share of them in which the driver was busy."""
    slow = [cluster.slow_factor if chance.random() < cluster.slow_share else 1.0 for _ in range(cluster.workers)]
    waiting = iter(tasks)  # not yet in hand
    ready: list[tuple[float, int, float]] = []  # in hand, not yet begun: (since when, order, seconds)
    order = 0
    free = list(range(cluster.workers))
    ends: list[tuple[float, int, int, float]] = []  # (when, what, worker, seconds of the unit)
    driver_free, busy, again, clock, finished = 0.0, 0.0, 0, 0.0, 0.0

    def hand(when: float, seconds: float) -> None:
        nonlocal order
        order += 1
        heapq.heappush(ready, (when, order, seconds))

    def start() -> None:
        while ready and free:
            since, _, seconds = heapq.heappop(ready)
            worker = free.pop()
            begin, takes = max(since, clock), seconds * slow[worker]
            dies = chance.expovariate(1 / cluster.mtbf_s) if cluster.mtbf_s < float("inf") else float("inf")
            when, what = (begin + takes, DONE) if dies > takes else (begin + dies + NOTICED_S, LOST)
            heapq.heappush(ends, (when, what, worker, seconds))

    for seconds in (s for s, _ in zip(waiting, range(cluster.workers * AHEAD), strict=False)):
        driver_free += cluster.driver_s / 2  # placing is half of what the driver does
        hand(driver_free, seconds)
    start()
    while ends:
        clock, what, worker, seconds = heapq.heappop(ends)
        if what == LOST:
            again += 1
            hand(clock, seconds)
            heapq.heappush(ends, (clock + BACK_S, BACK, worker, 0.0))
        elif what == BACK:
            free.append(worker)
        else:
            finished = clock
            driver_free = max(driver_free, clock) + cluster.driver_s
            busy += cluster.driver_s
            following = next(waiting, None)
            if following is not None:
                hand(driver_free, following)
            free.append(worker)
        start()
    whole = max(finished, driver_free)
    return whole, again, busy / whole


def times(
    measured: Sequence[dict[str, float]], sizes: Sequence[float], rate: float, chance: random.Random
) -> list[float]:
    """Seconds of cases of these sizes in bytes: a measured case each, and the bytes at `rate` bytes per second, with as
    much spread as the measured cases have."""
    costs = [task["cpu_s"] for task in measured]
    middle = statistics.median(costs)
    return [cost + size / rate * cost / middle for size in sizes for cost in [chance.choice(costs)]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", type=Path, default=HERE.parents[1] / "build/bench/batch/tasks.json")
    parser.add_argument("--rate", type=float, default=0.5, help="GB/s that one core analyses (default: 0.5)")
    parser.add_argument("--driver-ms", type=float, default=2.0, help="the driver's time for a unit (default: 2)")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the units, for a quick look")
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    args = parser.parse_args()
    measured = json.loads(args.tasks.read_text())
    chance = random.Random(1)
    driver_s = args.driver_ms / 1e3

    def share(count: int) -> int:
        return max(int(count * args.scale), 1)

    loads = {
        "1,000,000 small captures": [0.0] * share(1_000_000),
        "5 TB, sizes as below (5 units for each worker)": [
            min(chance.lognormvariate(20.1, 1.2), float(4 << 30)) for _ in range(share(5_000))
        ],
        "20 TB, sizes as below (20 for each)": [
            min(chance.lognormvariate(20.1, 1.2), float(4 << 30)) for _ in range(share(20_000))
        ],
        "1 PB in sets of 4 GiB": [float(4 << 30)] * share(232_831),
        "1 PB, sizes log-normal (median 0.5 GiB, at most 4 GiB)": [
            min(chance.lognormvariate(20.1, 1.2), float(4 << 30)) for _ in range(share(900_000))
        ],
    }
    settings = {
        "all workers alike": Cluster(driver_s=driver_s),
        "2 % of them three times as slow": Cluster(driver_s=driver_s, slow_share=0.02),
        "and each dies every 24 h": Cluster(driver_s=driver_s, slow_share=0.02, mtbf_s=86_400),
    }
    rows = []
    for load, sizes in loads.items():
        tasks = times(measured, sizes, args.rate * 1e9, chance)
        ideal = sum(tasks) / 1000
        for name, cluster in settings.items():
            largest = sorted(tasks, reverse=True)
            both_ends = list(chain.from_iterable(zip(largest, reversed(largest), strict=True)))[: len(largest)]
            took, again, busy = makespan(both_ends, cluster, random.Random(2))
            first, listed = (makespan(order, cluster, random.Random(2))[0] for order in (largest, tasks))
            spans = " | ".join(map(_span, (ideal, took, first, listed)))
            rows.append(f"| {load} | {name} | {spans} | {again} | {busy:.0%} |")
            print(rows[-1], flush=True)
    head = "| units | workers | work / 1,000 | batch | largest first | as listed | done again | driver busy |\n|---|---|--:|--:|--:|--:|--:|--:|"
    if args.write:
        readme = HERE / "README.md"
        marks = r"(<!-- simulation: written by simulate\.py -->\n).*?(<!-- end of simulation -->)"
        table = "\n".join([head, *rows])
        readme.write_text(re.sub(marks, lambda m: f"{m[1]}{table}\n{m[2]}", readme.read_text(), flags=re.DOTALL))


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 600
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


if __name__ == "__main__":
    main()
