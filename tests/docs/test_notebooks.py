"""The notebooks run from top to bottom, and are stored with what they show."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from .examples import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook: Path) -> None:
    """Every cell runs, in order, in a fresh kernel (an error in a cell raises)."""
    NotebookClient(
        nbformat.read(notebook, as_version=4), timeout=300, resources={"metadata": {"path": str(notebook.parent)}}
    ).execute()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_with_its_outputs(notebook: Path) -> None:
    """Who only looks at it sees tables and pictures, and no path of the machine on which it was made."""
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.execution_count == number for number, cell in enumerate(cells, 1))
    assert sum(bool(cell.outputs) for cell in cells) >= len(cells) // 2
    assert str(ROOT) not in notebook.read_text(encoding="utf-8")
