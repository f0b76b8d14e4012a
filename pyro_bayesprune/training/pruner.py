"""Pruning in a training loop of the user's own: `Pruner`."""

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import LBFGS, Optimizer

from pyro_bayesprune._utils.calls import suggests_names
from pyro_bayesprune._utils.checks import check_kind, positive, positive_integer
from pyro_bayesprune._utils.process import alone, one_at_a_time
from pyro_bayesprune.data.batches import Batches
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.data.loading import Data, Unpack, as_batches
from pyro_bayesprune.models.adapter import Forward
from pyro_bayesprune.models.buffers import attribute_shapes, buffers_of
from pyro_bayesprune.models.likelihoods import Likelihood, categorical
from pyro_bayesprune.models.module import BayesianModule, Masks, Weights
from pyro_bayesprune.models.priors import Prior
from pyro_bayesprune.pruning.record import Record
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.training.attached import Attached, refuse_sites, validation_on
from pyro_bayesprune.training.elbo import log_likelihood
from pyro_bayesprune.training.fitting import Fit, with_buffers
from pyro_bayesprune.training.loop import (
    UNPRUNED,
    checked_sites,
    end_epoch,
    score_of,
    starting_state,
)
from pyro_bayesprune.training.sources import Sources, held_out_part
from pyro_bayesprune.training.state import State


class Pruner:
    """Prunes a network in your own PyTorch loop, by the pruning step of `fit`.

    The loop minimises the mean negative log likelihood of an example, for example by
    ``F.cross_entropy``. `attach` adds the gradient of the prior before each step of the optimiser,
    and sets pruned weights to exactly zero after it. `step`, at the end of an epoch, builds a
    pruned candidate, compares it with the network and decides. The guide "Your own loop" in the
    documentation has examples.

    Args:
        net: the network, trained in place. Give the plain network before ``torch.compile`` or
            ``DistributedDataParallel`` (or the result of either, which shares its parameters).
        prior: function ``(name, shape) -> Distribution``, see `pyro_bayesprune.priors`.
        num_data: number N of training examples.
        pruning: how to prune; None never prunes.
        epochs: number of calls of `step`, for the schedule.
        likelihood: function from the network's outputs to the distribution of the targets. It must
            be that of the loop's loss. The noise of `gaussian` may be learnt, see `loss`.
        temperature: divides the log likelihood in decisions. The gradient of the prior is
            multiplied by it, so that the loss of the loop does not change.
        seed: seed of the random numbers of pruning.
        forward: function ``(net, x) -> outputs`` that calls the network, see `BayesianModule`.
        unpack: function ``batch -> (inputs, targets)`` for batches of `step` that are no pairs.

    Raises:
        ValueError: if an argument is invalid; the message names it.

    Example:
        >>> import torch
        >>> from pyro_bayesprune import priors
        >>> x, y = torch.randn(60, 8), torch.randint(3, (60,))
        >>> net, pruning = nn.Linear(8, 3), Pruning(sparsity=0.5, gate="always")
        >>> pruner = Pruner(net, priors.normal(0.3), 60, pruning=pruning, epochs=2)
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> pruner.attach(optimizer)
        >>> for epoch in range(2):
        ...     loss = nn.functional.cross_entropy(net(x), y)
        ...     optimizer.zero_grad()
        ...     loss.backward()
        ...     optimizer.step()
        ...     record = pruner.step((x, y))
        >>> record.sparsity, float((net.weight == 0).float().mean())
        (0.5, 0.5)
    """

    @suggests_names
    def __init__(
        self,
        net: nn.Module,
        prior: Prior,
        num_data: int,
        *,
        epochs: int,
        pruning: Pruning | None = None,
        likelihood: Likelihood = categorical,
        temperature: float = 1.0,
        seed: int = 0,
        forward: Forward | None = None,
        unpack: Unpack | None = None,
    ) -> None:
        positive("temperature", temperature)
        positive_integer("epochs", epochs)
        pruning = pruning or UNPRUNED
        check_kind("pruning", pruning, Pruning)
        self.model = BayesianModule(_plain(net), prior, num_data, likelihood, forward)
        if fixed := sorted(self.model.fixed()):
            raise ValueError(
                f"the prior of {', '.join(fixed)} is a Delta, a constant: set the value in your "
                f"network instead, and its requires_grad to False"
            )
        self.pruning, self.epochs = pruning, epochs
        self._parameters = Attached(self.model, temperature=temperature, seed=seed)
        self._unpack = unpack
        self._state: State | None = None  # until the first step
        self._rows: list[dict[str, Any]] = []
        self._started = time.perf_counter()

    def hyperparameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of learnt scales of a prior, and of a learnt noise."""
        return (scale for scale in self._parameters.scales.values() if scale.requires_grad)

    def attach(self, optimizer: Optimizer) -> None:
        """Add the prior's gradient before each step, and zero pruned weights after it.

        Several optimisers may be attached, for example for different layers.

        Args:
            optimizer: any optimiser of this network's parameters except LBFGS.

        Raises:
            ValueError: if it is attached already, or has none of the parameters.

        Warns:
            UserWarning: if its weight decay would count as a second prior.
        """
        own = self._parameters.of(optimizer)
        kind = type(optimizer).__name__
        if isinstance(optimizer, LBFGS):
            raise ValueError(
                "LBFGS cannot be attached: it compares values of the loss within a step, and the "
                "loss does not contain the log prior"
            )
        if optimizer in self._parameters.optimizers:
            raise ValueError(f"this {kind} is attached already")
        if not own:
            raise ValueError(f"this {kind} has no parameter of the pruner's network")
        decayed = {
            id(p) for g in optimizer.param_groups if g.get("weight_decay") for p in g["params"]
        }
        names = [name for name, param in own.items() if id(param) in decayed]
        if names:
            warnings.warn(
                f"the weight decay of {kind} counts as a second prior of {', '.join(names)}: set "
                f"weight_decay=0.0",
                UserWarning,
                stacklevel=2,
            )
        self._parameters.attach(optimizer)

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Return the mean negative log likelihood of an example, in nats, which a loop minimises.

        For classes it is ``F.cross_entropy(outputs, y)``. With a learnt noise it must be the loss
        of the loop, and `hyperparameters` must be in the optimiser.

        Args:
            outputs: of the network (n, ...).
            y: targets (n, ...).

        Raises:
            ValueError: if the likelihood samples anything but the noise of a `gaussian`.
        """
        with one_at_a_time(), validation_on(outputs.device):
            likelihood = self._parameters.likelihood(outputs)
            return -log_likelihood(likelihood, outputs, y) / len(y)

    def step(
        self, data: Data, *, train_loss: float = math.nan, validation: Data | None = None
    ) -> Record:
        """Build pruned candidates, compare them with the network, decide, and prune the network.

        The network is evaluated in evaluation mode, and then has its former mode again.

        Args:
            data: all N training examples, in any form that `as_batches` accepts, for example a
                ``DataLoader`` without augmentation. They decide.
            train_loss: mean loss of the epoch, for the history.
            validation: data whose loss and accuracy the history contains. They do not decide.

        Returns:
            The record of the step, see `prune_step`.

        Raises:
            ValueError: if the data do not fit the network, are not N examples, if a parameter of
                the prior is in no optimiser, or if a loaded state has pruned other sites.
        """
        seconds = time.perf_counter() - self._started
        self._check_attached()
        self._parameters.check_trained()
        self._parameters.zero_pruned(self._parameters.params)  # weights may have been loaded
        with alone():
            read = self._read(data, validation)
            sites = checked_sites(self.model, read, batch_size=2)
            refuse_sites(set(sites.latent) - set(self._parameters.params))
            self._parameters.score = score_of(sites)
            state = starting_state(self._parameters, sites, read, self.pruning, self._state)
            pruned, epoch = end_epoch(
                self._parameters, read, self.pruning, state, self.epochs, train_loss, seconds
            )
        self._state = State(epoch.step.epoch, {}, pruned.masks, {}, {}, pruned.log_bf)
        self._rows.append(epoch.row())
        self._started = time.perf_counter()
        return epoch.step

    def _read(self, data: Data, validation: Data | None) -> Sources:
        if isinstance(data, Dataset):
            data = data.to(self.model.device)
        dataset, batches = data if isinstance(data, Dataset) else None, self._batches(data)
        own = None if validation is None else self._batches(validation)
        held_out = own or held_out_part(dataset, "validation")
        test = held_out_part(dataset, "test")
        return Sources(batches, dataset or batches, dataset, held_out, test)

    def _batches(self, data: Data) -> Batches:
        return as_batches(data, self._unpack, like=self._parameters.like)

    def _check_attached(self) -> None:
        optimizers = self._parameters.optimizers
        if not optimizers:
            raise ValueError("attach the optimiser before the first step: pruner.attach(optimizer)")
        attached = {name for optimizer in optimizers for name in self._parameters.of(optimizer)}
        missing = set(self._parameters.scales) - attached - set(self._parameters.frozen_sites)
        if missing:
            raise ValueError(
                f"the model learns {', '.join(sorted(missing))}, which no attached optimiser has: "
                f"add pruner.hyperparameters() to its parameters"
            )

    @property
    def masks(self) -> Masks:
        """A bool tensor for each prunable site, True where a weight is kept; empty at first."""
        return self._state.masks if self._state else {}

    @property
    def weights(self) -> Weights:
        """A copy of the value of each latent site."""
        return self._parameters.weights()

    @property
    def history(self) -> pd.DataFrame:
        """One row for each step, with the columns of a fit's history."""
        return pd.DataFrame(self._rows)

    def to_fit(self) -> Fit:
        """Return the network as it is now as a `Fit`, for draws, reports and export."""
        state = self._state or State(0, {}, {}, {}, {}, None)
        buffers = buffers_of(self.model, attribute_shapes(self.model))
        weights = self.weights  # some of them may have regrown since the last step
        masks = {name: mask | (weights[name] != 0) for name, mask in state.masks.items()}
        state = State(state.epoch, weights, masks, buffers, {}, state.log_bf)
        model = with_buffers(self.model, state)
        return Fit(model, state, self.history, None, self._parameters.temperature)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as tensors and plain values.

        The states of the network and of the optimiser are not part of it.
        """
        state = self._state or State(0, {}, {}, {}, {}, None)
        return {
            "epoch": state.epoch,
            "masks": state.masks,
            "log_bf": state.log_bf,
            "scales": {n: s.detach().clone() for n, s in self._parameters.scales.items()},
            "history": list(self._rows),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a result of `state_dict`.

        Load the states of the network and of the optimiser as well, and attach the optimiser.
        """
        masks = {n: m.to(self._parameters.params[n].device) for n, m in state["masks"].items()}
        for name, scale in state["scales"].items():
            self._parameters.scales[name].data.copy_(scale)
        if state["epoch"]:
            self._state = State(state["epoch"], {}, masks, {}, {}, state["log_bf"])
        self._parameters.set_masks({} if self.pruning.regrow else masks)
        self._rows = list(state["history"])

    def detach(self) -> None:
        """Remove all hooks. The network is then a plain module, whose pruned weights are zero."""
        self._parameters.detach()


def _plain(net: nn.Module) -> nn.Module:
    """Return the network inside a result of DistributedDataParallel or ``torch.compile``."""
    net = net.module if isinstance(net, DistributedDataParallel) else net
    return getattr(net, "_orig_mod", net)
