"""What a unit of work is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from analyzer.batch import units
from analyzer.batch.driver import ordered
from analyzer.batch.folder import Task
from analyzer.batch.units import File, Unit
from analyzer.errors import UsageError


def sets_of(*names: str, size: int = 1000) -> list[list[str]]:
    files = [File(name, size, f"content of {name}", named=False) for name in names]
    return sorted(list(unit.names) for unit in units._sets(files))


@pytest.mark.parametrize(
    "names",
    [
        ["ring.pcap0", "ring.pcap1", "ring.pcap2"],
        ["d/ring.pcap", "d/ring.pcap1", "d/ring.pcap2", "d/ring.pcap10"],
        ["ring.pcap.1.gz", "ring.pcap.2.gz"],
        ["mail_00001_20260105090000.pcapng", "mail_00002_20260105091500.pcapng"],
        ["mail-2026-01-05_09:00:00.pcap", "mail-2026-01-05_10:00:00.pcap"],
        ["20260105-0900.pcap", "20260105-2300.pcap", "20260106-2300.pcap"],
        ["s3://bucket/a/t-20260105T090000.pcap.gz", "s3://bucket/a/t-20260105T100000.pcap.gz"],
        ["mail-2026-01-05_09:00:00.pcap", "mail-2026-01-05_09:00:00.pcap1", "mail-2026-01-05_10:00:00.pcap"],
    ],
)
def test_rotated_files_are_one_set(names: list[str]) -> None:
    """What tcpdump -C, -W, -G and dumpcap -b write is one case, in the order in which it was written."""
    assert sets_of(*reversed(names)) == [names]


@pytest.mark.parametrize(
    "names",
    [
        ["incident1.pcap", "incident2.pcap"],
        ["a/ring.pcap0", "b/ring.pcap1"],
        ["near.pcap", "far.pcap"],
        ["near_00001_20260105090000.pcapng", "far_00001_20260105090000.pcapng"],
        ["a-2026-01-05_09:00:00.pcap", "a-2026-01-05_09:00:00.pcapng"],
        ["mail-2026-01-05_09:00:00.pcap", "mail-2026-03-05_09:00:00.pcap"],
        ["10.1.0.2-25.pcap", "10.1.0.3-25.pcap"],
    ],
)
def test_other_files_are_cases_of_their_own(names: list[str]) -> None:
    """A number in a name does not make a set; nor do files of other folders, other prefixes, another month."""
    assert sets_of(*names) == sorted([name] for name in names)


def test_a_series_that_never_ends_is_cut() -> None:
    """A year of hourly files is not one unit: none grows beyond its size in bytes, and no file is lost."""
    names = [f"mail-202601{day:02}T{hour:02}0000.pcap" for day in range(1, 29) for hour in range(24)]
    cut = sets_of(*names, size=1 << 30)
    assert [name for part in cut for name in part] == names
    assert {len(part) for part in cut} == {4}


def test_a_key_tells_content_names_and_settings_apart() -> None:
    """A case is found again by everything that it depends on, and by nothing else."""
    unit = Unit((File("a.pcap", 10, "content", named=True),))
    assert unit.key("x") == Unit((File("a.pcap", 11, "content", named=False),)).key("x")
    assert unit.key("x") != unit.key("y")
    assert unit.key("x") != Unit((File("b.pcap", 10, "content", named=True),)).key("x")
    assert unit.key("x") != Unit((File("a.pcap", 10, "other content", named=True),)).key("x")


def test_content_is_the_bytes_and_not_the_time(tmp_path: Path, samples: Path) -> None:
    """A checkout that touches every file makes no work; one changed byte does."""
    copy = shutil.copy(samples / "blackhole-1400.sender.pcap", tmp_path / "a.pcap")
    (before,) = units.find([str(tmp_path)])
    os.utime(copy, (1, 1))
    assert units.find([str(tmp_path)]) == [before]
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    assert units.find([str(tmp_path)]) != [before]


def test_large_files_are_known_by_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file too large to be hashed in passing is another one when its time or its end changed."""
    monkeypatch.setattr(units, "HASHED_WHOLE_BYTES", 1 << 20)
    file = tmp_path / "large.pcap"
    data = bytearray(os.urandom(3 << 20))

    def content(time: int) -> str:
        file.write_bytes(data)
        os.utime(file, (time, time))
        return units._content(str(file), len(data))

    first = content(1)
    assert content(1) == first
    assert content(2) != first
    data[-1] ^= 1
    assert content(1) != first


def test_what_is_no_capture_is_passed_over_in_a_folder(tmp_path: Path, samples: Path) -> None:
    """A folder holds anything; only its captures are units."""
    shutil.copy(samples / "blackhole-1400.sender.pcap", tmp_path / "a.pcap")
    (tmp_path / "README").write_text("no capture")
    assert [unit.names for unit in units.find([str(tmp_path)])] == [(str(tmp_path / "a.pcap"),)]


@pytest.mark.parametrize("source", ["-", "/nowhere/at/all.pcap", "memory://nothing/there", "nonsense://x/y"])
def test_a_source_without_captures_is_wrong_usage(source: str) -> None:
    """A typing error is told before anything is done."""
    if source.startswith("memory"):
        pytest.importorskip("fsspec")
    with pytest.raises(UsageError):
        units.find([source])


def test_objects_are_units_without_being_opened(samples: Path) -> None:
    """A bucket's listing is all that is needed: names, sizes, marks of content."""
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for name in ("ring.pcap0", "ring.pcap1", "one.pcap"):
        memory.pipe(f"/bucket/{name}", name.encode())
    try:
        found = units.find(["memory://bucket"])
        assert [len(unit.files) for unit in found] == [1, 2]
        assert [unit.size for unit in found] == [8, 20]
    finally:
        memory.rm("/bucket", recursive=True)


def test_the_largest_come_first_and_the_middle_last() -> None:
    """No large unit is begun last, and small ones come in between."""
    tasks = [Task(Unit((File(f"{size}", size, "", named=True),)), f"{size}") for size in (5, 1, 4, 2, 3)]
    assert [task.unit.size for task in ordered(tasks)] == [5, 1, 4, 2, 3]
    assert ordered([]) == []
