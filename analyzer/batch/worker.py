"""The process in which one capture set becomes one case, and the nursery that starts such processes.

A nursery is a process of its own, without threads, that has everything imported and forks once for each set it is
given: starting Python and importing NumPy costs more than reading a small capture. Each set is so read by a process
that has its own limits of time and memory, and takes nobody along when it dies:

- time: the kernel ends it (SIGALRM);
- memory: RLIMIT_AS, counted from what the interpreter itself maps;
- and with its nursery it ends as well (Linux: PR_SET_PDEATHSIG; elsewhere its time runs out).

Requests and answers go over the nursery's stdin and stdout: a request is one line of JSON, an answer a line of JSON
followed by as many bytes as it says. When stdin ends, whoever asked is gone: the set in hand is given up.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import select
import signal
import sys
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from ..capture.framing import is_capture
from ..capture.packets import CaptureInfo
from ..capture.sources import expand, is_foreign_capture

PR_SET_PDEATHSIG = 1  # linux/prctl.h
DONE, FAILED, SKIPPED = "done", "failed", "skipped"


def main() -> None:
    """Answers requests until there are no more."""
    requests, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # whatever prints must not come between the answers
        os.dup2(nothing, descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever asks; that stdin ends is for us
    _warm_up()
    with tempfile.TemporaryDirectory(prefix="smtpscope-") as private:
        while line := _line(requests):
            request = json.loads(line)
            for protocol in {path.partition("://")[0] for path in request["paths"] if "://" in path}:
                _import_for(protocol)
            answer, document = _delivered(request, requests, Path(private))
            answer["bytes"] = len(document)
            _write(answers, json.dumps(answer).encode() + b"\n" + document)


def _warm_up() -> None:
    """What every set needs, imported and read before the first fork."""
    from ..detect import rule

    # numpy.ma comes when some functions of NumPy are first called, which is a third of the work for a small capture.
    for name in ("analyzer.analysis", "analyzer.report.json", "analyzer.report.redact", "numpy.ma"):
        importlib.import_module(name)
    rule.load()  # which remembers the built-in pack


@cache
def _import_for(protocol: str) -> None:
    """The file system of a URL, which takes longer to import than a small capture to read. Importing starts no thread."""
    with contextlib.suppress(ImportError, ValueError):  # then reading says what is missing
        fsspec = importlib.import_module("fsspec")
        if "s3" in fsspec.get_filesystem_class(protocol).protocol:
            fsspec.config.conf.setdefault("s3", {})["session"] = _s3_session()


def _s3_session() -> object:
    """A session that has read the description of S3: it would take every child longer than everything else it does."""
    asyncio = importlib.import_module("asyncio")
    session = importlib.import_module("aiobotocore.session").AioSession()

    async def describe() -> None:
        async with session.create_client("s3", region_name="us-east-1"):  # connects to nothing
            pass

    asyncio.run(describe())
    return session


def _line(descriptor: int) -> bytes:
    """The next line; nobody writes beyond it before it is answered."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(descriptor, 1 << 16)
        if not piece:
            return b""
        line += piece
    return line


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


# -- the nursery's side ----------------------------------------------------------------------------------------------


def _delivered(request: dict[str, Any], requests: int, private: Path) -> tuple[dict[str, Any], bytes]:
    """Forks, waits, and tells what became of the set."""
    begun = time.monotonic()
    reading, writing = os.pipe()
    nursery = os.getpid()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.close(requests)
        _live(request, writing, private, nursery)
    os.close(writing)
    with contextlib.suppress(OSError):
        os.setpgid(child, child)  # the child does the same; whoever comes first
    told = _heard(reading, requests, child)
    _, status, used = os.wait4(child, 0)
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)  # programs that it called (tshark)
    answer, document = _verdict(told, status, request)
    answer["seconds"] = round(time.monotonic() - begun, 4)
    answer["cpu_s"] = round(used.ru_utime + used.ru_stime, 4)
    answer["peak_bytes"] = used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return answer, document


def _heard(reading: int, requests: int, child: int) -> bytes:
    """All that the child says, until it closes its end; gives it up when whoever asked is gone."""
    told = bytearray()
    poll = select.poll()
    poll.register(reading, select.POLLIN)
    poll.register(requests, 0)  # only its end is of interest
    while True:
        ready = {descriptor for descriptor, _ in poll.poll()}
        if requests in ready:
            os.killpg(child, signal.SIGKILL)
            sys.exit(1)
        piece = os.read(reading, 1 << 20)
        if not piece:
            os.close(reading)
            return bytes(told)
        told += piece


def _verdict(told: bytes, status: int, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number == signal.SIGALRM:
            return {"state": FAILED, "reason": f"not done within its limit of {request['time_limit_s']:g} s"}, b""
        name = signal.Signals(number).name
        # SIGKILL comes from outside (an administrator, the kernel out of memory): perhaps it was not this capture's fault.
        return {"state": FAILED, "reason": f"its process was killed by {name}", "again": number == signal.SIGKILL}, b""
    code = os.waitstatus_to_exitcode(status)
    head, newline, document = told.partition(b"\n")
    if code or not newline:
        return {"state": FAILED, "reason": f"its process ended with status {code} before it was done"}, b""
    return json.loads(head), document


# -- the child's side ------------------------------------------------------------------------------------------------


def _live(request: dict[str, Any], writing: int, private: Path, nursery: int) -> NoReturn:
    """The life of a child: limits, one case, the answer, the end. Nothing of the nursery is cleaned up by it."""
    try:
        os.setpgid(0, 0)
        _limit(request["time_limit_s"], request["memory_limit_bytes"])
        if os.getppid() != nursery:  # it ended before the kernel knew that this process is to end with it
            os._exit(1)
        head, document = _tried(request, private)
        _write(writing, json.dumps(head).encode() + b"\n" + document)
        os._exit(0)
    except BaseException:  # noqa: BLE001 - not even SystemExit may run into the nursery's code
        os._exit(1)


def _limit(time_limit_s: float, memory_limit_bytes: int) -> None:
    with contextlib.suppress(AttributeError):  # no prctl but on Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, time_limit_s)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold mail
    with contextlib.suppress(OSError, ValueError):  # macOS knows no such limit
        mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (mapped + memory_limit_bytes,) * 2)


def _tried(request: dict[str, Any], private: Path) -> tuple[dict[str, Any], bytes]:
    from ..errors import SmtpscopeError

    try:
        document = _case_of(request, private)
    except MemoryError:
        limit = request["memory_limit_bytes"] >> 20
        return {"state": FAILED, "reason": f"it needs more memory than its limit of {limit} MB"}, b""
    except SmtpscopeError as error:
        return {"state": FAILED, "reason": str(error)}, b""
    except Exception as error:  # noqa: BLE001 - a capture that trips the analysis is reported and does not stop the others
        return {"state": FAILED, "reason": f"internal error: {type(error).__name__}: {error}"}, b""
    return ({"state": DONE}, document) if document else ({"state": SKIPPED, "reason": "no capture"}, b"")


def _case_of(request: dict[str, Any], private: Path) -> bytes:
    """The JSON document of the case; empty for something found in a folder that is no capture."""
    from .. import analysis
    from ..report import json, redact

    if request["folder"]:
        with contextlib.suppress(OSError):  # on another machine relative names mean nothing anyway
            os.chdir(request["folder"])
    options = analysis.Options(
        ports=frozenset(request["ports"]),
        all_tcp=request["all_tcp"],
        rules=tuple(_unpacked(request["rules"], private)),
        max_bytes=request["max_bytes"],
    )
    case = analysis.analyze(request["paths"], options)
    if not request["named"] and all(_is_foreign(capture) for capture in case.captures):
        return b""
    if request["redact_key"]:
        case = redact.redact(case, bytes.fromhex(request["redact_key"]))
    return json.render(case).encode("ascii")


def _is_foreign(capture: CaptureInfo) -> bool:
    """Something else than a capture, for certain: of what could not be opened the error is told."""
    if capture.format or capture.frames:
        return False
    try:
        head = expand([capture.path])[0].head()
    except Exception:  # noqa: BLE001 - every storage and packing has its own errors
        return False
    return not is_capture(head) and not is_foreign_capture(head)


def _unpacked(rules: list[list[str]], private: Path) -> list[str]:
    """The rule files that came with the request, as files again: a worker elsewhere has no others."""
    written = []
    for number, (name, text) in enumerate(rules):
        folder = private / str(number)
        folder.mkdir(exist_ok=True)
        file = folder / name
        if not file.exists():
            file.write_text(text, encoding="utf-8")
        written.append(str(file))
    return written


if __name__ == "__main__":
    main()
