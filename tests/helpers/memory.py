"""Print the peak memory (MiB) of a pruning step, the evidence and a prediction on a loader.

Run as a script with the number of examples: a process of its own has a peak of its own.
"""

import resource
import sys
import warnings

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

import pyro_bayesprune as bp
from pyro_bayesprune.inference.evidence import log_evidence
from pyro_bayesprune.inference.prediction import class_probabilities
from pyro_bayesprune.pruning.record import PruneState


class Images(Dataset):
    """Random images of 4 KiB, which are made when they are read."""

    def __init__(self, number):
        self.number = number

    def __len__(self):
        return self.number

    def __getitems__(self, positions):
        generator = torch.Generator().manual_seed(positions[0])
        images = torch.randn(len(positions), 1024, generator=generator)
        return [(image, position % 10) for image, position in zip(images, positions, strict=True)]


def main(number):
    loader = DataLoader(Images(number), batch_size=256)
    net = nn.Sequential(nn.Linear(1024, 32), nn.ReLU(), nn.Linear(32, 10))
    model = bp.BayesianModule(net, bp.priors.normal(0.3), number)
    weights = {n: p.detach() for n, p in net.named_parameters()}
    masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items() if w.dim() == 2}
    pruning = bp.Pruning(sparsity=0.5, gate="always", schedule="constant", update="condition")
    state, _ = bp.prune_step(model, PruneState(weights, masks), loader, pruning)
    sequential = bp.Pruning(sparsity=0.6, schedule="constant", evaluation="sequential")
    bp.prune_step(model, state, loader, sequential)
    for structure in ("diagonal", "kron"):
        log_evidence(model, state.weights, loader, state.masks, structure)
    class_probabilities(model, state.weights, loader)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    main(int(sys.argv[1]))
