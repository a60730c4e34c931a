"""What the tests of batches share: small captures, and a look at everything a batch wrote."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pyarrow import parquet

# Small, and of every kind: causes, symptoms, observations, a clean one, IPv6.
CHOICE = (
    "blackhole-1400.sender", "blackhole-1400.receiver", "blackhole-1280-exim.middle", "banner-decorated.sender",
    "loss-ipv6.sender", "bad-checksums.sender",
)  # fmt: skip


@pytest.fixture
def captures(tmp_path: Path, samples: Path) -> Path:
    """A folder of small captures."""
    folder = tmp_path / "captures"
    folder.mkdir()
    for name in CHOICE:
        shutil.copy(samples / f"{name}.pcap", folder)
    return folder


def everything(out: Path) -> dict[str, object]:
    """Every result by its name in the folder: all that must not depend on how the batch went. Nothing half-written.

    Documents byte by byte; tables row by row, since equal rows may be packed into different bytes.
    """
    files = {str(f.relative_to(out)): f for f in sorted(out.rglob("*")) if f.is_file()}
    assert not [name for name in files if name.endswith(".part")]
    return {
        name: sorted(map(repr, parquet.read_table(f, partitioning=None).to_pylist()))
        if f.suffix == ".parquet"
        else f.read_bytes()
        for name, f in files.items()
        if name not in (".lock", "journal.jsonl")
    }


def documents(out: Path) -> dict[str, bytes]:
    """The cases by the name of the capture."""
    return {f.name.rsplit("-", 1)[0]: f.read_bytes() for f in out.glob("cases/*/*.json")}
