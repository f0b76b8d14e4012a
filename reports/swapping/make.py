"""What works with which prior and which module: python reports/swapping/make.py.

Each cell of the tables runs the code. A refusal is a `ValueError` raised by the library.
"""

import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyro_bayesprune as bp
from pyro_bayesprune._utils.process import set_threads
from pyro_bayesprune._utils.tables import fill
from pyro_bayesprune.inference import evidence
from pyro_bayesprune.inference.samplers import posterior_draws

HERE = Path(__file__).parent
COLUMNS = ("fit", "decisions", "draws", "evidence", "report")
Prior = Callable[[str, torch.Size], dist.TorchDistribution]


def horseshoe(name: str, shape: torch.Size) -> dist.TorchDistribution:
    """A horseshoe with one scale for each weight and one for the parameter."""
    whole = pyro.sample(f"{name}_global", dist.LogNormal(-1.0, 0.5))
    each = dist.LogNormal(0.0, 1.0).expand(shape).to_event(len(shape))
    return dist.Normal(0.0, whole * pyro.sample(f"{name}_local", each)).to_event(len(shape))


class Spike(dist.TorchDistribution):
    """An equal mixture of N(0, 0.02²), the spike, and N(0, 0.5²)."""

    arg_constraints: dict = {}
    support = dist.constraints.real
    has_rsample = False

    def __init__(self, batch_shape: torch.Size = torch.Size()) -> None:  # noqa: D107, B008
        super().__init__(batch_shape, validate_args=False)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> "Spike":
        """Return the mixture with another batch shape."""
        return Spike(torch.Size(batch_shape))

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        """Sample a component for each element, then its value."""
        shape = self.shape(sample_shape)
        return torch.where(torch.rand(shape) < 0.5, 0.02, 0.5) * torch.randn(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of each element."""
        parts = [dist.Normal(0.0, scale).log_prob(value) for scale in (0.02, 0.5)]
        return torch.stack(parts).logsumexp(0) - 0.6931471805599453


def spike(name: str, shape: torch.Size) -> dist.TorchDistribution:
    """The spike mixture as a prior of every weight."""
    return Spike().expand(shape).to_event(len(shape))


def cauchy(name: str, shape: torch.Size) -> dist.TorchDistribution:
    """A Cauchy prior of every weight."""
    return dist.Cauchy(0.0, 0.1).expand(shape).to_event(len(shape))


PRIORS: dict[str, Prior] = {
    "normal_per_datum(24)": bp.priors.normal_per_datum(24),
    "normal(0.5)": bp.priors.normal(0.5),
    "fan_in_normal(1.0)": bp.priors.fan_in_normal(1.0),
    "laplace(0.3)": bp.priors.laplace(0.3),
    "student_t(3.0, 0.3)": bp.priors.student_t(3.0, 0.3),
    "layer_scale(0.3)": bp.priors.layer_scale(0.3),
    "evidence_normal(0.3)": bp.priors.evidence_normal(0.3),
    "by_site: normal, laplace": bp.priors.by_site(
        {"*.bias": bp.priors.normal(1.0), "*": bp.priors.laplace(0.3)}
    ),
    "horseshoe with hierarchical scales (user's)": horseshoe,
    "spike mixture as a Distribution (user's)": spike,
    "Cauchy (user's)": cauchy,
}


class Attention(nn.Module):
    """One layer of self-attention, and the mean over the tokens."""

    def __init__(self) -> None:  # noqa: D107
        super().__init__()
        self.attention, self.out = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, 3) of inputs (n, tokens, 4)."""
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Recurrent(nn.Module):
    """A recurrent layer, of which the last state is used."""

    def __init__(self, layer: type[nn.RNNBase]) -> None:  # noqa: D107
        super().__init__()
        self.layer, self.out = layer(4, 4, batch_first=True), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, 3) of inputs (n, tokens, 4)."""
        return self.out(self.layer(x)[0][:, -1])


class Tied(nn.Module):
    """A layer that is used twice, as an encoder and transposed."""

    def __init__(self) -> None:  # noqa: D107
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (n, 4) of inputs (n, 4)."""
        return self.layer(x).relu() @ self.layer.weight


class Frozen(nn.Sequential):
    """A frozen backbone and a trained output layer."""

    def __init__(self) -> None:  # noqa: D107
        super().__init__(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self[0].requires_grad_(False)


def resnet18() -> nn.Module:
    """Return torchvision's ResNet-18 with 3 classes."""
    from torchvision.models import resnet18 as build

    return build(num_classes=3)


TOKENS, VECTORS, WORDS, IMAGES = (5, 4), (4,), (5,), (3, 32, 32)
MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "BatchNorm1d": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)),
        VECTORS,
    ),
    "LayerNorm": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)),
        VECTORS,
    ),
    "MultiheadAttention": (Attention, TOKENS),
    "GRU": (lambda: Recurrent(nn.GRU), TOKENS),
    "LSTM": (lambda: Recurrent(nn.LSTM), TOKENS),
    "Embedding with padding_idx": (
        lambda: nn.Sequential(nn.Embedding(7, 4, padding_idx=0), nn.Flatten(), nn.Linear(20, 3)),
        WORDS,
    ),
    "tied weights": (Tied, VECTORS),
    "frozen backbone": (Frozen, VECTORS),
    "torchvision resnet18": (resnet18, IMAGES),
}


def data_of(shape: tuple[int, ...], examples: int = 48) -> bp.Dataset:
    """Return inputs of a shape with three random classes."""
    torch.manual_seed(0)
    x = torch.randint(0, 7, (examples, *shape)) if shape == WORDS else torch.randn(examples, *shape)
    y = torch.randint(0, 3, (examples,))
    n = examples // 2
    return bp.Dataset(x[:n], y[:n], test_x=x[n:], test_y=y[n:], name="random")


def row(
    net: Callable[[], nn.Module], shape: tuple[int, ...], prior: Prior, method: str
) -> dict[str, str]:
    """Return what works for a module with a prior: ``works``, or a sentence that refuses it."""
    data = data_of(shape)
    torch.manual_seed(1)
    model = bp.BayesianModule(net(), prior, data.num_train)
    draws = 13 if method == "nuts" else 26  # LOO needs 25 in all chains
    sizes = {"draws": draws, "chains": 2, "warmup": 8, "progress": False}
    state: dict[str, Any] = {}

    def fit() -> None:
        state["fit"] = bp.fit(model, data, epochs=2, progress=False)

    def decisions() -> None:
        pruning = bp.Pruning(sparsity=0.5, schedule="constant")
        state["fit"] = bp.fit(model, data, pruning=pruning, epochs=2, progress=False)
        if not set(state["fit"].history["decision"]) & {"pruned", "refused"}:
            raise ValueError("no step was decided")

    def draws() -> None:
        state["draws"] = posterior_draws(state["fit"], data, method, **sizes)

    def evidences() -> str | None:
        fitted = state["fit"]
        evidence.log_evidence(fitted.model, fitted.weights, data, fitted.masks)
        return "given its scales" if model.hyper_sites() else None

    def report() -> None:
        with tempfile.TemporaryDirectory() as folder:
            bp.report(state["fit"], data, Path(folder) / "report.html", draws=state.get("draws"))

    steps = dict(zip(COLUMNS, (fit, decisions, draws, evidences, report), strict=True))
    return {name: _outcome(step) for name, step in steps.items()}


def _outcome(step: Callable[[], str | None]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return step() or "works"
        except ValueError as error:
            return "refused: " + re.sub(r"\s+", " ", str(error))


def mlp() -> nn.Module:
    """A small network for the table of priors."""
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def page() -> str:
    """Return the tables as Markdown, with the refusals as numbered notes."""
    notes: list[str] = []
    normal, laplace = bp.priors.normal(0.5), "last_layer_laplace"
    with set_threads(1):  # the networks are small
        priors = {name: row(mlp, VECTORS, prior, "nuts") for name, prior in PRIORS.items()}
        modules = {name: row(*of, normal, laplace) for name, of in MODULES.items()}
    parts = [_table("prior", priors, notes), _table("module", modules, notes)]
    numbered = [f"{i}. {note}" for i, note in enumerate(notes, 1)]
    return "\n\n".join([*parts, "The refusals are:", "\n".join(numbered)]) + "\n"


def _table(kind: str, rows: dict[str, dict[str, str]], notes: list[str]) -> str:
    lines = [f"| {kind} | {' | '.join(COLUMNS)} |", "| --- " * (len(COLUMNS) + 1) + "|"]
    for name, cells in rows.items():
        texts = [_cell(cells[column], notes) for column in COLUMNS]
        lines.append(f"| {name} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _cell(outcome: str, notes: list[str]) -> str:
    if not outcome.startswith("refused"):
        return outcome
    note = outcome.removeprefix("refused: ")
    if note not in notes:
        notes.append(note)
    return f"refused ({notes.index(note) + 1})"


def main() -> None:
    """Write the tables into README.md, between its comments."""
    readme = HERE / "README.md"
    readme.write_text(fill(readme.read_text(), {"tables": page}))


if __name__ == "__main__":
    sys.exit(main())
