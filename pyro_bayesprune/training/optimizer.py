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

WHOLE = ("Muon", "Adafactor")  # optimisers of torch that need whole matrices


def adam(learning_rate: float, epochs: int, *, annealing: bool, begun: int = 0) -> PyroOptim:
    """Return fused Adam; with ``annealing``, its rate falls to zero over the last 40% of epochs.

    With a constant rate the weights fluctuate around the mode of the posterior. The rate falls
    along a cosine after rising sparsity schedules have reached their target, so that a network
    adapts to its pruning at the full rate. The schedule begins after ``begun`` of the epochs.
    """
    options = {"lr": learning_rate, "fused": True}
    if not annealing:
        return pyro.optim.Adam(options)

    def share(epoch: int) -> float:
        progress = ((begun + epoch) / epochs - REACHED_AT) / (1 - REACHED_AT)
        return (1 + math.cos(math.pi * min(1.0, max(0.0, progress)))) / 2

    schedule = {"optimizer": torch.optim.Adam, "optim_args": options, "lr_lambda": share}
    return PyroLRScheduler(torch.optim.lr_scheduler.LambdaLR, schedule)


def options_of(optim: PyroOptim, name: str) -> dict[str, Any]:
    """Return the options of an optimiser for a site."""
    options = optim.pt_optim_args
    return dict(options(name) if callable(options) else options)


def couples_decay(optim: PyroOptim, name: str) -> bool:
    """Return whether the optimiser's weight decay adds to the gradient, as a Normal prior does.

    A decoupled decay (AdamW, or Adam with ``decoupled_weight_decay``) is not divided by the second
    moment, so its fixed points are not those of the log joint. If gradients are clipped, they must
    already contain the prior's gradient.
    """
    coupled = optim.pt_optim_constructor in COUPLED_DECAY and not optim.pt_clip_args
    return coupled and not options_of(optim, name).get("decoupled_weight_decay")


def mask_moments(
    optimizer: torch.optim.Optimizer, params: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> None:
    """Zero the moments of pruned weights, which would otherwise change these weights."""
    for name, mask in masks.items():
        for moment in optimizer.state.get(params[name], {}).values():
            if isinstance(moment, Tensor) and moment.shape == mask.shape:
                moment.masked_fill_(~mask, 0)


class JointOptim(PyroOptim):
    """One torch optimiser over all parameters, 10% faster than Pyro's one for each parameter.

    Args:
        optim: any optimiser or schedule of `pyro.optim`; its constructor and options are used.
        params: the unconstrained parameters by site.
        decay: additional weight decay of some sites; needs an optimiser of `COUPLED_DECAY`.
    """

    def __init__(
        self, optim: PyroOptim, params: Mapping[str, Tensor], decay: Mapping[str, float]
    ) -> None:
        super().__init__(optim.pt_optim_constructor, optim.pt_optim_args, optim.pt_clip_args)
        self.params = dict(params)
        self.masks: Mapping[str, Tensor] = {}
        kind = optim.pt_optim_constructor
        known = getattr(kind, "__module__", "").partition(".")[0] in ("torch", "pyro")
        self.is_elementwise = known and kind.__name__ not in WHOLE
        self.torch_optim = optim.pt_optim_constructor(self._groups(decay))
        self.scheduler = None
        if isinstance(optim, PyroLRScheduler):
            self.scheduler = optim.pt_scheduler_constructor(self.torch_optim, **optim.kwargs)

    def _groups(self, decay: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return one group for all parameters with equal options, for a fused step."""
        groups: list[tuple[dict[str, Any], list[Tensor]]] = []
        for name, param in self.params.items():
            options = options_of(self, name)
            if decay.get(name):
                options["weight_decay"] = options.get("weight_decay", 0) + decay[name]
            elif "weight_decay" in signature(self.pt_optim_constructor).parameters:
                options.setdefault("weight_decay", 0)  # AdamW's default would be an extra prior
            same = next((members for o, members in groups if o == options), None)
            if same is None:
                self.pt_optim_constructor([param], **options)  # checks the options
                groups.append((options, [param]))
            else:
                same.append(param)
        return [{"params": members, **options} for options, members in groups]

    def __call__(self, params: object, *args: object, **kwargs: object) -> None:
        """Take one step on all parameters and remove their gradients."""
        if self.pt_clip_args:
            for param in self.params.values():
                self._clip_grad(param, **self.pt_clip_args)
        self.torch_optim.step()
        if not self.is_elementwise:  # it may move weights that have neither gradient nor moments
            for name, mask in self.masks.items():
                self.params[name].data.masked_fill_(~mask, 0)
        # Otherwise SVI would write zeros over all gradients, a pass over memory.
        self.torch_optim.zero_grad(set_to_none=True)

    def end_epoch(self, loss: float) -> None:
        """Take the step of a schedule. A plateau schedule uses the loss of the epoch."""
        if isinstance(self.scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            self.scheduler.step(loss)
        elif self.scheduler is not None:
            self.scheduler.step()

    def mask_moments(self, masks: Mapping[str, Tensor]) -> None:
        """Zero the moments of pruned weights."""
        mask_moments(self.torch_optim, self.params, masks)

    def can_fix(self, name: str) -> bool:
        """Return whether `fixed_entries` works for this site: under Adam, after its first step."""
        adam = type(self.torch_optim) in (torch.optim.Adam, torch.optim.AdamW)
        betas = [group.get("betas", (0, 0)) for group in self.torch_optim.param_groups]
        averages = all(second > 0 for _, second in betas)  # otherwise v would be 0 · ∞ = NaN
        clips = bool(self.pt_clip_args)  # the norm of the gradients must not contain pruned entries
        started = "exp_avg_sq" in self.torch_optim.state.get(self.params[name], {})
        return adam and started and averages and not clips

    @contextmanager
    def fixed_entries(self, masks: Mapping[str, Tensor]) -> Iterator[None]:
        """Fix pruned entries, whatever their gradients, at no cost.

        Adam's step is m / (sqrt(v) + eps). An infinite second moment v remains infinite, so that
        the step is zero. Afterwards the moments of pruned entries are zero again.

        Args:
            masks: masks of sites for which `can_fix` returns True.
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
        """Train parameters as vectors of their surviving entries, then restore the full shapes.

        Args:
            vectors: for some sites, a leaf with the surviving entries.
            masks: True at the surviving entries; other parameters and moments are zero.
        """
        whole = dict(self.params)

        def entries(name: str, values: Tensor) -> Tensor:
            return values[masks[name]]  # `masked_select` needs 16 bytes for each entry of the mask

        def spread(name: str, entries: Tensor) -> Tensor:
            return torch.zeros_like(whole[name]).masked_scatter_(masks[name], entries)

        for name, vector in vectors.items():
            self._replace(name, vector, partial(entries, name))
        try:
            yield
        finally:
            for name, vector in vectors.items():
                whole[name].data.copy_(spread(name, vector.detach()))
                self._replace(name, whole[name], partial(spread, name))

    def _replace(self, name: str, new: Tensor, convert: Callable[[Tensor], Tensor]) -> None:
        """Replace a parameter by ``new``, and convert the optimiser's moments to its shape."""
        old, self.params[name] = self.params[name], new
        for group in self.torch_optim.param_groups:
            group["params"] = [new if param is old else param for param in group["params"]]
        for key, value in self.torch_optim.state.pop(old, {}).items():
            is_moment = isinstance(value, Tensor) and value.shape == old.shape
            self.torch_optim.state[new][key] = convert(value) if is_moment else value

    def get_state(self) -> dict[str, Any]:
        """Return the states of the optimiser and its schedule: plain tensors and numbers."""
        scheduler = None if self.scheduler is None else self.scheduler.state_dict()
        return {"optimizer": self.torch_optim.state_dict(), "scheduler": scheduler}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continue from a copy of a state that `get_state` returned.

        The learning rate is that of the current schedule at the number of finished epochs. It can
        differ from the last rate of the earlier schedule, if that had fewer epochs.
        """
        self.torch_optim.load_state_dict(copy.deepcopy(state["optimizer"]))
        if self.scheduler is not None:
            self.scheduler.load_state_dict(state["scheduler"])
        if isinstance(self.scheduler, torch.optim.lr_scheduler.LambdaLR):
            groups, schedule = self.torch_optim.param_groups, self.scheduler
            shares = [share(schedule.last_epoch) for share in schedule.lr_lambdas]
            for group, base, share in zip(groups, schedule.base_lrs, shares, strict=True):
                group["lr"] = base * share
