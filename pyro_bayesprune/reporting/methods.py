"""How the runs of a report were made: commands, provenance, and sentences for a paper."""

import json
from collections.abc import Sequence
from typing import Any

from pyro_bayesprune.experiments.config import PRESETS, Config, configure
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.reporting.html import shown
from pyro_bayesprune.reporting.run_sections import detailed


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
        r = run.metrics
        machine, versions = r.get("machine") or {}, r.get("versions") or {}
        found.append(
            {
                "run": run.title,
                "id": run.id,
                "command": command(run.settings),
                "commit": str(r.get("commit") or "unknown"),
                "finished": str(r.get("finished", "unknown")),
                "machine": ", ".join(f"{k} {v}" for k, v in machine.items()),
                "versions": ", ".join(f"{k} {v}" for k, v in versions.items()),
                "settings": ", ".join(f"{k} {shown(v)}" for k, v in run.settings.items()),
            }
        )
    return found


def methods_text(runs: Sequence[Run]) -> list[str]:
    """Return how the runs were made, in sentences that can be pasted into a paper."""
    return list(dict.fromkeys(_sentences(run) for run in detailed(runs)))


def _sentences(run: Run) -> str:
    c, r = run.settings, run.metrics
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
