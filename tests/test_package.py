"""The wheel holds all that the program needs away from its checkout."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the unpacked wheel and nothing else of the project."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


def run(installed: Path, code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(installed)!r}); {code}"],
        cwd="/", capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_carries_the_rules(installed: Path) -> None:
    """The installed program finds the rules inside its package, the same ones as in the checkout."""
    found = run(
        installed, "from analyzer.detect import rule; print(rule.built_in(), *(r.id for r in rule.load()))"
    ).split()
    assert Path(found[0]) == installed / "analyzer" / "_rules"
    assert sorted(found[1:]) == sorted(file.stem for file in (ROOT / "rules").glob("*.yaml"))


def test_the_wheel_carries_types_and_schema(installed: Path) -> None:
    """Type checkers find py.typed, and the JSON Schema can be read."""
    assert (installed / "analyzer" / "py.typed").exists()
    assert "smtpscope/1" in run(installed, "from analyzer.report import json; print(json.schema())")


def test_a_checkout_finds_its_own_rules() -> None:
    """In a checkout, and so in an editable install, the rules are the folder rules/ beside the package."""
    from analyzer.detect import rule

    assert rule.built_in() == ROOT / "rules"


def test_the_sdist_builds_the_same_wheel(installed: Path, tmp_path: Path) -> None:
    """Away from the checkout, the source distribution makes a wheel with the same files."""
    build = [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)]
    subprocess.run([*build, "-t", "sdist"], cwd=ROOT, check=True, capture_output=True)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as packed:
        packed.extractall(tmp_path)  # our own; `filter` is not in every 3.11
    source = tmp_path / sdist.name.removesuffix(".tar.gz")
    subprocess.run([*build, "-t", "wheel"], cwd=source, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    expected = {str(file.relative_to(installed)) for file in installed.rglob("*") if file.is_file()}
    assert names == {name for name in expected if "__pycache__" not in name}


def test_the_wheel_analyses_away_from_the_checkout(installed: Path, samples: Path, tmp_path: Path) -> None:
    """Command and rules work from another folder, with nothing of the checkout on the path."""
    capture = samples / "blackhole-1400.sender.pcap"
    code = f"from analyzer.cli import main; raise SystemExit(main(['analyze', {str(capture)!r}, '--fail-on', 'high']))"
    program = f"import sys; sys.path.insert(0, {str(installed)!r}); {code}"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "pmtud-black-hole" in done.stdout
