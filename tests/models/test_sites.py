"""A model that cannot be inspected, or whose targets do not fit, is one clear error."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import class_data, fit_once, lifted, linear_data, mlp, net_weights, written

import pyro_bayesprune as bp

X, Y, _ = linear_data(dtype=torch.float32)


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
            fit_once(model, (inputs, y))
        assert "\n" not in str(caught.value)


def test_no_data_plate():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("examples", 12, subsample=x):
            return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    for use in (lambda: fit_once(model, (X, Y)), lambda: bp.log_joint(model, {"w": X[0]}, (X, Y))):
        with pytest.raises(ValueError, match='no plate "data": observe the targets inside'):
            use()


def test_a_data_plate_that_does_not_take_the_batch():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 12):
            return pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    with pytest.raises(ValueError, match='plate "data" must take the batch as its subsample'):
        fit_once(model, (X, Y))


def test_nothing_observed():
    def model(x, y=None):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", 12, subsample=x):
            pyro.deterministic("mean", x @ w, event_dim=0)

    with pytest.raises(ValueError, match='observes nothing inside the plate "data"'):
        fit_once(model, (X, Y))


def test_several_observed_sites():
    twice = written(extra=lambda x, y: pyro.sample("z", dist.Normal(x[:, 0], 1.0), obs=y))
    with pytest.raises(ValueError, match=r"needs one observed site, the model has \['z', 'y'\]"):
        fit_once(twice, (X, Y))


def test_a_latent_site_inside_the_plate():
    local = written(extra=lambda x, y: pyro.sample("z", dist.Normal(x[:, 0], 1.0)))
    with pytest.raises(ValueError, match="latent site 'z' is inside the plate"):
        fit_once(local, (X, Y))


def test_a_parameter_without_a_prior():
    free = written(extra=lambda x, y: pyro.param("free", torch.ones(1)))
    with pytest.raises(ValueError, match=r"parameters \['free'\]: give them priors"):
        fit_once(free, (X, Y))


def test_a_number_of_examples_other_than_the_plates():
    message = 'plate "data" has size 11, the training data have 12'
    with pytest.raises(ValueError, match=message):
        fit_once(written(size=11), (X, Y))
    with pytest.raises(ValueError, match=message):
        bp.log_joint(written(size=11), {"w": X[0]}, (X, Y))


def test_labels_out_of_range():
    data = class_data()
    x, y = data.train_x, data.train_y
    wrong = torch.where(torch.arange(48) == 7, 3, y)
    model, weights = lifted(mlp(), data), net_weights(mlp())
    message = "train labels of the site 'obs' must be integers from 0 to 2, got .* up to 3"
    with pytest.raises(ValueError, match=message):
        fit_once(model, (x, wrong))
    with pytest.raises(ValueError, match=message):
        bp.log_joint(model, weights, (x, wrong))
    for part in ("validation", "test"):
        dataset = bp.Dataset(x, y, **{f"{part}_x": x, f"{part}_y": wrong})
        with pytest.raises(ValueError, match=f"{part} labels of the site 'obs'"):
            fit_once(model, dataset)
    with pytest.raises(ValueError, match="train labels must not be negative, got -1"):
        bp.Dataset(x, y - 1)


def test_labels_that_are_no_integers():
    data = class_data()
    with pytest.raises(ValueError, match="must be integers from 0 to 2, got torch.float32"):
        fit_once(lifted(mlp(), data), (data.train_x, data.train_y.float()))


def test_targets_of_a_wrong_shape():
    data = class_data()
    with pytest.raises(ValueError, match=r"targets must have the shape .* \(2,\), got \(2, 1\)"):
        fit_once(lifted(mlp(), data), (data.train_x, data.train_y[:, None]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_have_no_densities(dtype):
    data, net = class_data(), mlp().to(dtype)
    pair = data.train_x.to(dtype), data.train_y
    for use in (
        lambda: bp.log_joint(lifted(net, data), net_weights(net), pair),
        lambda: fit_once(lifted(net, data), pair),
    ):
        with pytest.raises(ValueError, match=f"weights of .* are {dtype}.*use float32"):
            use()
