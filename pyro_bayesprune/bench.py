"""What training costs beside plain PyTorch: competitors alternate in one process.

`training` measures the step and the end of an epoch. Times depend on shapes and not on pixels, so
the inputs are random numbers. `bench_scale` goes on to other sizes and to many trainings at once.
"""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_value
from torch import Tensor, nn
from torch.func import functional_call
from torch.profiler import ProfilerActivity, profile

from pyro_bayesprune import _plain, priors
from pyro_bayesprune.masks import prunable_sites
from pyro_bayesprune.model import BayesianModule, Masks, Model
from pyro_bayesprune.networks import CNN, FCN
from pyro_bayesprune.posterior import inspect_model
from pyro_bayesprune.pruning import PruneState, Pruning, prune_step
from pyro_bayesprune.svi import Trainer, flushed_denormals, memory_kept

HIDDEN = (1024, 1024, 1024)  # the `paper` preset's
Run = Callable[[], object]  # one round: a fixed number of steps


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        network: ``fcn`` (inputs as MNIST's) or ``cnn`` (as CIFAR-10's).
        batch_size: examples a step.
        steps: steps a round; a round's data hold as many batches.
        rounds: how often each competitor runs; medians are over rounds.
        hidden: widths of the dense layers.
    """

    network: str = "fcn"
    batch_size: int = 64
    steps: int = 16
    rounds: int = 9
    hidden: tuple[int, ...] = HIDDEN

    def build(self) -> nn.Module:
        """Return the network, with the same initial weights each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if self.network == "fcn":
                return FCN((1, 28, 28), 10, self.hidden)
            return CNN((3, 32, 32), 10, hidden=self.hidden)

    def examples(self, number: int) -> tuple[Tensor, Tensor]:
        """Return random inputs (n, ...) and labels (n,)."""
        generator = torch.Generator().manual_seed(0)
        shape = (1, 28, 28) if self.network == "fcn" else (3, 32, 32)
        x = torch.randn(number, *shape, generator=generator)
        return x, torch.randint(10, (number,), generator=generator)


Competitor = Callable[[Setting, Tensor, Tensor], Run]


def plain(setting: Setting, x: Tensor, y: Tensor) -> Run:
    """Plain PyTorch: cross-entropy, fused Adam, the weight decay of a Normal prior of σ = 1."""
    losses = _plain.steps(
        setting.build(), x, y, torch.randperm(len(x)), setting.batch_size, 1 / len(x)
    )
    return lambda: [next(losses) for _ in range(setting.steps)]


def ours(prior: priors.Prior, level: float = 0.0) -> Competitor:
    """Our training of a lifted network, under masks that zero a share ``level`` of each layer."""

    def competitor(setting: Setting, x: Tensor, y: Tensor) -> Run:
        model = BayesianModule(setting.build(), prior, len(x))
        return _epoch(model, setting, x, y, level)

    return competitor


def handwritten(setting: Setting, x: Tensor, y: Tensor) -> Run:
    """Our training of a Pyro model that a user wrote, with the same sites as the lifted one."""
    net = setting.build()
    own = {name: p.detach() for name, p in net.named_parameters()}
    shapes = {name: p.shape for name, p in own.items()}
    skeleton = net.to("meta")  # the weights are the guide's; the module is to hold none

    def model(x: Tensor, y: Tensor | None = None) -> None:
        weights = {
            name: pyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
            for name, shape in shapes.items()
        }
        logits = functional_call(skeleton, weights, (x,))
        with pyro.plate("data", num_data, subsample=x):
            pyro.sample("obs", dist.Categorical(logits=logits), obs=y)

    num_data = len(x)
    return _epoch(model, setting, x, y, initial_weights=own)


def trace_elbo(setting: Setting, x: Tensor, y: Tensor) -> Run:
    """Pyro as it comes: AutoDelta, Trace_ELBO, an optimiser for each parameter."""
    model = BayesianModule(setting.build(), priors.normal(1.0), len(x))
    own = {name: p.detach().clone() for name, p in model.net.named_parameters()}
    guide = AutoDelta(model, init_loc_fn=init_to_value(values=own))
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    store: dict[str, Any] = {"params": {}, "constraints": {}}

    def run() -> None:
        with pyro.get_param_store().scope(store):
            for batch in torch.randperm(len(x)).split(setting.batch_size):
                svi.step(x[batch], y[batch])

    return run


COMPETITORS: dict[str, Competitor] = {
    "plain": plain,
    "normal": ours(priors.normal(1.0)),
    "normal, masked 50%": ours(priors.normal(1.0), 0.5),
    "normal, masked 90%": ours(priors.normal(1.0), 0.9),
    "normal, masked 99%": ours(priors.normal(1.0), 0.99),
    "laplace": ours(priors.laplace(1.0)),
    "laplace, masked 90%": ours(priors.laplace(1.0), 0.9),
    "student_t": ours(priors.student_t(3.0, 1.0)),
    "student_t, masked 90%": ours(priors.student_t(3.0, 1.0), 0.9),
    "normal, hand-written model": handwritten,
    "normal, Trace_ELBO": trace_elbo,
}
QUICK = (
    "plain",
    "normal",
    "normal, masked 50%",
    "normal, masked 90%",
    "laplace",
    "student_t",
    *list(COMPETITORS)[-2:],
)


def _trainer(model: Model, x: Tensor, y: Tensor, **options: Any) -> Trainer:  # noqa: ANN401
    defaults: dict[str, Any] = {"initial_weights": {}, "objective": "map", "temperature": 1.0}
    adam = pyro.optim.Adam({"lr": 1e-3, "fused": True})
    return Trainer(model, x, y, **(defaults | options), optim=adam, seed=0)


def _epoch(
    model: Model,
    setting: Setting,
    x: Tensor,
    y: Tensor,
    level: float = 0.0,
    **options: Any,  # noqa: ANN401
) -> Run:
    trainer = _trainer(model, x, y, **options)
    if level:
        names = prunable_sites(model, inspect_model(model, x, y), None)
        with trainer.scope():  # as in training, where the first epoch is dense
            trainer.svi.step(x[:2], y[:2])
        trainer.project(_random_masks(trainer, names, level), hold=True)
    held = ExitStack()
    held.enter_context(trainer.under_masks())  # for all rounds: it is done once an epoch

    def run() -> ExitStack:
        with trainer.scope():
            for batch in torch.randperm(len(x)).split(setting.batch_size):
                trainer.svi.step(x[batch], y[batch])
        return held

    return run


def _random_masks(trainer: Trainer, names: list[str], level: float) -> Masks:
    """Return masks at a level; which weights they zero does not matter here."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: trainer.params[name].shape for name in names}
    return {name: torch.rand(s, generator=generator) >= level for name, s in shapes.items()}


def seconds(runs: Mapping[str, Run], rounds: int) -> pd.DataFrame:
    """Return the seconds of each run (columns) in each round (rows), one run after the other.

    A round before the first is not counted: it allocates memory and starts threads.
    """
    rows = []
    for _ in range(rounds + 1):
        rows.append({name: _timed(run) for name, run in runs.items()})
    return pd.DataFrame(rows[1:])


def _timed(run: Run) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_bytes(build: Callable[[], Run]) -> int:
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
        ``machine``, and ``rows``: network, what, ratio_to_plain, peak_memory_ratio and more. The
        ratio of an epoch's end is that to an epoch of the plain loop.
    """
    rows = []
    for network in networks:
        setting = Setting(network, steps=4, rounds=5) if quick else Setting(network)
        rows += steps(setting, QUICK if quick else tuple(COMPETITORS))
        rounds = replace(setting, rounds=1 if quick else 3)
        rows += epoch_end(rounds, number // 10 if quick else number)
    return {"machine": machine(), "rows": rows}


def machine() -> dict[str, Any]:
    """Return what the times were measured on."""
    return {
        "processor": _processor(),
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pyro": pyro.__version__,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def table(result: Mapping[str, Any]) -> str:
    """Return the rows of a result as a table to print."""
    shown = ["network", "what", "ratio_to_plain", "milliseconds", "peak_memory_ratio", "data_read"]
    rows = pd.DataFrame(result["rows"]).reindex(columns=shown)
    return rows.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.3f}")
