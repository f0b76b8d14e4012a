"""Write the example report of a regression: python reports/regression/make.py [RUNS]."""

import sys
from pathlib import Path

import pyro_bayesprune as bp
from pyro_bayesprune.experiments.build import build_data
from pyro_bayesprune.reporting import analyse

HERE = Path(__file__).parent
SETTINGS = {"dataset": "diabetes", "likelihood": "gaussian", "hidden": (16, 16), "epochs": 60}


def main(out: str = "runs/regression") -> None:
    """Train a dense network and one pruned to 80%, draw from both, and write the report."""
    folders = []
    for sparsity in (0.0, 0.8):
        config = bp.configure(**SETTINGS, sparsity=sparsity, learning_rate=0.01)
        run = bp.run(config, out=out, progress=False)
        folders.append(run.folder)
        options = {"draws": 250, "chains": 4, "warmup": 150}
        analyse(run, build_data(config), method="last_layer_nuts", **options)
        print(run)
    bp.report(folders, HERE / "report.html")


if __name__ == "__main__":
    main(*sys.argv[1:])
