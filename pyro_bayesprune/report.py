"""One HTML page that answers: can I trust this pruned network?

The page is self-contained: figures are inline SVG, there is no script, and nothing is loaded from
anywhere. Every value goes through Jinja's autoescape.
"""

import json
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd

from pyro_bayesprune import analysis, judgement, results
from pyro_bayesprune import runs as run_folders
from pyro_bayesprune.config import PRESETS, Config, RunError, configure
from pyro_bayesprune.judgement import Run
from pyro_bayesprune.page import Picture, shown
from pyro_bayesprune.panels import PANELS, detailed

PAPER = (
    "Mathew, S. and Rowe, D. B. (2024). Pruning a neural network using Bayesian inference. "
    "Manuscript TNNLS-2024-P-32985."
)


def report(runs: Iterable[str | Path], out: str | Path = "report.html") -> Path:
    """Write the report of runs as one self-contained HTML file; return its path.

    Args:
        runs: run folders, folders of run folders, or folders with a results.csv of `results`.
        out: the file.

    Raises:
        RunError: if there is no run, finished or not, in one of them.
    """
    found = [run for folder in runs for run in load(folder)]
    if not found:
        raise RunError("a report needs at least one run folder")
    out = Path(out)
    run_folders.write_atomically(out, render(found).encode())
    return out


def load(folder: str | Path) -> list[Run]:
    """Return the runs in a folder, finished or failed.

    Raises:
        RunError: if there are none.
    """
    folder = Path(folder)
    if (folder / "config.json").exists():
        return [load_one(folder)]
    if (folder / results.RESULTS).exists():
        return _stored(folder)
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    if not inside:
        expected = f"a run folder, a folder of them, or one with a {results.RESULTS}"
        found = "holds none" if folder.is_dir() else "is no folder"
        raise RunError(f"expected {expected}; {folder} {found}")
    return [load_one(path) for path in inside]


def load_one(folder: Path) -> Run:
    """Return one run; what cannot be read becomes its error."""
    config: dict[str, Any] = {}
    try:
        config = run_folders.read_config(folder).to_dict()
        result = run_folders.read_result(folder)
        history, extra = run_folders.read_history(folder), analysis.load(folder)
    except RunError as error:
        trace = folder / "error.txt"
        told = trace.read_text(errors="replace") if trace.exists() else str(error)
        return Run(config, {}, pd.DataFrame(), folder, error=told or "unknown")
    return Run(config, result, history, folder, analysis=extra)


def _stored(folder: Path) -> list[Run]:
    """Return the runs of a store of results, which has no weights."""
    frame, histories = results.load_results(folder), results.load_histories(folder)
    by_id = dict(tuple(histories.groupby("id")))
    found = []
    for row in frame.to_dict("records"):
        values = {str(k): _parsed(v) for k, v in row.items()}
        config = {name: values[name] for name in Config.__dataclass_fields__ if name in values}
        found.append(Run(config, values, by_id.get(values["id"], pd.DataFrame())))
    return found


def _parsed(value: Any) -> Any:  # noqa: ANN401
    """JSON lists and objects of a CSV cell; empty cells as None."""
    if isinstance(value, str) and value[:1] in ("[", "{"):
        return json.loads(value)
    return None if isinstance(value, float) and value != value else value


def render(runs: Sequence[Run]) -> str:
    """Return the page of runs as text."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pyro_bayesprune", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.tests["picture"] = lambda item: isinstance(item, Picture)
    found = judgement.flags(runs)
    return environment.get_template("report.html.j2").render(
        title=_title(runs),
        question=f"Can {'this pruned network' if len(runs) == 1 else 'these networks'} be trusted?",
        runs=runs,
        verdict=judgement.verdict(runs, found),
        flags=found,
        provenance=provenance(runs),
        panels=[build(runs) for build in PANELS],
        failed=[run for run in runs if run.error],
        checklist=judgement.checklist(runs),
        methods=methods_text(runs),
        version=version("pyro-bayesprune"),
        paper=PAPER,
    )


def _title(runs: Sequence[Run]) -> str:
    return runs[0].title if len(runs) == 1 else f"{len(runs)} runs"


def command(config: dict[str, Any]) -> str:
    """Return the shortest command line that runs a configuration again."""
    wanted = Config.from_dict(config)
    options = {name: _options(wanted, name) for name in PRESETS}
    preset = min(options, key=lambda name: len(options[name]))
    start = [] if preset == "default" else ["--preset", preset]
    return " ".join(["bayesprune run", *start, *options[preset]])


def _options(wanted: Config, preset: str) -> list[str]:
    base, values = configure(preset).to_dict(), wanted.to_dict()
    return [f"--{n} {_argument(v)}" for n, v in values.items() if v != base[n]]


def _argument(value: Any) -> str:  # noqa: ANN401
    import shlex

    text = json.dumps(value) if isinstance(value, (list, bool)) else str(value)
    return shlex.quote(text.replace(" ", "") if isinstance(value, list) else text)


def provenance(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Return where each run comes from, and the command that makes it again."""
    found = []
    for run in detailed(runs):
        r = run.result
        machine, versions = r.get("machine") or {}, r.get("versions") or {}
        found.append(
            {
                "run": run.title,
                "id": run.id,
                "command": command(run.config),
                "commit": str(r.get("commit") or "unknown"),
                "finished": str(r.get("finished", "unknown")),
                "machine": ", ".join(f"{k} {v}" for k, v in machine.items()),
                "versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
                "settings": ", ".join(f"{k} {shown(v)}" for k, v in run.config.items()),
            }
        )
    return found


def methods_text(runs: Sequence[Run]) -> list[str]:
    """Return how the runs were made, in sentences that can be pasted into a paper."""
    return list(dict.fromkeys(_sentences(run) for run in detailed(runs)))


def _sentences(run: Run) -> str:
    c, r = run.config, run.result
    loss = {"map": "the log posterior", "mle": "the log likelihood alone"}.get(c["objective"], "")
    text = (
        f"The network {str(c['network']).upper()} with {r.get('parameters', 0):,} parameters was "
        f"trained on "
        f"{r.get('num_train', 0):,} examples of {c['dataset']} for {c['epochs']} epochs (Adam, "
        f"learning rate {c['learning_rate']}, batches of {c['batch_size']}), maximising {loss}; "
        f"prior {c['prior']} of scale {c['prior_scale']}."
    )
    if run.dense:
        return text + " Nothing was pruned."
    text += (
        f" At the end of each epoch weights were pruned by {c['criterion']} (scope {c['scope']}, "
        f"schedule {c['schedule']}, target sparsity {c['sparsity']}); gate {c['gate']}, threshold "
        f"beta = {c['beta']} per {c['per']}."
    )
    told = run.analysis.get("diagnostics")
    if told:
        text += (
            f" Posterior draws: {told['chains']} x {told['draws']} of "
            f"{told['surviving_weights_drawn']:,} surviving weights ({told['approximation']})."
        )
    return text
