#!/usr/bin/env python3
"""Measures smtpscope against `cat` and its peers, side by side, and says which target is reached.

    make bench                                   # everything: some 20 GB of disk in build/bench, most of an hour
    tests/bench/run.py --scale 0.1 --no-write    # the same at a tenth of the size

Whole processes, warm cache (the file is read once before each run), the programs take turns, the median counts; a program that
needs longer than 5 s is run three times, and one that needs longer than 60 s once: the table says how often. Memory is the
peak of the largest process (`wait4`).
Keep this module free of large imports: a child's peak begins with the memory of the parent that forked it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import math
import os
import platform
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
SLOW_S = ((60.0, 1), (5.0, 3))  # a program that needs longer is run so many times only
MARK = "<!-- results below are written by run.py -->"

# What grows: see "What bounds it" in README.md.
ROWS = "connections, mails and paths are held, some 7 KB for each connection, until the report is written"
LONG_WAY = "five times as many paths with something to weigh; 4 % of the dialogues are put together byte by byte"
OPEN = "200,000 connections are open at once, with their packets: 1.8 KB each"
STREAM = "a stream can not be cut: one process reads it, two read the file"

DPKT_LOOP = """
import dpkt, sys
n = 0
for _, data in dpkt.pcap.UniversalReader(open(sys.argv[1], "rb")):
    ip = dpkt.ethernet.Ethernet(data).data
    tcp = getattr(ip, "data", None)
    if isinstance(tcp, dpkt.tcp.TCP) and 25 in (tcp.sport, tcp.dport):
        n += len(tcp.data)
print(n)
"""
NFSTREAM = (
    "import sys, nfstream; print(sum(1 for _ in nfstream.NFStreamer(source=sys.argv[1], n_dissections=0, n_meters=1)))"
)

READ = "import sys, numpy; b = bytearray(1 << 20); f = open(sys.argv[1], 'rb', 0)\nwhile f.readinto(b): pass"


@dataclass
class Runs:
    """What one program needed on one file, run by run."""

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    status: int = 0
    processor_s: list[float] = field(default_factory=list)  # user and system, all processes

    @property
    def median_s(self) -> float:
        """Not a number when the program failed: no figure comes of it."""
        return math.nan if self.status else statistics.median(self.seconds)

    @property
    def peak_mb(self) -> float:
        return math.nan if self.status else self.peak_bytes / 1e6


def warm(command: str) -> None:
    """Reads the files that a command line names, so that it finds them in the page cache.

    Once before all is not enough: a kernel may take back what nobody has used for some seconds (DAMON_RECLAIM does), and
    while one program takes its half a minute the next one's capture goes.
    """
    block = bytearray(1 << 20)
    for word in shlex.split(command):
        if os.path.isfile(word):
            with open(word, "rb", buffering=0) as file:
                while file.readinto(block):
                    pass


def run_once(command: str, runs: Runs) -> None:
    """One run of a shell command line, its files in the page cache; a failure stays visible in `status`."""
    warm(command)
    begin = time.perf_counter()
    process = subprocess.Popen(["bash", "-c", f"set -o pipefail; {command}"], stderr=subprocess.DEVNULL, cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    runs.seconds.append(time.perf_counter() - begin)
    process.returncode = os.waitstatus_to_exitcode(status)
    runs.status = runs.status or process.returncode
    runs.processor_s.append(used.ru_utime + used.ru_stime)
    runs.peak_bytes = max(runs.peak_bytes, used.ru_maxrss * 1024)


def take_turns(commands: dict[str, str], repeats: int) -> dict[str, Runs]:
    """All commands once, then all again: what slows the machine for a while slows them all."""
    runs = {name: Runs() for name in commands}
    for turn in range(repeats):
        for name, command in commands.items():
            if turn and any(runs[name].seconds[0] > limit_s and turn >= times for limit_s, times in SLOW_S):
                continue
            run_once(command, runs[name])
            tell(f"    {name:22} {runs[name].seconds[-1]:8.2f} s  {runs[name].peak_bytes / 1e6:7.0f} MB")
    return runs


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# ---- programs


def peers(file: Path, wanted: Sequence[str]) -> dict[str, str]:
    """The command lines of the peers that are installed, for one capture."""
    f = shlex.quote(str(file))
    flows = shlex.quote(str(file.parent / "tcpflow.out"))
    fields = "-e frame.number -e tcp.seq -e smtp.req.command -e smtp.response.code"
    python, nfstream = shlex.quote(sys.executable), nfstream_python(file.parent)
    every = {
        "cat": f"exec cat {f} >/dev/null",
        "tcptrace": f"exec tcptrace -n -l {f} >/dev/null",
        "tcpflow": f"tcpflow -a -r {f} -o {flows} >/dev/null; s=$?; rm -rf {flows}; exit $s",
        "tshark": f"exec tshark -n -r {f} -Y smtp -T fields {fields} >/dev/null",
        "dpkt": f"exec {python} -c {shlex.quote(DPKT_LOOP)} {f}>/dev/null",
        "nfstream": f"exec {shlex.quote(str(nfstream))} -c {shlex.quote(NFSTREAM)} {f} >/dev/null",
    }
    there = {name: bool(shutil.which(name)) for name in ("cat", "tcptrace", "tcpflow", "tshark")}
    there |= {"dpkt": importlib.util.find_spec("dpkt") is not None, "nfstream": nfstream.exists()}
    return {name: command for name, command in every.items() if name in wanted and there[name]}


def floors(file: Path) -> dict[str, str]:
    """What no Python program with NumPy can do without: to start, and to read the file."""
    python = shlex.quote(sys.executable)
    return {
        "import numpy": f"exec {python} -c 'import numpy'",
        "import numpy, read": f"exec {python} -c {shlex.quote(READ)} {shlex.quote(str(file))}",
    }


def smtpscope(what: str, out: Path, *options: str) -> str:
    return f"exec {shlex.quote(sys.executable)} -m analyzer analyze --json - {' '.join(options)} {what} > {shlex.quote(str(out))}"


def install(folder: Path) -> None:
    """What the package registries have of the peers; what can not be had is left out of the table."""
    programs = [p for p in ("tcptrace", "tcpflow", "tshark", "zstd") if not shutil.which(p)]
    if programs and shutil.which("apt-get") and os.geteuid() == 0:
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "-qq", "update"], env=environment, check=False)
        for program in programs:
            subprocess.run(["apt-get", "-qq", "install", "-y", program], env=environment, check=False)
    if not nfstream_python(folder).exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder / "nfstream")], check=False)
        done = subprocess.run(
            [str(nfstream_python(folder)), "-m", "pip", "install", "--quiet", "nfstream"], check=False
        )
        if done.returncode:
            shutil.rmtree(folder / "nfstream")


def nfstream_python(folder: Path) -> Path:
    """nfstream brings its own versions of our libraries: it lives in an environment of its own."""
    return folder / "nfstream" / "bin" / "python"


def generator_digest() -> str:
    """As `generate.sources_digest`, which brings NumPy along."""
    sources = (HERE / name for name in ("generate.py", "tcp_model.py", "dialogues.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in sources)).hexdigest()[:16]


# ---- captures


class Bench:
    """One benchmark: where its files are, how large they are, and what has been measured."""

    def __init__(self, folder: Path, scale: float, repeats: int, wanted: Sequence[str]) -> None:
        self.folder, self.scale, self.repeats, self.wanted = folder, scale, repeats, wanted
        self.rows: list[tuple[str, str, str, str, str]] = []  # workload, target, figure, reached?, what bounds it
        self.statements: dict[str, list[tuple[str, bool, str]]] = {}  # what, true?, found
        self.series: dict[str, list[tuple[int, float, int]]] = {}  # program -> (file bytes, seconds, peak bytes)
        self.times: dict[str, dict[str, Runs]] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def capture(self, workload: str, size: int, connections: int = 0) -> Path:
        """The generated capture, made unless it is there; read once, so that the cache is warm."""
        size = int(size * self.scale)
        label = connections or f"{size / 1e6:.0f}MB"
        file = self.folder / f"{workload}-{label}.{'pcapng' if workload == 'C' else 'pcap'}"
        if not self.is_current(file):
            command = [sys.executable, str(HERE / "generate.py"), workload, "--size", str(size), "--out", str(file)]
            subprocess.run([*command, "--connections", str(connections or 1)], check=True, stdout=sys.stderr)
        subprocess.run(["cat", str(file)], stdout=subprocess.DEVNULL, check=True)
        return file

    def is_current(self, file: Path) -> bool:
        """Made by the generator as it is now; what was packed of an older one goes."""
        truth = file.with_suffix(".truth.json")
        if file.exists() and truth.exists() and json.loads(truth.read_text()).get("generator") == generator_digest():
            return True
        for packed in self.folder.glob(f"{file.name}.*"):
            packed.unlink()
        return False

    def measure(self, name: str, file: Path, commands: dict[str, str]) -> dict[str, Runs]:
        tell(f"{name}: {file.name}, {file.stat().st_size:,} bytes")
        runs = take_turns(commands, self.repeats)
        self.times[name] = runs
        return runs

    def note(self, file: Path, runs: dict[str, Runs], names: Sequence[str]) -> None:
        """Points for the plot of time and memory against size."""
        for name in names:
            if name in runs and not runs[name].status:
                self.series.setdefault(name, []).append(
                    (file.stat().st_size, runs[name].median_s, runs[name].peak_bytes)
                )

    def target(
        self, workload: str, what: str, figure: float | None, limit: float, *, unit: str = "x", least: bool = False,
        bound: str = "",
    ) -> None:  # fmt: skip
        """One row of the table: the figure, and whether it keeps to the limit."""
        if figure is None or math.isnan(figure):
            self.rows.append((workload, what, "not measured", "-", ""))
            return
        reached = figure >= limit if least else figure <= limit
        digits = 0 if abs(figure) >= 100 else 2
        self.rows.append(
            (
                workload,
                what,
                f"{figure:.{digits}f} {unit}",
                "reached" if reached else "not reached",
                "" if reached else bound,
            )
        )

    def truth(self, name: str, file: Path, out: Path) -> None:
        """What was planted in `file` against the document in `out`; in a process of its own, to stay small."""
        command = [sys.executable, str(HERE / "truth.py"), str(file.with_suffix(".truth.json")), str(out)]
        checked = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        self.statements[name] = json.loads(checked.stdout)

    # ---- workloads, in the order of the table

    def a_or_b(self, workload: str) -> None:
        file = self.capture(workload, 10**9)
        out, out1 = file.with_suffix(".out.json"), file.with_suffix(".jobs1.json")
        ours = {
            "smtpscope": smtpscope(shlex.quote(str(file)), out),
            "smtpscope --jobs 1": smtpscope(shlex.quote(str(file)), out1, "--jobs 1"),
        }
        runs = self.measure(workload, file, {**peers(file, self.wanted), **floors(file), **ours})
        self.truth(workload, file, out)
        self.note(file, runs, ("smtpscope", "cat", "tcptrace", "tshark") if workload == "A" else ())
        if workload == "B" and "smtpscope" in runs:
            self.series.setdefault("smtpscope, 3 % SMTP", []).append(
                (file.stat().st_size, runs["smtpscope"].median_s, runs["smtpscope --jobs 1"].peak_bytes)
            )
        mine = runs["smtpscope"].median_s
        start, read = runs["import numpy"].median_s, runs["import numpy, read"].median_s
        bound = f"start-up {start:.2f} s, reading {max(read - start, 0):.2f} s, the rest of {mine:.2f} s is work"
        limits = {"A": (5.0, 1.0, 150), "B": (2.2, 0.4, 110)}[workload]

        def ratio(peer: str) -> float | None:
            return mine / runs[peer].median_s if peer in runs else None

        self.target(workload, f"at most {limits[0]} x cat", ratio("cat"), limits[0], bound=bound)
        self.target(workload, f"at most {limits[1]} x tcptrace", ratio("tcptrace"), limits[1], bound=bound)
        slower = ratio("tshark")
        for least in ({"A": 15, "B": 30}[workload], 60):  # what was asked for first, and then
            what = f"at least {least} x faster than tshark"
            self.target(workload, what, slower and 1 / slower, least, least=True, bound=bound)
        self.target(
            workload,
            f"at most {limits[2]} MB with --jobs 1",
            runs["smtpscope --jobs 1"].peak_mb,
            limits[2],
            unit="MB",
            bound=ROWS,
        )

    def c(self) -> None:
        a, c = self.capture("A", 10**9), self.capture("C", 10**9)
        out = c.with_suffix(".out.json")
        runs = self.measure("C", c, {
            "smtpscope": smtpscope(shlex.quote(str(c)), out),
            "smtpscope on A": smtpscope(shlex.quote(str(a)), a.with_suffix(".out.json")),
            "smtpscope --jobs 1": smtpscope(shlex.quote(str(c)), out, "--jobs 1"),
        })  # fmt: skip
        self.truth("C", c, out)
        per_byte = runs["smtpscope"].median_s / c.stat().st_size
        on_a = runs["smtpscope on A"].median_s / a.stat().st_size
        self.target("C", "per byte at most 1.5 x A", per_byte / on_a, 1.5, bound=LONG_WAY)
        self.target("C", "at most 150 MB with --jobs 1", runs["smtpscope --jobs 1"].peak_mb, 150, unit="MB", bound=ROWS)

    def d(self) -> None:
        for workload in "AB":
            small, large = self.capture(workload, 10**9), self.capture(workload, 4 * 10**9)
            commands = {}
            for label, file in (("1 GB", small), ("4 GB", large)):
                out = file.with_suffix(".out.json")
                commands[label] = smtpscope(shlex.quote(str(file)), out)
                commands[f"{label} --jobs 1"] = smtpscope(shlex.quote(str(file)), out, "--jobs 1")
            if workload == "A":
                commands |= {f"{name} 4 GB": line for name, line in peers(large, ("cat", "tcptrace")).items()}
            runs = self.measure(f"D {workload}", large, commands)
            self.truth(f"D {workload}", large, large.with_suffix(".out.json"))
            per_byte = (runs["4 GB"].median_s / large.stat().st_size) / (runs["1 GB"].median_s / small.stat().st_size)
            self.target("D", f"4 GB of {workload}: per byte at most 1.05 x 1 GB", per_byte, 1.05)
            memory = runs["4 GB --jobs 1"].peak_mb / runs["1 GB --jobs 1"].peak_mb
            self.target("D", f"4 GB of {workload}: memory at most 1.1 x 1 GB", memory, 1.1, bound=ROWS)
            if workload == "A":
                self.note(
                    large,
                    {
                        "smtpscope": runs["4 GB"],
                        **{n: runs[f"{n} 4 GB"] for n in ("cat", "tcptrace") if f"{n} 4 GB" in runs},
                    },
                    ("smtpscope", "cat", "tcptrace"),
                )

    def e(self) -> None:
        """10 MB whatever the scale: this row is about start-up."""
        file = self.capture("A", int(10**7 / self.scale))
        commands = {
            "import numpy": f"exec {shlex.quote(sys.executable)} -c 'import numpy'",
            "smtpscope": smtpscope(shlex.quote(str(file)), file.with_suffix(".out.json")),
            **peers(file, ("cat", "tcptrace", "tshark")),
        }
        runs = self.measure("E", file, commands)
        self.truth("E", file, file.with_suffix(".out.json"))
        self.note(file, runs, ("smtpscope", "cat", "tcptrace", "tshark"))
        ratio = runs["smtpscope"].median_s / runs["import numpy"].median_s
        start, mine = runs["import numpy"].median_s, runs["smtpscope"].median_s
        self.target(
            "E", "10 MB: at most 2.5 x `import numpy`", ratio, 2.5, bound=f"start-up {start:.2f} s of {mine:.2f} s"
        )

    def f(self) -> None:
        many = int(200_000 * min(self.scale, 1))
        small, large = self.capture("F", 0, many // 4), self.capture("F", 0, many)
        runs = self.measure("F", large, {
            "a quarter": smtpscope(shlex.quote(str(small)), small.with_suffix(".out.json")),
            "smtpscope": smtpscope(shlex.quote(str(large)), large.with_suffix(".out.json")),
            "smtpscope --jobs 1": smtpscope(shlex.quote(str(large)), large.with_suffix(".out.json"), "--jobs 1"),
            "import numpy": f"exec {shlex.quote(sys.executable)} -c 'import numpy'",
        })  # fmt: skip
        self.truth("F", large, large.with_suffix(".out.json"))
        start = runs["import numpy"].median_s
        growth = (runs["smtpscope"].median_s - start) / max(runs["a quarter"].median_s - start, 1e-3) / 4
        # 1 is linear; a fifth more is what caches cost when the tables outgrow them.
        self.target("F", f"{many:,} unfinished connections: time linear (1 = linear)", growth, 1.2)
        self.target("F", "at most 400 MB", runs["smtpscope --jobs 1"].peak_mb, 400, unit="MB", bound=OPEN)

    def g(self) -> None:
        plain = self.capture("A", 10**9)
        f = shlex.quote(str(plain))
        out = plain.with_suffix(".g.json")
        packers = {"gz": ("gzip -6", "gzip -dc"), "zst": ("zstd -q", "zstd -dcq")}
        commands = {"plain": smtpscope(f, out), "cat to a pipe": f"cat {f} | cat >/dev/null"}
        commands["pipe"] = f"cat {f} | {smtpscope('-', out, '--jobs 1').removeprefix('exec ')}"
        for suffix, (pack, unpack) in packers.items():
            if not shutil.which(pack.split()[0]):
                continue
            packed = Path(f"{plain}.{suffix}")
            if not packed.exists():
                subprocess.run(["bash", "-c", f"{pack} -c {f} > {shlex.quote(str(packed))}"], check=True)
            p = shlex.quote(str(packed))
            commands[f"{unpack} {suffix}"] = f"{unpack} {p} | cat >/dev/null"
            commands[suffix] = smtpscope(p, out)
        runs = self.measure("G", plain, commands)
        floors = {"gz": "gzip -dc gz", "zst": "zstd -dcq zst", "pipe": "cat to a pipe"}
        for what, other in floors.items():
            if what in runs:
                slower = max(runs[other].median_s, runs["plain"].median_s)
                figure = runs[what].median_s / slower
                target = f"{what}: at most 1.2 x the slower of ({other.split()[0]}, plain)"
                self.target("G", target, figure, 1.2, bound=STREAM)

    def middle(self) -> None:
        """Points between for the plot."""
        file = self.capture("A", 10**8)
        commands = {
            **peers(file, ("cat", "tcptrace", "tshark")),
            "smtpscope": smtpscope(shlex.quote(str(file)), file.with_suffix(".out.json")),
        }
        self.note(file, self.measure("A, a tenth", file, commands), ("smtpscope", "cat", "tcptrace", "tshark"))

    # ---- report

    def report(self) -> str:
        lines = [
            f"Measured {time.strftime('%Y-%m-%d')} on {machine()}; scale {self.scale:g}, median of {self.repeats}.",
            "",
        ]
        lines += ["| workload | target | measured | | what bounds it |", "|---|---|---|---|---|"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        lines += [
            "",
            "## Every program",
            "",
            "| workload | program | seconds (median) | processor seconds | runs | peak memory | |",
            "|---|---|---|---|---|---|---|",
        ]
        for workload, runs in self.times.items():
            for name, r in runs.items():
                failed = f"exit status {r.status}" if r.status else ""
                lines.append(
                    f"| {workload} | {name} | {statistics.median(r.seconds):.3g} | {statistics.median(r.processor_s):.3g} | {len(r.seconds)} | {r.peak_bytes / 1e6:.0f} MB | {failed} |"
                )
        lines += ["", "## Planted truth", "", "| workload | true | not true |", "|---|---|---|"]
        for workload, statements in self.statements.items():
            wrong = "; ".join(f"{what} (found: {found})" for what, true, found in statements if not true)
            lines.append(f"| {workload} | {sum(s[1] for s in statements)} of {len(statements)} | {wrong} |")
        return "\n".join(lines) + "\n"


def machine() -> str:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"


def plot(series: dict[str, list[tuple[int, float, int]]], file: Path) -> None:
    """Time and memory against the capture's size, both axes logarithmic."""
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "bench"
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, points in series.items():
        points = sorted(points)
        size = [p[0] / 1e6 for p in points]
        for axis, values in zip(axes, ([p[1] for p in points], [p[2] / 1e6 for p in points]), strict=True):
            axis.loglog(size, values, marker="o", label=name, linewidth=2.2 if name == "smtpscope" else 1.2)
    for axis, label in zip(axes, ("time, s", "peak memory of the largest process, MB"), strict=True):
        axis.set(xlabel="capture, MB", ylabel=label)
        axis.grid(visible=True, which="major", alpha=0.3)
    axes[0].legend(frameon=False)
    figure.savefig(file, metadata={"Date": None})


def write_readme(text: str) -> None:
    readme = HERE / "README.md"
    head = readme.read_text().split(MARK)[0] if readme.exists() else ""
    readme.write_text(f"{head}{MARK}\n\n{text}")


def steps(bench: Bench) -> Iterator[tuple[str, Callable[[], None]]]:
    yield "E", bench.e
    yield "A", bench.middle
    yield "A", lambda: bench.a_or_b("A")
    yield "B", lambda: bench.a_or_b("B")
    yield "C", bench.c
    yield "F", bench.f
    yield "G", bench.g
    yield "D", bench.d


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--dir", type=Path, default=ROOT / "build" / "bench", help="where the captures are kept (default build/bench)"
    )
    parser.add_argument("--workloads", default="ABCDEFG", help="which to run (default ABCDEFG)")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sizes (default 1: 1 GB and 4 GB)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", default="cat,tcptrace,tcpflow,tshark,dpkt,nfstream")
    parser.add_argument("--install", action="store_true", help="install the peers that the registries have first")
    parser.add_argument("--no-write", action="store_true", help="leave README.md and bench.svg as they are")
    args = parser.parse_args(argv)
    # compiled modules are kept, as they are after an installation: otherwise each start compiles everything anew
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if args.install:
        args.dir.mkdir(parents=True, exist_ok=True)
        install(args.dir.resolve())
    bench = Bench(args.dir.resolve(), args.scale, args.repeats, args.peers.split(","))
    for workload, step in steps(bench):
        if workload in args.workloads:
            step()
    text = bench.report()
    print(text)
    if not args.no_write:
        write_readme(text)
        plot(bench.series, HERE / "bench.svg")
    return int(any(not true for statements in bench.statements.values() for _, true, _ in statements))


if __name__ == "__main__":
    raise SystemExit(main())
