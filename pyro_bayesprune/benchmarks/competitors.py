"""What the benchmark of training compares: plain PyTorch, ours, and Pyro as it comes."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_value
from torch import Tensor, nn
from torch.func import functional_call

from pyro_bayesprune.benchmarks import plain_pytorch
from pyro_bayesprune.models import priors
from pyro_bayesprune.models.module import BayesianModule, Masks, Model
from pyro_bayesprune.models.networks import CNN, FCN
from pyro_bayesprune.models.sites import inspect_model
from pyro_bayesprune.pruning.prunable import prunable_sites
from pyro_bayesprune.training.trainer import Trainer

HIDDEN = (1024, 1024, 1024)  # the `paper` preset's
Round = Callable[[], object]  # one round: a fixed number of steps


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Args:
        network: ``fcn`` (inputs as MNIST's) or ``cnn`` (as CIFAR-10's).
        batch_size: examples a step.
        steps: steps a round; a round's data hold as many batches.
        rounds: how often each competitor runs; medians are over rounds.
        hidden: widths of the dense layers.
    """

    network: str = "fcn"
    batch_size: int = 64
    steps: int = 16
    rounds: int = 9
    hidden: tuple[int, ...] = HIDDEN

    def build(self) -> nn.Module:
        """Return the network, with the same initial weights each time."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if self.network == "fcn":
                return FCN((1, 28, 28), 10, self.hidden)
            return CNN((3, 32, 32), 10, hidden=self.hidden)

    def examples(self, number: int) -> tuple[Tensor, Tensor]:
        """Return random inputs (n, ...) and labels (n,)."""
        generator = torch.Generator().manual_seed(0)
        shape = (1, 28, 28) if self.network == "fcn" else (3, 32, 32)
        x = torch.randn(number, *shape, generator=generator)
        return x, torch.randint(10, (number,), generator=generator)


Competitor = Callable[[Setting, Tensor, Tensor], Round]


def plain(setting: Setting, x: Tensor, y: Tensor) -> Round:
    """Plain PyTorch: cross-entropy, fused Adam, the weight decay of a Normal prior of σ = 1."""
    losses = plain_pytorch.steps(
        setting.build(), x, y, torch.randperm(len(x)), setting.batch_size, 1 / len(x)
    )
    return lambda: [next(losses) for _ in range(setting.steps)]


def ours(prior: priors.Prior, level: float = 0.0) -> Competitor:
    """Our training of a lifted network, under masks that zero a share ``level`` of each layer."""

    def competitor(setting: Setting, x: Tensor, y: Tensor) -> Round:
        model = BayesianModule(setting.build(), prior, len(x))
        return _epoch(model, setting, x, y, level)

    return competitor


def handwritten(setting: Setting, x: Tensor, y: Tensor) -> Round:
    """Our training of a Pyro model that a user wrote, with the same sites as the lifted one."""
    net = setting.build()
    own = {name: p.detach() for name, p in net.named_parameters()}
    shapes = {name: p.shape for name, p in own.items()}
    skeleton = net.to("meta")  # the weights are the guide's; the module is to hold none

    def model(x: Tensor, y: Tensor | None = None) -> None:
        weights = {
            name: pyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
            for name, shape in shapes.items()
        }
        logits = functional_call(skeleton, weights, (x,))
        with pyro.plate("data", num_data, subsample=x):
            pyro.sample("obs", dist.Categorical(logits=logits), obs=y)

    num_data = len(x)
    return _epoch(model, setting, x, y, initial_weights=own)


def trace_elbo(setting: Setting, x: Tensor, y: Tensor) -> Round:
    """Pyro as it comes: AutoDelta, Trace_ELBO, an optimiser for each parameter."""
    model = BayesianModule(setting.build(), priors.normal(1.0), len(x))
    own = {name: p.detach().clone() for name, p in model.net.named_parameters()}
    guide = AutoDelta(model, init_loc_fn=init_to_value(values=own))
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=Trace_ELBO())
    store: dict[str, Any] = {"params": {}, "constraints": {}}

    def run() -> None:
        with pyro.get_param_store().scope(store):
            for batch in torch.randperm(len(x)).split(setting.batch_size):
                svi.step(x[batch], y[batch])

    return run


COMPETITORS: dict[str, Competitor] = {
    "plain": plain,
    "normal": ours(priors.normal(1.0)),
    "normal, masked 50%": ours(priors.normal(1.0), 0.5),
    "normal, masked 90%": ours(priors.normal(1.0), 0.9),
    "normal, masked 99%": ours(priors.normal(1.0), 0.99),
    "laplace": ours(priors.laplace(1.0)),
    "laplace, masked 90%": ours(priors.laplace(1.0), 0.9),
    "student_t": ours(priors.student_t(3.0, 1.0)),
    "student_t, masked 90%": ours(priors.student_t(3.0, 1.0), 0.9),
    "normal, hand-written model": handwritten,
    "normal, Trace_ELBO": trace_elbo,
}
QUICK = (
    "plain",
    "normal",
    "normal, masked 50%",
    "normal, masked 90%",
    "laplace",
    "student_t",
    *list(COMPETITORS)[-2:],
)


def _trainer(model: Model, x: Tensor, y: Tensor, **options: Any) -> Trainer:  # noqa: ANN401
    defaults: dict[str, Any] = {"initial_weights": {}, "objective": "map", "temperature": 1.0}
    adam = pyro.optim.Adam({"lr": 1e-3, "fused": True})
    return Trainer(model, x, y, **(defaults | options), optim=adam, seed=0)


def _epoch(
    model: Model,
    setting: Setting,
    x: Tensor,
    y: Tensor,
    level: float = 0.0,
    **options: Any,  # noqa: ANN401
) -> Round:
    trainer = _trainer(model, x, y, **options)
    if level:
        names = prunable_sites(model, inspect_model(model, x, y), None)
        with trainer.scope():  # as in training, where the first epoch is dense
            trainer.svi.step(x[:2], y[:2])
        trainer.project(_random_masks(trainer, names, level), hold=True)
    held = ExitStack()
    held.enter_context(trainer.under_masks())  # for all rounds: it is done once an epoch

    def run() -> ExitStack:
        with trainer.scope():
            for batch in torch.randperm(len(x)).split(setting.batch_size):
                trainer.svi.step(x[batch], y[batch])
        return held

    return run


def _random_masks(trainer: Trainer, names: list[str], level: float) -> Masks:
    """Return masks at a level; which weights they zero does not matter here."""
    generator = torch.Generator().manual_seed(0)
    shapes = {name: trainer.params[name].shape for name in names}
    return {name: torch.rand(s, generator=generator) >= level for name, s in shapes.items()}
