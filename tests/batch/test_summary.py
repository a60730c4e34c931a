"""The summary over all cases: one finding for one fault."""

from __future__ import annotations

from typing import Any

from analyzer.batch.summary import Summary


def path(id: int, sender: str, receiver: str, at_least: int | None, below: int | None = None) -> dict[str, Any]:  # noqa: A002
    return {"id": id, "sender": sender, "receiver": receiver, "mtu_at_least": at_least, "mtu_below": below}


def finding(sender: str | None, receiver: str | None, **other: Any) -> dict[str, Any]:
    facts = {name: other.pop(name) for name in ("mtu_at_least", "mtu_below") if name in other}
    return {
        "id": 1, "rule": "pmtud-black-hole", "title": "Black hole", "role": "cause", "severity": "critical",
        "confidence": "certain", "explained_by": None, "sender": sender, "receiver": receiver, "connections": [1],
        "messages": [1], "paths": [1], "facts": facts, "explanation": "", "remedies": [], "fingerprint": "f",
    } | other  # fmt: skip


def document(
    *findings: dict[str, Any], paths: list[dict[str, Any]] | None = None, day: str = "2026-01-05"
) -> dict[str, Any]:
    first = f"{day}T09:00:00.000000000Z"
    if paths is None:
        paths = [path(1, f["sender"], f["receiver"], None) for f in findings[:1]]
    server = {"ip": "198.51.100.1", "port": 25}
    return {
        "complete": True, "captures": [{"frames": 10, "bytes": 1000, "first": first, "problems": []}],
        "connections": [{"id": 1, "start": first, "server": server}],
        "messages": [{"connection": 1, "start": first, "outcome": "end-of-data-timeout" if findings else "delivered"}],
        "paths": paths, "findings": list(findings),
    }  # fmt: skip


def summary_of(*documents: dict[str, Any]) -> dict[str, Any]:
    summary = Summary()
    for number, one in enumerate(documents):
        summary.add(one, f"case{number}", f"{number}.pcap")
    return summary.document()


def test_one_bad_tunnel_in_900_captures_is_one_finding() -> None:
    """The same fault between the same hosts is told once, with how often and when, and with the narrowest bracket."""
    told = summary_of(
        *(
            document(
                finding("192.0.2.1", "198.51.100.1", mtu_at_least=1000 + n % 300, mtu_below=1500 - n % 100),
                day=f"2026-01-{1 + n % 30:02}",
            )
            for n in range(900)
        )
    )
    (one,) = told["findings"]
    assert (one["case_count"], one["connections"], one["messages"]) == (900, 900, 900)
    assert (one["mtu_at_least"], one["mtu_below"]) == (1299, 1401)
    assert one["days"] == {f"2026-01-{day:02}": 30 for day in range(1, 31)}


def test_one_tunnel_between_two_networks_is_one_finding() -> None:
    """Hosts of two networks whose large packets vanish with path MTUs that can be equal share one broken link."""
    told = summary_of(
        *(document(finding(f"192.0.2.{n}", f"198.51.100.{n}", mtu_at_least=1000, mtu_below=1500)) for n in range(5))
    )
    (one,) = told["findings"]
    assert len(one["senders"]) == len(one["receivers"]) == 5


def test_a_host_that_reaches_nobody_is_one_finding() -> None:
    """A narrow link next to the sender breaks all its destinations, each seen in another capture."""
    told = summary_of(
        *(document(finding("192.0.2.1", f"198.51.{n}.1", mtu_at_least=1000, mtu_below=1500)) for n in range(4))
    )
    (one,) = told["findings"]
    assert one["senders"] == ["192.0.2.1"]
    assert len(one["receivers"]) == 4


def test_a_host_that_reaches_others_is_not_to_blame() -> None:
    """One destination that gets large packets from the same host: the broken paths have links of their own."""
    broken = [document(finding("192.0.2.1", f"198.51.{n}.1", mtu_at_least=1000, mtu_below=1500)) for n in range(4)]
    healthy = document(paths=[path(1, "192.0.2.1", "203.0.113.1", 1500)])
    assert len(summary_of(*broken, healthy)["findings"]) == 4


def test_different_bottlenecks_are_different_findings() -> None:
    """Where 1450 bytes pass on one path and 1420 do not on the other, no single link is to blame for both."""
    one = document(finding("192.0.2.1", "198.51.100.1", mtu_at_least=1450, mtu_below=1500))
    other = document(finding("192.0.2.2", "198.51.100.2", mtu_at_least=1000, mtu_below=1420))
    assert len(summary_of(one, other)["findings"]) == 2


def test_findings_without_endpoints_are_one_if_they_are_the_same() -> None:
    """A finding about several hosts is known by its fingerprint."""
    same = [document(finding(None, "198.51.100.1", paths=[], fingerprint="a"), paths=[]) for _ in range(3)]
    other = document(finding(None, "198.51.100.1", paths=[], fingerprint="b"), paths=[])
    assert sorted(f["case_count"] for f in summary_of(*same, other)["findings"]) == [1, 3]


def test_what_is_explained_everywhere_is_explained() -> None:
    """A symptom that stands alone in one case is told; one that always has its cause is not."""
    explained = finding("a", "b", role="symptom", explained_by=1, severity="high")
    alone = finding("a", "c", role="symptom", severity="high")
    told = summary_of(document(explained), document(alone), document({**alone, "explained_by": 1}))
    assert {f["receivers"][0]: f["explained"] for f in told["findings"]} == {"b": True, "c": False}


def test_the_order_of_the_cases_does_not_matter() -> None:
    """Whoever was done first: the findings are the same, and so are the trends."""
    cases = [
        document(finding(f"192.0.2.{n % 3}", f"198.51.100.{n % 2}", mtu_at_least=1000 + n, mtu_below=1500), day=f"2026-01-{n + 1:02}")
        for n in range(8)
    ] + [document()]  # fmt: skip
    one, other = summary_of(*cases), summary_of(*reversed(cases))
    for told in (one, other):
        for f in told["findings"]:
            f.pop("example")
            f["cases"] = len(f["cases"])
    assert one == other


def test_trends_are_by_destination_and_day() -> None:
    """Mails are counted where and when they were sent."""
    bad = [document(finding("192.0.2.1", "198.51.100.1", mtu_below=1500), day="2026-01-05") for _ in range(3)]
    told = summary_of(*bad, document(day="2026-01-06"))
    (destination,) = told["destinations"]
    assert (destination["end-of-data-timeout"], destination["delivered"]) == (3, 1)
    assert (destination["first_day"], destination["last_day"]) == ("2026-01-05", "2026-01-06")
    assert [(d["day"], d["end-of-data-timeout"], d["causes"]) for d in told["days"]] == [
        ("2026-01-05", 3, 1),
        ("2026-01-06", 0, 0),
    ]


def test_a_summary_with_failures_is_not_complete() -> None:
    """What could not be read is never counted as clean."""
    summary = Summary()
    summary.add(document(), "a", "a.pcap")
    assert summary.document()["complete"]
    summary.fail("b", "b.pcap", "its process was killed")
    assert not summary.document()["complete"]
