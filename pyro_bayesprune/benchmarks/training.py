"""What training costs beside plain PyTorch: competitors alternate in one process.

`training` measures the step and the end of an epoch. Times depend on shapes and not on pixels, so
the inputs are random numbers. `bench_scale` goes on to other sizes and to many trainings at once.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from pyro_bayesprune._utils.process import flushed_denormals, memory_kept
from pyro_bayesprune._utils.provenance import load_average, provenance
from pyro_bayesprune.benchmarks.competitors import COMPETITORS, QUICK, Round, Setting, plain
from pyro_bayesprune.models import priors
from pyro_bayesprune.models.module import BayesianModule
from pyro_bayesprune.pruning.record import PruneState
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.pruning.step import prune_step


def seconds(runs: Mapping[str, Round], rounds: int) -> pd.DataFrame:
    """Return the seconds of each run (columns) in each round (rows), one run after the other.

    A round before the first is not counted: it allocates memory and starts threads.
    """
    rows = []
    for _ in range(rounds + 1):
        rows.append({name: _timed(run) for name, run in runs.items()})
    return pd.DataFrame(rows[1:])


def _timed(run: Round) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_bytes(build: Callable[[], Round]) -> int:
    """Return the most bytes of tensors that building a competitor and a round of it hold at once.

    PyTorch's own allocations are counted, so that neither the interpreter nor the data hide them.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as prof:
        build()()
    held = peak = 0
    events = prof.profiler.kineto_results.events()
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def steps(setting: Setting, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return a row for each competitor: milliseconds a step, ratios to the plain loop's.

    A ratio is the median over rounds of the ratio within a round.
    """
    x, y = setting.examples(setting.steps * setting.batch_size)
    with flushed_denormals(), memory_kept():
        runs = {name: COMPETITORS[name](setting, x, y) for name in names}
        times = seconds(runs, setting.rounds)
        del runs
        few = replace(setting, steps=2)
        some = x[: 2 * setting.batch_size], y[: 2 * setting.batch_size]
        bytes_held = {n: peak_bytes(partial(COMPETITORS[n], few, *some)) for n in names}
    ratios = times.div(times["plain"], axis=0)
    return [
        {
            "network": setting.network,
            "what": name,
            "ratio_to_plain": ratios[name].median(),
            "ratio_quartiles": ratios[name].quantile([0.25, 0.75]).tolist(),
            "milliseconds": 1e3 * times[name].median() / setting.steps,
            "peak_memory_ratio": bytes_held[name] / bytes_held["plain"],
            "peak_megabytes": bytes_held[name] / 1e6,
        }
        for name in names
    ]


def epoch_end(setting: Setting, number: int) -> list[dict[str, Any]]:
    """Return rows that compare the step at an epoch's end with an epoch of the plain loop.

    Cases: half pruned, the network before it dense (two evaluations of the data); the same by
    sequential evaluation; and masks at 90% that are left unchanged (one evaluation).

    Args:
        setting: network and batch size.
        number: training examples.
    """
    x, y = setting.examples(number)
    model = BayesianModule(setting.build(), priors.normal(1.0), number)
    state = _state(model)
    half = Pruning(sparsity=0.5, beta=0.5, schedule="constant")
    cases = {
        "epoch end, normal, full": half,
        "epoch end, normal, sequential": replace(half, evaluation="sequential"),
        "epoch end, normal, unchanged": Pruning(sparsity=0.0),
    }
    records = {}

    def step(name: str) -> None:
        records[name] = prune_step(model, state, (x, y), cases[name])[1]

    few = setting.steps * setting.batch_size
    with flushed_denormals(), memory_kept():
        runs = {"plain": plain(setting, x[:few], y[:few])}
        times = seconds(runs | {name: partial(step, name) for name in cases}, setting.rounds)
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
        for name in cases
    ]


def _state(model: BayesianModule) -> PruneState:
    weights = {name: p.detach() for name, p in model.net.named_parameters()}
    masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items() if w.dim() > 1}
    return PruneState(weights, masks)


def training(
    quick: bool = False, networks: Sequence[str] = ("fcn", "cnn"), number: int = 20_000
) -> dict[str, Any]:
    """Measure the training step and the end of an epoch of the `paper` preset's networks.

    Args:
        quick: fewer competitors, steps and rounds: under a minute.
        networks: ``fcn``, ``cnn``.
        number: training examples at the end of an epoch (a tenth of them when quick).

    Returns:
        ``versions``, ``machine``, ``load`` and ``rows``: network, what, ratio_to_plain,
        peak_memory_ratio and more. The ratio of an epoch's end is that to an epoch of the plain
        loop.
    """
    rows = []
    for network in networks:
        setting = Setting(network, steps=4, rounds=5) if quick else Setting(network)
        rows += steps(setting, QUICK if quick else tuple(COMPETITORS))
        rounds = replace(setting, rounds=1 if quick else 3)
        rows += epoch_end(rounds, number // 10 if quick else number)
    return {**provenance(), "load": load_average(), "rows": rows}


def table(result: Mapping[str, Any]) -> str:
    """Return the rows of a result as a table to print."""
    shown = ["network", "what", "ratio_to_plain", "milliseconds", "peak_memory_ratio", "data_read"]
    rows = pd.DataFrame(result["rows"]).reindex(columns=shown)
    return rows.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}")
