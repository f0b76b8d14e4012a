"""The trainings that the benchmark compares: plain PyTorch, this package, and standard Pyro."""

from collections.abc import Callable, Mapping
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
from pyro_bayesprune.models.module import BayesianModule, Model
from pyro_bayesprune.models.networks import CNN, FCN
from pyro_bayesprune.models.sites import inspect_model
from pyro_bayesprune.pruning.prunable import prunable_sites
from pyro_bayesprune.training.trainer import Trainer

Round = Callable[[], object]  # runs a fixed number of training steps


@dataclass(frozen=True)
class Setting:
    """What to measure."""

    network: str = "fcn"  # inputs like MNIST; or "cnn", inputs like CIFAR-10
    batch_size: int = 64
    steps: int = 16  # in a round
    rounds: int = 9
    hidden: tuple[int, ...] = (1024, 1024, 1024)  # widths of the preset `paper`

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return (1, 28, 28) if self.network == "fcn" else (3, 32, 32)

    def build(self) -> nn.Module:
        """Return the network, always with the same initial weights."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if self.network == "fcn":
                return FCN(self.shape, 10, self.hidden)
            return CNN(self.shape, 10, hidden=self.hidden)

    def examples(self, number: int) -> tuple[Tensor, Tensor]:
        """Return random inputs (n, ...) and labels (n,)."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(number, *self.shape, generator=generator)
        return x, torch.randint(10, (number,), generator=generator)


Competitor = Callable[[Setting, Tensor, Tensor], Round]


def plain(setting: Setting, x: Tensor, y: Tensor) -> Round:
    """Plain PyTorch: cross-entropy, fused Adam, and the weight decay of a Normal prior, σ = 1."""
    order = torch.randperm(len(x))
    losses = plain_pytorch.steps(setting.build(), x, y, order, setting.batch_size, 1 / len(x))
    return lambda: [next(losses) for _ in range(setting.steps)]


def ours(prior: priors.Prior, sparsity: float = 0.0) -> Competitor:
    """Training of a lifted network with this package, with a share of each layer masked."""

    def competitor(setting: Setting, x: Tensor, y: Tensor) -> Round:
        model = BayesianModule(setting.build(), prior, len(x))
        return _epoch(_trainer(model, x, y), setting, sparsity)

    return competitor


def handwritten(setting: Setting, x: Tensor, y: Tensor) -> Round:
    """Training of a hand-written Pyro model that has the same sites as the lifted network."""
    net = setting.build()
    initial = {name: p.detach() for name, p in net.named_parameters()}
    shapes = {name: p.shape for name, p in initial.items()}
    skeleton = net.to("meta")  # the guide stores the weights; the module must not store copies

    def model(x: Tensor, y: Tensor | None = None) -> None:
        weights = {
            name: pyro.sample(name, dist.Normal(0.0, 1.0).expand(shape).to_event(len(shape)))
            for name, shape in shapes.items()
        }
        logits = functional_call(skeleton, weights, (x,))
        with pyro.plate("data", num_data, subsample=x):
            pyro.sample("obs", dist.Categorical(logits=logits), obs=y)

    num_data = len(x)
    return _epoch(_trainer(model, x, y, initial), setting)


def trace_elbo(setting: Setting, x: Tensor, y: Tensor) -> Round:
    """Standard Pyro: AutoDelta, Trace_ELBO, and an optimiser for each parameter."""
    model = BayesianModule(setting.build(), priors.normal(1.0), len(x))
    initial = {name: p.detach().clone() for name, p in model.net.named_parameters()}
    guide = AutoDelta(model, init_loc_fn=init_to_value(values=initial))
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
LONG = ("normal, masked 99%", "laplace, masked 90%", "student_t, masked 90%")
QUICK = tuple(name for name in COMPETITORS if name not in LONG)


def _trainer(
    model: Model, x: Tensor, y: Tensor, initial_weights: Mapping[str, Tensor] | None = None
) -> Trainer:
    options: dict[str, Any] = {"objective": "map", "temperature": 1.0, "seed": 0}
    options["initial_weights"] = initial_weights or {}
    adam = pyro.optim.Adam({"lr": 1e-3, "fused": True})
    return Trainer(model, (x, y), optim=adam, **options)


def _epoch(trainer: Trainer, setting: Setting, sparsity: float = 0.0) -> Round:
    x, y = trainer.data.whole()
    if sparsity:
        sites = inspect_model(trainer.model, x, y)
        names = prunable_sites(trainer.model, sites, None, x)
        with trainer.scope():  # the first epoch of a training is dense
            trainer.svi.step(*trainer.data.first(2))
        generator = torch.Generator().manual_seed(0)
        shapes = {name: trainer.params[name].shape for name in names}
        masks = {n: torch.rand(s, generator=generator) >= sparsity for n, s in shapes.items()}
        trainer.project(masks, persist=True)
    under_masks = ExitStack()  # entered before the rounds: a training enters it once an epoch
    under_masks.enter_context(trainer.under_masks())

    def run() -> ExitStack:
        with trainer.scope():
            for batch in torch.randperm(len(x)).split(setting.batch_size):
                trainer.svi.step(x[batch], y[batch])
        return under_masks

    return run
