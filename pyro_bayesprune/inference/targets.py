"""What follows from the distribution of the targets: predictions, metrics and calibration.

There are two kinds of targets. Classes have probabilities (Categorical, and Bernoulli with the two
classes 0 and 1); their score is the accuracy. All other targets have a mean; their score is the
root mean squared error (RMSE). Each example may have several targets (tokens, pixels, labels,
outputs): accuracy, Brier score, ECE, RMSE and coverage are means over all of them, and the negative
log likelihood is that of an example with all its targets.

The probability integral transform (PIT) of a target y with the predicted distribution function F is
F(y); of a count, a uniform number between F(y - 1) and F(y) (Czado, Gneiting and Held, 2009). It is
uniform on (0, 1) if the predictions are calibrated. The coverage of the central interval of
probability q is the share of targets whose PIT is between (1 - q)/2 and (1 + q)/2.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyro.distributions as dist
import torch
from scipy import stats
from torch import Tensor
from torch import distributions as td

from pyro_bayesprune.inference import metrics
from pyro_bayesprune.models.likelihoods import check_shape
from pyro_bayesprune.models.priors import elementwise

COVERAGES = (0.5, 0.9)
Distribution = Any  # Pyro's distributions have no common annotated class


def probabilities(distribution: Distribution) -> Tensor | None:
    """Return class probabilities (n, ..., classes), or None if the targets are no classes."""
    base = elementwise(distribution)
    if isinstance(base, td.Categorical):
        return base.probs
    if isinstance(base, td.Bernoulli):
        return torch.stack([(-base.logits).sigmoid(), base.probs], -1)  # 1 - p rounds to zero
    return None


def score_name(distribution: Distribution) -> str:
    """Return the name of the score of predictions: ``"accuracy"`` or ``"rmse"``."""
    return "rmse" if probabilities(distribution) is None else "accuracy"


def score_sum(distribution: Distribution, y: Tensor) -> float:
    """Return the number of correct classes, or the sum of squared errors."""
    base, p = elementwise(distribution), probabilities(distribution)
    if p is not None:  # logits have no ties where probabilities round to one
        scores = base.logits if isinstance(base, td.Categorical) else p
        return (scores.argmax(-1) == y).sum().item()
    return (mean(distribution).to(y.device) - y).double().square().sum().item()


def mean_score(total: float, count: int, name: str) -> float:
    """Return the score of ``count`` targets from the sum of `score_sum`."""
    return math.sqrt(total / count) if name == "rmse" else total / count


def mean(distribution: Distribution) -> Tensor:
    """Return the mean of the targets (n, ...); NaN where it does not exist or is not known.

    It is NaN for masked targets too, since errors of targets without a likelihood do not count.
    """
    try:
        if isinstance(elementwise(distribution), dist.MaskedDistribution):
            raise NotImplementedError
        return distribution.mean
    except NotImplementedError:
        return torch.full(distribution.shape(), math.nan, device="cpu")


def cdf(distribution: Distribution, y: Tensor) -> Tensor | None:
    """Return F(y) of each target, or None for a distribution whose F is not known."""
    base, y = elementwise(distribution), y.double()
    if isinstance(base, td.Poisson):
        values = stats.poisson.cdf(y.cpu().numpy(), base.rate.double().cpu().numpy())
    elif isinstance(base, td.StudentT):
        parts = (v.double().cpu().numpy() for v in (base.df, base.loc, base.scale))
        values = stats.t.cdf(y.cpu().numpy(), *parts)
    else:
        try:
            return base.cdf(y).cpu() if base.event_shape == () else None
        except NotImplementedError:
            return None
    return torch.as_tensor(values)


def pit(distribution: Distribution, y: Tensor, uniform: Tensor) -> Tensor | None:
    """Return the PIT of each target (n, ...), or None where the distribution function is unknown.

    Args:
        distribution: the predicted distributions.
        y: the targets (n, ...).
        uniform: numbers in (0, 1) like ``y``, which choose the point in the jump at a count.
    """
    upper = cdf(distribution, y)
    if upper is None or not getattr(distribution.support, "is_discrete", False):
        return upper
    lower = cdf(distribution, y - 1)
    return None if lower is None else lower + uniform * (upper - lower)


@dataclass(frozen=True)
class Predictions:
    """Predictions for n examples with known targets, as an equal mixture over draws.

    Args:
        targets: the targets (n, ...).
        probabilities: class probabilities (n, ..., classes); None for targets that are no classes.
        mean: means of the targets (n, ...); None for classes.
        log_prob: log density of each example (n,), nats.
        pit: the PIT of each target (n, ...); None for classes and unknown distribution functions.
    """

    targets: Tensor
    probabilities: Tensor | None
    mean: Tensor | None
    log_prob: Tensor
    pit: Tensor | None

    def scores(self) -> dict[str, float]:
        """Return the metrics that apply: accuracy, NLL, Brier, ECE; or RMSE, NLL and coverages."""
        nll = -self.log_prob.mean().item()
        if self.probabilities is not None:
            # Probabilities are rounded, and those of an example's targets may be dependent.
            return class_scores(self.probabilities, self.targets) | {"nll": nll}
        assert self.mean is not None
        rmse = (self.mean - self.targets).double().square().mean().sqrt().item()
        return {"rmse": rmse, "nll": nll} | {
            f"coverage_{q:.0%}".rstrip("%"): self.coverage(q) for q in COVERAGES
        }

    def coverage(self, probability: float) -> float:
        """Return the share of targets in their central intervals; NaN without a PIT."""
        if self.pit is None:
            return math.nan
        return ((self.pit - 0.5).abs() <= probability / 2).double().mean().item()


def mixture(chunks: Iterable[tuple[Sequence[Distribution], Tensor]], seed: int = 0) -> Predictions:
    """Return the predictions of distributions that are mixed with equal weights.

    Args:
        chunks: for some examples at a time, one distribution for each draw, and the targets.
        seed: seed of the uniform numbers in the PIT of counts.
    """
    generator = torch.Generator().manual_seed(seed)
    return _joined([_mixed(list(drawn), y, generator) for drawn, y in chunks])


def _mixed(drawn: list[Distribution], y: Tensor, generator: torch.Generator) -> Predictions:
    check_shape(drawn[0], y)
    log_prob = torch.stack([_by_example(one.log_prob(y).double(), len(y)) for one in drawn])
    log_prob = log_prob.logsumexp(0) - math.log(len(drawn))
    classes = [p for one in drawn if (p := probabilities(one)) is not None]
    if classes:
        average = torch.stack(classes).mean(0)
        return Predictions(y.cpu(), average.cpu(), None, log_prob.cpu(), None)
    uniform = torch.rand(y.shape, generator=generator, dtype=torch.float64, device="cpu")
    values = [value for one in drawn if (value := pit(one, y, uniform)) is not None]
    means = torch.stack([mean(one) for one in drawn]).mean(0).cpu()
    known = torch.stack(values).mean(0) if values else None
    return Predictions(y.cpu(), None, means, log_prob.cpu(), known)


def _by_example(log_prob: Tensor, count: int) -> Tensor:
    """Sum over all dimensions but the first, that of the plate ``data``."""
    if log_prob.dim() == 0 or len(log_prob) != count:
        raise ValueError(
            f'the plate "data" must be the leftmost dimension of the targets: {count} examples '
            f"have log densities of shape {tuple(log_prob.shape)}"
        )
    return log_prob.flatten(1).sum(1) if log_prob.dim() > 1 else log_prob


def _joined(parts: list[Predictions]) -> Predictions:
    def cat(name: str) -> Any:  # noqa: ANN401
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else torch.cat(values)

    return Predictions(*map(cat, Predictions.__dataclass_fields__))


def class_scores(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, NLL (nats an example), Brier score and ECE of class probabilities."""
    probabilities, labels = probabilities.cpu(), labels.cpu()
    return {
        "accuracy": metrics.accuracy(probabilities, labels),
        "nll": metrics.negative_log_likelihood(probabilities, labels),
        "brier": metrics.brier(probabilities, labels),
        "ece": metrics.expected_calibration_error(probabilities, labels),
    }


def pit_table(predictions: Predictions, bins: int = 10) -> pd.DataFrame:
    """Return the share of PIT values in bins of equal width; calibrated shares are 1/bins.

    Raises:
        ValueError: if the predictions have no PIT.
    """
    if predictions.pit is None:
        raise ValueError("classes, and targets of an unknown distribution function, have no PIT")
    index = (predictions.pit.flatten() * bins).long().clamp(0, bins - 1)
    counts = torch.bincount(index, minlength=bins)
    edges = torch.arange(bins, dtype=torch.float64) / bins
    columns = {"from": edges, "to": edges + 1 / bins, "examples": counts}
    return pd.DataFrame(columns | {"share": counts.double() / counts.sum()})


def coverage_table(predictions: Predictions) -> pd.DataFrame:
    """Return the coverage of central intervals of probabilities from 0.1 to 0.95."""
    nominal = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
    observed = [predictions.coverage(q) for q in nominal]
    return pd.DataFrame({"probability": nominal, "coverage": observed})
