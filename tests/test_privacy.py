"""Passwords, mails and subjects are planted in captures and looked for in everything that smtpscope writes.

The conversations end in a black hole, so that every kind of output has something to show: findings, plots, evidence.
"""

from __future__ import annotations

import importlib
import stat
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from analyzer import cli

SECRET = b"canary-Tr0ub4dor"
BODY = (b"From: canary-from@example.net\r\nSubject: canary-subject\r\nX-Note: canary-header\r\n\r\n" + b"canary-body " * 900).replace(
    b"canary-body canary-body canary-body", b"canary-body\r\ncanary-line\r\n"
)  # fmt: skip


def hidden(secret: bytes) -> list[bytes]:
    """A secret as it may be written: plain, in base64 at each of the three phases (ends left out), in hex."""
    coded = [b64encode(bytes(n) + secret)[4 if n else 0 : -4] for n in range(3)]
    return [secret, *coded, secret.hex().encode()]


CANARIES = [b"canary", *(form for form in hidden(SECRET) if form != SECRET)]
PLAIN = b64encode(b"\0canary-user\0" + SECRET)
XOAUTH2 = b64encode(b"user=canary-user\x01auth=Bearer " + SECRET * 3 + b"\x01\x01")
LOGIN = [b64encode(b"canary-user-of-login"), b64encode(SECRET)]
CRAM = [b"334 " + b64encode(b"<canary-challenge-" + SECRET + b"@mx>"), b64encode(b"canary-user " + SECRET)]


@pytest.fixture(scope="module")
def hostile() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent / "fuzz")
        return importlib.import_module("hostile")


def auth_plain(talk, say) -> Iterator[bytes]:
    """With an initial response, RFC 4954 section 4."""
    yield from say("c", b"AUTH PLAIN " + PLAIN + b"\r\n")
    yield from say("s", b"235 ok\r\n")


def auth_plain_in_two(talk, say) -> Iterator[bytes]:
    """The command is cut between two packets, in the middle of the word AUTH."""
    yield from say("c", b"AU")
    yield from say("c", b"TH PLAIN " + PLAIN[:10])
    yield from say("c", PLAIN[10:] + b"\r\n")
    yield from say("s", b"235 ok\r\n")


def auth_login(talk, say) -> Iterator[bytes]:
    yield from say("c", b"auth login\r\n")
    for prompt, answer in zip((b"VXNlcm5hbWU6", b"UGFzc3dvcmQ6"), LOGIN, strict=True):
        yield from say("s", b"334 " + prompt + b"\r\n")
        yield from say("c", answer + b"\r\n")
    yield from say("s", b"535 5.7.8 not so, canary-user\r\n")


def auth_at_once(talk, say) -> Iterator[bytes]:
    """All of it in one packet, before the server has said a word; refused."""
    yield from say("c", b"AUTH LOGIN\r\n" + b"\r\n".join(LOGIN) + b"\r\n")
    yield from say("s", b"503 no\r\n500 what\r\n500 what\r\n")


def auth_cram(talk, say) -> Iterator[bytes]:
    yield from say("c", b"AUTH CRAM-MD5\r\n")
    yield from say("s", CRAM[0] + b"\r\n")
    yield from say("c", CRAM[1] + b"\r\n")
    yield from say("s", b"235 ok\r\n")


def auth_xoauth2(talk, say) -> Iterator[bytes]:
    yield from say("c", b"AUTH XOAUTH2 " + XOAUTH2 + b"\r\n")
    yield from say("s", b"334 " + b64encode(b'{"status":"401","canary":"' + SECRET + b'"}') + b"\r\n")
    yield from say("c", b"\r\n")
    yield from say("s", b"535 no\r\n")


def auth_unseen(talk, say) -> Iterator[bytes]:
    """The capture missed the AUTH command; the answers follow."""
    talk.seq["c"] += len(b"AUTH LOGIN\r\n")
    yield from say("s", b"334 VXNlcm5hbWU6\r\n")
    yield from say("c", LOGIN[0] + b"\r\n")
    yield from say("s", b"334 UGFzc3dvcmQ6\r\n")
    yield from say("c", LOGIN[1] + b"\r\n")
    yield from say("s", b"235 ok\r\n")


def auth_one_way(talk, say) -> Iterator[bytes]:
    """Only the client's packets were captured."""
    yield from say("c", b"AUTH LOGIN\r\n")
    talk.seq["s"] += 18
    for answer in LOGIN:
        yield from say("c", answer + b"\r\n")
        talk.seq["s"] += 18


def auth_sent_again(talk, say) -> Iterator[bytes]:
    """The answer is sent again in other pieces, with other bytes."""
    yield from say("c", b"AUTH PLAIN\r\n")
    yield from say("s", b"334 \r\n")
    yield talk.packet("c", PLAIN[:7])
    yield talk.packet("c", PLAIN + b"\r\n")
    yield talk.packet("c", PLAIN[::-1] + b"\r\n")
    talk.seq["c"] += len(PLAIN) + 2
    yield from say("s", b"235 ok\r\n")


def foreign_commands(talk, say) -> Iterator[bytes]:
    """What is no command of SMTP may be anything: its arguments are nobody's business."""
    for line in (b"XSECRET " + SECRET, SECRET, b"X-EXPS NTLM " + PLAIN, b"\x80\xff" + SECRET, b"AUTH  PLAIN  " + PLAIN, b" AUTH PLAIN " + PLAIN,
                 b"AUTHPLAIN " + PLAIN, b"VRFY canary-user", b"EXPN canary-list", b"HELP canary"):  # fmt: skip
        yield from say("c", line + b"\r\n")
        yield from say("s", b"500 what?\r\n")


def only_a_mail(talk, say) -> Iterator[bytes]:
    return iter(())


EXCHANGES = [auth_plain, auth_plain_in_two, auth_login, auth_at_once, auth_cram, auth_xoauth2, auth_unseen, auth_one_way,
             auth_sent_again, foreign_commands, only_a_mail]  # fmt: skip


def conversation(hostile: ModuleType, exchange: Callable[..., Iterator[bytes]]) -> Iterator[bytes | int]:
    """EHLO, the exchange, and a mail of which every full packet is lost again and again."""
    talk = hostile.Talk()
    yield from talk.opening()
    yield from exchange(talk, talk.say)
    yield from talk.say("c", b"MAIL FROM:<a@example.net>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n")
    yield from talk.say("s", b"250 ok\r\n250 ok\r\n354 go on\r\n")
    for _ in range(7):
        yield talk.packet("c", BODY[:1448])
        yield 3
    tail = len(BODY) // 1448 * 1448
    yield talk.packet("c", BODY[tail:] + b"\r\n.\r\n", at=tail)
    yield talk.packet("s")


def written(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file below, unpacked where it is packed."""
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".parquet":
            import pyarrow.parquet as pq

            yield file, str(pq.read_table(file).to_pydict()).encode() + str(pq.read_schema(file).metadata).encode()
        elif file.is_file():
            yield file, file.read_bytes()


@pytest.mark.parametrize("exchange", EXCHANGES, ids=lambda e: e.__name__)
def test_no_secret_reaches_any_output(
    hostile: ModuleType, exchange: Callable[..., Iterator[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither AUTH exchanges nor mails nor arguments of unknown commands are in any file or on the screen."""
    capture, out = tmp_path / "capture.pcap", tmp_path / "out"
    out.mkdir()
    with open(capture, "wb") as file:
        hostile.pcap(file, conversation(hostile, exchange))
    targets = [word for name in cli.DOCUMENTS for word in (f"--{name}", str(out / name))]
    # Drawing takes seconds, and plots show times and sizes of packets: two of the stories are enough for them.
    drawn = exchange in (auth_login, only_a_mail)
    if not drawn:
        del targets[2:4]  # --html, which holds plots
    folders = ["--parquet", str(out / "tables")] + (["--plots", str(out / "plots")] if drawn else [])
    cli.main(["analyze", str(capture), "--no-config", *targets, *folders])
    cli.main(["annotate", str(capture), "-o", str(out / "annotated.pcapng")])
    said = capsys.readouterr()
    assert "pmtud-black-hole" in said.out
    (out / "screen").write_text(said.out + said.err)
    found = {file.name for file, data in written(out) for canary in CANARIES if canary in data}
    assert not found
    assert (out / "annotated.pcapng").stat().st_size > 1000


def test_with_content_kept_auth_is_still_overwritten(hostile: ModuleType, tmp_path: Path) -> None:
    """--keep-content keeps mails; passwords never."""
    for exchange in EXCHANGES[:9]:
        capture, out = tmp_path / "capture.pcap", tmp_path / "out.pcapng"
        with open(capture, "wb") as file:
            hostile.pcap(file, conversation(hostile, exchange))
        assert cli.main(["annotate", str(capture), "-o", str(out), "--keep-content"]) == 0
        data = out.read_bytes()
        assert b"canary-subject" in data, exchange.__name__
        for coded in (PLAIN[8:], PLAIN[::-1][:20], XOAUTH2[8:], *LOGIN, CRAM[0][4:], CRAM[1]):
            assert coded not in data, exchange.__name__


def modes(folder: Path) -> dict[str, int]:
    return {str(file.relative_to(folder)): stat.S_IMODE(file.stat().st_mode) for file in folder.rglob("*")}


def test_what_is_written_is_for_the_owner_alone(samples: Path, tmp_path: Path) -> None:
    """Files have mode 0600 and folders 0700; a redacted report may be read by whom the umask allows."""
    for redact in ([], ["--redact"]):
        out = tmp_path / f"out{len(redact)}"
        out.mkdir()
        targets = [word for name in cli.DOCUMENTS for word in (f"--{name}", str(out / name))]
        folders = ["--parquet", str(out / "tables"), "--plots", str(out / "plots")]
        assert (
            cli.main(
                ["analyze", str(samples / "incident.pcapng"), "--no-config", "--quiet", *redact, *targets, *folders]
            )
            == 0
        )
        if not redact:
            assert cli.main(["annotate", str(samples / "incident.pcapng"), "-o", str(out / "a.pcapng"), "--quiet"]) == 0
        group = {name: mode & 0o077 for name, mode in modes(out).items()}
        assert len(group) > 15
        if redact:
            assert all(group.values()), group
        else:
            assert not any(group.values()), group


@pytest.mark.parametrize("exchange", [auth_plain_in_two, auth_login, foreign_commands], ids=lambda e: e.__name__)
def test_no_secret_reaches_what_other_commands_write(
    hostile: ModuleType, exchange: Callable[..., Iterator[bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder of a batch, its journal and tables; comparisons and verifications; errors about a capture cut anywhere."""
    captures, out = tmp_path / "captures", tmp_path / "out"
    captures.mkdir()
    out.mkdir()
    one, other = captures / "one.pcap", captures / "other.pcap"
    for capture in (one, other):
        with open(capture, "wb") as file:
            hostile.pcap(file, conversation(hostile, exchange))
    cli.main(["batch", str(captures), "--out", str(out / "batch"), "--jobs", "1"])
    cli.main(
        ["compare", str(one), str(other), "--json", str(out / "compare.json"), "--html", str(out / "compare.html")]
    )
    cli.main(["verify", str(one), str(other), "--json", str(out / "verify.json")])
    data = one.read_bytes()
    for size in range(300, len(data), len(data) // 12):
        one.write_bytes(data[:size])
        cli.main(["analyze", str(one), "--no-config"])
    said = capsys.readouterr()
    (out / "screen").write_text(said.out + said.err)
    files = dict(written(out))
    assert {"compare.json", "verify.json", "summary.json", "journal.jsonl"} <= {file.name for file in files}
    assert not {file.name for file, data in files.items() for canary in CANARIES if canary in data}
