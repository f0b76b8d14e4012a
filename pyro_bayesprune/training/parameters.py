"""The parameters that a training changes: of `fit`, or of a loop of the user's."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from pyro_bayesprune.models.module import Masks, Model, Weights


class Parameters(ABC):
    """The parameters of a training, by site, and what a pruning step does with them.

    Attributes:
        model: the Pyro model.
        params: for each latent site the unconstrained parameter that the optimiser changes.
        frozen_sites: sites that only `set` changes.
        seed: seed of all random streams.
        temperature: divides the log likelihood.
        score: name of the score of predictions, see `inference.targets`.
    """

    model: Model
    params: dict[str, Tensor]
    frozen_sites: list[str]
    seed: int
    temperature: float
    score: str = "accuracy"

    @abstractmethod
    def weights(self) -> Weights:
        """Return a copy of the value of each site."""

    @abstractmethod
    def set(self, name: str, value: Tensor) -> None:
        """Set the value of a site."""

    @abstractmethod
    def mask_moments(self, masks: Masks) -> None:
        """Zero the optimiser's moments of pruned weights."""

    @abstractmethod
    def set_masks(self, masks: Masks) -> None:
        """Train under these masks from now on."""

    def project(self, masks: Masks, *, persist: bool) -> None:
        """Zero pruned weights and their moments; with ``persist``, train under these masks."""
        for name, mask in masks.items():
            self.params[name].data.masked_fill_(~mask, 0)
        self.mask_moments(masks)
        self.set_masks(masks if persist else {})

    def move(self, weights: Weights) -> None:
        """Set the sites to new values; the optimiser's moments stay as they are."""
        for name, value in weights.items():
            if name not in self.frozen_sites:
                self.set(name, value)

    def round_parameters(self) -> None:
        """Recompute the parameter of each constrained site (a scale) from the site's value.

        A continued training computes it from the value, and log(exp(t)) need not equal t. With this
        rounding, an uninterrupted training has the same parameters.
        """
        for name, value in self.weights().items():
            if not torch.equal(value, self.params[name]):
                self.set(name, value)
