"""Which remedy would have let which mails through: sure, perhaps or no, and never more than the capture can tell."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import jsonschema
import pytest

from analyzer import analysis, whatif
from analyzer.case import Case, WhatIf
from analyzer.report import json as case_json

SAMPLES = Path(__file__).parents[1] / "sample_pcaps"


@lru_cache
def case(name: str) -> Case:
    return analysis.analyze([str(SAMPLES / f"{name}.pcap")])


def answers(name: str) -> dict[tuple[str, int | None], WhatIf]:
    return {(a.remedy, a.mtu): a for a in case(name).what_if}


def test_below_what_arrived_is_sure_above_it_perhaps() -> None:
    """933 bytes arrived and 1500 did not: a clamp for 933 would have helped, one for 1280 may have."""
    found = answers("blackhole-1400.sender")
    assert found["mss-clamp", 933].helps == "yes"
    assert found["mss-clamp", 933].through == (1,)
    assert found["mss-clamp", 1280].helps == "perhaps"
    assert found["mss-clamp", 1280].mss == 1240
    assert found["mss-clamp", 1280].perhaps == (1,)


def test_smaller_segments_cost_packets() -> None:
    """8112 bytes: 6 packets with 1448 bytes each, 7 with 1228, 10 with 881 (RFC 7323 timestamps take 12)."""
    found = answers("blackhole-1400.sender")
    assert found["route-mtu", 1280].extra_packets == 1
    assert found["route-mtu", 933].extra_packets == 4


def test_all_stuck_mails_are_counted_and_no_other() -> None:
    """Of nine mails the four that hang; those that passed need no help."""
    hung = {m.id for m in case("blackhole-by-size.sender").messages if m.outcome != "delivered"}
    assert set(answers("blackhole-by-size.sender")["mss-clamp", 1280].perhaps) == hung


def test_a_router_that_names_the_mtu_makes_it_sure() -> None:
    """The ICMP says 1400: a route of 1400 would have helped, whatever ignores the ICMP."""
    assert answers("icmp-ignored.sender")["route-mtu", 1400].helps == "yes"


@pytest.mark.parametrize("name", ["blackhole-fragments-dropped.sender", "blackhole-layer-2-df-off.sender"])
def test_df_off_does_not_help_where_it_was_off(name: str) -> None:
    """The large packets vanished without the flag: switching it off is no remedy."""
    assert answers(name)["df-off", None].helps == "no"


def test_probing_costs_time() -> None:
    """tcp_mtu_probing lets mails through some seconds later, as the recorded runs show."""
    delay = answers("blackhole-1400.sender")["mtu-probing", 1076].delay_s
    recovered = next(f for f in case("recovered-probing-1.sender").findings if f.rule == "black-hole-recovered")
    assert delay == pytest.approx(recovered.facts["recovered_after_s"], abs=0.5)


def test_ipv6_has_no_fragmenting_routers() -> None:
    """RFC 8200: routers never fragment, so that the flag is no remedy; headers are 60 bytes."""
    found = answers("blackhole-ipv6-1400.sender")
    assert not [a for a in found.values() if a.remedy == "df-off"]
    assert found["mss-clamp", 1280].mss == 1220


@pytest.mark.parametrize(
    "name", ["clean-bulk.sender", "pmtud-working.sender", "loss-30.sender", "recovered-probing-1.sender"]
)
def test_nothing_is_said_where_nothing_hangs(name: str) -> None:
    """No black hole, no remedies."""
    assert case(name).what_if == []


def test_the_document_fulfils_its_schema() -> None:
    """What-if answers are part of the contract, and every one reads as a sentence."""
    document = json.loads(case_json.render(case("blackhole-1400.sender")))
    jsonschema.validate(document, case_json.schema())
    assert len(document["what_if"]) == 6
    assert all(whatif.told(a).endswith(".") for a in case("blackhole-1400.sender").what_if)
