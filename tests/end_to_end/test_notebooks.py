"""Notebooks run from top to bottom, and what is committed is what a real run left."""

import json
import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "notebooks"
EXECUTE = runpy.run_path(str(FOLDER / "execute.py"))
CHECKS = Path(__file__).parent / "checks"  # what a notebook must have shown; run after its cells
NOTEBOOKS = EXECUTE["NOTEBOOKS"]
FAST = "01_quickstart"  # the others are run by make test-all
PATH = re.compile(r"(?<![\w.:/<])/(?:[\w.-]+/){2,}|[A-Z]:\\\\")  # absolute, of any machine


def name(path):
    return path.stem


def params():
    return [
        pytest.param(path, id=path.stem, marks=[] if path.stem == FAST else [pytest.mark.slow])
        for path in NOTEBOOKS
    ]


def outputs(notebook):
    code = (cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    return [output for cell in code for output in cell["outputs"]]


@pytest.mark.parametrize("path", params())
def test_it_runs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    monkeypatch.delenv("MPLBACKEND", raising=False)  # notebooks have a backend of their own
    checks = CHECKS / f"{path.stem}.py"
    notebook = EXECUTE["executed"](path, checks.read_text())
    assert not [o for o in outputs(notebook) if o.get("name") == "stderr"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_committed_outputs_are_those_of_one_whole_run(path):
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    source = "\n".join("".join(cell["source"]) for cell in code)
    assert not re.search(r"^ *assert ", source, re.MULTILINE)
    assert "assert " in (CHECKS / f"{path.stem}.py").read_text()
    kinds = {output["output_type"] for output in outputs(notebook)}
    assert kinds <= {"stream", "execute_result", "display_data"} and kinds
    assert {o["name"] for o in outputs(notebook) if o["output_type"] == "stream"} <= {"stdout"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=name)
def test_the_committed_outputs_are_small_and_name_no_folder_of_the_machine(path):
    assert path.stat().st_size < 400_000
    told = [o for o in outputs(json.loads(path.read_text())) if "data" in o or "text" in o]
    texts = [
        "".join(part)
        for output in told
        for kind, part in {"text": output.get("text", ""), **output.get("data", {})}.items()
        if kind.startswith("text")
    ]
    assert not [found for text in texts if (found := PATH.search(text))]


def test_there_are_those_that_the_documentation_names():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"0{number}" for number in range(1, 8)]
    index = (FOLDER.parent / "docs" / "index.md").read_text()
    assert not [path.stem for path in NOTEBOOKS if f"notebooks/{path.stem}" not in index]
