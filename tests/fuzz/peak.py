"""The peak memory of a command, whatever the process needs that asks for it.

Between fork and exec a child is a copy of its parent, and Linux counts that into the child's peak; a test runner may hold
half a gigabyte. So a small process starts the command, and tells.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_STARTER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:])
_, status, used = os.wait4(process.pid, 0)
sys.stderr.write(f"\\n{os.waitstatus_to_exitcode(status)} {used.ru_maxrss}\\n")
"""


class Run(NamedTuple):
    status: int
    output: bytes
    peak_kb: int


def measured(words: Sequence[str], folder: Path) -> Run:
    """What became of the command."""
    starter = subprocess.run(
        [sys.executable, "-S", "-c", _STARTER, *words], cwd=folder, capture_output=True, check=True
    )
    status, peak_kb = map(int, starter.stderr.splitlines()[-1].split())
    return Run(status, starter.stdout, peak_kb)
