"""The same traffic at two points and more: the stretch that loses, filters or rewrites is named, and nothing else is."""

from __future__ import annotations

import json
import re
import struct
from base64 import b64decode
from functools import lru_cache
from html import unescape
from pathlib import Path

import pytest

from analyzer import analyze, compare
from analyzer.capture.reading import ReadOptions
from analyzer.cli import main
from analyzer.compare.packets import clocks
from analyzer.compare.point import read_point
from analyzer.compare.same import flows

SAMPLES = Path(__file__).parents[2] / "sample_pcaps"
EVERY = ("sender", "middle", "receiver")
BOTH = ("sender", "receiver")


def files(name: str, points: tuple[str, ...]) -> list[str]:
    return [str(SAMPLES / f"{name}.{point}.pcap") for point in points]


@lru_cache
def comparison(name: str, points: tuple[str, ...] = EVERY) -> compare.Comparison:
    return compare.compare(files(name, points))


def faults(name: str, points: tuple[str, ...] = EVERY) -> set[tuple[str, tuple[int | None, int | None]]]:
    return {(s.kind, s.stretch) for s in comparison(name, points).statements if s.fault}


# In the lab the path is narrow behind the middle point; its ICMP filter sits there too, if no other place is named.
LARGE_LOST_BEHIND_THE_MIDDLE = [
    *("blackhole-1280-exim", "blackhole-1400", "blackhole-1420-swaks", "blackhole-1450-smtplib", "blackhole-1454"),
    *("blackhole-1476-reno", "blackhole-1480-bbr", "blackhole-1492", "blackhole-576", "blackhole-576-one-packet"),
    *("blackhole-587", "blackhole-70k", "blackhole-bdat", "blackhole-both-ways", "blackhole-by-size"),
    *("blackhole-client-hello", "blackhole-fragments-dropped", "blackhole-ipv6-1280", "blackhole-ipv6-1400"),
    *("blackhole-ipv6-only", "blackhole-jumbo-1500", "blackhole-layer-2", "blackhole-layer-2-df-off"),
    *("blackhole-lossy", "blackhole-nat", "blackhole-no-sack", "blackhole-no-timestamps", "blackhole-offload"),
    *("blackhole-offload-8k", "blackhole-retry", "blackhole-rtt-100", "blackhole-sent-in-pieces"),
    *("blackhole-server-gives-up", "blackhole-smtps-465", "blackhole-snaplen-68", "blackhole-snaplen-96"),
    *("blackhole-starttls", "route-changes", "recovered-probing-1"),
]


@pytest.mark.parametrize("name", LARGE_LOST_BEHIND_THE_MIDDLE)
def test_the_narrow_stretch_is_named(name: str) -> None:
    """Of two stretches the one that swallows large packets is named, and nothing is said against the other."""
    assert faults(name) == {("lost-by-size", (2, 3))}


@pytest.mark.parametrize("name", LARGE_LOST_BEHIND_THE_MIDDLE[:8])
def test_two_points_enclose_the_fault(name: str) -> None:
    """Sender and receiver alone tell as much as that it lies between them."""
    assert faults(name, BOTH) == {("lost-by-size", (1, 2))}


@pytest.mark.parametrize("name", ["blackhole-1400", "blackhole-nat"])
def test_a_fault_behind_the_last_point_is_placed_there(name: str) -> None:
    """Sender and middle see the same packets: they die beyond the middle."""
    assert faults(name, ("sender", "middle")) == {("lost-beyond", (2, None))}


@pytest.mark.parametrize(
    "name", ["blackhole-reverse-certificate", "blackhole-reverse-ehlo", "blackhole-reverse-greeting"]
)
def test_the_way_back_has_its_own_fault(name: str) -> None:
    """Large replies that die on the way to the client are no fault of the client's direction; nor are they rewritten."""
    assert faults(name) == {("lost-by-size", (1, 2))}
    assert "the server's large packets" in comparison(name).statements[0].text


def test_icmp_that_is_lost_names_its_filter() -> None:
    """The ICMP passes the middle and never comes to the sender: the filter is between them, the narrow link behind."""
    assert faults("icmp-lost-between") == {("lost-by-size", (2, 3)), ("icmp-lost", (1, 2))}


@pytest.mark.parametrize("name", ["icmp-ignored", "icmp-ignored-ipv6", "icmp-ignored-offload", "icmp-lost-between-nat"])
def test_icmp_that_came_to_the_sender_is_ignored_there(name: str) -> None:
    """The ICMP is seen at the first point and large packets go on: also when a translator rewrote what it quotes."""
    assert faults(name) == {("lost-by-size", (2, 3)), ("icmp-ignored", (None, 1))}


@pytest.mark.parametrize("name", ["pmtud-working", "pmtud-working-nat", "pmtud-working-ipv6", "pmtud-working-twice"])
def test_discovery_that_works_is_no_fault(name: str) -> None:
    """Large packets are lost, ICMP comes back, smaller ones follow: said, and not a fault."""
    assert faults(name) == set()
    assert {"lost-by-size", "icmp-made"} <= {s.kind for s in comparison(name).statements}


@pytest.mark.parametrize("name", ["loss-1", "loss-5", "loss-30", "blackout-12s", "loss-of-large"])
def test_loss_by_chance_is_not_loss_by_size(name: str) -> None:
    """Whatever is lost by chance, or for a time, is loss; no narrow link is invented."""
    assert {kind for kind, _ in faults(name, BOTH)} <= {"lost"}


def test_an_outage_is_placed() -> None:
    """Everything dies behind the middle, which the receiver's capture can not tell from its own end: said with care."""
    assert faults("outage-mid-mail") == {("lost", (2, 3))}
    assert "unless that capture had ended" in comparison("outage-mid-mail").statements[0].text


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("masked-banner", {"rewritten"}),
        ("masked-banner-two-lines", {"rewritten"}),
        ("pix-workaround", {"rewritten"}),
        ("esmtp-inspection", {"starttls-removed"}),
        ("esmtp-inspection-asa", {"rewritten", "starttls-removed"}),
        ("esmtp-inspection-ehlo-refused", {"rewritten"}),
        ("starttls-stripped", {"starttls-removed"}),
        ("pix-split-3-drop", {"end-of-mail-lost"}),
        ("pix-split-4-drop", {"end-of-mail-lost"}),
        ("pix-split-3-ack", {"end-of-mail-lost"}),
        ("pix-split-4-ack", {"end-of-mail-lost"}),
        ("pix-masked-split", {"rewritten", "end-of-mail-lost"}),
        ("masked-banner-by-server", set()),  # the server itself says so: the same at both points
        ("starttls-not-offered", set()),
        ("split-at-3", set()),
        ("mss-clamped", set()),
        ("server-hangs-at-end", set()),
        ("reordering", set()),
        ("df-off", set()),
        ("zero-window", set()),
    ],
)
def test_what_is_rewritten_between_two_points(name: str, kinds: set[str]) -> None:
    """A firewall is proven by what left the server and what came to the client; without one nothing is said."""
    assert {kind for kind, _ in faults(name, BOTH)} == kinds


def test_removed_starttls_is_certain() -> None:
    """One point can only suspect that STARTTLS was removed; two prove it, and the rule says so."""
    found = {f.rule: f for f in comparison("esmtp-inspection", BOTH).findings}
    assert found["starttls-stripped"].confidence == "certain"
    assert found["esmtp-inspection"].facts["starttls_masked"] == "certain"


def test_a_clamped_mss_is_told() -> None:
    """The MSS left as 1460 and arrived as 1360, in both directions."""
    changes = [c for s in comparison("mss-clamped", BOTH).stretches for c in s.changes if c.kind == "mss-changed"]
    assert {(c.from_client, c.before, c.after) for c in changes} == {
        (way, "MSS 1460", "MSS 1360") for way in (True, False)
    }


def test_translated_addresses_and_shifted_numbers_are_told() -> None:
    """NAT and a firewall that randomises sequence numbers: connections are recognised, and the change is named."""
    assert comparison("blackhole-nat").stretches[0].change("address-translated") is not None
    shifted = comparison("sack-shifted")
    assert shifted.shared == len(shifted.points[0].sightings)
    assert any(stretch.change("sequence-shifted") for stretch in shifted.stretches)


@pytest.mark.parametrize("name", ["blackhole-nat", "blackhole-1400"])
def test_the_order_of_the_points_is_found(name: str) -> None:
    """Points named from the server's side are turned round: the time to live tells which way the packets run."""
    assert compare.text(compare.compare(files(name, EVERY[::-1]))) == compare.text(comparison(name))


def test_captures_with_nothing_in_common_are_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The same hosts on the same day, other connections: nothing is joined, and the exit status is 4."""
    assert main(["compare", *files("blackhole-1400", ("sender",)), *files("clean-pipelining", ("sender",))]) == 4
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("The captures have nothing in common")


def test_unrelated_captures_are_never_joined() -> None:
    """Lab runs use the same hosts, ports and texts over and over; none is taken for another."""
    names = (
        "blackhole-1400",
        "split-at-4",
        "pix-split-4-drop",
        "pmtud-working",
        "loss-30",
        "clean-bulk",
        "blackhole-nat",
    )
    senders = [read_point(1, str(SAMPLES / f"{n}.sender.pcap"), ReadOptions()) for n in names]
    receivers = [read_point(2, str(SAMPLES / f"{n}.receiver.pcap"), ReadOptions()) for n in names if "clean" not in n]
    for a in senders:
        for b in receivers:
            joined = any(None not in flow for flow in flows([a, b])[0])
            same = Path(a.name).name.split(".")[0] == Path(b.name).name.split(".")[0]
            assert joined == same, (a.name, b.name)


def test_clocks_are_compared_by_the_traffic() -> None:
    """The second clock is 5 s ahead and 40 millionths too fast; packets need 10 to 12 ms there and 10 ms back."""
    there = [(t * 10**9, round(t * 10**9 * 1.00004) + 5 * 10**9 + 10_000_000 + t % 3 * 1_000_000) for t in range(90)]
    back = [
        (t * 10**9 + 20_000_000, round((t * 10**9 + 20_000_000) * 1.00004) + 5 * 10**9 - 10_000_000) for t in range(90)
    ]
    found = clocks(there, back)
    assert found is not None
    assert abs(found.offset_ns - 5 * 10**9) < 1_000_000
    assert found.skew_ppm == pytest.approx(40, abs=2)
    assert found.round_trip_s == pytest.approx(0.020, abs=0.001)


def test_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """JSON and HTML say what the text says; the page draws both captures and loads nothing."""
    page, document = tmp_path / "c.html", tmp_path / "c.json"
    assert main(["compare", *files("blackhole-nat", EVERY), "--html", str(page), "--json", str(document)]) == 0
    said = capsys.readouterr().out
    assert all(len(line) <= 80 for line in said.splitlines())
    parsed = json.loads(document.read_text())
    assert parsed["schema"] == "smtpscope-compare/1"
    assert parsed["verdict"][0]["kind"] == "lost-by-size"
    assert parsed["verdict"][0]["stretch"] == [2, 3]
    assert parsed["stretches"][1]["client_to_server"]["lost"] > 0
    html = page.read_text()
    assert "data:image/svg+xml;base64," in html
    assert "<script" not in html
    assert "large packets are lost" in html


@pytest.mark.parametrize("arguments", [["one.pcap"], ["-", "one.pcap"]])
def test_wrong_usage_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One point is not enough, and stdin can not be read twice."""
    assert main(["compare", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def with_clock(source: Path, target: Path, ahead_s: float, fast_ppm: float) -> str:
    """The same capture by another clock: so much ahead, and so much too fast (classic pcap, microseconds)."""
    data = bytearray(source.read_bytes())
    at, first = 24, None
    while at + 16 <= len(data):
        seconds, micros, captured, _ = struct.unpack_from("<IIII", data, at)
        time = seconds + micros / 1e6
        first = time if first is None else first
        moved = round((time + ahead_s + (time - first) * fast_ppm / 1e6) * 1e6)
        struct.pack_into("<II", data, at, *divmod(moved, 1_000_000))
        at += 16 + captured
    target.write_bytes(data)
    return str(target)


@pytest.mark.parametrize("ahead_s", [-3723.5, 0.25, 86_400.0])
def test_clocks_that_disagree_change_nothing(tmp_path: Path, ahead_s: float) -> None:
    """A clock a day ahead and 30 millionths too fast: the same verdict, and the offset is told."""
    sender, _, receiver = files("blackhole-nat", EVERY)
    moved = with_clock(Path(receiver), tmp_path / "blackhole-nat.receiver.pcap", ahead_s, 30)
    found = compare.compare([sender, moved])
    assert [s.text for s in found.statements] == [s.text for s in comparison("blackhole-nat", BOTH).statements]
    known = found.stretches[0].clocks
    assert known is not None
    assert known.offset_ns / 1e9 == pytest.approx(ahead_s, abs=0.01)


def test_other_services_are_compared_when_asked_for() -> None:
    """A web server's large answer dies beyond the first point: told with --all-tcp, and not looked at without."""
    web = files("http-blackhole", ("middle", "receiver"))
    found = compare.compare(web, ReadOptions(all_tcp=True))
    assert [(s.kind, s.stretch) for s in found.statements if s.fault] == [("lost-beyond", (None, 1))]
    assert compare.compare(web).statements[0].text.startswith("Nothing to compare: point 1")


def test_a_proxy_is_named_and_what_lies_behind_it() -> None:
    """Two connections are one: told by what was said. The black hole is behind the proxy, whatever the client sees."""
    found = comparison("blackhole-proxy")
    assert [(s.kind, s.stretch, s.fault) for s in found.statements] == [
        ("lost-by-size", (2, 3), True),
        ("changed", (1, 2), False),
    ]
    assert "begun anew by a proxy: 10.1.0.2" in found.statements[1].text
    assert {found.recognised_by(i) for i in range(2)} == {"content"}
    assert found.stretches[1].clocks is not None
    assert "a proxy is between" in " ".join(compare.text(found).split())


def test_what_a_proxy_took_and_did_not_pass_on_is_told() -> None:
    """Without a capture between: the proxy acknowledged the whole mail, and hardly a byte of it came out at the server."""
    found = comparison("blackhole-proxy", ("sender", "receiver"))
    assert found.shared == 2
    first = found.statements[0]
    assert (first.kind, first.stretch, first.fault) == ("lost", (1, 2), True)
    assert "the rest is lost behind the proxy" in first.text
    beyond = comparison("blackhole-proxy", ("sender", "middle"))
    assert [(s.kind, s.stretch) for s in beyond.statements if s.fault] == [("lost-beyond", (2, None))]


@pytest.mark.parametrize("name", ["blackhole-nat", "starttls-stripped", "masked-banner", "blackhole-proxy"])
def test_redaction_leaves_no_address_and_no_name(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In text, JSON and page; what was said of sizes and stretches stays, and the key gives the same pseudonyms as analyze."""
    points = tuple(p for p in EVERY if Path(files(name, (p,))[0]).exists())
    key, page, document = tmp_path / "key", tmp_path / "page.html", tmp_path / "compared.json"
    key.write_text("a secret that nobody knows")
    assert (
        main(["compare", *files(name, points), "--redact-key", str(key), "--html", str(page), "--json", str(document)])
        == 0
    )
    told = capsys.readouterr().out
    pictures = [b64decode(x).decode() for x in re.findall(r"svg.xml;base64,([\w+/=]+)", unescape(page.read_text()))]
    everything = "\n".join([told, document.read_text(), page.read_text(), *pictures])
    assert all(picture.rstrip().endswith("</svg>") for picture in pictures)
    assert not re.search(r"\b10\.[123]\.0\.\d|2001:db8:[123]:|example\.(org|net)|harbour", everything)
    assert f"{name}." not in everything  # of the files
    before = compare.document(compare.compare(files(name, points)))
    after = json.loads(document.read_text())
    assert [(s["kind"], s["stretch"]) for s in after["verdict"]] == [
        (s["kind"], s["stretch"]) for s in before["verdict"]
    ]
    assert [s["client_to_server"]["sizes"] for s in after["stretches"]] == [
        s["client_to_server"]["sizes"] for s in before["stretches"]
    ]
    case = analyze(files(name, points)[0], redact_key=key)
    assert case.data.connections[0].client.ip in document.read_text()


@pytest.mark.parametrize("name", ["blackhole-1400", "blackhole-nat"])
def test_three_points_named_in_any_order(name: str) -> None:
    """`smtpscope compare NAME.*.pcap`: the shell sorts by name; the routers between tell the order."""
    for points in (
        ("middle", "receiver", "sender"),
        ("sender", "receiver", "middle"),
        ("middle", "sender", "receiver"),
    ):
        assert compare.text(compare.compare(files(name, points))) == compare.text(comparison(name))
