"""Pruning of a trained network, without training."""

import math
import time
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from pyro_bayesprune._utils.calls import suggests_names
from pyro_bayesprune._utils.checks import positive
from pyro_bayesprune._utils.progress import counted
from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data.batches import SAMPLE, Batches
from pyro_bayesprune.data.loading import Data
from pyro_bayesprune.inference.conditioning import Conditioning
from pyro_bayesprune.inference.curvature import NoEvidence
from pyro_bayesprune.inference.log_joint import batches_at
from pyro_bayesprune.models.buffers import attribute_shapes, buffers_of
from pyro_bayesprune.models.module import Masks, Model
from pyro_bayesprune.models.refusals import check_modules
from pyro_bayesprune.models.sites import check_num_data, check_weights, inspect_model
from pyro_bayesprune.pruning.criteria import Criterion
from pyro_bayesprune.pruning.gates import accepts
from pyro_bayesprune.pruning.masks import warn_of_empty_sites
from pyro_bayesprune.pruning.prunable import prunable_sites
from pyro_bayesprune.pruning.record import PruneState, Record
from pyro_bayesprune.pruning.registry import Scope, Update
from pyro_bayesprune.pruning.settings import Pruning
from pyro_bayesprune.pruning.step import prune_step
from pyro_bayesprune.training.fitting import Fit, with_buffers
from pyro_bayesprune.training.state import State

HALVINGS, BISECTIONS = 7, 3  # of the share of surviving weights, in the search for a level


@dataclass(frozen=True)
class PrunedNetwork(Fit):
    """A trained network that was pruned without training.

    It is a `Fit` without epochs, so that it predicts, exports and continues like one: training
    under its masks is ``fit(model, data, state=pruned.state, epochs=1)``.

    Args:
        record: the record of the pruning step that was accepted; the last one if none was.
        levels: a row for each level of sparsity that was tried: the log Bayes factor of the pruned
            over the dense network in its parts, the change of the log Occam factor (NaN if it is
            not known, see `Conditioning.occam_gain`), all in nats over the data set, and seconds.
    """

    record: Record | None = None
    levels: pd.DataFrame = field(default_factory=pd.DataFrame)

    def _summary(self, *measures: str) -> dict[str, str]:
        """Return the sparsity, the log Bayes factor and the log evidence ratio, formatted."""
        assert self.record is not None
        factor = self.record.bayes_factor
        row = self.levels[self.levels["sparsity"] == self.record.sparsity].iloc[0]
        evidence = factor.log + row["log_occam_ratio"]
        accepted = "" if self.sparsity else ", no level was accepted"
        rows = {
            "sparsity": f"{self.sparsity:.4f}{accepted}",
            "log Bayes factor": f"{factor.log:.1f} nats ({factor.value('datum'):.4f} per datum)",
        }
        if not math.isnan(evidence):
            rows["log evidence ratio"] = f"{evidence:.1f} nats"
        if self.record.projected:
            rows["projected only:"] = ", ".join(self.record.projected)
        return rows

    def __repr__(self) -> str:
        """Return the summary."""
        parts = [f"{name} {value}" for name, value in self._summary().items()]
        return f"PrunedNetwork({'; '.join(parts)})"


@suggests_names
def prune(
    model: Model,
    weights: Mapping[str, Tensor],
    data: Data,
    sparsity: float | Literal["auto"] = 0.9,
    *,
    update: Update = "condition",
    criterion: str | Criterion = "magnitude",
    scope: Scope = "global",
    beta: float = 0.95,
    sites: tuple[str, ...] | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    progress: bool = True,
) -> PrunedNetwork:
    """Prune a trained network without training it.

    The masks are chosen on the trained weights. With ``update="condition"`` the survivors move to
    their posterior mean given that the pruned weights are zero (`inference.conditioning`), which
    needs the curvature of up to 2,048 training examples and takes seconds. BatchNorm statistics
    stay as they are.

    Args:
        model: the Pyro model. Its buffers must be those of the training, as in a fit's ``model``.
        weights: the trained weights, best at a mode, by name; those of frozen parameters are
            ignored, since the model has them. Prunable weights that are zero count as pruned, stay
            zero, and are no parameters of the trained network in ratios of evidences.
        data: the training data in any form that `as_batches` accepts.
        sparsity: share of the prunable weights that become zero. With ``"auto"`` it is raised,
            first by halving the share of surviving weights and then by bisection, while the joint
            Bayes factor of the pruned over the trained network is above ``beta`` per datum.
        update: ``"condition"``, or ``"project"`` to leave the survivors as they are.
        criterion: as in `Pruning`.
        scope: as in `Pruning`; by default all layers share one ranking.
        beta: threshold of ``"auto"``.
        sites: as in `Pruning`.
        temperature: divides the log likelihood.
        seed: seed of the sample of training examples and of a random criterion.
        progress: show a progress bar of the levels that ``"auto"`` tries.

    Returns:
        The pruned network with weights, masks, record and the table of levels.

    Raises:
        ValueError: if an argument is invalid; the message names it.

    Warns:
        RuntimeWarning: if layers could only be projected, or if no weight of a site is left.

    Example:
        >>> from pyro_bayesprune import BayesianModule, Dataset, priors
        >>> data = Dataset(torch.randn(60, 8), torch.randint(3, (60,)))
        >>> model = BayesianModule(torch.nn.Linear(8, 3), priors.normal(0.3), num_data=60)
        >>> prune(model, dict(model.net.named_parameters()), data, 0.5).sparsity
        0.5
    """
    batches = batches_at(data, weights)
    x, y = batches.first(2)
    positive("temperature", temperature)
    model_sites = inspect_model(model, x, y)
    check_num_data(model_sites, batches.num_data)
    check_modules(model, x, y, 2, batches.num_data)
    latent = {n: w.detach().clone() for n, w in weights.items() if n in model_sites.latent}
    check_weights(model, model_sites, latent)
    names = prunable_sites(model, model_sites, sites, x, scope)
    dense = PruneState(latent, {n: latent[n] != 0 for n in names})  # zeros are pruned already
    settings = Pruning(
        criterion, 0.0, "always", beta, scope=scope, schedule="constant", sites=sites, update=update
    )
    attempt = _Attempts(model, dense, batches, settings, temperature, seed)
    if sparsity == "auto":
        attempts = list(counted(_rising(attempt), "prune", "level", enabled=progress))
    else:
        attempts = [attempt(sparsity)]
    chosen = max(attempts, key=lambda a: (a.row["accepted"], a.record.sparsity))
    if sparsity == "auto" and not chosen.row["accepted"]:
        chosen = chosen._replace(state=dense)
    warn_of_empty_sites(dense.masks, chosen.state.masks, "after pruning")
    if update == "condition" and chosen.record.projected:
        message = f"projected without conditioning: {', '.join(chosen.record.projected)}"
        warnings.warn(message, RuntimeWarning, stacklevel=3)
    buffers = buffers_of(model, attribute_shapes(model))
    state = State(0, chosen.state.weights, chosen.state.masks, buffers, {}, chosen.state.log_bf)
    levels = pd.DataFrame([a.row for a in attempts])
    return PrunedNetwork(
        with_buffers(model, state), state, pd.DataFrame(), None, temperature, chosen.record, levels
    )


class _Attempt(NamedTuple):
    state: PruneState
    record: Record
    row: dict[str, float | bool]


@dataclass
class _Attempts:
    """Prunes a dense network to any level, always from the beginning."""

    model: Model
    dense: PruneState
    data: Batches
    settings: Pruning
    temperature: float
    seed: int

    def __call__(self, level: float) -> _Attempt:
        """Prune to a level of sparsity."""
        started = time.perf_counter()
        state, record = prune_step(
            self.model,
            self.dense,
            self.data,
            replace(self.settings, sparsity=level),
            generator=self._generator(),
            temperature=self.temperature,
        )
        seconds, factor = time.perf_counter() - started, record.bayes_factor
        row = {
            "sparsity": record.sparsity,
            "log_bf": factor.log,
            "log_likelihood_ratio": factor.log_likelihood_ratio,
            "log_prior_ratio": factor.log_prior_ratio,
            "log_occam_ratio": self._occam_gain(state.masks),
            "accepted": accepts("propose", factor.log, record.log_threshold),
            "seconds": seconds,
        }
        return _Attempt(state, record, row)

    @cached_property
    def conditioning(self) -> Conditioning:
        """The approximation of the posterior around the dense network, for its evidence."""
        sample = self.data.sample(SAMPLE, self._generator())
        sites = tuple(self.dense.masks)
        return Conditioning(self.model, self.dense.weights, sample, sites, self.temperature)

    def _occam_gain(self, masks: Masks) -> float:
        """Return the change of the log Occam factor, NaN for a model without a known evidence."""
        try:
            return self.conditioning.occam_gain(self.dense.masks, masks)
        except NoEvidence:
            return math.nan

    def _generator(self) -> torch.Generator:
        return random_stream(self.seed, "pruning", 1)


def _rising(attempt: _Attempts) -> Iterator[_Attempt]:
    """Halve the share of surviving weights while the level is accepted, then bisect."""
    surviving, refused = 1.0, 0.0
    for halvings in range(1, HALVINGS + 1):
        result = attempt(1 - 0.5**halvings)
        yield result
        if not result.row["accepted"]:
            refused = 0.5**halvings
            break
        surviving = 0.5**halvings
    for _ in range(BISECTIONS if refused else 0):
        between = math.sqrt(surviving * refused)
        result = attempt(1 - between)
        yield result
        surviving, refused = (between, refused) if result.row["accepted"] else (surviving, between)
