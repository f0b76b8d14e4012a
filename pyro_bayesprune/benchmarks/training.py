"""The cost of training compared with plain PyTorch; the competitors alternate in one process.

Times depend on shapes and not on pixel values, so the inputs are random numbers.
`reports/speed/make.py` measures other sizes and many trainings at the same time.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from pyro_bayesprune._utils.process import flushed_denormals, memory_kept
from pyro_bayesprune._utils.provenance import provenance
from pyro_bayesprune.benchmarks.competitors import COMPETITORS, QUICK, Round, Setting, plain
from pyro_bayesprune.benchmarks.timing import seconds
from pyro_bayesprune.models import priors
from pyro_bayesprune.models.module import BayesianModule
from pyro_bayesprune.pruning.record import PruneState
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.pruning.step import prune_step

EXAMPLES = 20_000  # training examples at the end of an epoch
PRUNED = Pruning(sparsity=0.5, gate="propose", beta=0.5, schedule="constant")
EPOCH_ENDS = {  # the step before was dense, so that a candidate requires two evaluations
    "epoch end, normal, full": PRUNED,
    "epoch end, normal, sequential": replace(PRUNED, evaluation="sequential"),
    "epoch end, normal, unchanged": Pruning(sparsity=0.0),  # one evaluation
}


def peak_bytes(build: Callable[[], Round]) -> int:
    """Return the peak size, in bytes, of all tensors while a competitor is built and runs a round.

    Only the allocations of PyTorch are counted, without those of the interpreter and the data.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as prof:
        build()()
    allocated = peak = 0
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def steps(setting: Setting, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a row for each competitor: milliseconds of a step, and ratios to the plain loop.

    A ratio of times is the median over rounds of the ratio within a round.
    """
    x, y = setting.examples(setting.steps * setting.batch_size)
    with flushed_denormals(), memory_kept():
        runs = {name: COMPETITORS[name](setting, x, y) for name in names}
        times = seconds(runs, setting.rounds)
        del runs
        data = replace(setting, steps=2), x[: 2 * setting.batch_size], y[: 2 * setting.batch_size]
        peaks = {name: peak_bytes(partial(COMPETITORS[name], *data)) for name in names}
    ratios = times.div(times["plain"], axis=0)
    return [
        {
            "network": setting.network,
            "what": name,
            "ratio_to_plain": ratios[name].median(),
            "ratio_quartiles": ratios[name].quantile([0.25, 0.75]).tolist(),
            "milliseconds": 1e3 * times[name].median() / setting.steps,
            "peak_memory_ratio": peaks[name] / peaks["plain"],
            "peak_megabytes": peaks[name] / 1e6,
        }
        for name in names
    ]


def epoch_end(setting: Setting, number: int) -> list[dict[str, Any]]:
    """Return a row for each of `EPOCH_ENDS`, compared with a plain epoch of ``number`` examples."""
    x, y = setting.examples(number)
    model = BayesianModule(setting.build(), priors.normal(1.0), number)
    weights = {name: p.detach() for name, p in model.net.named_parameters()}
    masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items() if w.dim() > 1}
    records = {}

    def step(name: str) -> None:
        state = PruneState(weights, masks)
        records[name] = prune_step(model, state, (x, y), EPOCH_ENDS[name])[1]

    few = setting.steps * setting.batch_size
    with flushed_denormals(), memory_kept():
        runs = {"plain": plain(setting, x[:few], y[:few])}
        times = seconds(runs | {name: partial(step, name) for name in EPOCH_ENDS}, setting.rounds)
    epoch = times["plain"] * number / few
    return [
        {
            "network": setting.network,
            "what": name,
            "ratio_to_plain": (times[name] / epoch).median(),
            "milliseconds": 1e3 * times[name].median(),
            "data_read": records[name].data_read,
            "decision": records[name].decision,
        }
        for name in EPOCH_ENDS
    ]


def training(quick: bool = False) -> dict[str, Any]:
    """Measure the training step and the end of an epoch for the networks of the preset `paper`.

    The result contains the rows of `steps` and `epoch_end`, and the `provenance`. ``quick``
    measures fewer competitors, steps, rounds and examples, in less than a minute.
    """
    rows = []
    for network in ("fcn", "cnn"):
        setting = Setting(network, steps=4, rounds=5) if quick else Setting(network)
        rows += steps(setting, QUICK if quick else tuple(COMPETITORS))
        number = EXAMPLES // 10 if quick else EXAMPLES
        rows += epoch_end(replace(setting, rounds=1 if quick else 3), number)
    return {**provenance(), "rows": rows}


def table(result: Mapping[str, Any]) -> str:
    """Return the rows of a result as a table for printing."""
    names = ["network", "what", "ratio_to_plain", "milliseconds", "peak_memory_ratio", "data_read"]
    rows = pd.DataFrame(result["rows"]).reindex(columns=names)
    return rows.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}")
