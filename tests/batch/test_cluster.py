"""A batch on a Dask cluster whose workers are processes of their own, with the captures in a bucket."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analyzer import batch
from analyzer.batch import driver, nursery
from analyzer.errors import ToolError

from .conftest import documents, everything

pytest.importorskip("pyarrow")
distributed = pytest.importorskip("distributed")
s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 server on the loopback, known to this process and to those that it starts; the name of an empty bucket."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    s3fs.S3FileSystem().mkdir("captures")
    yield "captures"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(scope="module")
def cluster(bucket: str) -> Iterator[Any]:
    """A scheduler and two workers with one thread each; a worker that is killed is started anew."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as found:
        yield found


@pytest.fixture
def uploaded(bucket: str, captures: Path) -> str:
    """The captures in the bucket, four of each, and something that is none."""
    storage = s3fs.S3FileSystem()
    for file in captures.iterdir():
        for number in range(4):
            storage.pipe(f"{bucket}/{number}/{file.name}", file.read_bytes())
    storage.pipe(f"{bucket}/README", b"no capture")
    storage.invalidate_cache()
    return f"s3://{bucket}"


def test_a_cluster_gives_the_answers_of_this_machine(
    cluster: Any, uploaded: str, captures: Path, tmp_path: Path
) -> None:
    """Byte for byte, although one worker is killed in the middle and the batch goes on with the others."""
    here = batch.run([uploaded], tmp_path / "here", jobs=2)
    nursery.close_all()
    assert (here.summary["units"]["done"], here.summary["units"]["skipped"]) == (24, 1)
    killed: list[int] = []

    def kill_one() -> None:
        while not documents(tmp_path / "there"):
            time.sleep(0.01)
        killed.append(next(iter(cluster.workers.values())).pid)
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    there = batch.run([uploaded], tmp_path / "there", scheduler=cluster.scheduler_address)
    killer.join(timeout=30)
    assert killed
    assert there.summary["complete"]
    assert everything(tmp_path / "there") == everything(tmp_path / "here")
    told = documents(tmp_path / "there")
    batch.run([str(captures)], tmp_path / "files", jobs=2)
    for name, document in documents(tmp_path / "files").items():  # the same but for where the capture was
        assert told[name].split(b'"format"', 1)[1] == document.split(b'"format"', 1)[1]


def test_no_cluster_is_told(tmp_path: Path, captures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says where no scheduler answered."""
    monkeypatch.setattr(driver, "FIRST_WORKER_S", 1)
    with pytest.raises(ToolError, match=r"tcp://127\.0\.0\.1:1: "):
        batch.run([str(captures)], tmp_path / "out", scheduler="tcp://127.0.0.1:1")


def test_a_scheduler_that_dies_is_told_and_nothing_is_lost(
    tmp_path: Path, captures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, a summary of what is done, and the next run does the rest."""
    monkeypatch.setattr(driver, "FIRST_WORKER_S", 10)
    capture = next(captures.iterdir()).read_bytes()
    (tmp_path / "many").mkdir()
    for number in range(30):
        (tmp_path / "many" / f"{number}.pcap").write_bytes(capture + bytes(number))  # no two are the same
    told = tmp_path / "scheduler.json"
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    scheduler = subprocess.Popen([*command, "--no-dashboard", "--scheduler-file", str(told)], **quiet)
    worker = None
    try:
        while not told.exists() or not told.read_bytes():
            assert scheduler.poll() is None
            time.sleep(0.1)
        address = json.loads(told.read_text())["address"]
        command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard"]
        worker = subprocess.Popen([*command, "--local-directory", str(tmp_path), "--death-timeout", "5"], **quiet)

        def kill() -> None:
            while not documents(tmp_path / "out"):
                time.sleep(0.01)
            scheduler.kill()

        killer = threading.Thread(target=kill)
        killer.start()
        with pytest.raises(ToolError, match="the scheduler is gone"):
            batch.run([str(tmp_path / "many")], tmp_path / "out", scheduler=address)
        killer.join()
    finally:
        scheduler.kill()
        scheduler.wait()
        if worker is not None:
            worker.kill()
            worker.wait()
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert not summary["complete"]
    assert summary["units"]["failed"] == 0
    assert 0 < summary["units"]["done"] < 30
    rest = batch.run([str(tmp_path / "many")], tmp_path / "out", jobs=2)
    assert rest.done_before == summary["units"]["done"]
    assert (rest.summary["units"]["done"], rest.summary["units"]["left"]) == (30, 0)
