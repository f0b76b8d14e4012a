"""Measure how the costs of `bench training` depend on sizes.

    python reports/speed/make.py

writes scaling.csv and scaling.png (the step by width and batch size, the end of an epoch by number
of examples) and machine.json.
"""

import json
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from pyro_bayesprune._utils.provenance import provenance
from pyro_bayesprune.benchmarks.competitors import Setting
from pyro_bayesprune.benchmarks.training import epoch_end, steps

WIDTHS = (256, 512, 1024, 2048, 4096)
BATCHES = (64, 256, 1024, 4096)
EXAMPLES = (10_000, 30_000, 60_000)
SCALED = ("plain", "normal", "normal, masked 90%", "normal, masked 99%")


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


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and write the tables and the figure."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reports/speed"), help="output folder")
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    table = scaling()
    table.to_csv(args.out / "scaling.csv", index=False, float_format="%.5g")
    print(table.to_string(index=False, float_format="{:.3f}".format))
    figure(table).savefig(args.out / "scaling.png", dpi=110)
    (args.out / "machine.json").write_text(json.dumps(provenance(), indent=1))


if __name__ == "__main__":
    main()
