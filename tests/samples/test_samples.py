"""Every recorded sample: the file is the recorded one, the diagnosis is the true one, and it is exactly the accepted one."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from analyzer.analysis import analyze

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "sample_pcaps"
CAPTURES = sorted(p for p in SAMPLES.iterdir() if p.suffix in (".pcap", ".pcapng"))
# Truth that this capture cannot show; each with the reason.
EXPLAINED: dict[str, str] = {}


def _score() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lab_score", SAMPLES / "lab" / "score.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lab_score"] = module
    spec.loader.exec_module(module)
    return module


score = _score()


def sidecar(capture: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(capture.with_suffix(".json").read_text())
    return data


def test_there_are_samples() -> None:
    """The list below is not empty by accident."""
    assert len(CAPTURES) >= 80


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda p: p.stem)
def test_sample(capture: Path) -> None:
    """Recorded bytes, true diagnosis, exact findings."""
    beside = sidecar(capture)
    assert hashlib.sha256(capture.read_bytes()).hexdigest() == beside["sha256"], "the capture is not the recorded one"
    case = analyze([str(capture)])
    if capture.stem not in EXPLAINED:
        assert score.faults(case, beside) == []
    if "exact" in beside:
        assert score.exact(case) == beside["exact"]


def test_every_explained_sample_exists() -> None:
    assert set(EXPLAINED) <= {p.stem for p in CAPTURES}
