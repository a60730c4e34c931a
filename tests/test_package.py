"""The wheel holds all that the program needs away from its checkout."""

from __future__ import annotations

import subprocess
import sys
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
