"""The command smtpscope: arguments in, exit status out; no logic.

Exit status, the first that applies: 2 wrong usage, 130 interrupted, 1 a finding counts for --fail-on, 3 a capture could
not be read or not to its end, 0 done. Stdout carries the answer, stderr the progress and the warnings.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import __version__
from .errors import CaptureError, SmtpscopeError, UsageError

if TYPE_CHECKING:
    from .api import Case

DONE, COUNTED, USAGE, UNREADABLE, INTERRUPTED = 0, 1, 2, 3, 130  # 130 = 128 + SIGINT, as shells have it
NOT_EXERCISED = 4  # verify: what failed before was not tried; compare: nothing in common. So nothing is proven
SEVERITIES = ("info", "low", "medium", "high", "critical")  # as in case.py, which --help need not import
CONFIDENCES = ("possible", "likely", "certain")
CONFIGURATION = "pyproject.toml"
CLOSED = "stdout is closed: there is no place for the answer"
# Objects made between two looks for garbage: what is imported and read at the start is none, and there is much of it.
RARELY = 100_000
GIVEN = (
    "ports",
    "all_tcp",
    "rules",
    "max_bytes",
    "max_rows",
    "jobs",
    "keylog",
    "maillog",
    "log_timezone",
)  # options that the analysis takes
# Options of analyze that write one document each, with Case.to_NAME.
DOCUMENTS = ("json", "html", "markdown", "junit", "sarif")


def command() -> NoReturn:
    """`main` as a process of its own, which is gone when the answer is out.

    To take a case of a million objects apart, one by one, costs a large capture a tenth of a second; the system takes
    the memory back at once. What others have asked for at the exit is done, and streams that can not be flushed, or
    threads that still work, are left to Python's own way.
    """
    gc.set_threshold(RARELY)
    # NumPy's linear algebra, of which nothing is used here, starts threads that wait busily for work
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    kept = argparse.Namespace()
    status = main(into=kept)
    if threading.active_count() == 1:
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):
            for stream in filter(None, (sys.stdout, sys.stderr)):
                stream.flush()
            os._exit(status)
    sys.exit(status)


def main(argv: Sequence[str] | None = None, into: argparse.Namespace | None = None) -> int:
    """Runs one command; every failure is one line on stderr and an exit status. into: keeps what the command made."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # file names and captures hold what a terminal's encoding may not know
            stream.reconfigure(errors="backslashreplace")
    try:
        args = parser().parse_args(configured(sys.argv[1:] if argv is None else argv), into)
        status: int = args.run(args)
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED)
    except UsageError as error:
        return _fail(str(error), USAGE)
    except CaptureError as error:
        return _fail(str(error), UNREADABLE)
    except SmtpscopeError as error:
        return _fail(str(error), UNREADABLE)
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", USAGE)
    except Exception as error:  # the last line of defence: a user never sees a traceback
        if os.environ.get("SMTPSCOPE_DEBUG"):
            raise
        return _fail(
            f"internal error: {type(error).__name__}: {error} (SMTPSCOPE_DEBUG=1 shows where; please report it)",
            UNREADABLE,
        )
    return status


# -- commands ----------------------------------------------------------------------------------------------------


def analyze(args: argparse.Namespace) -> int:
    """One case out of one or several captures."""
    from . import api

    wanted = {name: target for name in DOCUMENTS if (target := getattr(args, name)) is not None}
    _check_targets(wanted)
    if args.plots and "-" in args.captures:
        raise UsageError("--plots reads packets again, which stdin does not allow; name a file instead of -")
    known = api.fingerprints(args.baseline) if args.baseline else frozenset()
    case = (_followed if args.follow else _analysed)(args, redact=args.redact, redact_key=args.redact_key)
    if args.follow and (args.html or args.plots) and not case.can_read_again:
        _tell("warning", "the packets are not all there any more: there are no plots")
        args.plots = None
    args.case = case
    gc.freeze()  # the case lives until the process ends: looking for garbage in it, again and again, costs a tenth
    counted = case.counting(args.fail_on, args.min_confidence, known) if args.fail_on else None
    settings: dict[str, dict[str, Any]] = {
        "html": {"tables": _from_page(args.parquet, args.html) if args.parquet and args.html else None},
        "junit": {"counting": counted},
        "sarif": {"baseline": known or None},
    }
    for name, target in wanted.items():
        if name == "json" and target != "-":
            case.save_json(target)
            continue
        if name == "json" and not args.follow:  # line by line: a long one is not in memory as a whole
            _write(case.iter_json(), "-")
            continue
        document: str = getattr(case, f"to_{name}")(**settings.get(name, {}))
        if name == "json" and args.follow:  # the last one of the lines
            import json

            document = json.dumps(json.loads(document)) + "\n"
        _write(document, target, shared=case.is_redacted)
    if args.parquet:
        case.to_parquet(args.parquet)
    if args.plots:
        case.plot.save(args.plots)
    if "-" not in wanted.values() and any(capture.frames or capture.complete for capture in case.data.captures):
        _write(case.to_text(**_style(args)), "-")
    return _status(case, counts=bool(counted))


def _from_page(folder: str, page: str) -> str:
    """The folder as a link in the page names it; a page on stdout is thought to be in the working folder."""
    return Path(os.path.relpath(folder, "." if page == "-" else os.path.dirname(page) or ".")).as_posix()


def annotate(args: argparse.Namespace) -> int:
    """The evidence as a capture with packet comments."""
    _check_targets({"output": args.output})
    if "-" in (*args.captures, args.output):
        raise UsageError("annotate reads packets again and writes a file: neither can be - (stdin, stdout)")
    case = _analysed(args)
    if not case.data.findings:
        _write("Nothing was found, so nothing was written.\n", "-")
        return _status(case)
    done = case.to_pcapng(args.output, keep_content=args.keep_content)
    _write(f"{args.output}: {done.frames} frames with {done.comments} comments\n", "-")
    if done.left_out:
        _tell(
            "warning", f"{len(done.left_out)} frames were left out: their content could not be found to be overwritten"
        )
    return _status(case)


def batch(args: argparse.Namespace) -> int:
    """Every capture set a case of its own, and a summary over all."""
    from . import batch as cases
    from .batch import told
    from .detect import rule as rules
    from .report import redact

    given = {name: value for name in ("ports", "all_tcp", "max_bytes") if (value := getattr(args, name))}
    settings = cases.Settings(
        **given | ({"ports": frozenset(args.ports)} if args.ports else {}),
        rules=cases.texts_of(args.rules or ()),
        redact_key=redact.read_key(args.redact_key) if args.redact_key else b"",
        time_limit_s=args.time_limit,
        memory_limit_bytes=args.memory_limit << 20,
        folder=os.getcwd(),
    )
    with _bar(quiet=args.quiet) as progress:
        result = cases.run(
            args.sources,
            args.out,
            settings,
            jobs=args.jobs,
            scheduler=args.scheduler,
            sets=not args.single,
            retry=args.retry,
            fail_on=args.fail_on,
            min_confidence=args.min_confidence,
            known=cases.fingerprints(args.baseline) if args.baseline else frozenset(),
            rules=[rule.id for rule in rules.load(args.rules or ())],
            progress=progress,
        )
    if result.done_before and not args.quiet:
        _tell("note", f"{result.done_before} cases were done before; nothing about them has changed")
    _write(told.text(result.summary), "-")
    if result.summary["interrupted"]:
        return _fail("interrupted; the same command goes on from here", INTERRUPTED)
    return COUNTED if result.counting else DONE if result.summary["complete"] else UNREADABLE


def verify(args: argparse.Namespace) -> int:
    """Whether a repair has helped."""
    from . import verify as repair

    _check_targets({"json": args.json} if args.json else {})
    key = _redaction_key(args)
    before, after = (_analysed(args, captures=[capture]) for capture in (args.before, args.after))
    if key:
        before, after = before.redacted(key), after.redacted(key)
    result = before.verify(after)
    if args.json:
        _write(repair.render_json(result), args.json, shared=bool(key))
    if args.json != "-":
        _write(repair.text(result), "-")
    if before.data.interrupted or after.data.interrupted:
        return INTERRUPTED
    if result.state == "still-broken":
        return COUNTED
    if not result.complete:
        return UNREADABLE
    return DONE if result.state == "fixed" else NOT_EXERCISED


def compare(args: argparse.Namespace) -> int:
    """The same traffic at two points or more."""
    from . import compare as points
    from .capture.reading import ReadOptions
    from .capture.wanted import DEFAULT_PORTS

    wanted = {name: target for name in ("json", "html") if (target := getattr(args, name)) is not None}
    _check_targets(wanted)
    if len(args.captures) < 2:
        raise UsageError("compare needs the captures of two points, the one nearer to the client first")
    key = _redaction_key(args)
    if "-" in args.captures:
        raise UsageError("compare reads packets again, which stdin does not allow; name a file instead of -")
    options = ReadOptions(
        ports=frozenset(args.ports) if args.ports else DEFAULT_PORTS, all_tcp=args.all_tcp, max_bytes=args.max_bytes
    )
    with _progress(quiet=args.quiet) as progress:
        result = points.compare(args.captures, options, progress)
    if key:
        result = points.redact(result, key)
    for point in result.points:
        for capture in point.captures:
            for problem in capture.problems:
                _tell("warning" if capture.complete else "error", f"{capture.path}: {problem}")
    for name, target in wanted.items():
        document = points.render_json(result) if name == "json" else points.render_html(result)
        _write(document, target, shared=bool(key))
    if "-" not in wanted.values():
        _write(points.text(result), "-")
    if not result.complete:
        return UNREADABLE
    return DONE if result.shared else NOT_EXERCISED


def _redaction_key(args: argparse.Namespace) -> bytes | None:
    """What pseudonyms are made with; None where nothing is to be hidden."""
    if not (args.redact or args.redact_key):
        return None
    from .report import redact

    return redact.read_key(args.redact_key) if args.redact_key else redact.new_key()


def _analysed(args: argparse.Namespace, captures: Sequence[str] | None = None, **settings: Any) -> Case:
    """The case of the captures named, with its troubles told on stderr."""
    from . import api

    given = {name: getattr(args, name) for name in GIVEN if name in args}
    with _progress(quiet=args.quiet) as progress:
        case = api.analyze(
            captures or args.captures,
            progress=progress,
            **settings,
            **{"jobs": 0, "ends": captures is None} | {name: value for name, value in given.items() if value},
        )
    _tell_troubles(case)
    return case


def _tell_troubles(case: Case) -> None:
    for capture in case.data.captures:
        for problem in capture.problems:
            _tell("warning" if capture.complete else "error", f"{capture.path}: {problem}")
    if case.data.interrupted:
        _tell("error", "interrupted; what follows is what was read until then")


def _followed(args: argparse.Namespace, **settings: Any) -> Case:
    """The case of a capture that grows, with each change told on the way; Control-C closes it."""
    from . import api
    from . import follow as running

    if len(args.captures) > 1:
        raise UsageError("--follow takes one place: a file, a folder, a glob in quotes, or - (stdin)")
    documents = [name for name in DOCUMENTS if getattr(args, name) == "-"]

    def tell(change: running.Change) -> None:
        if documents == ["json"]:
            _write(running.line(change), "-")
        elif documents:
            print(running.text(change), end="", file=sys.stderr, flush=True)
        else:
            _write(running.text(change), "-")

    if not args.quiet:
        _tell("note", f"following {args.captures[0]}; Control-C ends it with the report")
    given = {name: getattr(args, name) for name in GIVEN if name in args}
    with _closing_signals() as asked:
        case = api.follow(
            args.captures[0],
            tell,
            stop=lambda: bool(asked),
            **settings,
            **{name: value for name, value in given.items() if value},
        )
    _tell_troubles(case)
    if not documents and case.data.findings:
        _write("\n", "-")
    return case


@contextmanager
def _closing_signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM end up in the list; a second one does what it always does."""
    import signal

    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, frame: object) -> None:
        del frame
        asked.append(number)
        restore()

    for number in before:
        signal.signal(number, note)
    try:
        yield asked
    finally:
        restore()


def rules_list(args: argparse.Namespace) -> int:
    """The rules, one a line."""
    from .detect import rule as rules

    _write("".join(f"{rule.id:26} {rule.role:12} {rule.title}\n" for rule in rules.load(args.rules or ())), "-")
    return DONE


def rules_show(args: argparse.Namespace) -> int:
    """A rule's documentation, made from its file."""
    from .detect import rule as rules
    from .detect import rule_page

    _write(rule_page.render(rules.load(args.rules or ()).get(args.id)), "-")
    return DONE


def rules_test(args: argparse.Namespace) -> int:
    """Every rule's own examples; 1 when one is not as the rule says, 3 when a capture is missing."""
    from . import api

    tried = list(api.try_rules(args.packs))
    if tried and all(example.fired is None for example in tried):
        where = (
            "beside their rule files"
            if args.packs
            else "in sample_pcaps/ of a checkout of the project, not in the package"
        )
        _write(f"None of the {len(tried)} examples is here: the captures lie {where}.\n", "-")
        return UNREADABLE
    for example in tried:
        if not example.as_expected:
            must = "must fire" if example.must_fire else "must stay quiet"
            what = (
                "the capture is not here"
                if example.fired is None
                else "it does not"
                if example.must_fire
                else "it fires"
            )
            _write(f"{example.rule}: {must} on {example.capture}: {what}\n", "-")
    missing = sum(example.fired is None for example in tried)
    wrong = sum(not example.as_expected for example in tried) - missing
    _write(f"{len(tried)} examples: {wrong} not as expected, {missing} captures missing\n", "-")
    return COUNTED if wrong else UNREADABLE if missing else DONE


def _style(args: argparse.Namespace) -> dict[str, Any]:
    """How the text is to look: coloured and as wide as the terminal, or plain and 80 columns wide."""
    from .report.text import color_wanted

    if sys.stdout is None:
        raise UsageError(CLOSED)
    terminal, width = sys.stdout.isatty(), 80
    if terminal:
        from shutil import get_terminal_size

        width = min(get_terminal_size().columns, 100)  # beyond 100 columns prose gets hard to read
    return {"quiet": args.quiet, "color": color_wanted(sys.stdout, os.environ), "width": width}


def _status(case: Case, *, counts: bool = False) -> int:
    if case.data.interrupted:
        return INTERRUPTED
    if counts:
        return COUNTED
    return DONE if case.data.complete else UNREADABLE


# -- arguments ---------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line and name the nearest option."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **settings)

    def error(self, message: str) -> NoReturn:
        prefix = "unrecognized arguments: "
        if message.startswith(prefix):
            word = message.removeprefix(prefix).split()[0]
            near = get_close_matches(word.split("=")[0], self.every_option(), n=1)
            message = f"no such option: {word}" + (f"; did you mean {near[0]}?" if near else "")
        sys.exit(_fail(f"{message} (see {self.prog} --help)", USAGE))

    def every_option(self) -> list[str]:
        """The options of this parser and of all commands below it."""
        options = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    options += sub.every_option()
        return options


class _Formatter(argparse.HelpFormatter):
    """Help of the same width everywhere, so that the documentation can quote it."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=80)


def parser() -> _Parser:
    """The whole command line."""
    top = _Parser(prog="smtpscope", description="Reads a packet capture and says why the mail does not get through.")
    top.add_argument("--version", action="version", version=f"smtpscope {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_analyze(commands)
    _add_batch(commands)
    _add_compare(commands)
    _add_verify(commands)
    _add_annotate(commands)
    _add_rules(commands)
    return top


def _add_analyze(commands: Any) -> None:
    command = _command(
        commands,
        "analyze",
        analyze,
        "one case out of one or several captures",
        usage="smtpscope analyze [OPTION...] CAPTURE...",
        epilog="Exit status, the first that applies: 2 wrong usage; 130 interrupted; 1 a finding counts for --fail-on; "
        "3 a capture could not be read, or not to its end; 0 done.",
    )
    command.add_argument(
        "captures", nargs="+", metavar="CAPTURE", help="file, folder, glob, URL, or - for stdin; several are one case"
    )
    output = command.add_argument_group("output (FILE may be -, stdout; the text is then left out)")
    output.add_argument("--json", metavar="FILE", help="the case as JSON, schema smtpscope/1")
    output.add_argument("--html", metavar="FILE", help="the report as one HTML file, with its plots")
    output.add_argument("--markdown", metavar="FILE", help="the report as Markdown")
    output.add_argument("--junit", metavar="FILE", help="JUnit XML: a suite per capture, a test case per rule")
    output.add_argument("--sarif", metavar="FILE", help="SARIF 2.1.0, for code-scanning services")
    output.add_argument("--parquet", metavar="DIR", help="the tables as Parquet files (needs pyarrow)")
    output.add_argument("--plots", metavar="DIR", help="the plots that prove the causes, as PNG and SVG")
    _add_redaction(output)
    output.add_argument("--quiet", action="store_true", help="the verdict only, and no progress")
    what = _add_reading(command)
    what.add_argument(
        "--max-rows",
        metavar="N",
        type=_positive,
        help="judge at most N connections and mails, count the others (default: 200,000)",
    )
    what.add_argument(
        "--follow",
        action="store_true",
        help="a file, folder or pipe that is still being written: findings as they can be proven, the report on Control-C",
    )
    what.add_argument(
        "--keylog",
        metavar="FILE",
        help="secrets of TLS sessions (SSLKEYLOGFILE); what is inside is read through tshark",
    )
    what.add_argument(
        "--maillog",
        metavar="FILE",
        action="append",
        help="a log of the mailer on either side (Postfix, Exim, sendmail, Microsoft; may be compressed); may be repeated",
    )
    what.add_argument(
        "--log-timezone",
        metavar="ZONE",
        help="zone of times in the log: UTC, +01:00, Europe/Berlin (default: of this machine)",
    )
    verdict = _add_verdict(command)
    verdict.add_argument(
        "--baseline", metavar="FILE", help="an earlier --json document: the findings that it holds do not count"
    )
    command.add_argument(
        "--no-config", action="store_true", help=f"do not read [tool.smtpscope] in {CONFIGURATION} of this folder"
    )


def _add_batch(commands: Any) -> None:
    command = _command(
        commands,
        "batch",
        batch,
        "many captures, each a case of its own, and a summary over all",
        usage="smtpscope batch [OPTION...] SOURCE... --out DIR",
        epilog="The files of a rotated set are one case. What is done is not done again: after a crash, the same command "
        "goes on. Exit status as analyze; a capture that fails is reported (3) and does not stop the others.",
    )
    command.add_argument("sources", nargs="+", metavar="SOURCE", help="file, folder, glob or URL")
    command.add_argument(
        "--out", metavar="DIR", required=True, help="the results: cases/, tables/, summary.json, summary.md, junit.xml"
    )
    command.add_argument(
        "--scheduler", metavar="ADDRESS", help="work on the Dask cluster at this address, tcp://HOST:8786"
    )
    command.add_argument("--single", action="store_true", help="every file a case, rotated sets as well")
    command.add_argument("--retry", action="store_true", help="try again what failed before with the same limits")
    command.add_argument(
        "--time-limit", metavar="S", type=_positive, default=600, help="seconds for one case (default: 600)"
    )
    command.add_argument(
        "--memory-limit", metavar="MB", type=_positive, default=2048, help="memory for one case (default: 2048)"
    )
    command.add_argument(
        "--redact-key",
        metavar="FILE",
        help="pseudonyms in the place of addresses and names, equal in every case made with this secret file",
    )
    command.add_argument("--quiet", action="store_true", help="no progress")
    _add_reading(command, jobs="cases to work on at a time (default: one per processor)")
    _add_verdict(command).add_argument(
        "--baseline", metavar="FILE", help="an earlier summary.json: the findings that it holds do not count"
    )


def _add_compare(commands: Any) -> None:
    command = _command(
        commands,
        "compare",
        compare,
        "the same traffic captured at two points or more: what happened between them",
        usage="smtpscope compare [OPTION...] NEAR_CLIENT [BETWEEN...] NEAR_SERVER",
        epilog="Exit status, the first that applies: 2 wrong usage; 130 interrupted; 3 a capture could not be read, or not to "
        "its end; 4 the captures have nothing in common; 0 done.",
    )
    command.add_argument(
        "captures",
        nargs="+",
        metavar="CAPTURE",
        help="file, folder or glob of each point, the one nearest to the client first",
    )
    command.add_argument(
        "--json", metavar="FILE", help="the comparison as JSON, schema smtpscope-compare/1 (- is stdout)"
    )
    command.add_argument("--html", metavar="FILE", help="the comparison as one HTML file, with its plots")
    _add_redaction(command)
    command.add_argument("--quiet", action="store_true", help="no progress")
    _add_reading(command)


def _add_verify(commands: Any) -> None:
    command = _command(
        commands,
        "verify",
        verify,
        "after a repair: fixed, still broken, or not exercised",
        usage="smtpscope verify [OPTION...] BEFORE AFTER",
        epilog="Exit status, the first that applies: 2 wrong usage; 130 interrupted; 1 still broken; 3 a capture could not "
        "be read, or not to its end; 4 not exercised: what failed before was not tried again, so nothing is proven; 0 fixed.",
    )
    command.add_argument(
        "before", metavar="BEFORE", help="file, folder, glob or URL of the capture that shows the fault"
    )
    command.add_argument("after", metavar="AFTER", help="the same of the capture taken after the repair")
    command.add_argument("--json", metavar="FILE", help="the answer as JSON, schema smtpscope-verify/1 (- is stdout)")
    _add_redaction(command)
    command.add_argument("--quiet", action="store_true", help="no progress")
    _add_reading(command)


def _add_annotate(commands: Any) -> None:
    command = _command(
        commands,
        "annotate",
        annotate,
        "the evidence for Wireshark, with the findings as packet comments",
        usage="smtpscope annotate [OPTION...] CAPTURE... -o OUT.pcapng",
    )
    command.add_argument(
        "captures", nargs="+", metavar="CAPTURE", help="file, folder, glob or URL; several are one case"
    )
    command.add_argument("-o", "--output", metavar="OUT.pcapng", required=True, help="where to write")
    command.add_argument("--keep-content", action="store_true", help="leave the content of mails as it is")
    command.add_argument("--quiet", action="store_true", help="no progress")
    _add_reading(command)


def _add_verdict(command: argparse.ArgumentParser) -> Any:
    """What decides the exit status."""
    verdict = command.add_argument_group("exit status")
    verdict.add_argument(
        "--fail-on",
        metavar="LEVEL",
        choices=SEVERITIES,
        help="exit with 1 for a finding from this severity on: info, low, medium, high or critical (default: never)",
    )
    verdict.add_argument(
        "--min-confidence",
        metavar="LEVEL",
        choices=CONFIDENCES,
        default="likely",
        help="count only findings from this confidence on: possible, likely (default) or certain",
    )
    return verdict


def _add_reading(
    command: argparse.ArgumentParser, jobs: str = "processes to work with (default: one per processor)"
) -> Any:
    """What every command that analyses takes."""
    what = command.add_argument_group("what to look at")
    what.add_argument(
        "--port",
        dest="ports",
        metavar="N",
        type=_port,
        action="append",
        help="a port of SMTP; may be repeated (default: 25, 465, 587, 2525, and any port where SMTP is spoken)",
    )
    what.add_argument("--all-tcp", action="store_true", help="path-MTU causes for any TCP service")
    what.add_argument("--max-bytes", metavar="N", type=_positive, help="read at most N bytes of each capture, unpacked")
    what.add_argument("--jobs", metavar="N", type=_positive, help=jobs)
    _add_rule_packs(what)
    return what


def _add_redaction(command: Any) -> None:
    command.add_argument(
        "--redact", action="store_true", help="pseudonyms in the place of addresses and names, everywhere"
    )
    command.add_argument(
        "--redact-key", metavar="FILE", help="the same, equal in every report made with this secret file"
    )


def _add_rules(commands: Any) -> None:
    text = "the rules: list, show, test"
    actions = commands.add_parser("rules", help=text, description=f"{text.capitalize()}.").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    _add_rule_packs(_command(actions, "list", rules_list, "every rule, one a line"))
    show = _command(actions, "show", rules_show, "the documentation of one rule, made from its file")
    show.add_argument("id", metavar="ID", help="the id of the rule, as `rules list` gives it")
    _add_rule_packs(show)
    test = _command(actions, "test", rules_test, "every rule's own examples: where it must fire, where stay quiet")
    test.add_argument(
        "packs", nargs="*", metavar="PATH", help="rule files or folders to test (default: the built-in rules)"
    )


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], does: str, **settings: Any
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=does, description=does[0].upper() + does[1:] + ".", **settings
    )
    command.set_defaults(run=run)
    return command


def _add_rule_packs(command: Any) -> None:
    command.add_argument(
        "--rules",
        metavar="PATH",
        action="append",
        help="a rule file or folder beside the built-in rules; may be repeated",
    )


def _port(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a TCP port (1 to 65535)")


def _positive(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")


# -- configuration -----------------------------------------------------------------------------------------------


def configured(argv: Sequence[str]) -> list[str]:
    """The arguments, those of [tool.smtpscope] put before them, so that what is typed wins. Says which file was read.

    A key is the name of an option of `analyze`; true stands for an option without a value, a list for one that repeats.
    """
    arguments = list(argv)
    file = Path(CONFIGURATION)
    if arguments[:1] != ["analyze"] or "--no-config" in arguments or not file.is_file():
        return arguments
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{file}: {error} (--no-config leaves it out)") from None
    if "smtpscope" not in text:
        return arguments  # somebody else's file: the reader need not even be loaded
    import tomllib

    try:
        table = tomllib.loads(text).get("tool", {}).get("smtpscope")
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{file}: {error} (--no-config leaves it out)") from None
    if table is None:
        return arguments
    options = parser().every_option()
    chosen = []
    for key, value in table.items():
        if f"--{key}" not in options:
            near = get_close_matches(f"--{key}", options, n=1)
            hint = f"; did you mean {near[0][2:]}?" if near else ""
            raise UsageError(f"{file}: [tool.smtpscope] has {key!r}, which is no option of analyze{hint}")
        for item in value if isinstance(value, list) else [value]:
            chosen += [f"--{key}"] if item is True else [] if item is False else [f"--{key}={item}"]
    if "--quiet" not in arguments + chosen:
        _tell("note", f"options from [tool.smtpscope] in {file}: {' '.join(chosen)}")
    return ["analyze", *chosen, *arguments[1:]]


# -- streams -----------------------------------------------------------------------------------------------------


def _check_targets(wanted: dict[str, str]) -> None:
    """Says before the work, and not after it, that a document has no place to go."""
    if list(wanted.values()).count("-") > 1:
        raise UsageError("only one document can go to stdout (-)")
    for name, target in wanted.items():
        if target != "-" and not Path(target).parent.is_dir():
            raise UsageError(f"--{name} {target}: there is no folder {Path(target).parent}")
        if Path(target).is_dir():
            raise UsageError(f"--{name} {target}: this is a folder, a file is needed")


def _write(text: str | Iterable[str], target: str, *, shared: bool = False) -> None:
    """Writes to a file (mode 0600 unless `shared`), or to stdout for `-`; a reader that goes away early is no error."""
    if target != "-":
        from .report import files

        files.write_text("".join(text), target, shared=shared)
        return
    if sys.stdout is None:
        raise UsageError(CLOSED)
    try:
        sys.stdout.writelines([text] if isinstance(text, str) else text)
        sys.stdout.flush()
    except OSError as error:
        # What is still in the buffer must not fail once more when Python closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            raise


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[int], None] | None]:
    """A line on stderr with the frames read so far, renewed in place and gone at the end; only on a terminal."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    shown_at = time.monotonic()  # nothing is shown for what takes less than a quarter of a second

    def show(frames: int) -> None:
        nonlocal shown_at
        if (now := time.monotonic()) - shown_at > 0.25:
            shown_at = now
            print(f"\r{frames:,} frames read\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[Any], None] | None]:
    """How far a batch is, with rate and time left, on one line of stderr; only on a terminal."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    begun = shown_at = time.monotonic()

    def show(now: Any) -> None:
        nonlocal shown_at
        if (clock := time.monotonic()) - shown_at < 0.25 and now.done < now.of:
            return
        shown_at, took_s = clock, max(clock - begun, 1e-3)
        left_s = round(took_s / now.share * (1 - now.share))
        bar = "#" * int(20 * now.share)
        failed = f", {now.failed:,} failed" if now.failed else ""
        rate = f"{now.done:,} of {now.of:,} cases, {now.done / took_s:.1f}/s"
        left = f"{left_s // 3600}:{left_s // 60 % 60:02}:{left_s % 60:02} left"
        print(f"\r[{bar:20}] {rate}, {left}{failed}\x1b[K", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _fail(message: str, status: int) -> int:
    _tell("error", message)
    return status


def _tell(kind: str, message: str) -> None:
    """One line on stderr; where nobody listens, nothing is lost but the line."""
    with suppress(OSError):
        print(f"smtpscope: {kind}: {_one_line(message)}", file=sys.stderr, flush=True)


def _one_line(message: str) -> str:
    """Without line ends and control characters: file names and captures can hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
