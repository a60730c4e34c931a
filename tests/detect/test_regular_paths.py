"""The columns of paths, against the ledgers made of them and the weighing of those."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from analyzer import analysis
from analyzer.analysis.gathering import Gathered
from analyzer.analysis.parts import gather
from analyzer.detect import paths
from analyzer.detect.regular_paths import PATH_SCREEN, RegularPaths, Sightings, joined

SAMPLES = Path(__file__).parents[2] / "sample_pcaps"


@pytest.fixture(scope="module")
def run() -> Gathered:
    """All samples as one case: hosts with many connections, both IP versions, losses."""
    run = gather(sorted(map(str, SAMPLES.glob("*.pcap*"))), analysis.Options(jobs=1), None)
    run.renumber()
    return run


@pytest.fixture(scope="module")
def regular(run: Gathered) -> RegularPaths:
    return RegularPaths(joined(run.sightings), run.talks)


def test_columns_tell_what_weighing_the_ledger_tells(run: Gathered, regular: RegularPaths) -> None:
    """Facts by which paths are screened, the bracket, the sizes and the connections of the row."""
    assert len(regular) > 30
    told = zip(regular.facts(), regular.sizes(tuple), regular.connections(np.arange(len(run.talks) + 1)), strict=True)
    for i, (facts, sizes, connections) in enumerate(told):
        ledger = regular.ledger(i)
        weighed = paths.weigh(ledger, ())
        expected = {name: value for name, value in weighed.subject.facts.items() if name in PATH_SCREEN}
        assert {
            name: value
            for name, value in regular.named(facts).items()
            if value is not None and name != "mails_hung"  # looked at by its mails
        } == {
            name: value for name, value in expected.items() if name not in ("sender", "receiver") and value is not None
        }
        assert (regular.largest_delivered[i] or None) == weighed.mtu_at_least
        assert list(sizes) == paths.sizes_of(ledger)
        assert list(connections) == ledger.connections
        assert regular.find((ledger.sender, ledger.receiver)) == i


def test_the_parts_of_the_columns_add_up(run: Gathered, regular: RegularPaths) -> None:
    """Whether the connections of a path were judged together or one by one makes no difference."""
    whole = joined(run.sightings)
    pieces = []
    for row in range(len(whole.connection)):
        own = whole.size_row == row
        pieces.append(
            Sightings(
                *(
                    column[own] if name.startswith("size_") else column[row : row + 1]
                    for name, column in whole._asdict().items()
                )
            )._replace(size_row=np.zeros(int(own.sum()), np.int32))
        )
    again = RegularPaths(joined(pieces), run.talks)
    assert list(again.facts()) == list(regular.facts())
    assert list(again.sizes(tuple)) == list(regular.sizes(tuple))


def test_no_regular_connection_is_no_path() -> None:
    """An empty case."""
    none = RegularPaths(joined([]), [])
    assert len(none) == 0
    assert [*none.facts(), *none.sizes(tuple), *none.connections(np.zeros(1, np.int64))] == []
