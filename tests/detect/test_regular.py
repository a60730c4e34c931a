"""The short way and the long way say the same."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analyzer import analysis
from analyzer.report.json import document

SAMPLES = sorted((Path(__file__).parents[2] / "sample_pcaps").glob("*.pcap*"))


def both_ways(capture: Path, **options: object) -> tuple[object, object]:
    short, long = (
        document(analysis.analyze([str(capture)], analysis.Options(shortcuts=shortcuts, **options)))  # type: ignore[arg-type]
        for shortcuts in (True, False)
    )
    return short, long


@pytest.mark.parametrize("capture", SAMPLES, ids=lambda path: path.name)
def test_samples_give_equal_cases(capture: Path) -> None:
    """Taking regular connections out of columns changes nothing that is said about a recorded capture."""
    short, long = both_ways(capture)
    assert short == long


@pytest.fixture(scope="module")
def generate() -> Iterator[Any]:
    """The benchmark's generator of captures."""
    folder = str(Path(__file__).parents[1] / "bench")
    sys.path.insert(0, folder)
    try:
        yield importlib.import_module("generate").generate
    finally:
        sys.path.remove(folder)


@pytest.mark.parametrize("workload", ["A", "B", "C", "F"])
@pytest.mark.parametrize("seed", [1, 2])
def test_generated_captures_give_equal_cases(generate: Any, tmp_path: Path, workload: str, seed: int) -> None:
    """Nor for busy captures: losses, resends cut anew, reordering, holes, TLS, BDAT, floods."""
    capture = tmp_path / "capture.pcap"
    generate(workload, 6_000_000, capture, seed=seed, connections=2000)
    short, long = both_ways(capture)
    assert short == long


def test_windows_do_not_matter(generate: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the windows of a capture end, and what is copied out of them, changes nothing."""
    capture = tmp_path / "capture.pcap"
    generate("A", 8_000_000, capture, seed=3)
    whole, _ = both_ways(capture)
    monkeypatch.setattr("analyzer.capture.reading.WINDOW_BYTES", 100_000)
    pieces, long = both_ways(capture)
    assert pieces == long
    assert pieces == whole
