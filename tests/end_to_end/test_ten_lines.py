"""The ten lines exactly as they are printed, and what their defaults promise."""

from pathlib import Path

import matplotlib.figure
import pytest
import torch

import pyro_bayesprune as bp

TEN_LINES = """\
import pyro_bayesprune as bp

data = bp.load_dataset("digits")
net = bp.FCN(data.shape, data.num_classes)
model = bp.BayesianModule(net, bp.priors.normal_per_datum(data.num_train), data.num_train)
fit = bp.fit(model, data, pruning=bp.Pruning("magnitude", sparsity=0.9), seed=0)
print(fit)                                    # accuracy, sparsity, steps pruned and refused
print(fit.history[["epoch", "log_bf", "decision", "sparsity"]])
bp.plots.learning_curves(fit.history)
"""


def test_the_ten_lines_stand_in_the_readme():
    readme = Path(__file__).parents[2] / "README.md"
    assert f"```python\n{TEN_LINES}```" in readme.read_text()


def test_the_ten_lines_run_as_printed(capsys):
    *lines, last = TEN_LINES.strip().splitlines()
    names = {}
    exec("\n".join(lines), names)
    figure = eval(last, names)
    fit, printed = names["fit"], capsys.readouterr().out
    steps = fit.history["decision"].value_counts()
    assert f"sparsity {fit.sparsity:.4f}" in printed and "validation accuracy 0." in printed
    assert f"{steps['pruned']} pruned" in printed
    assert fit.sparsity == pytest.approx(0.9, abs=1e-5) and len(fit.history) == 25
    assert isinstance(figure, matplotlib.figure.Figure) and len(figure.axes) == 3
    for name, mask in fit.masks.items():
        assert (fit.weights[name][~mask] == 0).all()
    pruned = sum(int((~mask).sum()) for mask in fit.masks.values())
    assert pruned == round(0.9 * sum(mask.numel() for mask in fit.masks.values()))


def fit_digits(seed, prior=None, **options):
    """The ten lines' fit of one seed (of network and data order)."""
    data = bp.load_dataset("digits")
    torch.manual_seed(seed)
    net = bp.FCN(data.shape, data.num_classes)
    model = bp.BayesianModule(net, prior or bp.priors.normal(0.3), data.num_train)
    return bp.fit(model, data, seed=seed, progress=False, **options)


def accuracy(fit):
    return fit.history["validation_accuracy"].iloc[-1]


@pytest.fixture(scope="module")
def twins():
    """The defaults unpruned, on three seeds."""
    return [fit_digits(seed) for seed in range(3)]


@pytest.mark.slow
def test_the_defaults_prune_most_weights_and_lose_less_than_two_points(twins):
    pruning = bp.Pruning("magnitude", sparsity=0.9)
    pruned = [fit_digits(seed, pruning=pruning) for seed in range(3)]
    assert min(fit.sparsity for fit in pruned) > 0.8
    assert min(map(accuracy, twins)) > 0.93
    # In the mean: one of the 143 held-out examples is 0.7 points.
    assert (sum(map(accuracy, twins)) - sum(map(accuracy, pruned))) / 3 < 0.02


@pytest.mark.slow
def test_the_default_prior_costs_less_than_a_point(twins):
    without = [fit_digits(seed, objective="mle") for seed in range(3)]
    difference = sum(map(accuracy, twins)) - sum(map(accuracy, without))
    assert abs(difference) / 3 < 0.01


@pytest.mark.slow
def test_a_learnt_scale_is_within_two_points_of_a_fixed_one(twins):
    learnt = fit_digits(0, bp.priors.layer_scale())
    assert abs(accuracy(learnt) - accuracy(twins[0])) < 0.02
    scales = [w.item() for n, w in learnt.weights.items() if n.endswith("_scale")]
    assert len(scales) == 4 and all(0.3 * 0.77 < scale < 1 for scale in scales)  # exp(-1/4) = 0.78
