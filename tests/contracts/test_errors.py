"""Bad input: one clear error that names the thing, what was expected and what came."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import class_data, lifted, linear_data, mlp, net_weights, regression
from torch import nn

import pyro_bayesprune as bp

X, Y, _ = linear_data(dtype=torch.float32)
NORMAL = bp.priors.normal(0.3)


def fit(model, data, **options):
    options = {"epochs": 1, "progress": False} | options
    return bp.fit(model, data, **options)


def written(prior=None, name="w", size=12, extra=None):
    """A regression by hand; what is wrong with it is given."""

    def model(x, y=None):
        w = pyro.sample(name, prior or dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", size, subsample=x):
            if extra:
                extra(x, y)
            return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    return model


# Numbers out of range


@pytest.mark.parametrize("value", [-0.1, 1.0, 1.5, math.nan, "most", None])
def test_sparsity(value):
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 1\).*, got"):
        bp.Pruning(sparsity=value)


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan, "0.9"])
def test_beta(value):
    with pytest.raises(ValueError, match="beta must be a finite number of at least 0, got"):
        bp.Pruning(beta=value)


@pytest.mark.parametrize("name", ["criterion", "gate", "per", "scope", "schedule"])
def test_choices(name):
    with pytest.raises(ValueError, match=f"{name} must be one of .*, got 'nonsense'"):
        bp.Pruning(**{name: "nonsense"})


def test_a_mass_may_not_decide():
    with pytest.raises(ValueError, match="compares a density with a mass"):
        bp.Pruning(pruned_prior="dropped")
    with pytest.raises(ValueError, match="must be 'density' or 'dropped', got 'gone'"):
        bp.Pruning(pruned_prior="gone")


@pytest.mark.parametrize("value", [-0.3, 0.0, math.nan, math.inf, "wide"])
@pytest.mark.parametrize(
    ("make", "thing"),
    [
        (bp.priors.normal, "scale of a normal prior"),
        (bp.priors.fan_in_normal, "gain of a fan-in prior"),
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
        fit(lifted(mlp(), class_data()), class_data(), **{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "vi"}, "objective must be 'map' or 'mle', got 'vi'"),
        ({"temperature": 0.0}, "temperature must be a positive finite number, got 0.0"),
    ],
)
def test_options_of_a_fit(options, message):
    with pytest.raises(ValueError, match=message):
        fit(lifted(mlp(), class_data()), class_data(), **options)


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
        fit(lifted(mlp(), class_data()), class_data(), **options)


def test_a_batch_larger_than_any_data():
    whole = fit(lifted(mlp(), class_data()), class_data(), batch_size=10**30)
    assert len(whole.history) == 1


def test_a_step_that_empties_a_layer_is_told():
    data = class_data()
    pruning = bp.Pruning(sparsity=0.99, gate="always", schedule="constant")
    with pytest.warns(RuntimeWarning, match="no weight of 0.weight, 2.weight is left .* epoch 1"):
        emptied = fit(lifted(mlp(), data), data, pruning=pruning, epochs=2)  # told once
    assert (emptied.history[["sparsity/0.weight", "sparsity/2.weight"]] == 1).all(axis=None)


# Models


def test_num_data():
    with pytest.raises(ValueError, match="num_data must be a positive integer, got 0"):
        bp.BayesianModule(mlp(), NORMAL, 0)


def test_a_network_without_parameters():
    with pytest.raises(ValueError, match="ReLU has no parameters"):
        bp.BayesianModule(nn.ReLU(), NORMAL, 3)


def test_a_prior_of_a_wrong_shape():
    model = lifted(mlp(), class_data(), lambda name, shape: dist.Normal(0.0, 1.0).expand(shape))
    with pytest.raises(ValueError, match=r"prior of '0.weight' must have event shape \(8, 6\)"):
        model(class_data().train_x)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (
            lambda n, s: dist.Normal(0.0, torch.full(s, math.nan)).to_event(len(s)),
            "parameter scale",
        ),
        (lambda n, s: dist.Normal(0.0, torch.full(s, -1.0)).to_event(len(s)), "parameter scale"),
        (bp.priors.normal(1e-300), "parameter scale"),  # zero in float32
        (lambda n, s: None, "must be a distribution, got None"),
    ],
)
def test_a_prior_that_is_no_distribution_is_named(prior, message):
    with pytest.raises(ValueError, match=f"the prior of '0.weight'.*{message}") as caught:
        fit(lifted(mlp(), class_data(), prior), class_data())
    assert "\n" not in str(caught.value)


def test_a_prior_that_is_no_function():
    with pytest.raises(ValueError, match="prior must be a function .*, got 0.3"):
        bp.BayesianModule(mlp(), 0.3, 48)


@pytest.mark.parametrize("make", [bp.FCN, bp.CNN])
def test_layers_of_no_width(make):
    for options in ({"hidden": (4, 0)}, {"hidden": (-1,)}, {"num_classes": 0}):
        with pytest.raises(ValueError, match="a layer's width must be positive, got"):
            make(**({"shape": (1, 4, 4), "num_classes": 3} | options))
    with pytest.raises(ValueError, match=r"channels must be positive, got \(2, 0\)"):
        bp.CNN((1, 4, 4), 3, (2, 0))


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_a_parameter_without_elements():
    with pytest.raises(ValueError, match=r"'weight' of shape \(0, 6\) has no elements"):
        bp.BayesianModule(nn.Linear(6, 0), NORMAL, 48)


def test_a_model_that_cannot_run_on_the_data():
    data = class_data()
    x, y = data.train_x, data.train_y
    for model, inputs, message in (
        (lifted(mlp(), data), x.double(), r"torch.float64 of shape \(n, 6\): mat1 and mat2"),
        (lifted(mlp(), data), (x * 9).long(), "torch.int64"),
        (lifted(mlp(features=5), data), x, "cannot be multiplied"),
        (mlp(), x, "takes 2 positional arguments but 3 were given"),
        (3, x, "3 is not callable"),
    ):
        with pytest.raises(ValueError, match=f"fails for inputs.*{message}") as caught:
            fit(model, (inputs, y))
        assert "\n" not in str(caught.value)


def impossible(x, y=None):
    """A model of density zero everywhere."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.factor("never", torch.tensor(-math.inf))
    with pyro.plate("data", 12, subsample=x):
        return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


@pytest.mark.parametrize("evaluation", ["full", "sequential"])
def test_a_bayes_factor_that_is_no_number_decides_nothing(evaluation):
    pruning = bp.Pruning(sparsity=0.5, evaluation=evaluation)
    with pytest.raises(ValueError, match="the log Bayes factor is not a number"):
        fit(impossible, (X, Y), objective="mle", pruning=pruning)


def test_a_log_joint_that_is_no_number():
    odd = written(dist.Normal(torch.zeros(2), 1e-30).to_event(1))  # 0 / 0 at zero in float32
    with pytest.raises(ValueError, match="the log joint at these weights is not a number"):
        bp.log_joint(odd, {"w": torch.zeros(2)}, (X, Y))


def test_by_site_without_a_match():
    with pytest.raises(ValueError, match="no pattern for 'fc.bias', only"):
        bp.priors.by_site({"*.weight": NORMAL})("fc.bias", torch.Size([3]))


def test_no_data_plate():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("examples", 12, subsample=x):
            return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    for use in (lambda: fit(model, (X, Y)), lambda: bp.log_joint(model, {"w": X[0]}, (X, Y))):
        with pytest.raises(ValueError, match='no plate "data": observe the targets inside'):
            use()


def test_a_data_plate_that_does_not_take_the_batch():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 12):
            return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    with pytest.raises(ValueError, match='plate "data" must take the batch as its subsample'):
        fit(model, (X, Y))


def test_nothing_observed():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 12, subsample=x):
            pyro.deterministic("mean", x @ w, event_dim=0)

    with pytest.raises(ValueError, match='observes nothing inside the plate "data"'):
        fit(model, (X, Y))


def test_several_observed_sites():
    twice = written(extra=lambda x, y: pyro.sample("z", dist.Normal(x[:, 0], 1.0), obs=y))
    with pytest.raises(ValueError, match=r"needs one observed site, the model has \['z', 'y'\]"):
        fit(twice, (X, Y))


def test_a_latent_site_inside_the_plate():
    local = written(extra=lambda x, y: pyro.sample("z", dist.Normal(x[:, 0], 1.0)))
    with pytest.raises(ValueError, match="latent site 'z' stands inside the plate"):
        fit(local, (X, Y))


def test_a_parameter_without_a_prior():
    free = written(extra=lambda x, y: pyro.param("free", torch.ones(1)))
    with pytest.raises(ValueError, match=r"parameters \['free'\]: give them priors"):
        fit(free, (X, Y))


def test_a_number_of_examples_other_than_the_plates():
    message = 'plate "data" has size 11, the training data have 12'
    with pytest.raises(ValueError, match=message):
        fit(written(size=11), (X, Y))
    with pytest.raises(ValueError, match=message):
        bp.log_joint(written(size=11), {"w": X[0]}, (X, Y))


@pytest.mark.parametrize(
    "prior",
    [
        dist.LogNormal(torch.zeros(2), 1.0).to_event(1),
        dist.Gamma(torch.ones(2) * 2, 1.0).to_event(1),
        dist.Uniform(torch.ones(2), 2.0).to_event(1),
    ],
    ids=["LogNormal", "Gamma", "Uniform"],
)
def test_sites_that_cannot_be_zero(prior):
    with pytest.raises(ValueError, match="site 'w' cannot be pruned: .* support"):
        fit(written(prior), (X, Y), pruning=bp.Pruning(sites=("w",)))


def test_a_pattern_that_matches_no_site():
    with pytest.raises(ValueError, match=r"no site matches 'fc\*'; there are \['w'\]"):
        fit(written(), (X, Y), pruning=bp.Pruning(sites=("fc*",)))


@pytest.mark.parametrize("name", ["model", "plates", "forward", "median", "w.forward"])
def test_site_names_that_autodelta_cannot_hold(name):
    with pytest.raises(ValueError, match=f"AutoDelta cannot hold a site named '{name}'"):
        fit(written(name=name), (X, Y))


def test_a_site_name_that_begins_anothers():
    nested = written(
        name="fc.weight.scale",
        extra=None,
    )

    def model(x, y=None):
        pyro.sample("fc.weight", dist.Normal(0.0, 1.0))
        return nested(x, y)

    with pytest.raises(ValueError, match="AutoDelta cannot hold a site named 'fc.weight'"):
        fit(model, (X, Y))


def test_a_network_whose_names_autodelta_cannot_hold():
    net = nn.ModuleDict({"forward_": nn.Linear(2, 2)})
    net.model = nn.Linear(6, 3)
    net.forward = lambda x: net.model(x)
    with pytest.raises(ValueError, match="AutoDelta cannot hold a site named 'model.weight'"):
        fit(lifted(net, class_data()), class_data())


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
            fit(model, data, initial_weights=initial)
    state = fit(model, data).state
    with pytest.raises(ValueError, match="give initial_weights or state, not both"):
        fit(model, data, state=state, initial_weights=good)


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
            fit(lifted(mlp(), data), data, pruning=bp.Pruning(scores))


# Data


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["inputs", "targets"])
def test_data_that_are_not_finite(bad, part):
    x, y = X.clone(), Y.clone()
    (x if part == "inputs" else y)[3] = bad
    for use in (
        lambda: fit(regression(12), (x, y)),
        lambda: bp.log_joint(regression(12), {"w": X[0]}, (x, y)),
        lambda: bp.Dataset(x, y),
    ):
        with pytest.raises(ValueError, match=f"train {part} must be finite"):
            use()
    with pytest.raises(ValueError, match=f"validation {part} must be finite"):
        bp.Dataset(X, Y, x, y)


def test_labels_out_of_range():
    data = class_data()
    x, y = data.train_x, data.train_y
    wrong = torch.where(torch.arange(48) == 7, 3, y)
    model, weights = lifted(mlp(), data), net_weights(mlp())
    message = "train labels of the site 'obs' must be integers from 0 to 2, got .* up to 3"
    with pytest.raises(ValueError, match=message):
        fit(model, (x, wrong))
    with pytest.raises(ValueError, match=message):
        bp.log_joint(model, weights, (x, wrong))
    for part in ("validation", "test"):
        given = bp.Dataset(x, y, **{f"{part}_x": x, f"{part}_y": wrong})
        with pytest.raises(ValueError, match=f"{part} labels of the site 'obs'"):
            fit(model, given)
    with pytest.raises(ValueError, match="train labels must not be negative, got -1"):
        bp.Dataset(x, y - 1)


def test_labels_that_are_no_integers():
    data = class_data()
    with pytest.raises(ValueError, match="must be integers from 0 to 2, got torch.float32"):
        fit(lifted(mlp(), data), (data.train_x, data.train_y.float()))


def test_targets_of_a_wrong_shape():
    data = class_data()
    with pytest.raises(ValueError, match=r"targets must have the shape .* \(2,\), got \(2, 1\)"):
        fit(lifted(mlp(), data), (data.train_x, data.train_y[:, None]))


def test_data_of_a_wrong_kind():
    data, model = class_data(), lifted(mlp(), class_data())
    with pytest.raises(ValueError, match="must be a Dataset or a pair .*, got Tensor"):
        fit(model, data.train_x)
    with pytest.raises(ValueError, match="must be tensors, got list, Tensor"):
        fit(model, (data.train_x.tolist(), data.train_y))
    with pytest.raises(ValueError, match="equally many, got 48, 47"):
        fit(model, (data.train_x, data.train_y[1:]))
    for odd in (data.train_x.to_sparse(), data.train_x * 1j, torch.tensor(1.0)):
        with pytest.raises(ValueError, match="train data must be dense and real"):
            fit(model, (odd, data.train_y))
    with pytest.raises(ValueError, match="validation_x and validation_y must be given together"):
        bp.Dataset(data.train_x, data.train_y, validation_x=data.train_x)
    with pytest.raises(ValueError, match="real targets have no classes"):
        _ = bp.Dataset(X, Y).num_classes
