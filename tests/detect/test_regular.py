"""The short way and the long way say the same."""

from __future__ import annotations

from pathlib import Path

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
