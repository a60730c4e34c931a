#!/usr/bin/env python3
"""The batch over thousands of small captures: here and on a cluster, killed and resumed in between, with equal results.

    tests/bench/batch.py                         # 5,000 captures; writes its figures into README.md
    tests/bench/batch.py --count 200 --no-write

Needs the extra `services`: the captures lie in a bucket of an S3 server (moto) on the loopback for the cluster, which
is Dask's LocalCluster with worker processes. The cost of each case is kept in build/bench/batch/tasks.json for simulate.py.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import readdress

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUCKET = "captures"
SERVER = """
import logging, time
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line per request
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
time.sleep(1e6)
"""


def run_batch(source: str, out: Path, *options: str, kill_at: int | None = None, meanwhile: Any = None) -> float:
    """One run of the command, killed when so many cases are there; how long it ran, in seconds."""
    begun = time.monotonic()
    command = [sys.executable, "-m", "analyzer", "batch", source, "--out", str(out), "--quiet", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as running:
        while running.poll() is None:
            time.sleep(1.0)
            done = sum(1 for _ in out.glob("cases/*/*.json"))
            if meanwhile and done:
                meanwhile()
                meanwhile = None
            if kill_at is not None and done >= kill_at:
                running.send_signal(signal.SIGKILL)
    assert running.returncode in ((-signal.SIGKILL,) if kill_at is not None else (0, 3)), running.returncode
    return time.monotonic() - begun


def killed_and_resumed(source: str, out: Path, count: int, *options: str, meanwhile: Any = None) -> tuple[float, int]:
    """The seconds of all runs, and how many cases were in hand when they were killed (done, but lost, or done twice)."""
    took = run_batch(source, out, *options, kill_at=count // 3, meanwhile=meanwhile)
    took += run_batch(source, out, *options, kill_at=count * 2 // 3)
    took += run_batch(source, out, *options)
    return took, len((out / "journal.jsonl").read_text().splitlines()) - count


def results(out: Path, root: str) -> dict[str, Any]:
    """Everything that must not depend on where the batch ran: cases by the name of their capture, findings, trends."""
    found: dict[str, Any] = {}
    for file in out.glob("cases/*/*.json"):
        text = file.read_text().replace(root, "")
        found[json.loads(text)["captures"][0]["path"]] = text
    summary = json.loads((out / "summary.json").read_text())
    assert not summary["units"]["failed"], summary["troubles"]
    for finding in summary["findings"]:
        finding.pop("cases")
        finding.pop("example")
    found["summary"] = summary
    return found


@contextmanager
def bucket(folder: Path) -> Iterator[str]:
    """The captures in an S3 bucket on the loopback."""
    import s3fs

    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        os.environ |= {
            "AWS_ENDPOINT_URL": server.stdout.readline().strip(), "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
        storage = s3fs.S3FileSystem()
        storage.mkdir(BUCKET)
        storage.put(f"{folder}/", f"{BUCKET}/", recursive=True)
        try:
            yield f"s3://{BUCKET}"
        finally:
            server.kill()


@contextmanager
def cluster() -> Iterator[Any]:
    from distributed import LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, silence_logs=50) as found:
        yield found


def kill_a_worker(found: Any) -> None:
    os.kill(next(iter(found.workers.values())).pid, signal.SIGKILL)


def driver_alone(source: str, out: Path, template: Path) -> float:
    """Seconds of the batch's own process per case: every unit is answered at once with a stored document."""
    from analyzer import batch
    from analyzer.batch import nursery

    document = template.read_bytes()
    real = nursery.deliver
    nursery.deliver = lambda *_: nursery.Outcome("done", document=document)  # type: ignore[assignment]
    try:
        begun = time.process_time()
        result = batch.run([source], out, jobs=1)
        took = time.process_time() - begun
    finally:
        nursery.deliver = real
    return took / result.summary["units"]["done"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--work", type=Path, default=ROOT / "build/bench/batch")
    parser.add_argument("--no-write", action="store_true", help="print the figures, leave README.md as it is")
    args = parser.parse_args()
    captures, count = args.work / "captures", args.count
    os.environ["PYTHONPATH"] = str(ROOT)  # the cluster's workers take this checkout too
    shutil.rmtree(args.work, ignore_errors=True)
    total = readdress.make(captures, count)
    load = os.getloadavg()[0]
    here_s, here_twice = killed_and_resumed(str(captures), args.work / "here", count, "--jobs", "2")
    print(f"here: {here_s:.0f} s", flush=True)
    with bucket(captures) as url, cluster() as found:
        options = ("--scheduler", found.scheduler_address)
        there_s, there_twice = killed_and_resumed(
            url, args.work / "there", count, *options, meanwhile=lambda: kill_a_worker(found)
        )
    print(f"there: {there_s:.0f} s", flush=True)
    one, other = results(args.work / "here", f"{captures}/"), results(args.work / "there", f"s3://{BUCKET}/")
    assert one == other, "the results differ"
    some = args.work / "some"
    readdress.make(some, max(count // 10, 1))
    scale = {jobs: run_batch(str(some), args.work / f"jobs{jobs}", "--jobs", str(jobs)) for jobs in (1, 2)}
    again_s = run_batch(str(captures), args.work / "here")
    alone_s = driver_alone(str(captures), args.work / "alone", min((args.work / "here/cases").glob("*/*.json")))
    journal = (args.work / "here/journal.jsonl").read_text().splitlines()
    tasks = {line["case"]: line for line in map(json.loads, journal)}
    (args.work / "tasks.json").write_text(
        json.dumps([{name: t[name] for name in ("size", "seconds", "cpu_s", "peak_bytes")} for t in tasks.values()])
    )
    cpu = sorted(t["cpu_s"] for t in tasks.values())
    tunnel = next(f for f in one["summary"]["findings"] if f["case_count"] >= count * 0.1 and f["role"] == "cause")
    rows = [
        ("captures", f"{count:,}, {total / 1e6:.0f} MB, {one['summary']['frames']:,} frames"),
        ("cases, findings and trends, here and on the cluster", "equal, byte for byte but for where the captures lie"),
        ("the broken tunnel in them", f"one finding over {tunnel['case_count']} cases on {len(tunnel['days'])} days"),
        ("here, 2 processes, killed twice with -9", f"{here_s:.0f} s in all; {here_twice} cases done twice"),
        ("cluster of 2 workers, captures from S3, batch killed twice, a worker once", f"{there_s:.0f} s in all; {there_twice} cases done twice"),
        ("the same again, nothing to do", f"{again_s:.1f} s"),
        ("a case, CPU", f"median {statistics.median(cpu) * 1e3:.0f} ms, 99 % below {cpu[int(len(cpu) * 0.99)] * 1e3:.0f} ms, worst {cpu[-1] * 1e3:.0f} ms"),
        ("a case, peak memory", f"{max(t['peak_bytes'] for t in tasks.values()) / 1e6:.0f} MB at most"),
        (f"{max(count // 10, 1)} captures, 1 and 2 processes", f"{scale[1]:.1f} s and {scale[2]:.1f} s: {scale[1] / scale[2]:.2f} times as fast"),
        ("the batch's own process, for a case", f"{alone_s * 1e3:.2f} ms CPU: placing it, writing it, summing it up"),
        ("load of the machine when it began", f"{load:.1f} on {os.cpu_count()} processors"),
    ]  # fmt: skip
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    print(table)
    if not args.no_write:
        readme = HERE / "README.md"
        marks = r"(<!-- batch: written by batch\.py -->\n).*?(<!-- end of batch -->)"
        readme.write_text(re.sub(marks, lambda m: f"{m[1]}{table}\n{m[2]}", readme.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
