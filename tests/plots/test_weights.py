"""The figures of surviving weights: their values against the prior, and their places."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from helpers import drawn

import pyro_bayesprune as bp
from pyro_bayesprune.plots import weights

MASKS = {"a.weight": torch.tensor([[True, False, True], [True, True, False]])}
VALUES = {"a.weight": torch.tensor([[0.3, 0.0, -0.4], [0.1, 0.2, 0.0]]), "a.bias": torch.ones(2)}


def prior_line(ax):
    return ax.get_lines()[0].get_data()


def test_the_histogram_contains_the_surviving_weights_only():
    (ax,) = weights.weights_against_prior(VALUES, MASKS).axes
    (patch,) = ax.patches
    shares, edges, _ = patch.get_data()
    counts = shares * np.diff(edges) * 4
    np.testing.assert_allclose(counts.sum(), 4)
    expected, _ = np.histogram(VALUES["a.weight"][MASKS["a.weight"]].double(), edges)
    np.testing.assert_allclose(counts, expected, atol=1e-6)
    assert ax.get_title() == "a: 4 weights" and not ax.get_lines()


@pytest.mark.parametrize(("prior", "density"), [
    (bp.priors.normal(0.3), dist.Normal(0.0, 0.3)),
    (bp.priors.laplace(0.1), dist.Laplace(0.0, 0.1)),
    (bp.priors.fan_in_normal(), dist.Normal(0.0, 1 / math.sqrt(3))),
])  # fmt: skip
def test_the_line_is_the_density_of_the_prior(prior, density):
    (ax,) = weights.weights_against_prior(VALUES, MASKS, prior).axes
    x, y = prior_line(ax)
    assert x[0] == pytest.approx(-0.4) and x[-1] == pytest.approx(0.4)
    np.testing.assert_allclose(y, density.log_prob(torch.tensor(x)).exp(), rtol=1e-5)


def test_a_prior_that_differs_between_weights_is_averaged():
    scales = torch.tensor([[0.1, 1.0]]).expand(50, 2)

    def prior(name, shape):
        return dist.Normal(torch.zeros(shape), scales).to_event(2)

    (ax,) = weights.weights_against_prior({"w": scales - 0.5}, None, prior).axes
    x, y = prior_line(ax)
    pairs = [dist.Normal(0.0, scale).log_prob(torch.tensor(x)).exp() for scale in (0.1, 1.0)]
    np.testing.assert_allclose(y, np.mean(pairs, 0), rtol=1e-5)


def test_the_prior_of_a_fit_has_its_learnt_scale(digits_part):
    digits = digits_part
    net = bp.FCN(digits.shape, digits.num_classes, hidden=(8,))
    model = bp.BayesianModule(net, bp.priors.layer_scale(), num_data=digits.num_train)
    pruning = bp.Pruning(sparsity=0.5)
    fit = bp.fit(model, digits, pruning=pruning, epochs=1, batch_size=256, progress=False)
    figure = weights.weights_against_prior(fit)
    assert [ax.get_title().split(":")[0] for ax in figure.axes] == ["fc1", "fc2"]
    x, y = prior_line(figure.axes[0])
    expected = dist.Normal(0.0, fit.weights["fc1.weight_scale"]).log_prob(torch.tensor(x)).exp()
    np.testing.assert_allclose(y, expected, rtol=1e-4)
    kept = int(fit.masks["fc1.weight"].sum())
    assert figure.axes[0].get_title() == f"fc1: {kept:,} weights"
    with pytest.raises(ValueError, match=r"samples \['a.weight_scale'\]: add it to the weights"):
        weights.weights_against_prior(VALUES, MASKS, bp.priors.layer_scale())


def test_what_cannot_be_drawn_is_refused():
    def joint(name, shape):
        return dist.MultivariateNormal(torch.zeros(shape), torch.eye(shape[-1]))

    with pytest.raises(ValueError, match="the prior of 'w' has no density for each weight"):
        weights.weights_against_prior({"w": torch.ones(3)}, None, joint)
    for draw in (weights.weights_against_prior, weights.survivors):
        with pytest.raises(ValueError, match="nothing to draw"):
            draw({})
    with pytest.raises(ValueError, match=r"'a.weight' .* \(2, 3\), which do not take images of"):
        weights.survivors(MASKS, shape=(1, 2, 2))


def test_a_layer_without_survivors_has_an_empty_histogram():
    masks = {"a.weight": torch.zeros(2, 3, dtype=torch.bool)}
    (ax,) = weights.weights_against_prior(VALUES, masks, bp.priors.normal(1.0)).axes
    assert ax.get_title() == "a: 0 weights" and not ax.patches and ax.get_lines()


def image(ax):
    return ax.images[0].get_array()


def test_masks_are_matrices_of_the_first_dimension_and_the_others():
    (ax,) = weights.survivors(MASKS | {"b": torch.ones(3) > 0}).axes  # a vector has no map
    np.testing.assert_array_equal(image(ax), MASKS["a.weight"])
    assert ax.get_title() == "a: 4 of 6" and ax.get_ylabel() == "rows"


def test_large_masks_are_shares_in_blocks():
    mask = torch.zeros(2 * weights.CELLS, 10, dtype=torch.bool)
    mask[0] = mask[2:4] = True
    ax, bar = weights.survivors({"w": mask}).axes
    np.testing.assert_array_equal(image(ax)[:3, 0], [0.5, 1, 0])
    assert image(ax).shape == (weights.CELLS, 10)
    np.testing.assert_allclose(image(ax).mean(), mask.double().mean())
    assert bar.get_ylabel() == "share of survivors"


def test_the_first_dense_layer_is_an_image_of_the_pixels():
    mask = torch.zeros(5, 2 * 2 * 3, dtype=torch.bool)
    mask[:, 1] = mask[0, 7] = True  # row 0, column 1 of both channels
    first, *_ = weights.survivors({"fc1.weight": mask, **MASKS}, shape=(2, 2, 3)).axes
    np.testing.assert_array_equal(image(first), [[0, 6, 0], [0, 0, 0]])


def test_the_first_convolution_is_its_kernels_side_by_side():
    mask = torch.rand(3, 1, 2, 2) > 0.5
    (ax,) = weights.survivors({"conv1.weight": mask}, shape=(8, 8)).axes
    tiles = np.ma.filled(image(ax).astype(float), np.nan)
    for number, (row, column) in enumerate([(0, 0), (0, 3), (3, 0)]):
        np.testing.assert_array_equal(tiles[row : row + 2, column : column + 2], mask[number, 0])
    assert np.isnan(tiles[2]).all() and np.isnan(tiles[3:5, 3:5]).all()


def test_of_many_layers_those_with_most_survivors_are_drawn():
    masks = {f"w{i}": torch.arange(400).reshape(20, 20) < 20 * i + 20 for i in range(14)}
    for figure in (weights.survivors(masks), weights.weights_against_prior(masks, masks)):
        titles = [ax.get_title().split(":")[0] for ax in figure.axes if ax.get_title()]
        assert titles == [f"w{i}" for i in range(2, 14)]
        assert figure.get_suptitle() == "the 12 of 14 layers with most survivors"
    first = weights.survivors(masks, shape=(4, 5)).axes[0]
    assert first.get_title() == "w0: 20 of 400" and "w13" not in drawn(first)
