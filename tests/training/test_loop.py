"""Trainings: seeds, masks that shrink, initial weights, and refused steps."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import (
    assert_same,
    class_data,
    linear_data,
    mlp,
    net_weights,
    noisy_net,
)
from helpers.trainings import HALF, fresh, same_history, short_fit
from pyro.optim import SGD, Adam

import pyro_bayesprune as bp
from pyro_bayesprune.pruning.masks import apply_masks

# Seeds and isolation


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_the_same_seed_gives_identical_fits(criterion):
    options = {"pruning": bp.Pruning(criterion, sparsity=0.5, gate="always"), "seed": 4}
    first = short_fit(fresh(noisy_net), class_data(), **options)
    torch.manual_seed(99)
    second = short_fit(fresh(noisy_net), class_data(), **options)
    assert_same(first.weights, second.weights)
    assert_same(first.masks, second.masks)
    assert_same(first.buffers, second.buffers)
    assert same_history(first.history, second.history)


def test_another_seed_gives_another_order_and_other_random_masks():
    random = bp.Pruning("random", sparsity=0.5, gate="always")
    first, second = (short_fit(fresh(), class_data(), pruning=random, seed=s) for s in (0, 1))
    assert first.history["train_loss"][0] != second.history["train_loss"][0]
    assert not torch.equal(first.masks["0.weight"], second.masks["0.weight"])


def test_methods_of_one_seed_share_initial_weights_and_data_order():
    losses = [
        short_fit(fresh(noisy_net), class_data(), pruning=pruning, epochs=1).history["train_loss"][
            0
        ]
        for pruning in (None, HALF, bp.Pruning("random", sparsity=0.3, gate="always"))
    ]
    assert losses[0] == losses[1] == losses[2]


def test_two_fits_side_by_side_do_not_influence_each_other():
    data = class_data()
    alone = short_fit(fresh(noisy_net), data, seed=1)
    trainings = [
        bp.train(fresh(noisy_net), data, pruning=HALF, epochs=4, batch_size=10, seed=seed)
        for seed in (1, 2)
    ]
    for (state, _), _ in zip(*trainings, strict=True):
        last = state
    assert_same(alone.weights, last.weights)
    assert_same(alone.buffers, last.buffers)


# Pruned weights stay zero


def test_masks_only_shrink_and_weights_stay_zero():
    pruning = bp.Pruning("random", sparsity=0.9, gate="always")
    states = [s for s, _ in bp.train(fresh(), class_data(), pruning=pruning, epochs=8)]
    assert bp.metrics.sparsity(states[0].masks) < bp.metrics.sparsity(states[-1].masks)
    for earlier, later in zip(states, states[1:], strict=False):
        for name, mask in later.masks.items():
            assert not (mask & ~earlier.masks[name]).any()
            assert (later.weights[name][~mask] == 0).all()


def test_with_regrow_weights_come_back_between_steps():
    pruning = bp.Pruning(
        "random", 0.5, gate="always", scope="layer", schedule="constant", regrow=True
    )
    states = [s for s, _ in bp.train(fresh(), class_data(), pruning=pruning, epochs=3)]
    for earlier, later in zip(states, states[1:], strict=False):
        assert later.weights["0.weight"][~earlier.masks["0.weight"]].any()
        assert (later.weights["0.weight"] == 0).sum() == 24  # half of 8 x 6, each time


def test_a_refused_step_changes_neither_weights_nor_buffers():
    never = bp.Pruning(sparsity=0.9, gate="propose", beta=1e300)
    refused = short_fit(fresh(noisy_net), class_data(), pruning=never)
    free = short_fit(fresh(noisy_net), class_data(), pruning=None)
    assert set(refused.history["decision"]) == {"refused"}
    assert set(free.history["decision"]) == {"unchanged"}
    assert_same(refused.weights, free.weights)
    assert_same(refused.buffers, free.buffers)


# Initial weights


def test_a_fit_starts_from_the_modules_weights():
    model = fresh()
    tiny = Adam({"lr": 1e-12})
    result = short_fit(model, class_data(), optim=tiny, pruning=None, epochs=1)
    for name, weight in net_weights(model.net).items():
        assert torch.allclose(result.weights[name], weight, atol=1e-9)


def test_initial_weights_prune_a_trained_network():
    data = class_data()
    trained = short_fit(fresh(), data, pruning=None, epochs=8).weights
    still = {"optim": SGD({"lr": 1e-12}), "epochs": 1, "initial_weights": trained}
    result = short_fit(
        fresh(), data, **still, pruning=bp.Pruning(sparsity=0.5, gate="always", schedule="constant")
    )
    expected = apply_masks(trained, result.masks)
    for name, weight in result.weights.items():
        assert torch.allclose(weight, expected[name], atol=1e-9)


def test_initial_weights_may_be_given_for_some_sites():
    model, weight = fresh(), torch.full((8, 6), 0.25)
    still = {"optim": SGD({"lr": 1e-12}), "epochs": 1, "pruning": None}
    result = short_fit(model, class_data(), initial_weights={"0.weight": weight}, **still)
    assert torch.allclose(result.weights["0.weight"], weight)
    assert torch.allclose(result.weights["2.weight"], model.net[2].weight)
    assert (weight == 0.25).all()


# What it converges to


@pytest.mark.parametrize("prior", [bp.priors.layer_scale(), bp.priors.normal(0.3)])
@pytest.mark.parametrize("make", [mlp, noisy_net])
def test_networks_learn_while_they_are_pruned(make, prior):
    data = class_data(n=200)
    result = short_fit(
        fresh(make, data, prior), data, epochs=8, batch_size=20, optim=Adam({"lr": 0.05})
    )
    assert result.sparsity == 0.5
    assert result.history["validation_accuracy"].iloc[-1] > 0.7


# Ways to give data


def test_the_data_may_lie_elsewhere_than_the_module_only_by_device():
    result = short_fit(fresh(), class_data(), device="cpu")
    assert_same(result.weights, short_fit(fresh(), class_data()).weights)


def test_a_user_model_with_positive_sites_and_a_factor_is_fitted_and_pruned():
    """Sites that are not real are fixed, and only real sites of several elements are pruned."""
    x, y, _ = linear_data(dim=4, dtype=torch.float32)

    def model(x, y=None):
        scale = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
        bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Laplace(torch.zeros(4), 0.5).to_event(1))
        pyro.factor("pull", -bias.square())
        with pyro.plate("data", 12, subsample=x):
            return pyro.sample("y", dist.Normal(x @ w + bias, scale), obs=y)

    result = short_fit(
        model,
        (x, y),
        pruning=bp.Pruning(sparsity=0.5, gate="always"),
        epochs=60,
        optim=Adam({"lr": 0.05}),
    )
    assert list(result.masks) == ["w"] and result.sparsity == 0.5
    assert result.weights["noise"] > 0
    assert (result.predict(x) - y).square().mean() < y.var()


@pytest.mark.parametrize(
    "options", [{"scope": "unit"}, {"sites": ("0.weight",)}, {"sites": ("*.bias",)}]
)
def test_a_continued_training_prunes_the_sites_of_its_own_settings(options):
    dense = short_fit(fresh(), class_data(), epochs=1, pruning=None)
    pruning = bp.Pruning(sparsity=0.5, gate="always", schedule="constant", **options)
    direct = short_fit(fresh(), class_data(), epochs=1, pruning=pruning)
    fit = short_fit(fresh(), class_data(), epochs=2, pruning=pruning, state=dense.state)
    assert list(fit.masks) == list(direct.masks) and fit.sparsity == direct.sparsity


def test_a_continued_training_of_other_sites_than_the_pruned_ones_is_refused():
    half = short_fit(fresh(), class_data(), epochs=1, pruning=HALF)
    other = bp.Pruning(sparsity=0.5, scope="unit")
    with pytest.raises(ValueError, match=r"state has pruned weights of 2.weight.*prune 0.weight o"):
        short_fit(fresh(), class_data(), epochs=2, pruning=other, state=half.state)
