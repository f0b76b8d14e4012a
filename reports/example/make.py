"""Create the files of this folder: python reports/example/make.py DATA_DIR [RUNS]."""

import shutil
import sys
from pathlib import Path

import pyro_bayesprune as bp
from pyro_bayesprune import diagnostics, plots
from pyro_bayesprune.diagnostics import _arviz
from pyro_bayesprune.diagnostics.conversion import FILE
from pyro_bayesprune.experiments.build import build_data
from pyro_bayesprune.reporting import analyse

HERE = Path(__file__).parent


def main(data_dir: str, out: str = "runs/example") -> None:
    """Train a dense FCN and one pruned to 99% on MNIST, draw from both, and write the report."""
    foreign = bp.load_dataset("fashion_mnist", data_dir)
    folders = []
    for method, sparsity in (("bayes_unpruned", {}), ("bayes_magnitude", {"sparsity": 0.99})):
        config = bp.configure("paper", method, dataset="mnist", epochs=3, **sparsity)
        run = bp.run(config, out=out, data_dir=data_dir)
        folders.append(run.folder)
        if not (run.folder / "analysis.json").exists():
            analyse(run, build_data(config, data_dir), foreign=foreign, draws=300, warmup=250)
    bp.report(folders, HERE / "report.html")
    idata = diagnostics.load(run.folder / FILE)
    diagnostics.summary(idata).to_csv(HERE / "summary.csv", float_format="%.6g")
    (HERE / "groups.txt").write_text(
        "\n".join(f"{name}: {dict(idata[name].sizes)}" for name in _arviz.groups(idata)) + "\n"
    )
    plots.learning_curves(run.history).savefig(HERE / "learning_curves.svg")
    plots.traces(diagnostics.trace_frame(idata)).savefig(HERE / "traces.svg")
    screenshot(HERE / "report.html", HERE / "report.png")


def screenshot(page: Path, out: Path) -> None:
    """Write an image of the top of a page, as the system's Chromium displays it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1000, "height": 900})
        view.goto(page.as_uri())
        view.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
