"""Create the files of this folder: python reports/example/make.py [DATA_DIR] [RUNS]."""

import shutil
import sys
from pathlib import Path

import pyro_bayesprune as bp
from pyro_bayesprune.experiments.build import build_data
from pyro_bayesprune.reporting import analyse

HERE = Path(__file__).parent


def main(data_dir: str | None = None, out: str = "runs/example") -> None:
    """Train a dense FCN and one pruned to 98% on MNIST, draw from both, and write the report."""
    foreign = bp.load_dataset("fashion_mnist", data_dir)
    folders = []
    for sparsity in (0.0, 0.98):
        config = bp.configure(dataset="mnist", epochs=8, sparsity=sparsity)
        run = bp.run(config, out=out, data_dir=data_dir)
        data = build_data(config, data_dir)
        analyse(run, data, method="last_layer_laplace", foreign=foreign, draws=300)
        folders.append(run.folder)
    bp.report(folders, HERE / "report.html")
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
