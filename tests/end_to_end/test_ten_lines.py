"""The README's ten lines and their output, and what their defaults promise."""

import re
from pathlib import Path

import matplotlib.figure
import pytest
import torch

import pyro_bayesprune as bp

README = (Path(__file__).parents[2] / "README.md").read_text()
TEN_LINES, OUTPUT = re.search(
    r"## Ten lines\n\n```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL
).groups()


def test_the_ten_lines_print_what_the_readme_says(capsys):
    assert len([line for line in TEN_LINES.splitlines() if line]) == 10
    exec(TEN_LINES, {})
    texts = [re.split(r"-?\d+\.\d+", text) for text in (capsys.readouterr().out, OUTPUT)]
    assert texts[0] == texts[1]


def test_the_numbers_of_the_ten_lines_are_those_of_the_readme(capsys):
    exec(TEN_LINES, {})
    printed, expected = (
        [float(n) for n in re.findall(r"-?\d+\.\d+", text)]
        for text in (capsys.readouterr().out, OUTPUT)
    )
    assert printed == pytest.approx(expected, rel=0.02, abs=0.02)  # sums depend on the machine


def test_the_result_of_the_ten_lines_is_pruned():
    names = {}
    exec(TEN_LINES, names)
    fit = names["fit"]
    assert fit.sparsity == pytest.approx(0.9, abs=1e-5) and len(fit.history) == 25
    assert isinstance(bp.plots.learning_curves(fit.history), matplotlib.figure.Figure)
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
