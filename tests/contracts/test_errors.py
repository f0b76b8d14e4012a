"""Bad input: one clear error that names the thing, what was expected and what came."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import class_data, fit_once, lifted, linear_data, mlp, net_weights, regression, written

import pyro_bayesprune as bp

X, Y, _ = linear_data(dtype=torch.float32)
NORMAL = bp.priors.normal(0.3)


# Numbers out of range


@pytest.mark.parametrize("value", [-0.3, 0.0, math.nan, math.inf, "wide"])
@pytest.mark.parametrize(
    ("make", "thing"),
    [
        (bp.priors.normal, "scale of a normal prior"),
        (bp.priors.fan_in_normal, "gain of a fan_in_normal prior"),
        (bp.priors.laplace, "scale of a laplace prior"),
        (lambda v: bp.priors.student_t(v, 1.0), "df of a student_t prior"),
        (lambda v: bp.priors.student_t(1.0, v), "scale of a student_t prior"),
        (bp.priors.layer_scale, "scale of a layer_scale prior"),
        (lambda v: bp.priors.layer_scale(0.3, v), "strength of a layer_scale prior"),
        (bp.gaussian, "scale of a gaussian likelihood"),
    ],
)
def test_scales(make, thing, value):
    with pytest.raises(ValueError, match=f"{thing} must be a positive finite number, got"):
        make(value)


@pytest.mark.parametrize("value", [0, -3, 2.5, None])
@pytest.mark.parametrize("name", ["epochs", "batch_size"])
def test_counts_of_a_fit(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a positive integer, got"):
        fit_once(lifted(mlp(), class_data()), class_data(), **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "vi"}, "objective must be 'map' or 'mle', got 'vi'"),
        ({"temperature": 0.0}, "temperature must be a positive finite number, got 0.0"),
    ],
)
def test_options_of_a_fit(options, message):
    with pytest.raises(ValueError, match=message):
        fit_once(lifted(mlp(), class_data()), class_data(), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim": "adam"}, "optim must be a PyroOptim, got str"),
        ({"optim": torch.optim.Adam}, "optim must be a PyroOptim, got type"),
        ({"optim": pyro.optim.Adam({"lr": -1.0})}, "Invalid learning rate: -1.0"),
        ({"optim": pyro.optim.Adam({"lr": math.nan})}, "Invalid learning rate: nan"),
        ({"pruning": "magnitude"}, "pruning must be a Pruning, got str"),
        ({"pruning": bp.Pruning(schedule=lambda *_: math.nan)}, "must return a number, got nan"),
        ({"pruning": bp.Pruning(schedule=lambda *_: "x")}, "must return a number, got 'x'"),
    ],
)
def test_options_of_a_wrong_kind(options, message):
    with pytest.raises(ValueError, match=message):
        fit_once(lifted(mlp(), class_data()), class_data(), **options)


def test_a_batch_larger_than_any_data():
    whole = fit_once(lifted(mlp(), class_data()), class_data(), batch_size=10**30)
    assert len(whole.history) == 1


def test_a_step_that_empties_a_layer_is_told():
    data = class_data()
    pruning = bp.Pruning(sparsity=0.99, gate="always", scope="layer", schedule="constant")
    with pytest.warns(RuntimeWarning, match="no weight of 0.weight, 2.weight is left .* epoch 1"):
        emptied = fit_once(lifted(mlp(), data), data, pruning=pruning, epochs=2)  # told once
    assert (emptied.history[["sparsity/0.weight", "sparsity/2.weight"]] == 1).all(axis=None)


# Models


def impossible(x, y=None):
    """A model of density zero everywhere."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.factor("never", torch.tensor(-math.inf))
    with pyro.plate("data", 12, subsample=x):
        return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


@pytest.mark.parametrize("evaluation", ["full", "sequential"])
def test_a_bayes_factor_that_is_no_number_decides_nothing(evaluation):
    pruning = bp.Pruning(sparsity=0.5, gate="propose", evaluation=evaluation)
    with pytest.raises(ValueError, match="the log Bayes factor is not a number"):
        fit_once(impossible, (X, Y), objective="mle", pruning=pruning)


def test_a_log_joint_that_is_no_number():
    odd = written(dist.Normal(torch.zeros(2), 1e-30).to_event(1))  # 0 / 0 at zero in float32
    with pytest.raises(ValueError, match="the log joint at these weights is not a number"):
        bp.log_joint(odd, {"w": torch.zeros(2)}, (X, Y))


def test_by_site_without_a_match():
    with pytest.raises(ValueError, match="no pattern for 'fc.bias', only"):
        bp.priors.by_site({"*.weight": NORMAL})("fc.bias", torch.Size([3]))


# Masks, weights, scores


def test_masks_of_a_wrong_shape_or_type():
    good = torch.ones(2, dtype=torch.bool)
    for bad in (torch.ones(3, dtype=torch.bool), torch.ones(2), good[None]):
        with pytest.raises(ValueError, match=r"mask of 'w' must be a bool tensor of shape \(2,\)"):
            bp.pruned(regression(12), {"w": bad})(X, Y)
        with pytest.raises(ValueError, match=r"mask of 'w' must be a bool tensor of shape \(2,\)"):
            bp.log_joint(regression(12), {"w": X[0]}, (X, Y), {"w": bad})


def test_masks_for_an_unknown_site():
    masks = {"w": torch.ones(2, dtype=torch.bool), "v": torch.ones(2, dtype=torch.bool)}
    with pytest.raises(ValueError, match=r"masks for sites that the model does not have: \['v'\]"):
        bp.pruned(regression(12), masks)(X, Y)
    with pytest.raises(ValueError, match=r"masks for sites that the model does not have: \['v'\]"):
        bp.log_joint(regression(12), {"w": X[0]}, (X, Y), masks)


def test_an_error_in_the_model_is_not_hidden_by_masks():
    def broken(x, y=None):
        raise KeyError("the model's own")

    with pytest.raises(KeyError, match="the model's own"):
        bp.pruned(broken, {"w": torch.ones(2, dtype=torch.bool)})(X)


def test_a_dropped_prior_that_does_not_factorise():
    prior = dist.MultivariateNormal(torch.zeros(2), torch.eye(2))
    masks = {"w": torch.tensor([True, False])}
    with pytest.raises(ValueError, match="factorises over the elements of 'w', got Multivariate"):
        bp.log_joint(written(prior), {"w": X[0]}, (X, Y), masks, "dropped")


def test_weights_that_do_not_fit_the_model():
    model = regression(12)
    with pytest.raises(ValueError, match=r"missing \['w'\], unknown \['v'\]"):
        bp.log_joint(model, {"v": X[0]}, (X, Y))
    with pytest.raises(ValueError, match=r"weights of 'w' must have shape \(2,\), got \(3,\)"):
        bp.log_joint(model, {"w": torch.ones(3)}, (X, Y))


def test_initial_weights():
    data = class_data()
    model, good = lifted(mlp(), data), net_weights(mlp())
    for initial, message in (
        ({"9.weight": torch.ones(2)}, r"unknown sites \['9.weight'\]"),
        ({"0.bias": torch.ones(2)}, r"weights of '0.bias' must have shape \(8,\), got \(2,\)"),
        ({"0.bias": torch.full((8,), math.nan)}, "initial_weights of '0.bias' must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_once(model, data, initial_weights=initial)
    state = fit_once(model, data).state
    with pytest.raises(ValueError, match="give initial_weights or state, not both"):
        fit_once(model, data, state=state, initial_weights=good)


def test_scores_of_a_criterion_of_the_users_own():
    data = class_data()
    for scores, message in (
        (lambda w, m, **_: {n: w[n].flatten() for n in m}, "scores of '0.weight' must be numbers"),
        (lambda w, m, **_: {n: w[n] / 0 * 0 for n in m}, "with 48 NaN"),
        (lambda w, m, **_: {n: w[n] > 0 for n in m}, "must be numbers .*, got torch.bool"),
        (lambda w, m, **_: None, "must return scores by site, got NoneType"),
        (lambda w, m, **_: {}, r"gave no scores for \['0.weight', '2.weight'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            fit_once(lifted(mlp(), data), data, pruning=bp.Pruning(scores))


# Data


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["inputs", "targets"])
def test_data_that_are_not_finite(bad, part):
    x, y = X.clone(), Y.clone()
    (x if part == "inputs" else y)[3] = bad
    for use in (
        lambda: fit_once(regression(12), (x, y)),
        lambda: bp.log_joint(regression(12), {"w": X[0]}, (x, y)),
        lambda: bp.Dataset(x, y),
    ):
        with pytest.raises(ValueError, match=f"train {part} must be finite"):
            use()
    with pytest.raises(ValueError, match=f"validation {part} must be finite"):
        bp.Dataset(X, Y, x, y)


def test_data_of_a_wrong_kind():
    data, model = class_data(), lifted(mlp(), class_data())
    with pytest.raises(ValueError, match="must be a Dataset or a pair .*, got Tensor"):
        fit_once(model, data.train_x)
    with pytest.raises(ValueError, match="must be tensors, got list, Tensor"):
        fit_once(model, (data.train_x.tolist(), data.train_y))
    with pytest.raises(ValueError, match="equally many, got 48, 47"):
        fit_once(model, (data.train_x, data.train_y[1:]))
    for odd in (data.train_x.to_sparse(), data.train_x * 1j, torch.tensor(1.0)):
        with pytest.raises(ValueError, match="train data must be dense and real"):
            fit_once(model, (odd, data.train_y))
    with pytest.raises(ValueError, match="validation_x and validation_y must be given together"):
        bp.Dataset(data.train_x, data.train_y, validation_x=data.train_x)
    with pytest.raises(ValueError, match="real targets have no classes"):
        _ = bp.Dataset(X, Y).num_classes
