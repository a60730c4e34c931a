"""Whoever wants a capture set analysed: asks a nursery process (worker.py), which forks for each set.

`deliver` is what an executor's workers run, threads of this process or of a Dask worker. Each thread has a nursery to
itself while it waits, so that a nursery that dies takes one set with it; the next set finds another one.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import select
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .settings import Settings
from .units import Unit
from .worker import FAILED

# The kernel ends a set at its limit. Where even that does not help (a file system that hangs), the nursery is given up
# so much later.
GRACE_S = 10.0

# A nursery that was asked to end has only to kill its child and remove a folder.
PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one unit."""

    state: str  # done | failed | skipped
    reason: str = ""
    again: bool = False  # it may have been no fault of the captures: worth another attempt
    document: bytes = b""  # the case, schema smtpscope/1, when done
    seconds: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0


def deliver(unit: Unit, settings: Settings, program: str) -> Outcome:
    """One unit, analysed in a process of its own. `program` is the fingerprint that the results are wanted from."""
    from .settings import program as own

    if own() != program:
        return Outcome(FAILED, "this worker has another version of smtpscope, or other built-in rules", again=True)
    nursery = _idle_one()
    try:
        outcome = nursery.deliver(unit, settings)
    except (OSError, EOFError, ValueError) as error:
        nursery.close()
        return Outcome(FAILED, str(error) or "the process that starts the others died", again=True)
    except BaseException:
        nursery.close()
        raise
    _idle.put(nursery)
    return outcome


def close_all() -> None:
    """Ends every nursery of this process, and what they have in hand."""
    for nursery in list(_alive):
        nursery.close()


_idle: queue.SimpleQueue[_Nursery] = queue.SimpleQueue()
_alive: set[_Nursery] = set()
atexit.register(close_all)


def _idle_one() -> _Nursery:
    while True:
        try:
            nursery = _idle.get_nowait()
        except queue.Empty:
            return _Nursery()
        if nursery in _alive:
            return nursery


@dataclass(eq=False)
class _Nursery:
    """One nursery process, and the pipes to it."""

    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        above = str(Path(__file__).resolve().parents[2])  # where the package is, wherever the process is started
        search = os.pathsep.join(filter(None, [above, os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("SMTPSCOPE_DEBUG") else subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,  # Ctrl-C in the terminal goes to the batch, which decides
            # A thread pool of BLAS per process would be memory for nothing: no linear algebra is done here.
            env={**os.environ, "PYTHONPATH": search, "OPENBLAS_NUM_THREADS": "1"},
        )
        _alive.add(self)

    def deliver(self, unit: Unit, settings: Settings) -> Outcome:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(_request(unit, settings)).encode() + b"\n")
        until = time.monotonic() + settings.time_limit_s + GRACE_S
        head, newline, rest = self._read(b"", until).partition(b"\n")
        while not newline:
            head, newline, rest = self._read(head, until).partition(b"\n")
        answer = json.loads(head)
        wanted = answer.pop("bytes")
        pieces, got = [rest], len(rest)
        while got < wanted:
            pieces.append(self._read(b"", until))
            got += len(pieces[-1])
        return Outcome(document=b"".join(pieces), **answer)

    def _read(self, before: bytes, until: float) -> bytes:
        """What was read before, and the next piece. EOFError when the process is gone or out of time."""
        assert self.process.stdout is not None
        waiting = select.poll()
        waiting.register(self.process.stdout, select.POLLIN)
        if not waiting.poll(max(0.0, until - time.monotonic()) * 1000):
            raise EOFError("its process could not be ended at its limit of time")
        piece = os.read(self.process.stdout.fileno(), 1 << 20)
        if not piece:
            raise EOFError
        return before + piece

    def close(self) -> None:
        """Ends it, with the set that it has in hand."""
        _alive.discard(self)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(OSError):
            self.process.stdin.close()  # it gives up its child and ends
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def _request(unit: Unit, settings: Settings) -> dict[str, Any]:
    return {
        "paths": list(unit.names),
        "named": any(file.named for file in unit.files),
        "folder": settings.folder,
        "ports": sorted(settings.ports),
        "all_tcp": settings.all_tcp,
        "rules": [list(rule) for rule in settings.rules],
        "max_bytes": settings.max_bytes,
        "redact_key": settings.redact_key.hex(),
        "time_limit_s": settings.time_limit_s,
        "memory_limit_bytes": settings.memory_limit_bytes,
    }
