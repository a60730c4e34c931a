"""Mail logs and key files that are meant to hurt, or are none."""

from __future__ import annotations

import gzip
import json
import random
import sys
import time
import zlib
from pathlib import Path

import pytest

from analyzer import analysis, cli
from analyzer.maillog import stamps, words

from .peak import measured

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "sample_pcaps" / "blackhole-1400.sender.pcap"
STAMP = "Nov 22 10:00:00 mx "
# What the patterns look for, or stop at.
ATOMS = ["relay=", "H=", "H=(", "from ", "from (", "<", "[", "[a", "[1:", "to=<", '"', " ", "(", ") ", "OK id=", "2.0.0 A",
         "xdelay=1", "a", "queued as ", "from a (", "H=a (", "relay=a.[", "\\", "\u202e"]  # fmt: skip
OPENINGS = ["", "ABCDEF0: ", "1abcde-000001-0A => ", "abcdefghijklmn0: to=<a>, stat=", "to=<a> status=sent ", "SMTP "]


def understood(text: str) -> list[words.Entry | None]:
    lines = stamps._lines("log", iter([text]), None, None)
    return [words.understand(line) for line in lines]


@pytest.mark.parametrize("program", ["postfix/smtp[1]: ", "postfix/smtpd[1]: ", "exim[1]: ", "sendmail[1]: "])
def test_no_line_takes_long(program: str) -> None:
    """Patterns try each place once, or a few hundred times: milliseconds for the longest line."""
    for opening in OPENINGS:
        for atom in ATOMS:
            begun = time.process_time()
            understood(STAMP + program + opening + atom * 4096)
            assert time.process_time() - begun < 0.2, (opening, atom)


def test_a_log_is_what_it_is() -> None:
    """Bytes of any kind, dates that there are not, lines without ends: nothing that is understood, and no complaint."""
    noise = random.Random(1)
    for text in (
        "9999-99-99T99:99:99.9+99:99 mx postfix/smtp[1]: x", "Feb 30 25:61:61 mx postfix/smtp[1]: x", "\r" * 5000,
        "\0" * 5000, "#Fields: " + "," * 5000, "0001-01-01T00:00:00-14:00 mx postfix/smtp[1]: connect",
        noise.randbytes(5000).decode("utf-8", "surrogateescape"),
    ):  # fmt: skip
        assert not [entry for entry in understood(text) if entry and entry.peer], text[:40]


def test_a_line_as_long_as_its_bomb(tmp_path: Path) -> None:
    """Half a gigabyte in one line, packed: read as far as a line is looked at, in little memory."""
    log = tmp_path / "log.gz"
    pack = zlib.compressobj(9, wbits=31)
    log.write_bytes(
        b"".join([pack.compress(STAMP.encode()), *(pack.compress(b"a" * (1 << 20)) for _ in range(512)), pack.flush()])
    )
    words = [sys.executable, "-m", "analyzer", "analyze", str(SAMPLE), "--maillog", str(log), "--quiet"]
    run = measured(words, ROOT)
    assert run.status == 0
    assert run.peak_kb < 250 << 10


def test_of_too_many_lines_the_first_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note says how far."""
    line = f"{STAMP}postfix/smtp[1]: ABCDEF0: to=<a@b.example>, relay=mx[192.0.2.1]:25, delay=1, status=sent (250 ok)\n"
    log = tmp_path / "log.gz"
    log.write_bytes(gzip.compress(line.encode() * 500))
    for name, limit in (("MOST_ENTRIES", 100), ("MOST_TEXT_BYTES", 5000)):
        with monkeypatch.context() as patch:
            patch.setattr(sys.modules["analyzer.maillog.join"], name, limit)
            case = analysis.analyze([str(SAMPLE)], analysis.Options(maillog=(str(log),), log_timezone="UTC"))
        assert "was read to its line" in case.log_notes[0]


def test_what_stands_in_a_log_acts_nowhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Script, terminal escapes and bidi controls from a log line are shown, and do nothing."""
    case = analysis.analyze([str(SAMPLE)])
    server, start = case.connections[0].server.ip, case.connections[0].start_ns // 10**9
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(start + 5))
    evil = "<script>alert(1)</script>\x1b]0;evil\x07\u202e'\"{{7*7}}|=cmd"
    log = tmp_path / "log"
    log.write_text(
        "".join(
            f"{stamp} mx postfix/smtp[1]: ABCDEF{n}: to=<{evil}@b.example>, relay=mx[{server}]:25, delay=1, "
            f"delays=0/0/0/1, status=deferred ({evil})\n"
            for n in range(9)
        )
    )
    targets = [word for name in ("json", "html", "markdown") for word in (f"--{name}", str(tmp_path / f"out.{name}"))]
    assert cli.main(["analyze", str(SAMPLE), "--maillog", str(log), "--no-config", *targets]) == 0
    screen = capsys.readouterr().out
    assert not [c for c in screen if ord(c) < 32 and c != "\n"]
    assert "\u202e" not in screen
    page = (tmp_path / "out.html").read_text()
    assert "<script>alert" not in page
    assert "\x1b" not in page
    assert json.loads((tmp_path / "out.json").read_text())["log"]
    assert "<script>alert" not in (tmp_path / "out.markdown").read_text()


@pytest.mark.parametrize(
    "keys", [b"", b"\0" * (2 << 20), b"A" * (2 << 20), b"CLIENT_RANDOM " + b"0" * (2 << 20), b"A \n" * 700_000]
)
def test_a_key_file_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str], keys: bytes) -> None:
    """One line, status 2, at once."""
    file = tmp_path / "keys"
    file.write_bytes(keys)
    begun = time.process_time()
    assert cli.main(["analyze", str(SAMPLE), "--keylog", str(file), "--no-config"]) == 2
    assert time.process_time() - begun < 3
    assert "no TLS secret in it" in capsys.readouterr().err
