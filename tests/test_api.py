"""The Python interface: DataFrames with real types, plots, documents, and a quick import."""

from __future__ import annotations

import asyncio
import dataclasses
import doctest
import html
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from matplotlib.text import Text

import analyzer
from analyzer import api, case, errors
from analyzer.capture.packets import CaptureInfo, IcmpError
from analyzer.case import Connection, Endpoint, Frame, Message, Terminator
from analyzer.report import frames

from .conftest import ROOT

NS = 1_700_000_000_123_456_789


def wrapped(**parts: Any) -> api.Case:
    return api.Case(case.Case(**parts), SimpleNamespace())  # type: ignore[arg-type]


def a_connection(**changes: Any) -> Connection:
    connection = Connection(
        id=1, client=Endpoint("192.0.2.1", 40001), server=Endpoint("2001:db8::25", 25), start_ns=NS, end_ns=NS + 5,
        frame_count=9, handshake_seen=True, closed_by="open", tls="none", banner=None, vantage="unknown",
        first_frame=Frame(1, 7),
    )  # fmt: skip
    return dataclasses.replace(connection, **changes)


def a_message(**changes: Any) -> Message:
    message = Message(
        id=1, connection=1, index=1, mail_from="a@example.org", recipients=("b@example.net",), size=8000, via="data",
        terminator=Terminator((3, 2), (3,), False, (Frame(1, 8), Frame(1, 9))), reply_code=None, outcome="unknown",
    )  # fmt: skip
    return dataclasses.replace(message, **changes)


# -- tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1])
def test_times_are_utc_timestamps_to_the_nanosecond(rows: int) -> None:
    """Times are datetime64[ns, UTC] columns without the `_ns` of their source, also in a table without rows."""
    table = wrapped(connections=[a_connection()] * rows).connections
    assert str(table["start"].dtype) == "datetime64[ns, UTC]"
    assert [stamp.value for stamp in table["start"]] == [NS] * rows


def test_what_the_capture_cannot_tell_is_missing_not_zero() -> None:
    """None stays missing: nullable integers, NaT, NaN and <NA>, never a number."""
    table = wrapped(messages=[a_message(terminator=None), a_message(reply_code=250)]).messages
    assert table["reply_code"].dtype == pd.Int64Dtype()
    assert table["reply_code"].isna().tolist() == [True, False]
    assert table["terminator_inferred"].isna().tolist() == [True, False]
    assert table["start"].isna().all()
    assert table["reply_delay_s"].dtype == "float64"


def test_closed_vocabularies_are_categoricals_with_every_value() -> None:
    """Counting outcomes gives a row for each, seen or not; severity and confidence can be compared."""
    table = wrapped(messages=[a_message(outcome="delivered")]).messages
    assert table["outcome"].value_counts()["end-of-data-timeout"] == 0
    findings = wrapped().findings
    assert findings["severity"].cat.ordered
    assert findings["severity"].cat.categories.tolist() == list(case.SEVERITIES)


def test_nested_fields_are_columns_of_their_own() -> None:
    """An endpoint gives _ip and _port, a terminator its cuts, a frame its capture and number."""
    case_ = wrapped(connections=[a_connection()], messages=[a_message()])
    assert case_.connections.loc[0, ["server_ip", "server_port", "first_frame"]].tolist() == ["2001:db8::25", 25, 7]
    assert case_.messages.loc[0, "terminator_cut_at"] == (3,)


def test_icmp_addresses_are_text() -> None:
    """128-bit addresses are shown as people write them, IPv4 as IPv4."""
    v4 = 0xFFFF << 32 | 0xC0000201
    error = IcmpError(NS, 1, 4, -1, 4, 3, 4, 1400, v4, v4 + 1, 63, v4 + 1, v4 + 2, 40001, 25, None, 1500, True)
    row = wrapped(icmp=[error]).icmp.loc[0]
    assert (row["src"], row["quoted_dst"], row["mtu"]) == ("192.0.2.1", "192.0.2.3", 1400)
    assert pd.isna(row["quoted_seq"])


@pytest.mark.parametrize(
    ("row_type", "table"),
    [
        (case.Connection, "connections"),
        (case.Message, "messages"),
        (case.Path, "paths"),
        (case.Finding, "findings"),
        (CaptureInfo, "captures"),
        (IcmpError, "icmp"),
        (case.LogLine, "log"),
        (case.WhatIf, "what_if"),
    ],
)
def test_every_field_of_the_case_is_a_column(row_type: type, table: str) -> None:
    """No field of case.py is left out of its table, and an empty table has all columns."""
    columns = " ".join(getattr(wrapped(), table).columns)
    for name in getattr(row_type, "_fields", None) or [field.name for field in dataclasses.fields(row_type)]:
        assert name.removesuffix("_ns").removesuffix("_frame") in columns


def test_fates_have_a_name_for_every_code() -> None:
    """The codes of a segment's fate that tcp.delivery gives are the positions of their names here."""
    from analyzer.tcp import delivery

    codes = [delivery.NO_PAYLOAD, delivery.ACKED, delivery.SACKED, delivery.LOST, delivery.UNKNOWN]
    assert [frames.FATES[code] for code in codes] == ["no payload", "acked", "sacked", "lost", "unknown"]


# -- the package -------------------------------------------------------------------------------------------------


def test_every_public_name_exists() -> None:
    """What __all__ promises can be imported."""
    for name in analyzer.__all__:
        assert getattr(analyzer, name) is not None
    assert dir(analyzer) == sorted(analyzer.__all__)


def test_an_unknown_option_is_answered_with_the_nearest() -> None:
    """A misspelt option of analyze() is a UsageError that names the right one."""
    with pytest.raises(errors.UsageError, match="did you mean all_tcp"):
        analyzer.analyze("x.pcap", all_tpc=True)


def test_an_unknown_connection_is_a_clear_error() -> None:
    """Asking for a connection or path that the case does not have says what it has."""
    with pytest.raises(errors.UsageError, match="no connection 7"):
        wrapped(connections=[a_connection()]).packets(7)
    with pytest.raises(errors.UsageError, match="no path 3"):
        wrapped().plot.size_fate(3)


def test_jupyter_shows_hostile_text_harmlessly() -> None:
    """Nothing from a capture is markup in a notebook."""
    evil = "<script>alert(1)</script>"
    shown = wrapped(summary=[evil], limits=[evil])._repr_html_()
    assert evil not in shown
    assert html.escape(evil) in shown


def test_counting_leaves_out_what_a_cause_explains() -> None:
    """A symptom that a cause explains does not count a second time."""
    from .test_cli import finding

    case_ = wrapped(findings=[finding("critical"), finding("high", explained_by=1), finding("high", "possible")])
    assert [f.severity for f in case_.counting("low")] == ["critical"]
    assert len(case_.counting("low", "possible")) == 2


# -- on a real capture -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def black_hole(samples: Path) -> api.Case:
    return analyzer.analyze(samples / "blackhole-1400.sender.pcap")


def test_docstring_examples_are_true(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples in the docstrings of the interface give what they show."""
    monkeypatch.chdir(ROOT)
    results = doctest.testmod(api)
    assert results.attempted
    assert not results.failed


def test_a_black_hole_is_found_from_python(black_hole: api.Case) -> None:
    """analyze() gives the finding with a path-MTU bracket that holds the true value, 1400."""
    assert "pmtud-black-hole" in black_hole.findings["rule"].tolist()
    path = black_hole.paths.set_index("verdict").loc["black-hole"]
    assert path["mtu_at_least"] <= 1400 < path["mtu_below"]


def test_packets_are_read_again_on_demand(black_hole: api.Case) -> None:
    """packets() gives both directions in time order, with as many frames as the connection has."""
    packets = black_hole.packets(connection=1)
    assert packets["time"].is_monotonic_increasing
    assert len(packets) == black_hole.connections.loc[0, "frame_count"]
    assert set(packets["sender"]) == {"client", "server"}
    assert (packets["resend"] & (packets["fate"] == "lost")).any()


def test_plots_take_and_return_axes(black_hole: api.Case) -> None:
    """A plot draws into the Axes given to it, and gives them back."""
    from matplotlib.figure import Figure

    for draw, argument in (
        (black_hole.plot.sequence, [1]),
        (black_hole.plot.size_fate, [1]),
        (black_hole.plot.ladder, [1]),
        (black_hole.plot.sizes, ["10.3.0.2"]),
        (black_hole.plot.timeline, []),
    ):
        ax = Figure().add_subplot()
        assert draw(*argument, ax=ax) is ax
        assert ax.has_data()


def test_redacted_plots_name_nobody(black_hole: api.Case) -> None:
    """Packets are read again by their real addresses, and drawn with the pseudonyms."""
    ax = black_hole.redacted().plot.sequence(1)
    words = " ".join(text.get_text() for text in ax.figure.findobj(Text))
    assert "10.1.0.2" not in words
    assert "10.1.0.2" in " ".join(text.get_text() for text in black_hole.plot.sequence(1).figure.findobj(Text))


def test_plots_are_saved_as_png_and_svg(black_hole: api.Case, tmp_path: Path) -> None:
    """save() writes each proof of a cause twice, and names the files."""
    written = black_hole.plot.save(tmp_path / "plots")
    assert sorted(written) == sorted((tmp_path / "plots").iterdir())
    assert {file.suffix for file in written} == {".png", ".svg"}
    assert any("pmtud-black-hole" in file.name for file in written)


def test_documents_are_texts_and_files(black_hole: api.Case, tmp_path: Path) -> None:
    """Each to_...() gives the document, and writes the same to a file when asked."""
    for name in ("text", "json", "html"):
        file = tmp_path / f"report.{name}"
        document = getattr(black_hole, f"to_{name}")(file)
        assert file.read_text(encoding="utf-8") == document
        assert "10.3.0.2" in document


def test_it_works_inside_a_running_event_loop(samples: Path) -> None:
    """Jupyter runs an event loop of its own; analysing inside one is the same."""

    async def notebook_cell() -> api.Case:
        return analyzer.analyze(samples / "blackhole-1400.sender.pcap")

    assert len(asyncio.run(notebook_cell()).findings)


def test_several_captures_can_be_paths_or_text(samples: Path) -> None:
    """A list may mix strings and paths; one string is one capture and not a list of letters."""
    one = samples / "blackhole-1400.sender.pcap"
    assert len(analyzer.analyze([str(one), samples / "blackhole-1400.receiver.pcap"]).captures) == 2
    assert len(analyzer.analyze(str(one)).captures) == 1


def test_the_log_and_the_remedies_are_tables(samples: Path) -> None:
    """Lines of the mailer's log by mail, and what each remedy would have done for it."""
    log = samples / "blackhole-1400.maillog"
    found = api.analyze(samples / "blackhole-1400.sender.pcap", maillog=[str(log)], log_timezone="UTC")
    assert set(found.log["said"]) >= {"received", "deferred"}
    assert found.log["message"].dtype == "Int64"
    assert list(found.log["side"].cat.categories) == ["client", "server"]
    assert {"mss-clamp", "mtu-probing"} <= set(found.what_if["remedy"])
    assert found.what_if.query("helps == 'yes'")["through"].map(len).max() == 1
