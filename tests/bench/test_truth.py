"""What the generator plants, an analysis finds; and the check sees when it does not."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analyzer import cli

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """Finds the benchmark's modules by name, as its scripts do."""
    sys.path.insert(0, str(HERE))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(HERE))


def analyse(bench: Any, folder: Path, workload: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The truth about a small capture of a workload, and the case as JSON."""
    capture, out = folder / "x.pcap", folder / "x.json"
    truth = bench("generate").generate(workload, 3_000_000, capture, seed=5, connections=600)
    assert cli.main(["analyze", str(capture), "--json", str(out), "--quiet"]) == 0
    return truth, json.loads(out.read_text())


@pytest.fixture(scope="module", params=["A", "B", "C", "F"])
def analysed(request: pytest.FixtureRequest, bench: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return analyse(bench, tmp_path_factory.mktemp("truth"), request.param)


def test_everything_planted_is_found_and_nothing_else(bench: Any, analysed: tuple[Any, Any]) -> None:
    """Frames, connections, mails and their outcomes, black holes with their MTU, cut terminators, masked banners."""
    statements = bench("truth").check(*analysed)
    assert len(statements) >= 8
    assert [s for s in statements if not s.true] == []


def test_no_cause_that_was_not_planted(analysed: tuple[Any, Any]) -> None:
    """Everything else in these captures ends well: loss is told as information, nothing else is accused."""
    truth, document = analysed
    causes = {f["rule"] for f in document["findings"] if f["role"] == "cause" and f["severity"] != "info"}
    assert causes <= ({"pmtud-black-hole", "split-terminator", "packet-loss"} if truth["workload"] != "F" else set())


def test_the_check_notices_what_is_missing(bench: Any, tmp_path: Path) -> None:
    """A case without its findings, or with one mail less, is not the truth."""
    truth, document = analyse(bench, tmp_path, "A")
    check = bench("truth").check
    lost = {s.what for s in check(truth, {**document, "findings": []}) if not s.true}
    assert len([what for what in lost if what.startswith("black hole")]) == 5
    assert "1 masked banner" in lost
    assert not all(s.true for s in check(truth, {**document, "messages": document["messages"][1:]}))
    shorter = [{**c, "frames": c["frames"] - 1} for c in document["captures"]]
    assert not all(s.true for s in check(truth, {**document, "captures": shorter}))
