"""The command line: exit status, streams, and one clear line for every error."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from analyzer import api, case, cli
from analyzer.analysis import Options
from analyzer.capture.packets import CaptureInfo
from analyzer.errors import CaptureError, RuleError, ToolError

from .conftest import Run


def finding(severity: str = "critical", confidence: str = "certain", explained_by: int | None = None) -> case.Finding:
    return case.Finding(
        id=1, rule="pmtud-black-hole", title="Large packets vanish", role="cause", explained_by=explained_by,
        severity=severity, confidence=confidence, scope="path", sender="192.0.2.1", receiver="198.51.100.2",
        connections=(), messages=(), paths=(), evidence=(), facts={}, explanation="", against=(), rivals=(), remedies=(),
        fingerprint="0" * 16,
    )  # type: ignore[arg-type]  # fmt: skip


def a_case(*findings: case.Finding, complete: bool = True, interrupted: bool = False) -> case.Case:
    info = CaptureInfo(1, "x.pcap", "pcap", ["Ethernet"], frames=5, complete=complete)
    if not complete:
        info.problems.append("cut off in frame 6")
    return case.Case(captures=[info], findings=list(findings), interrupted=interrupted)


def wrapped(*findings: case.Finding) -> api.Case:
    return api.Case(a_case(*findings), Options())


@pytest.fixture
def analysed(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Lets `smtpscope analyze` find a given case, or fail with a given exception, whatever the captures hold."""

    def use(outcome: case.Case | BaseException) -> dict[str, Any]:
        seen: dict[str, Any] = {}

        def analyze(captures: list[str], *, progress: None, **options: Any) -> api.Case:
            seen.update(options, captures=captures)
            if isinstance(outcome, BaseException):
                raise outcome
            return api.Case(outcome, Options())

        monkeypatch.setattr(api, "analyze", analyze)
        return seen

    return use


@pytest.mark.parametrize(
    ("found", "options", "status"),
    [
        (a_case(), [], 0),
        (a_case(finding()), [], 0),
        (a_case(finding()), ["--fail-on", "critical"], 1),
        (a_case(finding("low")), ["--fail-on", "medium"], 0),
        (a_case(finding("high", "possible")), ["--fail-on", "low"], 0),
        (a_case(finding("high", "possible")), ["--fail-on", "low", "--min-confidence", "possible"], 1),
        (a_case(finding(explained_by=2)), ["--fail-on", "info"], 0),
        (a_case(complete=False), [], 3),
        (a_case(finding(), complete=False), ["--fail-on", "low"], 1),
        (a_case(finding(), interrupted=True), ["--fail-on", "low"], 130),
        (a_case(complete=False, interrupted=True), [], 130),
    ],
)
def test_exit_status_is_the_first_that_applies(
    analysed: Any, found: case.Case, options: list[str], status: int
) -> None:
    """Interrupted comes before a finding that counts, that before an incomplete capture, that before done."""
    analysed(found)
    assert cli.main(["analyze", "x.pcap", *options]) == status


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (RuleError("my.yaml:3: unknown fact stuk_s; did you mean stuck_s?"), 2, "my.yaml:3: unknown fact"),
        (CaptureError("x.pcap: not a capture"), 3, "x.pcap: not a capture"),
        (ToolError("tshark is not installed"), 3, "tshark is not installed"),
        (PermissionError(13, "Permission denied", "out.json"), 2, "out.json: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division by zero"), 3, "internal error: ZeroDivisionError"),
        (MemoryError(), 3, "internal error: MemoryError"),
    ],
)
def test_every_failure_is_one_line(
    analysed: Any, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str
) -> None:
    """Whatever goes wrong, stderr gets one line that begins with `smtpscope: error:`, and stdout nothing."""
    analysed(error)
    assert cli.main(["analyze", "x.pcap"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("smtpscope: error: ")
    assert line in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "COMMAND"),
        (["analyse"], "analyse"),
        (["analyze"], "CAPTURE"),
        (["analyze", "x", "--jsom", "-"], "did you mean --json?"),
        (["analyze", "x", "--port", "0"], "'0' is not a TCP port"),
        (["analyze", "x", "--port", "smtp"], "'smtp' is not a TCP port"),
        (["analyze", "x", "--jobs", "-1"], "--jobs"),
        (["analyze", "x", "--max-bytes", "1k"], "'1k' is not a whole number"),
        (["analyze", "x", "--fail-on", "bad"], "invalid choice: 'bad'"),
        (["analyze", "x", "--json", "no-such-folder/x.json"], "there is no folder no-such-folder"),
        (["analyze", "x", "--json", "."], "this is a folder"),
        (["analyze", "-", "--plots", "plots"], "name a file instead of -"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    """A wrong option is answered with one line that names it, before any capture is read."""
    try:
        status = cli.main(arguments)
    except SystemExit as leaving:
        status = leaving.code  # type: ignore[assignment]
    out, err = capsys.readouterr()
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("smtpscope: error: ")
    assert says in err


def test_options_reach_the_analysis(analysed: Any) -> None:
    """What is given on the command line arrives as the options of analyze(); what is not given is left to it."""
    seen = analysed(a_case())
    cli.main(["analyze", "a", "b", "--port", "26", "--port", "1025", "--all-tcp", "--max-bytes", "1000", "--quiet"])
    given = {"captures": ["a", "b"], "ports": [26, 1025], "all_tcp": True, "max_bytes": 1000}
    assert given.items() <= seen.items()


def test_json_on_stdout_leaves_the_text_out(analysed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`--json -` makes stdout one JSON document; warnings go to stderr."""
    analysed(a_case(finding(), complete=False))
    assert cli.main(["analyze", "x.pcap", "--json", "-"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out)["schema"] == "smtpscope/1"
    assert err == "smtpscope: error: x.pcap: cut off in frame 6\n"


def test_what_the_baseline_holds_does_not_count(analysed: Any, tmp_path: Path) -> None:
    """A finding of an earlier document is known; a new one still counts."""
    baseline = tmp_path / "known.json"
    baseline.write_text(wrapped(finding()).to_json())
    arguments = ["analyze", "x.pcap", "--quiet", "--fail-on", "low", "--baseline", str(baseline)]
    analysed(a_case(finding()))
    assert cli.main(arguments) == 0
    analysed(a_case(finding(), dataclasses.replace(finding(), id=2, fingerprint="1" * 16)))
    assert cli.main(arguments) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"findings": [{}]}', '{"findings": 3}'])
def test_a_baseline_of_another_kind_is_wrong_usage(
    analysed: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    """A file that is no earlier document is named, in one line with status 2."""
    file = tmp_path / "x.json"
    file.write_text(text)
    assert cli.main(["analyze", "x.pcap", "--baseline", str(file)]) == 2
    assert capsys.readouterr().err == f"smtpscope: error: {file}: not a document of smtpscope --json\n"


class TestConfiguration:
    """[tool.smtpscope] in the pyproject.toml of the working folder."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        return tmp_path

    def test_its_options_are_used_and_it_is_named(
        self, analysed: Any, capsys: pytest.CaptureFixture[str], folder: Path
    ) -> None:
        """Options from the file apply, and stderr says where they came from."""
        (folder / "pyproject.toml").write_text('[tool.smtpscope]\nport = [26, 27]\nall-tcp = true\nfail-on = "low"\n')
        seen = analysed(a_case(finding()))
        assert cli.main(["analyze", "x.pcap"]) == 1
        assert (seen["ports"], seen["all_tcp"]) == ([26, 27], True)
        assert (
            "[tool.smtpscope] in pyproject.toml: --port=26 --port=27 --all-tcp --fail-on=low" in capsys.readouterr().err
        )

    @pytest.mark.parametrize(
        "text",
        [
            '["tool" . smtpscope]\nfail-on = "low"\n',
            '[tool]\nsmtpscope.fail-on = "low"\n',
            'tool.smtpscope.fail-on = "low"\n',
            'tool = {smtpscope = {fail-on = "low"}}\n',
        ],
    )
    def test_however_it_is_written(self, analysed: Any, folder: Path, text: str) -> None:
        """TOML has many ways to name a table."""
        (folder / "pyproject.toml").write_text(text)
        analysed(a_case(finding()))
        assert cli.main(["analyze", "x.pcap"]) == 1

    def test_what_is_typed_wins(self, analysed: Any, folder: Path) -> None:
        """The command line stands after the file."""
        (folder / "pyproject.toml").write_text('[tool.smtpscope]\nfail-on = "low"\n')
        analysed(a_case(finding("medium")))
        assert cli.main(["analyze", "x.pcap", "--fail-on", "critical"]) == 0

    def test_it_can_be_left_out(self, analysed: Any, capsys: pytest.CaptureFixture[str], folder: Path) -> None:
        """--no-config reads nothing and says nothing."""
        (folder / "pyproject.toml").write_text("[tool.smtpscope\n")
        analysed(a_case())
        assert cli.main(["analyze", "x.pcap", "--no-config"]) == 0
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("[tool.smtpscope\n", "pyproject.toml: Expected"),
            ("[tool.smtpscope]\nfail_on = 'low'\n", "did you mean fail-on?"),
            ("[tool.smtpscope]\nfail-on = 'bad'\n", "invalid choice: 'bad'"),
        ],
    )
    def test_a_fault_in_it_is_one_line(
        self, capsys: pytest.CaptureFixture[str], folder: Path, text: str, says: str
    ) -> None:
        """A file that cannot be used is wrong usage: status 2, and what is wrong with it."""
        (folder / "pyproject.toml").write_text(text)
        try:
            status = cli.main(["analyze", "x.pcap", "--quiet"])
        except SystemExit as leaving:
            status = leaving.code  # type: ignore[assignment]
        assert status == 2
        assert says in capsys.readouterr().err

    def test_a_file_without_the_table_is_not_mentioned(
        self, analysed: Any, capsys: pytest.CaptureFixture[str], folder: Path
    ) -> None:
        """Somebody else's pyproject.toml changes nothing."""
        (folder / "pyproject.toml").write_text("[project]\nname = 'x'\n")
        analysed(a_case())
        assert cli.main(["analyze", "x.pcap"]) == 0
        assert capsys.readouterr().err == ""


def test_control_characters_do_not_reach_the_terminal(analysed: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A file name with an escape sequence or a line end is shown escaped, on one line."""
    analysed(CaptureError("\x1b[2Jevil\n.pcap: not a capture"))
    cli.main(["analyze", "x"])
    assert capsys.readouterr().err == "smtpscope: error: \\x1b[2Jevil\\n.pcap: not a capture\n"


def test_a_reader_that_goes_away_is_no_error(smtpscope: Run, samples: Path) -> None:
    """`smtpscope analyze ... | head -0` ends quietly with the status of the analysis."""
    reader, writer = os.pipe()
    os.close(reader)
    done = smtpscope(
        "analyze", samples / "blackhole-1400.sender.pcap", capture_output=False, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_is_one_line(smtpscope: Run, samples: Path) -> None:
    """An answer that cannot be written is an error, not silence."""
    with open("/dev/full", "w") as full:
        done = smtpscope(
            "analyze", samples / "blackhole-1400.sender.pcap", capture_output=False, stdout=full, stderr=subprocess.PIPE
        )
    assert (done.returncode, done.stderr) == (2, "smtpscope: error: No space left on device\n")


@pytest.mark.parametrize(
    ("closed", "command"),
    [
        ("stdout", "rules list"),
        ("stdout", "analyze blackhole-1400.sender.pcap"),
        ("stdout", "analyze --json - blackhole-1400.sender.pcap"),
        ("stderr", "rules show nothing"),
    ],
)
def test_a_closed_stream_is_no_traceback(samples: Path, closed: str, command: str) -> None:
    """A stream that the shell closed (`>&-`) ends in one line, or, when it is stderr, in silence."""
    number = {"stdout": 1, "stderr": 2}[closed]
    done = subprocess.run(
        f"exec {sys.executable} -m analyzer {command} {number}>&-", cwd=samples,
        shell=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr == (
        "smtpscope: error: stdout is closed: there is no place for the answer\n" if number == 1 else ""
    )


def test_interrupt_ends_with_130() -> None:
    """Control-C while reading says so in one line or in the report, with status 130 and no traceback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "analyzer", "analyze", "-"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        # a job in the background inherits that Control-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )  # fmt: skip
    time.sleep(2)  # it waits for its standard input
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


@pytest.mark.parametrize("code", ["import analyzer", "import analyzer.cli as c; c.parser().format_help()"])
def test_start_up_imports_nothing_heavy(code: str) -> None:
    """Importing the package, and the command line before it analyses, load neither numpy nor anything above it."""
    heavy = {"numpy", "pandas", "matplotlib", "pyshark", "jinja2", "rich", "yaml", "dpkt"}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    assert not heavy & set(done.stdout.split())


def test_analysing_a_small_capture_imports_nothing_heavy(samples: Path) -> None:
    """A capture is analysed with numpy, dpkt and yaml; pandas, matplotlib, pyshark and jinja2 stay out."""
    code = "import sys; from analyzer import cli; cli.main(['analyze', sys.argv[1]]); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(samples / "blackhole-1400.sender.pcap")],
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not {"pandas", "matplotlib", "pyshark", "jinja2", "asyncio"} & loaded


def test_the_command_ends_at_once_and_forgets_nothing(samples: Path) -> None:
    """What was registered for the exit is done and written, though Python does not take the process apart."""
    code = (
        "import atexit, sys; from analyzer import cli; atexit.register(print, 'last words');"
        "sys.argv = ['smtpscope', 'analyze', '--fail-on', 'low', sys.argv[1]];"
        "sys.modules['kept'] = type('Kept', (), {'__del__': lambda self: print('taken apart')})(); cli.command()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(samples / "blackhole-1400.sender.pcap")], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stdout.endswith("last words\n")


def damaged(capture: bytes) -> dict[str, bytes]:
    """The ways in which a file can be no capture, or no whole one; by file name."""
    record = capture[24:40]  # the first record's header: seconds, microseconds, captured, original (u4 each)
    return {
        "no-capture": b"hello\n",
        "empty": b"",
        "cut-in-the-file-header": capture[:20],
        "cut-in-a-record-header": capture[:30],
        "cut-in-a-record": capture[:3000],
        "record-longer-than-the-file": capture[:24] + record[:8] + b"\xff\xff\xff\x7f" + record[12:] + capture[40:],
        "unknown-link-type": capture[:20] + (3999).to_bytes(4, "little") + capture[24:],
    }


@pytest.mark.parametrize("kind", damaged(b""))
def test_a_bad_capture_is_one_line_and_status_3(smtpscope: Run, samples: Path, tmp_path: Path, kind: str) -> None:
    """What cannot be read, or not to its end, is said in one line; the capture is not called clean."""
    file = tmp_path / f"{kind}.pcap"
    file.write_bytes(damaged((samples / "blackhole-1400.sender.pcap").read_bytes())[kind])
    done = smtpscope("analyze", file)
    assert done.returncode == 3
    assert done.stderr.startswith(f"smtpscope: error: {file}: ")
    assert done.stderr.count("\n") == 1
    assert "Clean" not in done.stdout


@pytest.mark.parametrize("kind", ["missing.pcap", "folder", "no-match-*.pcap"])
def test_a_missing_capture_is_one_line_and_status_3(smtpscope: Run, tmp_path: Path, kind: str) -> None:
    """A path that does not exist, an empty folder and a pattern without a match are named."""
    (tmp_path / "folder").mkdir()
    done = smtpscope("analyze", tmp_path / kind)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
    assert str(tmp_path / kind) in done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_forbidden_capture_is_one_line_and_status_3(smtpscope: Run, samples: Path, tmp_path: Path) -> None:
    """No permission is said in one line."""
    file = tmp_path / "x.pcap"
    file.write_bytes((samples / "blackhole-1400.sender.pcap").read_bytes())
    file.chmod(0)
    done = smtpscope("analyze", file)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)


def test_one_bad_capture_does_not_spoil_the_others(smtpscope: Run, samples: Path, tmp_path: Path) -> None:
    """What can be read beside a bad file is reported, with status 3."""
    bad = tmp_path / "bad.pcap"
    bad.write_bytes(b"hello")
    done = smtpscope("analyze", bad, samples / "blackhole-1400.sender.pcap", "--json", "-")
    assert done.returncode == 3
    assert "pmtud-black-hole" in {finding["rule"] for finding in json.loads(done.stdout)["findings"]}


def test_a_capture_without_packets_is_done(smtpscope: Run, samples: Path, tmp_path: Path) -> None:
    """Only a file header: no SMTP is seen, and that is no error."""
    file = tmp_path / "header.pcap"
    file.write_bytes((samples / "blackhole-1400.sender.pcap").read_bytes()[:24])
    done = smtpscope("analyze", file)
    assert (done.returncode, done.stderr) == (0, "")
    assert "No SMTP" in done.stdout


def test_a_capture_can_come_through_a_pipe(smtpscope: Run, samples: Path) -> None:
    """`-` is stdin: the same findings as from the file."""
    file = samples / "blackhole-1400.sender.pcap"
    with file.open("rb") as stream:
        piped = smtpscope("analyze", "-", "--json", "-", stdin=stream)
    named = smtpscope("analyze", file, "--json", "-")
    assert json.loads(piped.stdout)["findings"] == json.loads(named.stdout)["findings"] != []


def test_an_answer_that_cannot_be_stored_is_one_line(smtpscope: Run, samples: Path) -> None:
    """A file that cannot be written is wrong usage: status 2 and its name."""
    done = smtpscope("analyze", samples / "blackhole-1400.sender.pcap", "--json", "/proc/x.json")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "/proc/x.json" in done.stderr


DOCUMENTS = ["json", "html", "markdown", "junit", "sarif"]


@pytest.fixture(scope="module")
def written(smtpscope: Run, samples: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Every document of the incident, redacted; the folder, and what was printed."""
    folder = tmp_path_factory.mktemp("written")
    targets = [argument for name in DOCUMENTS for argument in (f"--{name}", folder / name)]
    folders = ["--plots", folder / "plots", "--parquet", folder / "parquet"]
    done = smtpscope("analyze", samples / "incident.pcapng", "--redact", "--fail-on", "high", *targets, *folders)
    assert (done.returncode, done.stderr) == (1, "")
    return folder, done.stdout


def test_every_document_is_written(written: tuple[Path, str]) -> None:
    """One run writes all that is asked for; each names the black hole."""
    folder, text = written
    for name in DOCUMENTS:
        assert "pmtud-black-hole" in (folder / name).read_text(encoding="utf-8"), name
    assert "pmtud-black-hole" in text
    assert any((folder / "plots").glob("*pmtud-black-hole*.svg"))
    assert (folder / "parquet" / "findings.parquet").exists()


@pytest.mark.parametrize(
    ("folder", "page", "link"),
    [("out/tables", "out/report.html", "tables"), ("tables", "report.html", "tables"), ("/a/tables", "/a/b/x.html", "../tables"),
     ("tables/", "-", "tables")],
)  # fmt: skip
def test_the_page_finds_the_parquet_files_from_where_it_lies(folder: str, page: str, link: str) -> None:
    """The link is relative: page and tables may be moved together."""
    assert cli._from_page(folder, page) == link


def test_redacted_means_everywhere(written: tuple[Path, str], samples: Path) -> None:
    """With --redact no output holds an address, a host name or a file name of the capture."""
    folder, text = written
    outputs = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} | {
        Path("stdout"): text.encode()
    }
    for secret in (b"10.1.0.2", b"10.3.0.1", b"10.3.0.2", b"example.net", b"incident.pcapng"):
        for file, content in outputs.items():
            assert secret not in content, (file, secret)


def test_the_same_key_gives_the_same_pseudonyms(smtpscope: Run, samples: Path, tmp_path: Path) -> None:
    """Reports made with one --redact-key can be compared; without it they cannot."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    capture = samples / "blackhole-1400.sender.pcap"
    keyed = [smtpscope("analyze", capture, "--redact-key", key, "--json", "-").stdout for _ in range(2)]
    loose = [smtpscope("analyze", capture, "--redact", "--json", "-").stdout for _ in range(2)]
    assert keyed[0] == keyed[1]
    assert loose[0] != loose[1]


def test_junit_fails_what_counts(smtpscope: Run, samples: Path) -> None:
    """In JUnit the findings that count for --fail-on are failures, and no others."""
    strict = smtpscope("analyze", samples / "incident.pcapng", "--fail-on", "critical", "--junit", "-").stdout
    lenient = smtpscope("analyze", samples / "incident.pcapng", "--fail-on", "low", "--junit", "-").stdout
    assert 0 < strict.count("<failure") < lenient.count("<failure")


def test_annotate_writes_the_evidence(smtpscope: Run, samples: Path, tmp_path: Path) -> None:
    """`annotate` writes a pcapng in which smtpscope finds the same causes."""
    out = tmp_path / "out.pcapng"
    done = smtpscope("annotate", samples / "blackhole-1400.sender.pcap", "-o", out)
    assert (done.returncode, done.stderr) == (0, "")
    assert "comments" in done.stdout
    again = json.loads(smtpscope("analyze", out, "--json", "-").stdout)
    assert "pmtud-black-hole" in {finding["rule"] for finding in again["findings"]}


def test_annotate_needs_a_file(smtpscope: Run) -> None:
    """It reads packets again, so stdin is refused at once."""
    done = smtpscope("annotate", "-", "-o", "x.pcapng", stdin=subprocess.DEVNULL)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_version(smtpscope: Run) -> None:
    """`--version` names the program and the version of the package."""
    import analyzer

    assert smtpscope("--version").stdout == f"smtpscope {analyzer.__version__}\n"


def test_rules_list_names_every_rule(smtpscope: Run, samples: Path) -> None:
    """`rules list` has a line for every file of the built-in pack."""
    listed = [line.split()[0] for line in smtpscope("rules", "list").stdout.splitlines()]
    assert listed == sorted(file.stem for file in (samples.parent / "rules").glob("*.yaml"))


def test_a_rule_that_does_not_exist_is_answered_with_the_nearest(smtpscope: Run) -> None:
    """`rules show` with a misspelt id names the rule that was meant, in one line with status 2."""
    done = smtpscope("rules", "show", "pmtud-blackhole")
    assert (done.returncode, done.stdout) == (2, "")
    assert "pmtud-black-hole" in done.stderr


def test_examples_that_are_not_here_are_told_in_one_line(smtpscope: Run, samples: Path, tmp_path: Path) -> None:
    """A pack of a user's own is tried on the captures beside it."""
    rule = (
        (samples.parent / "rules" / "df-off.yaml")
        .read_text()
        .split("examples:")[0]
        .replace("id: df-off", "id: my-df-off")
    )
    (tmp_path / "my-df-off.yaml").write_text(rule + "examples:\n  fires_on: [mine.pcap]\n")
    done = smtpscope("rules", "test", tmp_path / "my-df-off.yaml")
    assert (done.returncode, done.stdout) == (
        3,
        "None of the 1 examples is here: the captures lie beside their rule files.\n",
    )
    (tmp_path / "mine.pcap").write_bytes((samples / "df-off.sender.pcap").read_bytes())
    done = smtpscope("rules", "test", tmp_path / "my-df-off.yaml")
    assert (done.returncode, done.stdout) == (0, "1 examples: 0 not as expected, 0 captures missing\n")


def test_a_broken_rule_file_says_where(smtpscope: Run, tmp_path: Path) -> None:
    """An unknown fact stops the program at once, with file and line, status 2."""
    original = (Path(cli.__file__).parents[1] / "rules" / "packet-loss.yaml").read_text()
    rule = tmp_path / "mine.yaml"
    rule.write_text(
        original.replace("id: packet-loss", "id: my-loss", 1).replace("when:", "when:\n  - stuk_sends > 3\nold:", 1)
    )
    done = smtpscope("rules", "list", "--rules", rule)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(f"smtpscope: error: {rule}:")
