"""For people: analyze() and the Case it gives, with DataFrames, plots and documents.

    >>> import analyzer
    >>> case = analyzer.analyze("sample_pcaps/blackhole-1400.sender.pcap")
    >>> case.findings.loc[0, "rule"]
    'pmtud-black-hole'
    >>> path = case.paths.set_index("verdict").loc["black-hole"]
    >>> bool(path["mtu_at_least"] <= 1400 < path["mtu_below"])
    True
    >>> lost = case.packets(connection=1).query("fate == 'lost'")
    >>> int(lost["ip_bytes"].min()) > 1400
    True

A `Case` wraps the data (`case.data`, see case.py) and reads packets again from the captures when asked for them.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from . import case as _case
from .errors import CaptureError, UsageError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .analysis import Options
    from .follow import Change
    from .report import pcapng
    from .tcp.delivery import Trace
    from .verify import Verification

PathLike = str | os.PathLike[str]


def analyze(
    captures: PathLike | Sequence[PathLike],
    *,
    progress: Callable[[int], None] | None = None,
    redact: bool = False,
    redact_key: PathLike | None = None,
    **options: Any,
) -> Case:
    """One case out of one or several captures: files, folders, globs, `-` for stdin, fsspec URLs.

    The options are the fields of `analyzer.analysis.Options`: ports, all_tcp, rules, max_bytes, jobs, ...
    `progress` is called now and then with the number of frames read so far. `redact` puts pseudonyms in the place of
    addresses and names, everywhere; with the key in the file `redact_key` they are the same in every case.
    What cannot be read does not raise: it stands in `case.captures` (complete is False there) and in `case.data.limits`.

        >>> case = analyze("sample_pcaps/clean-pipelining.sender.pcap")
        >>> case.messages["outcome"].value_counts().to_dict()["delivered"], case.findings.empty
        (4, True)
    """
    from . import analysis

    paths = [captures] if isinstance(captures, str | os.PathLike) else list(captures)
    chosen = make_options(analysis.Options, options)
    case = Case(analysis.analyze([os.fspath(path) for path in paths], chosen, progress), chosen)
    return case.redacted(redact_key) if redact or redact_key is not None else case


def follow(
    place: PathLike,
    tell: Callable[[Change], None],
    *,
    stop: Callable[[], bool] = lambda: False,
    redact: bool = False,
    redact_key: PathLike | None = None,
    **options: Any,
) -> Case:
    """The case of a capture that is still being written: a file, the folder or glob of a ring of files, `-` for stdin.

    `tell` gets each finding once when it can be proven, and again when it is worse, surer, or refuted (`Change.kind`:
    new, changed, gone). `stop` is asked several times a second; when it says so the case is closed. The options are
    those of `analyze`.
    """
    from . import analysis, follow
    from .report import redact as pseudonyms

    chosen = make_options(analysis.Options, options)
    key = pseudonyms.read_key(Path(redact_key)) if redact_key is not None else pseudonyms.new_key() if redact else None
    if key is None:
        return Case(follow.follow(os.fspath(place), chosen, tell, stop), chosen)
    found = follow.follow(os.fspath(place), chosen, tell, stop, lambda case: pseudonyms.redact(case, key))
    return Case(pseudonyms.redact(found, key), chosen, found=found)


def make_options(kind: type[Options], given: dict[str, Any]) -> Options:
    """The options as analysis wants them; an unknown name is answered with the nearest one."""
    known = kind._fields
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; there are: {', '.join(known)}"
            raise UsageError(f"analyze() has no option {name!r}{hint}")
    for name in ("ports", "rules", "maillog"):
        if name in given:
            given[name] = (frozenset if name == "ports" else tuple)(given[name])
    return kind(**given)


class Example(NamedTuple):
    """A capture that a rule names as its example, and what became of it."""

    rule: str
    capture: str
    must_fire: bool
    fired: bool | None  # None: the capture is not here

    @property
    def as_expected(self) -> bool:
        return self.fired == self.must_fire


def try_rules(packs: Sequence[str] = ()) -> Iterator[Example]:
    """Every example of the rules in `packs` (files or folders; none: the built-in pack), each tried on its capture.

    A capture is looked for beside the rule file, then among the project's samples.
    """
    from .detect import rule as rules

    samples = rules.built_in().parent / "sample_pcaps"
    fired_on: dict[Path, set[str]] = {}
    for rule in rules.load(packs, with_built_in=not packs):
        for name, must_fire in [*((n, True) for n in rule.fires_on), *((n, False) for n in rule.quiet_on)]:
            capture = next((p for p in (Path(rule.file).parent / name, samples / name) if p.exists()), None)
            if capture is None:
                yield Example(rule.id, name, must_fire, None)
                continue
            if capture not in fired_on:
                fired_on[capture] = {f.rule for f in analyze(capture, rules=packs).data.findings}
            yield Example(rule.id, name, must_fire, rule.id in fired_on[capture])


def fingerprints(document: PathLike) -> frozenset[str]:
    """The fingerprints of the findings in an earlier JSON document (`--baseline`)."""
    import json

    try:
        findings = json.loads(Path(document).read_text(encoding="utf-8"))["findings"]
        return frozenset(finding["fingerprint"] for finding in findings)
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{os.fspath(document)}: not a document of smtpscope --json") from None


class Case:
    """What one analysis found out, as DataFrames, plots and documents.

    The DataFrames have one row per finding, connection, ...; their columns are the fields documented in case.py, with
    UTC timestamps for times, nullable integers where the capture may not tell, and categoricals for closed vocabularies.
    """

    def __init__(self, data: _case.Case, options: Options, *, found: _case.Case | None = None) -> None:
        self.data = data
        self.options = options
        self._found = found or data  # with the real names and addresses, by which captures are read again

    @property
    def is_redacted(self) -> bool:
        """Whether pseudonyms stand for addresses and names. Files written from such a case may be read by others too."""
        return self._found is not self.data

    def redacted(self, key: PathLike | bytes | None = None) -> Case:
        """The same case with pseudonyms for addresses and names; the key is `key` itself, or the content of that file."""
        from .report import redact

        secret = key if isinstance(key, bytes) or key is None else redact.read_key(Path(key))
        return Case(redact.redact(self._found, secret), self.options, found=self._found)

    # -- tables --------------------------------------------------------------------------------------------------

    @cached_property
    def findings(self) -> pd.DataFrame:
        """One row per finding, causes first."""
        return self._table("findings")

    @cached_property
    def connections(self) -> pd.DataFrame:
        """One row per SMTP connection, and per connection that a finding names."""
        return self._table("connections")

    @cached_property
    def messages(self) -> pd.DataFrame:
        """One row per mail: envelope, size, how its end was cut, outcome."""
        return self._table("messages")

    @cached_property
    def paths(self) -> pd.DataFrame:
        """One row per direction of data between two hosts, with the bracket of its path MTU in bytes."""
        return self._table("paths")

    @cached_property
    def icmp(self) -> pd.DataFrame:
        """One row per ICMP error that quotes a TCP packet."""
        return self._table("icmp")

    @cached_property
    def captures(self) -> pd.DataFrame:
        """One row per capture: what could be read of it, and what could not."""
        return self._table("captures")

    @cached_property
    def log(self) -> pd.DataFrame:
        """One row per line of the mailers' logs that belongs to a connection, or tells of a mail that was not captured."""
        return self._table("log")

    @cached_property
    def what_if(self) -> pd.DataFrame:
        """One row per remedy for a path whose large packets die: which of the stuck mails it would have let through."""
        return self._table("what_if")

    def _table(self, name: str) -> pd.DataFrame:
        from .report import frames  # brings pandas: 0.3 s that the command line never pays

        table: pd.DataFrame = getattr(frames, name)(self.data)
        return table

    def packets(self, connection: int) -> pd.DataFrame:
        """The TCP packets of one connection in time order, read again from the captures.

        >>> packets = analyze("sample_pcaps/blackhole-1400.sender.pcap").packets(1)
        >>> packets.query("resend").groupby("fate", observed=True).size().to_dict()
        {'lost': 9}
        """
        from .report import frames

        return frames.packets(self.trace(connection))

    @property
    def can_read_again(self) -> bool:
        """False after reading stdin, and when a ring of files has turned since: its packets are gone."""
        paths = [capture.path for capture in self._found.captures]
        gone = any(path == "-" or not ("://" in path or os.path.exists(path)) for path in paths)
        return not gone and len(set(paths)) == len(paths)

    def trace(self, connection: int) -> Trace:
        """Both directions of one connection with the fate of every segment, read again from the captures."""
        return self.traces([connection])[connection]

    def traces(self, connections: Collection[int]) -> dict[int, Trace]:
        """The traces of several connections by id, read in one pass."""
        known = {connection.id: connection for connection in self.data.connections}
        for connection in connections:
            if connection not in known:
                raise UsageError(f"this case has no connection {connection}; it has 1 to {len(known)}")
        from . import analysis

        if any(capture.path == "-" for capture in self._found.captures):
            raise UsageError("a capture that came through stdin cannot be read again: name a file")
        if not self.can_read_again:
            raise CaptureError("the captures are not all there any more, so their packets cannot be read again")
        try:
            traces = analysis.traces(self._found, connections)
        except KeyError as error:
            raise CaptureError(error.args[0]) from None
        icmp = {(error.capture, error.frame): error for error in self.data.icmp}
        return {
            id: dataclasses.replace(
                trace,
                client=trace.client._replace(ip=known[id].client.ip),  # the same, or its pseudonym
                server=trace.server._replace(ip=known[id].server.ip),
                icmp=[icmp.get((error.capture, error.frame), error) for error in trace.icmp],
            )
            for id, trace in traces.items()  # noqa: A001 - it is called id everywhere in a case
        }

    @cached_property
    def proving_traces(self) -> dict[int, Trace]:
        """For each cause the connection that shows it best: the first in its evidence. None where packets are gone."""
        if not self.can_read_again:
            return {}
        shown = [
            next(
                iter([e.connection for e in finding.evidence if e.connection is not None] or finding.connections), None
            )
            for finding in self.data.findings
            if finding.role == "cause"
        ]
        return self.traces([connection for connection in dict.fromkeys(shown) if connection is not None])

    # -- plots ---------------------------------------------------------------------------------------------------

    @property
    def plot(self) -> Plots:
        """The plots of this case; each takes and returns matplotlib Axes."""
        return Plots(self)

    # -- documents -----------------------------------------------------------------------------------------------

    def to_text(self, path: PathLike | None = None, **style: Any) -> str:
        """The report as `smtpscope analyze` prints it; `style`: width in columns, color, quiet.

        >>> print(analyze("sample_pcaps/clean-auth.sender.pcap").to_text(quiet=True), end="")
        Clean: 1 of 1 mail delivered; no black hole, split end, mask or stall.
        """
        from .report import text

        return self._saved(text.render(self.data, **style), path)

    def to_json(self, path: PathLike | None = None) -> str:
        """The JSON document, schema smtpscope/1."""
        from .report import json

        return self._saved(json.render(self.data), path)

    def save_json(self, path: PathLike) -> None:
        """The JSON document into a file, line by line: one of many connections need not be in memory as a whole."""
        from .report import files

        with files.written(path, shared=self.is_redacted) as out:
            out.writelines(piece.encode("ascii") for piece in self.iter_json())

    def iter_json(self) -> Iterator[str]:
        """The JSON document piece by piece; a long one is made by as many processes as read the captures."""
        from .analysis import processors
        from .report import json

        return json.lines(self.data, processes=self.options.jobs or processors())

    def to_html(self, path: PathLike | None = None, *, plots: bool = True, tables: str | None = None) -> str:
        """The report as one HTML file that loads nothing from anywhere; with the plots that prove the causes.

        `tables`: the folder of `to_parquet` as seen from the page, to which it links where it leaves rows out.
        """
        from .report import html as page

        traces = self.proving_traces if plots else None
        return self._saved(page.render(self.data, traces=traces, plots=plots, tables=tables), path)

    def to_markdown(self, path: PathLike | None = None) -> str:
        """The report as Markdown, for an issue or a mail."""
        from .report import markdown

        return self._saved(markdown.render(self.data), path)

    def to_junit(self, path: PathLike | None = None, *, counting: Collection[_case.Finding] | None = None) -> str:
        """JUnit XML: a suite per capture, a test case per rule; the findings in `counting` are failures."""
        from .report import junit

        ids = None if counting is None else [finding.id for finding in counting]
        return self._saved(junit.render(self.data, list(self._rules()), ids), path)

    def to_sarif(self, path: PathLike | None = None, *, baseline: Collection[str] | None = None) -> str:
        """SARIF 2.1.0; `baseline` are the fingerprints of findings that were known before."""
        from . import __version__
        from .report import sarif

        return self._saved(sarif.render(self.data, __version__, self._rules(), baseline), path)

    def to_parquet(self, folder: PathLike) -> list[Path]:
        """One Parquet file per table in `folder`; the files written. Needs pyarrow (the extra `parquet`)."""
        from .report import parquet

        return parquet.write(self.data, Path(folder), shared=self.is_redacted)

    def to_pcapng(self, path: PathLike, *, keep_content: bool = False) -> pcapng.Written:
        """The packets that prove the findings, with the story as packet comments for Wireshark; mail content overwritten."""
        from .report import files, pcapng

        traces = self.traces(pcapng.connections_of(self.data))
        with files.written(path) as out:  # the addresses stay: this is never for everybody
            return pcapng.write(self._found, traces, out, keep_content=keep_content)

    def _saved(self, text: str, path: PathLike | None) -> str:
        """The text, written to `path` as well when there is one: for the owner alone unless redacted."""
        if path is not None:
            from .report import files

            files.write_text(text, path, shared=self.is_redacted)
        return text

    def _rules(self) -> dict[str, str]:
        """What was asked: id of each rule -> when it fires."""
        from .detect import rule

        return {r.id: r.about for r in rule.load(self.options.rules)}

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        data = self.data
        return (
            f"<Case: {len(data.captures)} captures, {len(data.connections)} connections, "
            f"{len(data.messages)} messages, {len(data.findings)} findings>"
        )

    def _repr_html_(self) -> str:
        """The verdict and the findings, for Jupyter. Every text may come from a capture, so everything is escaped."""
        from html import escape as say

        verdict = "".join(f"<p>{say(line)}</p>" for line in self.data.summary)
        limits = "".join(f"<li>{say(line)}</li>" for line in self.data.limits)
        limits = (
            f"<details><summary>What this capture cannot prove</summary><ul>{limits}</ul></details>" if limits else ""
        )
        rows = "".join(
            f"<tr><td>{f.id}</td><td>{say(f.severity)}</td><td>{say(f.confidence)}</td><td><code>{say(f.rule)}</code></td>"
            f"<td style='text-align:left'>{say(f.title)}</td><td>{say(f.sender or '')} → {say(f.receiver or '')}</td>"
            f"<td>{len(f.connections)}</td></tr>"
            for f in self.data.findings
        )
        head = "".join(
            f"<th>{name}</th>" for name in ("id", "severity", "confidence", "rule", "title", "from → to", "connections")
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>" if rows else ""
        return f"<div class='smtpscope'>{verdict}{table}{limits}</div>"

    # -- verdict -------------------------------------------------------------------------------------------------

    def verify(self, after: Case) -> Verification:
        """Whether the faults of this case are gone in `after`, taken after a repair: `.state`, `.checks`."""
        from . import verify

        return verify.verify(self.data, after.data)

    def counting(
        self, severity: _case.Severity, confidence: _case.Confidence = "likely", known: frozenset[str] = frozenset()
    ) -> list[_case.Finding]:
        """The findings that `--fail-on` counts: at or above both levels, explained by no other, not known (fingerprints)."""
        floor = _case.SEVERITIES.index(severity), _case.CONFIDENCES.index(confidence)
        return [
            f
            for f in self.data.findings
            if f.explained_by is None
            and f.fingerprint not in known
            and _case.SEVERITIES.index(f.severity) >= floor[0]
            and _case.CONFIDENCES.index(f.confidence) >= floor[1]
        ]


class Plots:
    """The plots of a case: `case.plot.sequence(3)`."""

    def __init__(self, case: Case) -> None:
        self._case = case

    def sequence(self, connection: int, ax: Axes | None = None, **style: Any) -> Axes:
        """Time-sequence graph: each segment with its fate, resends, ACK line, SACKs, window, ICMP."""
        from .report import plots

        return plots.sequence(self._case.trace(connection), ax=_shown(ax), **style)

    def size_fate(self, path: int, ax: Axes | None = None, **style: Any) -> Axes:
        """Packet sizes of a path against delivered or lost, with the bracket of its path MTU.

        >>> axes = analyze("sample_pcaps/blackhole-1400.sender.pcap").plot.size_fate(1)
        >>> axes.get_xlabel()
        'size of the IP packet on the wire (bytes)'
        """
        from .report import plots

        for candidate in self._case.data.paths:
            if candidate.id == path:
                return plots.size_fate(candidate, ax=_shown(ax), **style)
        raise UsageError(f"this case has no path {path}; it has 1 to {len(self._case.data.paths)}")

    def ladder(self, connection: int, ax: Axes | None = None, **style: Any) -> Axes:
        """The dialogue of a connection as arrows between two hosts, with times and the cuts of the mail's end."""
        from .report import plots

        return plots.ladder(self._case.trace(connection), ax=_shown(ax), **style)

    def sizes(self, destination: str, ax: Axes | None = None, **style: Any) -> Axes:
        """The mails to one server by size and outcome: a word passes, a hundred words do not."""
        from .report import plots

        return plots.sizes(self._case.data, destination, ax=_shown(ax), **style)

    def timeline(self, ax: Axes | None = None, **style: Any) -> Axes:
        """The mails of the case over time, by destination and outcome."""
        from .report import plots

        return plots.timeline(self._case.data, ax=_shown(ax), **style)

    def save(self, folder: PathLike) -> list[Path]:
        """The plots that prove the causes, each as PNG and SVG in `folder`; the files written."""
        from .report import plots

        return plots.write_plots(
            self._case.data, self._case.proving_traces, Path(folder), shared=self._case.is_redacted
        )


def _shown(ax: Axes | None) -> Axes:
    """The Axes given, or those of a new pyplot figure, which a notebook shows by itself and a script by plt.show()."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    from .report.plots import FIGURE_INCHES

    return plt.subplots(figsize=FIGURE_INCHES, layout="constrained")[1]
