"""Any `pyro.optim` optimiser as one torch optimiser over all parameters."""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import signature
from typing import Any

import pyro
import torch
from pyro.optim import PyroOptim
from pyro.optim.lr_scheduler import PyroLRScheduler
from torch import Tensor

from pyro_bayesprune.pruning.schedules import REACHED_AT

COUPLED_DECAY = (torch.optim.Adam, torch.optim.SGD)  # unless their decay is decoupled


def adam(learning_rate: float, epochs: int, *, annealing: bool) -> PyroOptim:
    """Return Adam, fused; with ``annealing``, falling to zero over the last 40% of the epochs.

    A constant rate leaves the weights jumping about the mode of the posterior. It falls (along a
    cosine, epoch by epoch) from where rising sparsity schedules have reached their target on, so
    that a network adapts to its pruning at the full rate.
    """
    options = {"lr": learning_rate, "fused": True}
    if not annealing:
        return pyro.optim.Adam(options)

    def share(epoch: int) -> float:
        progress = (epoch / epochs - REACHED_AT) / (1 - REACHED_AT)
        return (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2

    schedule = {"optimizer": torch.optim.Adam, "optim_args": options, "lr_lambda": share}
    return PyroLRScheduler(torch.optim.lr_scheduler.LambdaLR, schedule)


def _entries(mask: Tensor, whole: Tensor) -> Tensor:
    return whole[mask]


def options_of(optim: PyroOptim, name: str) -> dict[str, Any]:
    """Return the options that an optimiser has for a site."""
    options = optim.pt_optim_args
    return dict(options(name) if callable(options) else options)


def couples_decay(optim: PyroOptim, name: str) -> bool:
    """Say whether the optimiser's weight decay adds to the gradient, as a Normal prior does.

    A decoupled decay (AdamW, or Adam with ``decoupled_weight_decay``) is divided by no second
    moment: its fixed points are not those of the log joint. Gradients that are clipped must hold
    the part of the prior already.
    """
    coupled = optim.pt_optim_constructor in COUPLED_DECAY and not optim.pt_clip_args
    return coupled and not options_of(optim, name).get("decoupled_weight_decay")


class JointOptim(PyroOptim):
    """One torch optimiser over all parameters (Pyro itself makes one for each, a tenth of a step).

    Args:
        optim: any optimiser or schedule of `pyro.optim`; its constructor and options are used.
        params: the unconstrained parameters by site.
        decay: weight decay to add for some of the sites; needs an optimiser of `COUPLED_DECAY`.
    """

    def __init__(
        self, optim: PyroOptim, params: Mapping[str, Tensor], decay: Mapping[str, float]
    ) -> None:
        super().__init__(optim.pt_optim_constructor, optim.pt_optim_args, optim.pt_clip_args)
        self.params = dict(params)
        self.torch_optim = optim.pt_optim_constructor(self._groups(decay))
        self.scheduler = None
        if isinstance(optim, PyroLRScheduler):
            self.scheduler = optim.pt_scheduler_constructor(self.torch_optim, **optim.kwargs)

    def _groups(self, decay: Mapping[str, float]) -> list[dict[str, Any]]:
        """Parameters of equal options in one group: a fused step takes them together."""
        groups: list[tuple[dict[str, Any], list[Tensor]]] = []
        for name, param in self.params.items():
            options = options_of(self, name)
            if decay.get(name):
                options["weight_decay"] = options.get("weight_decay", 0) + decay[name]
            elif "weight_decay" in signature(self.pt_optim_constructor).parameters:
                options.setdefault("weight_decay", 0)  # AdamW's own default is no prior
            same = next((members for o, members in groups if o == options), None)
            if same is None:
                self.pt_optim_constructor([param], **options)  # options of a group go unchecked
                groups.append((options, [param]))
            else:
                same.append(param)
        return [{"params": members, **options} for options, members in groups]

    def __call__(self, params: object, *args: object, **kwargs: object) -> None:
        """Take one step on all parameters and drop their gradients."""
        if self.pt_clip_args:
            for param in self.params.values():
                self._clip_grad(param, **self.pt_clip_args)
        self.torch_optim.step()
        # Dropped here: SVI would otherwise write zeros over all of them, a pass over memory.
        self.torch_optim.zero_grad(set_to_none=True)

    def end_epoch(self, loss: float) -> None:
        """Let a schedule take its step; one that waits for a plateau sees the epoch's loss."""
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(loss)
        elif self.scheduler is not None:
            self.scheduler.step()

    def mask_moments(self, masks: Mapping[str, Tensor]) -> None:
        """Zero the optimiser's moments of pruned weights, which would revive them."""
        for name, mask in masks.items():
            for moment in self.torch_optim.state.get(self.params[name], {}).values():
                if isinstance(moment, Tensor) and moment.shape == mask.shape:
                    moment.masked_fill_(~mask, 0)

    def holds(self, name: str) -> bool:
        """Say whether `held` can hold this site: under Adam, from its first step on."""
        adam = type(self.torch_optim) in (torch.optim.Adam, torch.optim.AdamW)
        forgets = any(group.get("betas", (0, 0))[1] == 0 for group in self.torch_optim.param_groups)
        clips = bool(self.pt_clip_args)  # a norm over gradients, whose pruned ones must be zero
        started = "exp_avg_sq" in self.torch_optim.state.get(self.params[name], {})
        return adam and started and not forgets and not clips

    @contextmanager
    def held(self, masks: Mapping[str, Tensor]) -> Iterator[None]:
        """Keep pruned entries where they are, whatever their gradients, at no cost.

        Adam's step is m / (sqrt(v) + eps). Where the second moment v is infinite it stays so, and
        the step is zero. Afterwards the pruned entries' moments are zero again.

        Args:
            masks: of sites that this optimiser `holds`.
        """
        for name, mask in masks.items():
            moment = self.torch_optim.state[self.params[name]]["exp_avg_sq"]
            moment.masked_fill_(~mask, math.inf)
        try:
            yield
        finally:
            self.mask_moments(masks)

    @contextmanager
    def surviving(
        self, vectors: Mapping[str, Tensor], masks: Mapping[str, Tensor]
    ) -> Iterator[None]:
        """Train parameters as vectors of their surviving entries; then put these in their places.

        Args:
            vectors: for some sites, a leaf that holds the surviving entries.
            masks: where they stand; elsewhere parameters and moments are zero.
        """
        whole = dict(self.params)

        def spread(name: str, entries: Tensor) -> Tensor:
            return torch.zeros_like(whole[name]).masked_scatter_(masks[name], entries)

        for name, vector in vectors.items():
            self._replace(name, vector, partial(_entries, masks[name]))
        try:
            yield
        finally:
            for name, vector in vectors.items():
                whole[name].data.copy_(spread(name, vector.detach()))
                self._replace(name, whole[name], partial(spread, name))

    def _replace(self, name: str, new: Tensor, moved: Callable[[Tensor], Tensor]) -> None:
        """Put ``new`` in the place of a parameter, and what is held for it through ``moved``."""
        old, self.params[name] = self.params[name], new
        for group in self.torch_optim.param_groups:
            group["params"] = [new if param is old else param for param in group["params"]]
        held = self.torch_optim.state.pop(old, {})
        for key, value in held.items():
            like = isinstance(value, Tensor) and value.shape == old.shape
            self.torch_optim.state[new][key] = moved(value) if like else value

    def get_state(self) -> dict[str, Any]:
        """Return the states of the optimiser and its schedule: plain tensors and numbers."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return {"optimizer": self.torch_optim.state_dict(), "scheduler": scheduler}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a state that `get_state` returned; the state is left as it is.

        The rate is that of the schedule at the epochs that have passed: a schedule over more epochs
        than before starts where it would be, and not at the old one's last rate.
        """
        self.torch_optim.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if isinstance(self.scheduler, torch.optim.lr_scheduler.LambdaLR):
            schedule = self.scheduler
            parts = zip(self.torch_optim.param_groups, schedule.base_lrs, schedule.lr_lambdas,
                        strict=True)  # fmt: skip
            for group, base, share in parts:
                group["lr"] = base * share(schedule.last_epoch)
