"""Write the fixtures of `test_stored_runs`: run folders, a store of results, hashes of weights.

    python tests/contracts/make_fixtures.py

They were made once, by the code as it was before the package was divided into sub-packages. Make
them again only for a format that is meant to replace an old one: they stand for users' old files.
"""

import json
import platform
import shutil
import tempfile
import warnings
from pathlib import Path
from unittest import mock

import torch

from pyro_bayesprune._utils.files import digest
from pyro_bayesprune.experiments.config import METHODS, Config, configure
from pyro_bayesprune.experiments.results import record
from pyro_bayesprune.experiments.running import run

FOLDER = Path(__file__).parent / "fixtures"
SMALL = {"hidden": (24, 12), "epochs": 3}
FINISHED = Config(sparsity=0.8, **SMALL)
UNFINISHED = Config(sparsity=0.8, seed=1, **SMALL)
TWO_EPOCHS = {"hidden": (24, 12), "epochs": 2}
TRAININGS = {
    **{name: configure("paper", name, **TWO_EPOCHS) for name in METHODS},
    "default": Config(**TWO_EPOCHS),
    "auto": Config(sparsity="auto", **TWO_EPOCHS),
    "unit": Config(scope="unit", sparsity=0.5, **TWO_EPOCHS),
    "sequential": Config(evaluation="sequential", **TWO_EPOCHS),
}


def processor():
    """Return the processor's name: sums are taken in another order on another one."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor()


def where():
    """Return what the bits of the weights depend on."""
    return {"torch": torch.__version__, "processor": processor()}


def final_hashes(out):
    """Return the SHA-256 of the final weights of each training of `TRAININGS`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # small layers are emptied
        results = {n: run(c, out=out, progress=False) for n, c in TRAININGS.items()}
    return {name: digest(result.weights) for name, result in results.items()}


def interrupt_after_one_epoch(out):
    """Leave the folder of a run that was stopped after its first epoch."""
    from pyro_bayesprune.experiments import folders

    write = folders.write_history

    def write_and_stop(*args):
        write(*args)
        raise KeyboardInterrupt

    with mock.patch.object(folders, "write_history", write_and_stop):
        try:
            run(UNFINISHED, out=out, progress=False)
        except KeyboardInterrupt:
            (out / UNFINISHED.id / "lock").unlink(missing_ok=True)


def main():
    """Write all fixtures anew."""
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    finished = run(FINISHED, out=FOLDER / "folders", progress=False)
    record(FOLDER / "store", finished.folder)
    interrupt_after_one_epoch(FOLDER / "folders")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        hashes = final_hashes(out)
        resumed = digest(run(UNFINISHED, out=out, progress=False).weights)
        for name in ("magnitude", "auto"):
            record(FOLDER / "store", out / TRAININGS[name].id)
    told = where() | {"weights": hashes, "resumed": resumed}
    (FOLDER / "weights.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
