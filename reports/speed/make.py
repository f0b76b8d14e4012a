"""Measure how the costs of `bench training` depend on sizes, and many simultaneous trainings.

    python reports/speed/make.py

writes scaling.csv and scaling.png (the step by width and batch size, the end of an epoch by number
of examples), many.csv (simultaneous trainings) and machine.json.
"""

import json
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from joblib import Parallel, delayed
from matplotlib.figure import Figure
from torch import Tensor
from torch.func import functional_call, stack_module_state, vmap
from torch.nn.functional import cross_entropy

from pyro_bayesprune._utils.process import flushed_denormals, memory_kept
from pyro_bayesprune._utils.provenance import load_average, provenance
from pyro_bayesprune.benchmarks.competitors import COMPETITORS, Competitor, Round, Setting
from pyro_bayesprune.benchmarks.timing import seconds
from pyro_bayesprune.benchmarks.training import epoch_end, steps

WIDTHS = (256, 512, 1024, 2048, 4096)
BATCHES = (64, 256, 1024, 4096)
EXAMPLES = (10_000, 30_000, 60_000)
SCALED = ("plain", "normal", "normal, masked 90%", "normal, masked 99%")
MANY = {"64-64-64": (64,) * 3, "256-256-256": (256,) * 3, "1024-1024-1024": (1024,) * 3}
STACKED = 8  # number of stacked networks
HEAD_START = 15.0  # seconds for the start of worker processes, which then measure simultaneously


def scaling(rounds: int = 5) -> pd.DataFrame:
    """Measure the FCN's step by width and batch size, and the end of an epoch by examples.

    Returns:
        Columns ``over`` (the varied quantity), ``value``, and those of `benchmarks.training`.
    """
    rows = {}
    for width in WIDTHS:
        setting = Setting(hidden=(width,) * 3, steps=4, rounds=rounds)
        rows["width", width] = steps(setting, SCALED)
    for batch in BATCHES:
        setting = Setting(batch_size=batch, steps=2 if batch > 1000 else 4, rounds=rounds)
        rows["batch_size", batch] = steps(setting, SCALED)
    for number in EXAMPLES:
        rows["examples", number] = epoch_end(Setting(rounds=3), number)
    return pd.DataFrame({"over": o, "value": v} | row for (o, v), r in rows.items() for row in r)


def figure(table: pd.DataFrame) -> Figure:
    """Draw the ratios of `scaling`, with a panel for each varied quantity."""
    result = Figure(figsize=(11, 3.4), layout="constrained")
    panels = dict(zip(("width", "batch_size", "examples"), result.subplots(1, 3), strict=True))
    for over, axes in panels.items():
        for what, rows in table[table["over"] == over].groupby("what", sort=False):
            axes.plot(rows["value"], rows["ratio_to_plain"], marker="o", label=what)
        axes.set(xscale="log", xlabel=over.replace("_", " "))
        axes.set_xticks(sorted(table.loc[table["over"] == over, "value"].unique()))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.set_ylim(0, 1.35 * axes.get_ylim()[1])  # space for the legend
        axes.legend(fontsize=7, loc="upper right")
    panels["width"].set_ylabel("time, plain PyTorch = 1")
    panels["examples"].set_ylabel("share of a plain epoch")
    return result


def stacked(setting: Setting, x: Tensor, y: Tensor, number: int = STACKED) -> Round:
    """Train ``number`` networks in plain PyTorch as one batched computation.

    Each step trains all of them on the same batch with batched matrix products.
    """
    nets = [setting.build() for _ in range(number)]
    params, buffers = stack_module_state(nets)
    skeleton = setting.build().to("meta")
    optimizer = torch.optim.Adam(list(params.values()), weight_decay=1 / len(x), fused=True)

    def loss(params: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(skeleton, (params, buffers), (x,)), y)

    def run() -> None:
        for batch in torch.randperm(len(x)).split(setting.batch_size):
            losses = vmap(loss, in_dims=(0, 0, None, None))(params, buffers, x[batch], y[batch])
            optimizer.zero_grad()
            losses.sum().backward()
            optimizer.step()
            losses.tolist()

    return run


def _rate(build: Competitor, setting: Setting) -> float:
    """Return the median number of rounds per second, without the first round."""
    x, y = setting.examples(setting.steps * setting.batch_size)
    with flushed_denormals(), memory_kept():
        return 1 / seconds({"run": build(setting, x, y)}, setting.rounds)["run"].median()


def _rate_alone(name: str, setting: Setting, start: float) -> float:
    torch.set_num_threads(1)
    time.sleep(max(0.0, start - time.time()))
    return _rate(COMPETITORS[name], setting)


def _rates_together(name: str, setting: Setting, processes: int) -> float:
    """Return the total rounds per second of simultaneous processes with one thread each."""
    start = time.time() + HEAD_START
    task = delayed(_rate_alone)
    return sum(Parallel(processes)(task(name, setting, start) for _ in range(processes)))


def many(rounds: int = 9) -> pd.DataFrame:
    """Measure the total steps per second of several trainings of networks with the same shape.

    Networks are trained one after the other with all threads, or in one process with one thread
    for each processor, by plain PyTorch and by this package; or `stacked`.

    Returns:
        Columns ``hidden``, ``how``, ``steps_per_second``, and ``gain`` (relative to plain PyTorch,
        one after the other).
    """
    rows = []
    processes = torch.get_num_threads()
    for hidden, widths in MANY.items():
        setting = Setting(hidden=widths, steps=8, rounds=rounds)
        rates = {
            "plain, one after the other": _rate(COMPETITORS["plain"], setting),
            "plain, stacked": STACKED * _rate(stacked, setting),
            "plain, a process each": _rates_together("plain", setting, processes),
        }
        for name in SCALED[1:]:
            rates[f"{name}, one after the other"] = _rate(COMPETITORS[name], setting)
            rates[f"{name}, a process each"] = _rates_together(name, setting, processes)
        base = rates["plain, one after the other"]
        rows += [
            {"hidden": hidden, "how": how, "steps_per_second": r * setting.steps, "gain": r / base}
            for how, r in rates.items()
        ]
    return pd.DataFrame(rows)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the tables and the figure."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reports/speed"), help="output folder")
    parser.add_argument("--only", choices=("scaling", "many"), help="measure one of the two")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, measure in (("many", many), ("scaling", scaling)):
        if args.only in (None, name):
            table = measure()
            table.to_csv(args.out / f"{name}.csv", index=False, float_format="%.5g")
            print(table.to_string(index=False, float_format="{:.3f}".format), flush=True)
            if name == "scaling":
                figure(table).savefig(args.out / "scaling.png", dpi=110)
    conditions = provenance() | {"load": load_average()}
    (args.out / "machine.json").write_text(json.dumps(conditions, indent=1))


if __name__ == "__main__":
    main()
