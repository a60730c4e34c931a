"""With the secrets of its sessions, what is inside TLS reads as in the clear."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from analyzer import analysis, keylog
from analyzer.cli import main

SAMPLES = Path(__file__).parents[1] / "sample_pcaps"
CAPTURE, KEYS = SAMPLES / "clean-starttls-keys.sender.pcap", SAMPLES / "clean-starttls-keys.keys"
needs_tshark = pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
pytestmark = pytest.mark.tshark


@needs_tshark
def test_the_dialogue_inside_tls_is_that_of_the_clear() -> None:
    """Three mails of 700, 20,000 and 900 bytes, as the lab sent them: envelope, size and outcome are exact."""
    case = analysis.analyze([str(CAPTURE)], analysis.Options(keylog=str(KEYS)))
    assert [(m.id, m.index, m.recipients, m.outcome, m.via) for m in case.messages] == [
        (n, n, (f"harbour00{n}@example.net",), "delivered", "data") for n in (1, 2, 3)
    ]
    assert [m.size for m in case.messages] == [700, 20001, 900]
    assert not any(m.size_estimated for m in case.messages)
    assert case.summary == ["1 SMTP connection, 3 mails: 3 answered. No fault found."]


def test_without_secrets_sizes_are_estimates() -> None:
    """TLS hides the mails; what its records tell is marked as estimated."""
    case = analysis.analyze([str(CAPTURE)])
    assert {m.via for m in case.messages} == {"tls"}
    assert all(m.size_estimated for m in case.messages)


@needs_tshark
def test_secrets_of_another_session_are_told(tmp_path: Path) -> None:
    """A well-formed key file that opens nothing: a limit of the case, and the estimates stay."""
    other = tmp_path / "other.keys"
    other.write_text(f"CLIENT_TRAFFIC_SECRET_0 {'0' * 64} {'1' * 64}\n")
    case = analysis.analyze([str(CAPTURE)], analysis.Options(keylog=str(other)))
    assert any("opens 0 of 1 TLS connections" in limit for limit in case.limits)
    assert {m.via for m in case.messages} == {"tls"}


@pytest.mark.parametrize(("content", "words"), [(None, "No such file"), ("hello\n", "no TLS secret in it")])
def test_a_wrong_key_file_is_one_line(
    tmp_path: Path, content: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that is not there, or holds no secrets: exit status 2 before any work."""
    path = tmp_path / "keys"
    if content is not None:
        path.write_text(content)
    assert main(["analyze", "--no-config", str(CAPTURE), "--keylog", str(path)]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("name", ["-", "s3://bucket/x.pcap"])
def test_what_can_not_be_read_twice_is_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """tshark wants files: stdin and URLs are wrong usage."""
    assert main(["analyze", "--no-config", name, "--keylog", str(KEYS)]) == 2
    assert "--keylog needs files" in capsys.readouterr().err


def test_the_output_of_tshark_is_read() -> None:
    """An entry per record: the frame, who sent it, when, and the content in base64, over as many lines as it takes."""
    text = """peers:
  - peer: 0
    host: 10.3.0.2
    port: 25
packets:
  - packet: 19
    peer: 1
    timestamp: 1795360114.252736092
    data: !!binary |
      ZWhsbyBtYWls
      DQo=
  - packet: 20
    peer: 0
    index: 3
    timestamp: 1795360114.252845049
    data: !!binary |
      MjUwIG9r
"""
    assert list(keylog._followed(text)) == [(19, b"ehlo mail\r\n"), (20, b"250 ok")]
