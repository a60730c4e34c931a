"""The results as one Parquet dataset: a folder per table, in it a folder per day (day=2026-01-05, in UTC).

pandas, DuckDB and Spark read it as it lies, and skip the days that a question is not about:

    pandas.read_parquet("out/tables/findings")
    SELECT rule, count(DISTINCT "case") FROM read_parquet('out/tables/findings/*/*.parquet', hive_partitioning = true) GROUP BY rule
    spark.read.parquet("out/tables/findings")

The tables are those of `analyze --parquet` (columns in report/parquet.py), each with the column `case` before the others,
and three more: `cases`, a row per unit; `trends`, what happened to the mails of a day by destination; and `merged`, which
case belongs to which finding of summary.json. The day is that of a capture's first packet; captures without
any are under day=__HIVE_DEFAULT_PARTITION__, which readers take for null.

Partitions are made from the stored cases. One whose cases are the same as last time is left as it is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import UsageError
from ..report import parquet
from .folder import Folder, Task
from .summary import MAILS, Summary

NO_DAY = "__HIVE_DEFAULT_PARTITION__"  # what Hive, Spark, Arrow and DuckDB call a missing value

TABLES: dict[str, dict[str, str]] = {
    **{name: {"case": "text", **columns} for name, columns in parquet.TABLES.items()},
    "cases": {
        "case": "text", "names": "texts", "state": "text", "reason": "text", "size": "int", "complete": "bool", "file": "text",
        "first": "time", "last": "time", "captures": "int", "frames": "int", "bytes": "int", "connections": "int",
        "messages": "int", "hung": "int", "findings": "int", "summary": "texts",
    },
    "trends": {"destination": "text", "connections": "int", **dict.fromkeys(MAILS, "int")},
    "merged": {"finding": "int", "rule": "text", "case": "text"},
}  # fmt: skip

# Rows of cases that are held at a time: some ten megabytes.
CASES_AT_A_TIME = 500

Rows = dict[str, list[dict[str, Any]]]


def write(folder: Folder, days: dict[str, list[Task]], failed: Sequence[dict[str, Any]], summary: Summary) -> None:
    """The dataset of the cases by day ('' where there is none), of the units without a case, and of the summary."""
    root = folder.path / "tables"
    wanted: set[Path] = set()
    for day in sorted({*days, *([""] if failed else [])}):
        tasks, lost = days.get(day, []), list(failed) if not day else []
        files = {name: _partition(root, name, day) for name in ("cases", *parquet.TABLES)}
        mark = hashlib.sha256(repr([*(t.key for t in tasks), lost]).encode()).hexdigest()
        if not all(_is_marked(file, mark) for file in files.values()):
            _write_day(folder, files, tasks, lost, mark)
        wanted |= set(files.values())
    for name, parts in _of_summary(summary).items():
        for day, rows in parts.items():
            file = _partition(root, name, day) if name == "trends" else root / name / "part-0.parquet"
            _write_all(folder, {file: [parquet.arrow(rows, TABLES[name])]})
            wanted.add(file)
    _remove_others(root, wanted)


def _partition(root: Path, name: str, day: str) -> Path:
    return root / name / f"day={day or NO_DAY}" / "part-0.parquet"


def _is_marked(file: Path, mark: str) -> bool:
    import pyarrow.parquet as pq

    try:
        return bool((pq.read_schema(file).metadata or {}).get(b"smtpscope.cases") == mark.encode())
    except (OSError, ValueError):
        return False


def _write_day(
    folder: Folder, files: dict[str, Path], tasks: Sequence[Task], failed: list[dict[str, Any]], mark: str
) -> None:
    """All tables of one day, as many cases at a time as memory is meant to hold."""
    from contextlib import ExitStack

    import pyarrow.parquet as pq

    with ExitStack() as stack:
        writers: dict[str, Any] = {}
        for number in range(0, max(len(tasks), 1), CASES_AT_A_TIME):
            rows = _rows(folder, tasks[number : number + CASES_AT_A_TIME])
            if number == 0:
                rows["cases"] += failed
            for name, file in files.items():
                table = parquet.arrow(rows[name], TABLES[name])
                if name not in writers:
                    schema = table.schema.with_metadata({**table.schema.metadata, "smtpscope.cases": mark})
                    out = stack.enter_context(folder.written(file))
                    writers[name] = stack.enter_context(pq.ParquetWriter(out, schema, compression="zstd"))
                writers[name].write_table(table.replace_schema_metadata(writers[name].schema.metadata))


def _write_all(folder: Folder, files: dict[Path, list[Any]]) -> None:
    import pyarrow.parquet as pq

    for file, (table,) in files.items():
        with folder.written(file) as out:
            pq.write_table(table, out, compression="zstd")


def _rows(folder: Folder, tasks: Sequence[Task]) -> Rows:
    rows: Rows = {name: [] for name in ("cases", *parquet.TABLES)}
    for task in tasks:
        document = folder.document(task)
        for name, found in parquet.rows_of(document).items():
            rows[name] += [{"case": task.key, **row} for row in found]
        rows["cases"].append(_case_row(folder, task, document))
    return rows


def _case_row(folder: Folder, task: Task, document: dict[str, Any]) -> dict[str, Any]:
    captures = document["captures"]
    return {
        "case": task.key,
        "names": list(task.unit.names) if not folder.shared else [c["path"] for c in captures],
        "state": "done",
        "size": task.unit.size,
        "complete": document["complete"],
        "file": str(folder.case_file(task).relative_to(folder.path)),
        "first": min((c["first"] for c in captures if c["first"]), default=None),
        "last": max((c["last"] for c in captures if c["last"]), default=None),
        "captures": len(captures),
        "frames": sum(c["frames"] for c in captures),
        "bytes": sum(c["bytes"] for c in captures),
        "connections": len(document["connections"]),
        "messages": len(document["messages"]),
        "hung": sum(m["outcome"] in ("end-of-data-timeout", "lost-connection") for m in document["messages"]),
        "findings": len(document["findings"]),
        "summary": document["summary"],
    }


def _of_summary(summary: Summary) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """The tables that are about all cases, by day where they have one."""
    trends: dict[str, list[dict[str, Any]]] = {}
    for (day, server), tally in sorted(summary.trends.items()):
        trends.setdefault(day, []).append({"destination": server, **tally.document()})
    merged = [
        {"finding": number, "rule": finding.rule, "case": key}
        for number, finding in enumerate(summary.findings(), 1)
        for key in finding.cases
    ]
    return {"trends": trends, "merged": {"": merged}}


def _remove_others(root: Path, wanted: set[Path]) -> None:
    """Partitions of cases that this run is not about."""
    for file in list(_parquet_files(root)):
        if file not in wanted:
            file.unlink()
            with suppress(OSError):  # not empty
                file.parent.rmdir()


def _parquet_files(root: Path) -> Iterator[Path]:
    return root.glob("*/**/*.parquet")


def check() -> None:
    """Says before the work that a package is missing."""
    import importlib.util

    if importlib.util.find_spec("pyarrow") is None:
        raise UsageError("batch writes Parquet, which needs pyarrow: pip install 'smtpscope[parquet]'")
