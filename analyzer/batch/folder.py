"""The folder of results. What is under cases/ is the truth; everything else is made from it anew.

    cases/3f/incident.pcap-3f92ab....json   one case (schema smtpscope/1), written when it was done
    failed/07/huge.pcap-07c1de....json      why there is none
    journal.jsonl                           what each unit cost: seconds, CPU seconds, peak memory; for looking, not for resuming
    summary.json  summary.md  junit.xml     the summary over all
    tables/TABLE/day=2026-01-05/*.parquet   the same as a dataset (dataset.py)

A file is written under another name and renamed, so that whatever kills the batch leaves whole files or none. The name
of a case is made from the names, the content, the options, the rules and the program: that it is there means that it
is done. Two batches do not work in one folder at a time.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..errors import UsageError
from .nursery import Outcome
from .units import Unit

ENDS = b"}\n"  # of every document: a file that a full disk or a power cut left short is no document


@dataclass(frozen=True, slots=True)
class Task:
    """A unit and the name of its case."""

    unit: Unit
    key: str


@dataclass(slots=True)
class Folder:
    """Results in `path`; private (mode 0600) unless `shared`."""

    path: Path
    shared: bool = False

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Ours alone as long as the block runs; the lock goes with the process, however it ends."""
        self._make(self.path)
        with self._open(self.path / ".lock", 0) as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"{self.path}: another batch is writing here") from None
            except OSError as error:  # some network file systems have no locks
                raise UsageError(f"{self.path}: cannot be locked: {error.strerror}") from None
            self._sweep()
            yield

    def _sweep(self) -> None:
        """Files that a killed batch did not get to rename."""
        for left in self.path.rglob(".*.part"):
            left.unlink(missing_ok=True)

    # -- cases ---------------------------------------------------------------------------------------------------

    def case_file(self, task: Task) -> Path:
        return self._file("cases", task)

    def failure_file(self, task: Task) -> Path:
        return self._file("failed", task)

    def _file(self, kind: str, task: Task) -> Path:
        name = task.unit.files[0].name.rsplit("/", 1)[-1] if not self.shared else "case"
        safe = re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:80].lstrip(".") or "case"
        return self.path / kind / task.key[:2] / f"{safe}-{task.key}.json"

    def is_done(self, task: Task) -> bool:
        try:
            with open(self.case_file(task), "rb") as file:
                file.seek(-len(ENDS), os.SEEK_END)
                return file.read() == ENDS
        except OSError:
            return False

    def failure(self, task: Task) -> dict[str, Any] | None:
        """Why there is no case, as an earlier attempt found."""
        try:
            told = json.loads(self.failure_file(task).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return told if isinstance(told, dict) else None

    def document(self, task: Task) -> dict[str, Any]:
        """The document of a case that is done."""
        told: dict[str, Any] = json.loads(self.case_file(task).read_bytes())
        return told

    def keep(self, task: Task, outcome: Outcome, failure: dict[str, Any] | None) -> None:
        """Writes the case, or why there is none."""
        if failure is None:
            self.write(self.case_file(task), outcome.document)
            self.failure_file(task).unlink(missing_ok=True)
        else:
            self.write(self.failure_file(task), json.dumps(failure).encode() + b"\n")
        cost = {"case": task.key, "state": outcome.state, "size": task.unit.size, "seconds": outcome.seconds}
        cost |= {"cpu_s": outcome.cpu_s, "peak_bytes": outcome.peak_bytes}
        with self._open(self.path / "journal.jsonl", os.O_APPEND) as journal:
            journal.write(json.dumps(cost).encode() + b"\n")

    # -- files ---------------------------------------------------------------------------------------------------

    def write(self, target: Path, data: bytes) -> None:
        """All of it or nothing."""
        with self.written(target) as file:
            file.write(data)

    @contextmanager
    def written(self, target: Path) -> Iterator[IO[bytes]]:
        """A file that takes its name when the block is left without an error."""
        self._make(target.parent)
        descriptor, part = tempfile.mkstemp(prefix=".", suffix=".part", dir=target.parent)  # mode 0600
        try:
            with open(descriptor, "wb") as file:
                yield file
            if self.shared:
                os.chmod(part, 0o666 & ~_umask())
            os.replace(part, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise

    def _open(self, target: Path, flags: int) -> IO[bytes]:
        mode = 0o666 if self.shared else 0o600
        return open(os.open(target, os.O_WRONLY | os.O_CREAT | flags, mode), "ab", buffering=0)

    def _make(self, folder: Path) -> None:
        """The folder, and those above it as far as they are missing; mkdir's own `parents` would make these public."""
        if folder.is_dir():
            return
        if folder != self.path:
            self._make(folder.parent)
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o777 if self.shared else 0o700)
        except FileExistsError:
            raise UsageError(f"{folder}: a folder is needed, and this is a file") from None


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
