"""Parquet tables, read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from analyzer.capture.packets import IcmpError
from analyzer.case import Case
from analyzer.report.json import document
from analyzer.report.parquet import TABLES, write

pq = pytest.importorskip("pyarrow.parquet")


def test_every_table_is_written_with_its_columns(no_smtp: Case, tmp_path: Path) -> None:
    """Also a table without rows: files of many cases can be read as one."""
    files = write(no_smtp, tmp_path)
    assert [f.stem for f in files] == list(TABLES)
    for file in files:
        assert pq.read_table(file).column_names == list(TABLES[file.stem])


def test_types_do_not_depend_on_the_data(incident: Case, no_smtp: Case, tmp_path: Path) -> None:
    """An empty case and a full one have the same schemas."""
    for full, empty in zip(write(incident, tmp_path / "a"), write(no_smtp, tmp_path / "b"), strict=True):
        assert pq.read_schema(full).equals(pq.read_schema(empty))


def test_the_tables_say_what_the_document_says(incident: Case, too_big: IcmpError, tmp_path: Path) -> None:
    """Every field of the JSON document is a column, with the same value; times keep their nanoseconds."""
    incident.icmp = [too_big]
    write(incident, tmp_path)
    told = document(incident)
    for name in ("captures", "connections", "messages", "paths", "findings", "icmp"):
        assert len(pq.read_table(tmp_path / f"{name}.parquet")) == len(told[name])
    connections = pq.read_table(tmp_path / "connections.parquet").to_pylist()
    assert connections[0]["server_ip"] == told["connections"][0]["server"]["ip"]
    assert json.loads(connections[0]["expected_log"]) == told["connections"][0]["expected_log"]
    times = pq.read_table(tmp_path / "connections.parquet")["start"].cast("int64").to_pylist()
    assert times == [c.start_ns for c in incident.connections]
    messages = pq.read_table(tmp_path / "messages.parquet").to_pylist()
    assert messages[3]["terminator_frames"] == told["messages"][3]["terminator"]["frames"]
    evidence = pq.read_table(tmp_path / "evidence.parquet").to_pylist()
    assert evidence[0]["finding"] == 1
    assert evidence[0]["display_filter"] == told["findings"][0]["evidence"][0]["display_filter"]


def test_no_field_of_the_document_is_left_out(incident: Case, too_big: IcmpError) -> None:
    """A field that is added to the document must be added to the tables."""
    incident.icmp = [too_big]
    told = document(incident)
    for name in ("captures", "connections", "messages", "paths", "findings", "icmp"):
        for field in told[name][0]:
            own_table = name == "findings" and field in TABLES
            assert own_table or any(c == field or c.startswith(f"{field}_") for c in TABLES[name]), f"{name}.{field}"


def test_hostile_text_is_data(hostile: Case, tmp_path: Path) -> None:
    """Strings arrive as they are; lone surrogates, which no file can hold, as U+FFFD."""
    write(hostile, tmp_path)
    banner = pq.read_table(tmp_path / "connections.parquet").to_pylist()[0]["banner"]
    assert "<script>" in banner
    assert "\ufffd" in banner
