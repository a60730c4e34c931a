"""What all tests share: where the samples are, the command as a user runs it, and which tests need which program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "sample_pcaps"
NEEDS = {"tshark": "tshark", "browser": "chromedriver"}  # marker -> program

Run = Callable[..., subprocess.CompletedProcess[str]]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = {marker: program for marker, program in NEEDS.items() if shutil.which(program) is None}
    for item in items:
        for marker, program in missing.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"{program} is not installed"))


@pytest.fixture(scope="session")
def samples() -> Path:
    return SAMPLES


@pytest.fixture(scope="session")
def smtpscope() -> Run:
    """Runs the command in a process of its own, in the project's folder unless told otherwise."""

    def run(*args: object, **settings: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "80", "PYTHONWARNINGS": "default"} | dict(settings.pop("env", {}))  # type: ignore[call-overload]
        settings = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120, **settings}
        return subprocess.run([sys.executable, "-m", "analyzer", *map(str, args)], env=environment, **settings)  # type: ignore[call-overload,no-any-return]

    return run
