"""A batch on this machine: the same answers as `analyze`, whatever happens on the way."""

from __future__ import annotations

import gzip
import json
import os
import pty
import resource
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

import analyzer
from analyzer import batch
from analyzer.batch import nursery
from analyzer.batch.nursery import Outcome, deliver
from analyzer.batch.settings import program
from analyzer.batch.units import File, Unit
from analyzer.errors import UsageError

from ..conftest import ROOT, Run
from .conftest import CHOICE, documents, everything

pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Tests that deliver by themselves leave a nursery idle."""
    yield
    nursery.close_all()


def a_unit(*paths: Path) -> Unit:
    return Unit(tuple(File(str(path), 0, "", named=True) for path in paths))


def until(true: Callable[[], Any], seconds: float = 60) -> Any:
    """What `true` gives once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := true():
            return found
        time.sleep(0.005)
    raise AssertionError("it never came true")


def children_of(pid: int) -> list[int]:
    """The processes that any thread of a process has started."""
    try:
        return [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_gone(pid: int) -> bool:
    """Ended; perhaps nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def start(*args: object, **settings: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "analyzer", "batch", *map(str, args)]
    settings = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **settings}
    # a job in the background inherits that Control-C is ignored
    settings.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    return subprocess.Popen(command, **settings)


# -- the answers -----------------------------------------------------------------------------------------------------


def test_a_case_of_a_batch_is_what_analyze_says(captures: Path, tmp_path: Path) -> None:
    """One capture, one case, one JSON document: byte for byte that of `analyze --json`. Two workers say the same as one."""
    batch.run([str(captures)], tmp_path / "one", jobs=1)
    batch.run([str(captures)], tmp_path / "two", jobs=2)
    assert everything(tmp_path / "one") == everything(tmp_path / "two")
    found = documents(tmp_path / "one")
    assert set(found) == {f"{name}.pcap" for name in CHOICE}
    for name, document in found.items():
        assert document.decode() == analyzer.analyze(captures / name).to_json()


def test_a_rotated_set_is_one_case(tmp_path: Path, samples: Path) -> None:
    """A connection over two files of a ring is followed across them, as `analyze` does; --single leaves them apart."""
    ring = tmp_path / "ring"
    ring.mkdir()
    data = (samples / "blackhole-1400.sender.pcap").read_bytes()
    cut = 24
    for _ in range(15):
        cut += 16 + int.from_bytes(data[cut + 8 : cut + 12], "little")
    (ring / "ring.pcap0").write_bytes(data[:cut])
    (ring / "ring.pcap1").write_bytes(data[:24] + data[cut:])
    result = batch.run([str(ring)], tmp_path / "out")
    assert (result.summary["units"]["done"], result.summary["captures"]) == (1, 2)
    assert [f["rule"] for f in result.summary["findings"] if f["role"] == "cause"] == ["pmtud-black-hole"]
    assert batch.run([str(ring)], tmp_path / "out", sets=False).summary["units"]["done"] == 2


def test_the_command_tells_what_it_found(captures: Path, tmp_path: Path, smtpscope: Run) -> None:
    """Exit status and streams as of `analyze`; the summary as text, Markdown, JSON and JUnit."""
    (captures / "notes.txt").write_text("no capture")
    done = smtpscope("batch", captures, "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("6 captures in 6 cases: ")
    assert "Path-MTU black hole" in done.stdout
    failing = smtpscope("batch", captures, "--out", tmp_path / "out", "--fail-on", "critical")
    assert failing.returncode == 1
    assert "6 cases were done before" in failing.stderr
    etree.XMLSchema(file=ROOT / "tests/report/junit.xsd").assertValid(etree.parse(tmp_path / "out/junit.xml"))
    suites = ET.parse(tmp_path / "out/junit.xml").getroot().findall("testsuite")
    failures = {Path(s.get("name", "")).stem: int(s.get("failures", "")) for s in suites}
    assert failures.keys() == set(CHOICE)
    assert failures["blackhole-1400.sender"] == 1
    assert failures["banner-decorated.sender"] == 0
    shutil.copy(tmp_path / "out/summary.json", tmp_path / "known.json")
    known = ("--fail-on", "critical", "--baseline", tmp_path / "known.json")
    assert smtpscope("batch", captures, "--out", tmp_path / "out", *known).returncode == 0
    markdown = (tmp_path / "out/summary.md").read_text()
    assert markdown.startswith("# smtpscope batch\n")
    assert "Path-MTU black hole" in markdown
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["schema"] == "smtpscope-batch/1"
    assert summary["complete"]


def test_the_dataset_is_read_by_day(captures: Path, tmp_path: Path) -> None:
    """Every table is one dataset, partitioned by day; each row says of which case it is."""
    import pandas as pd

    from analyzer.batch import dataset

    batch.run([str(captures)], tmp_path / "out")
    tables = {name: pd.read_parquet(tmp_path / f"out/tables/{name}") for name in dataset.TABLES}
    for name, table in tables.items():
        assert set(dataset.TABLES[name]) <= set(table.columns), name
        assert "day" in table.columns or name == "merged"
    cases = tables["cases"].set_index("case")
    assert len(cases) == 6
    assert set(tables["findings"]["case"]) <= set(cases.index)
    assert cases["messages"].sum() == len(tables["messages"])
    assert (cases["first"].dt.strftime("%Y-%m-%d") == cases["day"].astype(str)).all()
    assert tables["trends"]["connections"].sum() == len(tables["connections"])
    assert not {name for name in cases["file"] if not (tmp_path / "out" / name).is_file()}


def test_results_are_private(captures: Path, tmp_path: Path) -> None:
    """Captures hold mail: nobody else reads what was made of them."""
    batch.run([str(captures)], tmp_path / "out")
    assert not [f for f in (tmp_path / "out").rglob("*") if stat.S_IMODE(f.stat().st_mode) & 0o077]


def test_redacted_results_name_nobody(captures: Path, tmp_path: Path, smtpscope: Run) -> None:
    """With a key no address and no file name is in any result, and one host has one pseudonym in all cases."""
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    done = smtpscope("batch", captures, "--out", tmp_path / "out", "--redact-key", key)
    assert done.returncode == 0
    files = everything(tmp_path / "out")
    for name, data in files.items():
        assert "blackhole" not in name
        for secret in (b"10.1.0.2", b"10.3.0.2", b"blackhole-1400", key.read_bytes().hex().encode()):
            assert secret not in data, (name, secret)
    summary = json.loads(files["summary.json"])
    black_holes = [f for f in summary["findings"] if f["rule"] == "pmtud-black-hole"]
    assert max(f["case_count"] for f in black_holes) >= 2


# -- resume ------------------------------------------------------------------------------------------------------------


def journal(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]


def test_what_is_done_is_not_done_again(captures: Path, tmp_path: Path) -> None:
    """A second run does what is new or has changed: content, options, rules; nothing else."""
    out = tmp_path / "out"
    batch.run([str(captures)], out)
    before = everything(out)
    assert batch.run([str(captures)], out).done_before == 6
    assert everything(out) == before
    shutil.copy(captures / "blackhole-1400.sender.pcap", captures / "new.pcap")
    (captures / "bad-checksums.sender.pcap").write_bytes((captures / "loss-ipv6.sender.pcap").read_bytes())
    assert batch.run([str(captures)], out).done_before == 5
    assert len(journal(out)) == 8
    assert batch.run([str(captures)], out, batch.Settings(all_tcp=True)).done_before == 0
    rule = ("extra.yaml", "another rule, for this test only a text")
    assert batch.Settings(rules=(rule,)).fingerprint() != batch.Settings().fingerprint()
    assert batch.Settings(time_limit_s=1).fingerprint() == batch.Settings().fingerprint()


def test_own_rules_go_with_the_work(captures: Path, tmp_path: Path, smtpscope: Run) -> None:
    """A rule pack is read here and used wherever a case is made; a broken one is told before anything is done."""
    rule = (ROOT / "rules/masked-banner.yaml").read_text().replace("id: masked-banner", "id: my-banner", 1)
    pack = tmp_path / "my-banner.yaml"
    pack.write_text(rule)
    done = smtpscope("batch", "sample_pcaps/incident.pcapng", "--out", tmp_path / "out", "--rules", pack)
    assert done.returncode == 0, done.stderr
    assert "my-banner" in (tmp_path / "out/summary.json").read_text()
    pack.write_text("id: [")
    broken = smtpscope("batch", "sample_pcaps/incident.pcapng", "--out", tmp_path / "none", "--rules", pack)
    assert broken.returncode == 2
    assert str(pack) in broken.stderr
    assert not (tmp_path / "none").exists()


def test_a_killed_batch_goes_on_where_it_was(captures: Path, tmp_path: Path, smtpscope: Run) -> None:
    """kill -9 three times: whole files or none, nothing done twice but what was in hand, and in the end the same bytes."""
    for number in range(4):
        for name in CHOICE:
            shutil.copy(captures / f"{name}.pcap", captures / f"{name}.again{number}.pcap")
    assert smtpscope("batch", captures, "--out", tmp_path / "calm").returncode == 0
    out = tmp_path / "killed"
    for fewest in (2, 10, 20):
        running = start(captures, "--out", out, "--jobs", 2)
        until(lambda fewest=fewest: len(documents(out)) >= fewest)
        running.kill()
        running.wait()
        for document in documents(out).values():
            json.loads(document)
    assert smtpscope("batch", captures, "--out", out).returncode == 0
    assert everything(out) == everything(tmp_path / "calm")
    done = [line["case"] for line in journal(out)]
    assert (
        len(done) - len(set(done)) <= 3 * 2
    )  # in hand when it was killed: written, but not yet in the journal, or on the way


def test_ctrl_c_keeps_what_is_done(captures: Path, tmp_path: Path, smtpscope: Run) -> None:
    """130, one line, a summary that says that it is not whole; the next run completes it."""
    pipe = tmp_path / "stalls.pcap"
    os.mkfifo(pipe)
    for number in range(30):
        shutil.copy(captures / "loss-ipv6.sender.pcap", captures / f"again{number}.pcap")
    out = tmp_path / "out"
    running = start(captures, "--out", out, "--jobs", 1)
    until(lambda: len(documents(out)) >= 2)
    running.send_signal(signal.SIGINT)
    told, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Interrupted" in told
    assert errors.count("\n") == 1
    summary = json.loads((out / "summary.json").read_text())
    assert summary["interrupted"]
    assert summary["units"]["left"] > 0
    assert smtpscope("batch", captures, "--out", out).returncode == 0
    assert json.loads((out / "summary.json").read_text())["complete"]


def test_a_folder_belongs_to_one_batch_at_a_time(captures: Path, tmp_path: Path, smtpscope: Run) -> None:
    """Two batches would take each other's files for their own."""
    from analyzer.batch.folder import Folder

    with Folder(tmp_path / "out").locked():
        second = smtpscope("batch", captures, "--out", tmp_path / "out")
    assert second.returncode == 2
    assert "another batch is writing here" in second.stderr


def test_a_full_disk_is_one_line_and_no_torn_file(captures: Path, tmp_path: Path, smtpscope: Run) -> None:
    """Nothing is lost but what there was no room for; with room again the batch goes on."""
    out = tmp_path / "out"

    def no_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))  # as a full disk: write() fails in the middle

    full = start(captures, "--out", out, "--jobs", 1, preexec_fn=no_room)
    _, errors = full.communicate(timeout=60)
    assert full.returncode == 2
    assert errors.count("\n") == 1
    everything(out)
    for document in documents(out).values():
        json.loads(document)
    assert smtpscope("batch", captures, "--out", out).returncode == 0
    assert smtpscope("batch", captures, "--out", tmp_path / "calm").returncode == 0
    assert everything(out) == everything(tmp_path / "calm")


def test_a_torn_document_is_no_document(captures: Path, tmp_path: Path) -> None:
    """What a power cut left of a file is not taken for a case."""
    out = tmp_path / "out"
    batch.run([str(captures)], out)
    before = everything(out)
    torn = next(out.glob("cases/*/*.json"))
    torn.write_bytes(torn.read_bytes()[:500])
    assert batch.run([str(captures)], out).done_before == 5
    assert everything(out) == before


# -- captures that fail ------------------------------------------------------------------------------------------------


def test_a_capture_that_stalls_runs_out_of_its_time(tmp_path: Path, captures: Path) -> None:
    """The process ends at its limit, wherever it hangs, and the next one is served as if nothing had happened."""
    pipe = tmp_path / "stalls.pcap"
    os.mkfifo(pipe)
    begun = time.monotonic()
    outcome = deliver(a_unit(pipe), batch.Settings(time_limit_s=0.5), program())
    assert (outcome.state, outcome.reason) == ("failed", "not done within its limit of 0.5 s")
    assert time.monotonic() - begun < 20
    assert deliver(a_unit(captures / "loss-ipv6.sender.pcap"), batch.Settings(), program()).state == "done"


def test_a_capture_that_eats_memory_runs_into_its_limit(tmp_path: Path) -> None:
    """A process gets what it was given and not more; the reason is told in words."""
    bomb = tmp_path / "bomb.pcap.gz"
    header = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
    with gzip.open(bomb, "wb", compresslevel=1) as file:
        file.write(header + b"\0" * (1 << 20))
    outcome = deliver(a_unit(bomb), batch.Settings(memory_limit_bytes=8 << 20), program())
    assert outcome.state == "failed"
    assert "memory" in outcome.reason


def test_a_killed_process_is_known_and_tried_again(tmp_path: Path) -> None:
    """Whoever kills the process of a unit, or the nursery, harms this unit only, and it is worth another attempt."""
    pipe = tmp_path / "stalls.pcap"
    os.mkfifo(pipe)
    outcomes: list[Outcome] = []
    for victim in ("process", "nursery"):
        nursery.close_all()
        thread = threading.Thread(target=lambda: outcomes.append(deliver(a_unit(pipe), batch.Settings(), program())))
        thread.start()
        mother = until(lambda: next(iter(nursery._alive), None)).process.pid
        (child,) = until(lambda mother=mother: children_of(mother))
        os.kill(child if victim == "process" else mother, signal.SIGKILL)
        thread.join(timeout=30)
        until(lambda child=child: is_gone(child))
    assert [(o.state, o.again) for o in outcomes] == [("failed", True), ("failed", True)]
    assert "SIGKILL" in outcomes[0].reason


def test_nothing_runs_on_when_the_batch_is_killed(tmp_path: Path) -> None:
    """A nursery whose asker is gone gives up what it has in hand and ends."""
    slow = tmp_path / "slow.pcap.gz"
    header = bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000")
    with gzip.open(slow, "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(1000):
            file.write(b"\0" * (1 << 20))
    running = start(slow, "--out", tmp_path / "out", "--jobs", 1)
    mother = until(lambda: next(iter(children_of(running.pid)), None))
    child = until(lambda: next(iter(children_of(mother)), None))
    running.kill()
    running.communicate()
    for pid in (mother, child):
        until(lambda pid=pid: is_gone(pid))


def test_a_capture_that_fails_does_not_stop_the_others(captures: Path, tmp_path: Path, smtpscope: Run) -> None:
    """It is reported in every report, exit status 3, and not tried again unless its limits change or --retry is said."""
    out = tmp_path / "out"
    with gzip.open(captures / "bomb.pcap.gz", "wb", compresslevel=1) as file:
        file.write(bytes.fromhex("d4c3b2a1020004000000000000000000ffff000001000000") + b"\0" * (1 << 20))
    few = ("--memory-limit", 8)
    first = smtpscope("batch", captures, "--out", out, *few)
    assert first.returncode == 3
    assert "failed: " in first.stdout
    assert len(documents(out)) == 6
    attempts = len(journal(out))
    assert smtpscope("batch", captures, "--out", out, *few).returncode == 3
    assert len(journal(out)) == attempts
    assert smtpscope("batch", captures, "--out", out, *few, "--retry").returncode == 3
    assert len(journal(out)) == attempts + 1
    failed = [s for s in ET.parse(out / "junit.xml").getroot() if s.get("errors") == "1"]
    assert len(failed) == 1
    assert "bomb" in (out / "summary.md").read_text()
    smtpscope("batch", captures, "--out", out)
    assert not list(out.glob("failed/*/*.json"))
    assert len(documents(out)) == 7


def test_a_damaged_capture_is_a_case_that_says_so(captures: Path, tmp_path: Path, smtpscope: Run) -> None:
    """What could be read is reported; it is not complete: 3."""
    whole = (captures / "blackhole-1400.sender.pcap").read_bytes()
    (captures / "cut.pcap").write_bytes(whole[: len(whole) // 2])
    done = smtpscope("batch", captures, "--out", tmp_path / "out")
    assert done.returncode == 3
    assert "incomplete: " in done.stdout
    assert json.loads((tmp_path / "out/summary.json").read_text())["units"]["incomplete"] == 1


@pytest.mark.parametrize("named", [True, False])
def test_what_is_named_must_be_a_capture(tmp_path: Path, named: bool) -> None:
    """A file that a bucket happens to hold is passed over; one that was named is complained about."""
    text = tmp_path / "x.pcap"
    text.write_text("this is no capture")
    unit = Unit((File(str(text), 0, "", named=named),))
    outcome = deliver(unit, batch.Settings(), program())
    assert outcome.state == ("done" if named else "skipped")
    if named:
        assert not json.loads(outcome.document)["complete"]


def test_another_version_is_refused() -> None:
    """A worker that would give other answers gives none."""
    outcome = deliver(a_unit(Path("x.pcap")), batch.Settings(), "another program")
    assert (outcome.state, outcome.again) == ("failed", True)
    assert "another version" in outcome.reason


# -- the terminal ------------------------------------------------------------------------------------------------------


def test_progress_is_for_terminals(captures: Path, tmp_path: Path) -> None:
    """A bar with rate and time left on a terminal, gone at the end; nothing elsewhere."""
    controller, terminal = pty.openpty()
    running = start(captures, "--out", tmp_path / "out", stderr=terminal)
    os.close(terminal)
    assert running.wait(timeout=120) == 0
    shown = os.read(controller, 100_000).decode()
    os.close(controller)
    assert "[####################] 6 of 6 cases" in shown
    assert "/s, 0:00:00 left" in shown
    assert shown.endswith("\r\x1b[K")


def test_stdin_is_no_source(tmp_path: Path) -> None:
    """Another process cannot read it."""
    with pytest.raises(UsageError, match="stdin"):
        batch.run(["-"], tmp_path / "out")
