"""Run notebooks and keep their outputs: python notebooks/execute.py [NOTEBOOK ...]."""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def executed(path: Path, checks: str = "") -> NotebookNode:
    """Return a notebook as it is after all its cells ran, in its own folder.

    Args:
        path: the notebook.
        checks: code that runs after the last cell.

    Raises:
        nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    if checks:
        notebook.cells.append(nbformat.v4.new_code_cell(checks))
    resources = {"metadata": {"path": str(FOLDER)}}
    client = NotebookClient(notebook, resources=resources, timeout=600, record_timing=False)
    return client.execute()


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or NOTEBOOKS:
        nbformat.write(executed(path), path)
        print(f"{path}: {path.stat().st_size:,} bytes")
