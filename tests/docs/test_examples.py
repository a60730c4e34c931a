"""The documentation is true: its commands print what it shows, its code runs, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

from . import examples
from .examples import BLOCK, DOCUMENTS, ROOT

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"|srcset=\"([^\"]+)\"")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def blocks(language: str) -> list[object]:
    return [
        pytest.param(
            match[2], id=f"{document.relative_to(ROOT)}:{document.read_text()[: match.start()].count(chr(10)) + 1}"
        )
        for document in DOCUMENTS
        for match in BLOCK.finditer(document.read_text(encoding="utf-8"))
        if match[1] == language
    ]


@pytest.mark.parametrize("block", blocks("console"))
def test_commands_print_what_is_shown(block: str) -> None:
    """Every command of a console block prints the output below it (`make docs` writes it anew)."""
    for line, shown in examples.commands(block):
        printed = examples.run(line)
        assert examples.matches(shown, printed), f"$ {line}\n{printed}"


@pytest.mark.parametrize("block", blocks("python"))
def test_python_examples_run(block: str) -> None:
    """Every python block runs as it stands."""
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("yaml"))
def test_recipes_for_ci_are_valid(block: str, tmp_path: Path) -> None:
    """Every YAML block parses; what GitHub or GitLab is to read fulfils their published schema, and its commands are smtpscope's."""
    from analyzer import cli

    recipe = yaml.safe_load(block)
    name = block.partition("\n")[0].removeprefix("# ")
    schema = {".github/workflows/captures.yml": "github-workflows", ".gitlab-ci.yml": "gitlab-ci"}.get(name)
    if schema is None:
        assert isinstance(recipe, dict)
        return
    file = tmp_path / "recipe.yml"
    file.write_text(block, encoding="utf-8")
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    typed = re.findall(r"(?:- |run: )smtpscope (.*)", block)
    assert typed
    for line in typed:
        assert cli.parser().parse_args(line.split()).fail_on == "medium"


def test_the_recipes_are_there() -> None:
    """One for GitHub Actions and one for GitLab CI, and the README leads to them."""
    kept = "\n".join(document.read_text(encoding="utf-8") for document in DOCUMENTS)
    assert "# .github/workflows/captures.yml\n" in kept
    assert "# .gitlab-ci.yml\n" in kept
    assert "analyzer/batch/README.md#in-ci" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """A relative link names a file of the project, and its anchor a heading there."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for match in LINK.finditer(text):
        target = next(filter(None, match.groups()))
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        file = (document.parent / name) if name else document
        assert file.exists(), f"{document.name} links to {target}"
        if anchor:
            assert anchor in {slug(heading) for heading in HEADING.findall(file.read_text(encoding="utf-8"))}, target


@pytest.mark.parametrize("name", examples.PICTURES)
def test_pictures_show_what_the_captures_say(name: str) -> None:
    """Every word and number in a picture is what is drawn from its capture today (`make docs` draws it anew)."""
    for suffix, dark in (("", False), ("-dark", True)):
        kept = ROOT / "sample_pcaps" / f"{name}{suffix}.svg"
        assert said(kept.read_bytes()) == said(examples.picture(name, dark=dark))
    assert any(f"{name}.svg" in document.read_text(encoding="utf-8") for document in DOCUMENTS)


def said(svg: bytes) -> list[str]:
    """The text of a picture; its shapes may differ from one version of matplotlib to the next."""
    texts = ["".join(e.itertext()).strip() for e in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert texts
    return texts


def slug(heading: str) -> str:
    """The anchor that Markdown renderers give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def test_every_option_is_documented() -> None:
    """The README quotes the help of `analyze`, and names every other command."""
    from analyzer import cli

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "$ smtpscope analyze --help" in readme
    for option in cli.parser().every_option():
        assert option in ("-h", "--help", "--version") or option in readme


def test_a_shown_output_may_leave_lines_out() -> None:
    """`...` stands for any lines, also none; everything else must be there."""
    assert examples.matches("a\n...\nd\n", "a\nb\nc\nd\n")
    assert examples.matches("a\n...\nd\n", "a\nd\n")
    assert not examples.matches("a\n...\n", "b\n")
    assert not examples.matches("a\n", "a\nb\n")
