"""Recordings changed on purpose: facts and verdicts change exactly when they should.

What each mutation may change, and why, stands in sample_pcaps/lab/mutation_score.py, which also runs all mutations over
all recordings. Here a representative subset is held to it, and what concerns files rather than packets.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from analyzer.analysis import analyze
from analyzer.report.wording import headline

SAMPLES = Path(__file__).resolve().parents[2] / "sample_pcaps"


def lab(name: str) -> ModuleType:
    """A script of the laboratory as a module."""
    folder = SAMPLES / "lab"
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.get(name)
    if module is None:
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return module


mutate = lab("mutate")
score = lab("mutation_score")

SUBSET = [
    "blackhole-1400.sender", "blackhole-1400.middle", "blackhole-1400.receiver", "blackhole-no-sack.sender",
    "blackhole-ipv6-1400.sender", "blackhole-offload-8k.sender", "blackhole-70k.sender", "blackhole-reverse-ehlo.middle",
    "blackhole-by-size.receiver", "icmp-ignored.sender", "pmtud-working.sender", "pmtud-working-ipv6.middle",
    "recovered-probing-1.sender", "loss-5.sender", "loss-of-large.middle", "outage-mid-mail.sender", "split-at-3.sender",
    "pix-split-4-ack.sender", "masked-banner-by-server.sender", "clean-pipelining.sender", "clean-starttls.sender",
    "zero-window.sender", "bad-checksums.receiver", "duplicate-both-accepted.sender", "outage-offload.sender",
    "pmtud-working-late.sender", "route-changes-pmtud.sender", "firewall-after-envelope.middle", "pix-split-3-drop.sender",
]  # fmt: skip


def capture_of(stem: str) -> Path:
    return next(p for p in (SAMPLES / f"{stem}.pcap", SAMPLES / f"{stem}.pcapng") if p.exists())


def sidecar(capture: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(capture.with_suffix(".json").read_text())
    return data


@pytest.mark.parametrize("stem", SUBSET)
def test_mutations(stem: str) -> None:
    """No mutation makes a false black hole, a wrong certainty or a wrong bracket; nor any change it may not make."""
    capture = capture_of(stem)
    wrong = {
        name: (unsafe, changed, found)
        for name, (unsafe, changed, found) in score.judge(capture, sidecar(capture)).items()
        if (unsafe or changed) and (stem, name) not in score.UNDECIDABLE
    }
    assert wrong == {}


def test_every_mutation_has_an_expectation() -> None:
    """Each with its reason."""
    assert set(score.EXPECT) == set(mutate.MUTATIONS)
    assert all(change.why for change in score.EXPECT.values())


@pytest.mark.parametrize(("stem", "name"), score.UNDECIDABLE)
def test_what_is_undecidable_is_never_certain(stem: str, name: str) -> None:
    """Each with its reason; and still wrong, or it need not be listed."""
    assert score.UNDECIDABLE[stem, name]
    capture = capture_of(stem)
    unsafe, _, found = score.judge(capture, sidecar(capture), (name,))[name]
    assert unsafe
    assert "certain" not in found


def summary(case: Any) -> Any:
    return score.rows(case), score.path_rows(case), [m.outcome for m in case.messages]


@pytest.mark.parametrize("stem", ["outage-mid-mail.sender", "blackhole-1400.sender"])
def test_a_capture_of_resends_alone_is_neither_judged_nor_called_clean(stem: str, tmp_path: Path) -> None:
    """It begins when the data already hangs: a narrow path and a dead one look the same, and both are named."""
    capture = tmp_path / "late.pcap"
    capture.write_bytes(mutate.pcap(mutate.MUTATIONS["begins-after-loss"](mutate.load(capture_of(stem)))))
    case = analyze([str(capture)])
    assert case.findings == []
    assert headline(case)[0].startswith("Data hangs, and the cause can not be told")
    assert any("too narrow for them, or dead" in line for line in case.limits)


FORMATS = {
    "big-endian.pcap": lambda r: mutate.pcap(r, ">"),
    "nanoseconds.pcap": lambda r: mutate.pcap(r, nano=True),
    "big-endian-nanoseconds.pcap": lambda r: mutate.pcap(r, ">", nano=True),
    "plain.pcapng": mutate.pcapng,
    "big-endian.pcapng": lambda r: mutate.pcapng(r, ">"),
    "nanoseconds.pcapng": lambda r: mutate.pcapng(r, nano=True),
}


@pytest.mark.parametrize("stem", SUBSET[::3])
def test_file_formats(stem: str, tmp_path: Path) -> None:
    """Byte order, resolution and container say nothing about the mail."""
    capture = capture_of(stem)
    recording, expected = mutate.load(capture), summary(analyze([str(capture)]))
    for name, write in FORMATS.items():
        (tmp_path / name).write_bytes(write(recording))
        assert summary(analyze([str(tmp_path / name)])) == expected, name


@pytest.mark.parametrize("files", [2, 3, 7])
@pytest.mark.parametrize("stem", SUBSET[1::4])
def test_rotation(stem: str, files: int, tmp_path: Path) -> None:
    """A rotated set is one case, in whatever order its files are named."""
    capture = capture_of(stem)
    expected = summary(analyze([str(capture)]))
    names = []
    for i, part in enumerate(mutate.rotate(mutate.load(capture), files)):
        file = tmp_path / f"part{i}.pcap"
        file.write_bytes(mutate.pcap(part, nano=True))
        names.append(str(file))
    for order in (names, names[::-1], names[1:] + names[:1]):
        assert summary(analyze(order)) == expected


@pytest.mark.parametrize("guest", ["clean-pipelining.sender", "clean-starttls.sender"])
@pytest.mark.parametrize("stem", SUBSET[::4])
def test_clean_traffic_beside_it(stem: str, guest: str, tmp_path: Path) -> None:
    """Healthy mail of other hosts changes nothing about these."""
    capture = capture_of(stem)
    recording = mutate.load(capture)
    if recording.link_type != mutate.ETHERNET:
        pytest.skip("another link type")
    alone = analyze([str(capture)])
    file = tmp_path / "merged.pcap"
    file.write_bytes(mutate.pcap(mutate.merge(recording, mutate.load(capture_of(guest))), nano=True))
    merged = analyze([str(file)])
    guests = {p.sender for p in merged.paths} - {p.sender for p in alone.paths}
    assert score.rows(merged) == score.rows(alone)
    assert [row for row in score.path_rows(merged) if row[0] not in guests] == score.path_rows(alone)
    assert all(row[2] in ("no-fault", "unknown") for row in score.path_rows(merged) if row[0] in guests)


def cut_places(case: Any) -> list[tuple[int, ...]]:
    return [tuple(m.terminator.cut_at) for m in case.messages if m.terminator is not None]


@pytest.mark.parametrize(("origin", "by"), [(3, -2), (3, -1), (4, -3), (4, -2), (4, -1)])
def test_the_split_moved(origin: int, by: int, tmp_path: Path) -> None:
    """A cut at 4 moved by a byte is a cut at 3, one at 3 is one at 2: only inside `.CRLF` it is to blame."""
    place = origin + by
    capture = capture_of(f"split-at-{origin}.sender")
    before = analyze([str(capture)])
    assert (origin,) in cut_places(before)
    file = tmp_path / "moved.pcap"
    file.write_bytes(mutate.pcap(mutate.move_cut(mutate.load(capture), by), nano=True))
    after = analyze([str(file)])
    assert (place,) in cut_places(after)
    assert (origin,) not in cut_places(after)
    blamed = any(f.rule == "split-terminator" for f in after.findings)
    assert blamed == (place in (3, 4))
    assert [m.outcome for m in after.messages] == [m.outcome for m in before.messages]


def test_a_mutated_capture_is_what_it_claims(tmp_path: Path) -> None:
    """The mutations themselves: what comes out has right checksums wherever what went in had."""
    recording = mutate.load(capture_of("pmtud-working.middle"))
    for name in ("sequence-wrap", "other-addresses", "no-sack", "no-timestamps", "df-off", "ecn"):
        for before, after in zip(
            mutate.packets(recording), mutate.packets(mutate.MUTATIONS[name](recording)), strict=True
        ):
            if before.tcp is not None and _right(before):
                assert _right(after), name


def _right(p: Any) -> bool:
    """TCP checksum of a whole packet (RFC 9293 3.1)."""
    copy = mutate.Packet(p.done(), mutate.ETHERNET)
    before = bytes(copy.bytes)
    copy.sum_again()
    return before == bytes(copy.bytes)
