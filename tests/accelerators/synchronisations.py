"""Host synchronisations of a training step under each built-in prior, on the imitated device.

``python tests/accelerators/synchronisations.py`` prints the table of docs/guides/accelerators.md.
"""

import sys
import warnings
from pathlib import Path

import pyro.distributions as dist
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from accelerators import imitation

import pyro_bayesprune as bp
from pyro_bayesprune import priors
from pyro_bayesprune.training.trainer import Trainer

PRIORS = {
    "normal": priors.normal(0.3),
    "normal_per_datum": priors.normal_per_datum(400),
    "fan_in_normal": priors.fan_in_normal(),
    "laplace": priors.laplace(0.1),
    "student_t": priors.student_t(3.0, 0.2),
    "layer_scale": priors.layer_scale(),
    "evidence_normal": priors.evidence_normal(),
    "by_site": priors.by_site({"*.bias": priors.student_t(3.0, 1.0), "*": priors.layer_scale()}),
}
LIKELIHOODS = {
    "gaussian(0.1)": bp.gaussian(0.1),
    "gaussian(prior)": bp.gaussian(dist.LogNormal(0.0, 1.0)),
}
CASES = {name: (prior, None) for name, prior in PRIORS.items()}
CASES |= {f"normal, {name}": (PRIORS["normal"], known) for name, known in LIKELIHOODS.items()}
FEW, MANY = 4, 8  # steps of an epoch


def epochs(device, prior, steps, likelihood=None):
    """The synchronisations of a dense and of a masked epoch of so many steps, by place."""
    torch.manual_seed(0)
    x, y = torch.randn(400, 8), torch.randint(3, (400,))
    if likelihood is not None:
        y = torch.randn(400, 3)
    net = torch.nn.Sequential(torch.nn.Linear(8, 20), torch.nn.ReLU(), torch.nn.Linear(20, 3))
    model = bp.BayesianModule(net, prior, 400, *([] if likelihood is None else [likelihood]))
    counts, run_epoch = [], Trainer.run_epoch

    def counted(trainer, *args):
        with imitation.synchronisations() as places:
            loss = run_epoch(trainer, *args)
            counts.append(places.copy())
        return loss

    Trainer.run_epoch = counted
    try:
        pruning = bp.Pruning(sparsity=0.5, schedule="constant", gate="always")
        states = bp.train(
            model, (x, y), epochs=2, batch_size=400 // steps, pruning=pruning, device=device
        )
        list(states)
    finally:
        Trainer.run_epoch = run_epoch
    return counts


def per_step(device, prior, likelihood=None):
    """The synchronisations of a step without and with masks, and the places of all of them."""
    few, many = (epochs(device, prior, steps, likelihood) for steps in (FEW, MANY))
    more = [after - before for before, after in zip(few, many, strict=True)]
    return [sum(places.values()) / (MANY - FEW) for places in more], sum(more, more[0])


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    imitation.install()
    print("| prior | dense | masked |\n| --- | --- | --- |")
    for name, case in CASES.items():
        (dense, masked), places = per_step(imitation.NAME, *case)
        print(f"| `{name}` | {dense:g} | {masked:g} |")
        if "--places" in sys.argv:
            print(*(f"  {place}: {count}" for place, count in places.items()), sep="\n")
