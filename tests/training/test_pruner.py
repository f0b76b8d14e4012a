"""`Pruner`: the training of `fit` in a plain loop, and what a user's own loop may contain."""

import copy
from dataclasses import replace

import pandas as pd
import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import assert_same, class_data, lifted, mlp, noisy_net
from helpers.loops import loop
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import pyro_bayesprune as bp
from pyro_bayesprune.inference.mode import log_joint_gradient
from pyro_bayesprune.inference.samplers import posterior_draws

PRUNING = bp.Pruning(sparsity=0.8, gate="propose", beta=0.5)
COMPARED = ["epoch", "validation_loss", "log_joint_before", "log_joint_after", "log_bf", "tries"]
COMPARED += ["sparsity", "target", "temperature"]


def convolutional():
    """A small CNN for six features."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )


NETWORKS = {"fcn": mlp, "cnn": convolutional, "batch_norm": noisy_net}
PRIORS = {
    "normal": bp.priors.normal(0.3),
    "laplace": bp.priors.laplace(0.3),
    "student_t": bp.priors.student_t(3.0, 0.3),
    "layer_scale": bp.priors.layer_scale(0.3),
}


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_loop_gives_the_masks_decisions_and_weights_of_fit(network, prior):
    torch.manual_seed(0)
    net, data = NETWORKS[network](), class_data()
    options = {"pruning": PRUNING, "epochs": 3}
    pruner = loop(net, data, lambda p: torch.optim.Adam(p, lr=0.01), prior=PRIORS[prior], **options)
    fit = bp.fit(
        lifted(copy.deepcopy(net), data, PRIORS[prior]),
        data,
        optim=pyro.optim.Adam({"lr": 0.01}),
        initial_weights=initial_scales(net, data, PRIORS[prior]),
        batch_size=10,
        progress=False,
        **options,
    )
    for name, mask in fit.masks.items():
        assert torch.equal(pruner.masks[name], mask)
    for name, weight in fit.weights.items():
        assert torch.dist(pruner.weights[name], weight) <= 1e-6 * weight.norm(), name
    assert list(pruner.history.columns) == list(fit.history.columns)
    assert pruner.history["decision"].equals(fit.history["decision"])
    assert list(pruner.history["decision"]) == ["pruned", "pruned", "unchanged"]
    numbers = fit.history[COMPARED].to_numpy(float)
    assert pruner.history[COMPARED].to_numpy(float) == pytest.approx(numbers, rel=1e-5, abs=1e-5)


def initial_scales(net, data, prior):
    """The initial values of a prior's own sites in a pruner, which are random."""
    weights = bp.Pruner(copy.deepcopy(net), prior, data.num_train, epochs=1).weights
    return {name: value for name, value in weights.items() if name.endswith("_scale")}


HALF = bp.Pruning(sparsity=0.5, gate="always", schedule="constant", scope="layer")
DATA = class_data()
X, Y = DATA.train_x, DATA.train_y


def attached(make_optimizer, net=None, prior=None, **options):
    """A network, its pruner and an attached optimiser."""
    torch.manual_seed(0)
    net = net or mlp()
    options = {"pruning": HALF, "epochs": 3} | options
    pruner = bp.Pruner(net, prior or bp.priors.normal(0.3), len(X), **options)
    optimizer = make_optimizer([*net.parameters(), *pruner.hyperparameters()])
    pruner.attach(optimizer)
    return net, pruner, optimizer


def sgd(params):
    return torch.optim.SGD(params, lr=0.1)


def train_step(net, optimizer, loss=None):
    optimizer.zero_grad()
    (cross_entropy(net(X), Y) if loss is None else loss).backward()
    optimizer.step()


def assert_near(first, second, rel=1e-6):
    for name, value in second.items():
        assert torch.dist(first[name], value) <= rel * value.norm() + 1e-12, name


@pytest.mark.parametrize("prior", [bp.priors.normal(0.3), bp.priors.layer_scale(0.3)])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_step_follows_the_gradient_of_the_log_joint(prior, temperature):
    """SGD on the loss: its gradient is minus that of the log joint, times temperature / N."""
    net, pruner, optimizer = attached(sgd, prior=prior, temperature=temperature)
    before = {name: p.detach().clone() for name, p in pruner._parameters.params.items()}
    gradient = log_joint_gradient(pruner.model, pruner.weights, DATA, temperature=temperature)
    for name in pruner._parameters.scales:  # of ln σ
        gradient[name] *= pruner.weights[name]
    train_step(net, optimizer)
    for name, param in pruner._parameters.params.items():
        expected = before[name] + 0.1 * temperature / len(X) * gradient[name]
        assert torch.allclose(param.detach(), expected.float(), atol=1e-6), name


def test_accumulated_gradients_count_the_prior_once():
    whole, _, optimizer = attached(sgd)
    train_step(whole, optimizer)
    parts, _, optimizer = attached(sgd)
    for x, y in zip(X.split(12), Y.split(12), strict=True):
        (cross_entropy(parts(x), y) / 4).backward()
    optimizer.step()
    assert_near(dict(parts.named_parameters()), dict(whole.named_parameters()))


def test_parameters_that_an_optimiser_gets_later_have_their_prior_too():
    def first_layer(params):
        return sgd(params[:2])

    whole, _, optimizer = attached(sgd)
    train_step(whole, optimizer)
    net, _, optimizer = attached(first_layer)
    optimizer.add_param_group({"params": net[2].parameters()})
    train_step(net, optimizer)
    assert_same(dict(net.named_parameters()), dict(whole.named_parameters()))


def test_a_closure_adds_the_prior_to_the_gradient_that_it_computes():
    plain, _, optimizer = attached(sgd)
    train_step(plain, optimizer)
    net, _, optimizer = attached(sgd)

    def closure():
        optimizer.zero_grad()
        loss = cross_entropy(net(X), Y)
        loss.backward()
        return loss

    assert optimizer.step(closure) > 0
    assert_near(dict(net.named_parameters()), dict(plain.named_parameters()))
    assert optimizer.step(closure=closure) > 0


@pytest.mark.parametrize("options", [{}, {"fused": True}, {"foreach": True}], ids=str)
def test_a_scaled_loss_gives_the_step_of_the_loss(options):
    def make(params):
        return torch.optim.SGD(params, lr=0.1, momentum=0.9, **options)

    plain, _, optimizer = attached(make)
    net, _, scaled = attached(make)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        train_step(plain, optimizer)
        scaled.zero_grad()
        scaler.scale(cross_entropy(net(X), Y)).backward()
        scaler.step(scaled)
        scaler.update()
    assert_near(dict(net.named_parameters()), dict(plain.named_parameters()), rel=1e-5)


def test_clipping_sees_the_gradients_of_surviving_weights_only():
    net, pruner, optimizer = attached(sgd)
    train_step(net, optimizer)
    pruner.step(DATA)
    optimizer.zero_grad()
    cross_entropy(net(X), Y).backward()
    for name, mask in pruner.masks.items():
        grad = net.get_parameter(name).grad
        assert not grad[~mask].any() and grad[mask].any()


def test_moments_of_pruned_weights_are_zero():
    net, pruner, optimizer = attached(lambda p: torch.optim.Adam(p, lr=0.01))
    train_step(net, optimizer)
    pruner.step(DATA)
    for _ in range(2):
        train_step(net, optimizer)
        for name, mask in pruner.masks.items():
            state = optimizer.state[net.get_parameter(name)]
            assert not state["exp_avg"][~mask].any() and not state["exp_avg_sq"][~mask].any()


def test_a_prior_that_is_not_centred_does_not_move_pruned_weights():
    def shifted(name, shape):
        return dist.Normal(1.0, 0.1).expand(shape).to_event(len(shape))

    net, pruner, optimizer = attached(lambda p: torch.optim.Adam(p, lr=0.01), prior=shifted)
    train_step(net, optimizer)
    pruner.step(DATA)
    train_step(net, optimizer)
    for name, mask in pruner.masks.items():
        state = optimizer.state[net.get_parameter(name)]
        assert not state["exp_avg"][~mask].any() and (net.get_parameter(name)[~mask] == 0).all()


def test_weights_regrow_if_the_settings_say_so():
    net, pruner, optimizer = attached(sgd, pruning=replace(HALF, regrow=True))
    pruner.step(DATA)
    assert all((net.get_parameter(n)[~m] == 0).all() for n, m in pruner.masks.items())
    train_step(net, optimizer)
    assert all((net.get_parameter(n)[~m] != 0).any() for n, m in pruner.masks.items())


@pytest.mark.parametrize("prior", [bp.priors.normal(0.3), bp.priors.layer_scale(0.3)])
def test_a_resumed_loop_is_the_same_bit_for_bit(prior, tmp_path):
    def make(params):
        return torch.optim.Adam(params, lr=0.01)

    def epoch(net, pruner, optimizer):
        for _ in range(2):
            train_step(net, optimizer)
        pruner.step(DATA)

    parts = attached(make, prior=prior, pruning=PRUNING)
    epoch(*parts)
    torch.save([part.state_dict() for part in parts], tmp_path / "state.pt")
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    again = attached(make, prior=prior, pruning=PRUNING)
    for part, state in zip(again, states, strict=True):
        part.load_state_dict(state)
    for _ in range(2):
        epoch(*parts)
        epoch(*again)
    assert_same(again[1].weights, parts[1].weights)
    assert_same(again[1].masks, parts[1].masks)
    times = ["seconds_training", "seconds_step"]
    first, second = (p[1].history.drop(columns=times) for p in (parts, again))
    pd.testing.assert_frame_equal(first, second)


def test_a_fit_predicts_and_draws_what_the_network_is():
    net, pruner, optimizer = attached(sgd, net=noisy_net())
    for _ in range(5):
        train_step(net, optimizer)
    pruner.step(DATA, train_loss=0.5, validation=(DATA.validation_x, DATA.validation_y))
    fit = pruner.to_fit()
    assert fit.sparsity == pytest.approx(0.5, abs=0.02) and net.training
    net.eval()
    assert torch.allclose(fit.module(X), net(X), atol=1e-6)
    assert torch.allclose(fit.predict_proba(X), net(X).softmax(1), atol=1e-6)
    row = pruner.history.iloc[0]
    held_out = cross_entropy(net(DATA.validation_x), DATA.validation_y).item()
    assert row["train_loss"] == 0.5 and row["validation_loss"] == pytest.approx(held_out, rel=1e-5)
    assert posterior_draws(fit, (X, Y), "last_layer_laplace", draws=3).values.shape[1] == 3


def test_a_fit_has_the_weights_that_have_regrown_since_the_last_step():
    net, pruner, optimizer = attached(sgd, pruning=replace(HALF, regrow=True))
    pruner.step(DATA)
    train_step(net, optimizer)
    fit = pruner.to_fit()
    assert torch.allclose(fit.module(X), net(X), atol=1e-6)
    assert fit.sparsity == bp.metrics.sparsity({n: fit.weights[n] != 0 for n in fit.masks})


def test_a_loaded_state_is_pruned_at_the_sites_of_the_new_settings():
    _, dense, _ = attached(sgd, pruning=None)
    dense.step(DATA)
    _, pruner, _ = attached(sgd, pruning=replace(HALF, scope="unit"))
    pruner.load_state_dict(dense.state_dict())
    pruner.step(DATA)
    assert list(pruner.masks) == ["0.weight"]  # 2.weight belongs to the classes
    _, other, _ = attached(sgd, pruning=replace(HALF, sites=("2.weight",)))
    other.load_state_dict(pruner.state_dict())
    with pytest.raises(ValueError, match="state has pruned weights of 0.weight"):
        other.step(DATA)


def test_a_step_reads_loaders_and_leaves_the_loop_as_it_was():
    loader = DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True)
    net, pruner, optimizer = attached(sgd, pruning=replace(HALF, criterion="fisher"))
    train_step(net, optimizer)
    other, again, optimizer = attached(sgd, pruning=replace(HALF, criterion="fisher"))
    train_step(other, optimizer)
    state = torch.get_rng_state()
    with torch.no_grad():
        pruner.step(loader)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state) and net.training
    again.step((X, Y))
    assert_same(pruner.masks, again.masks)


def test_a_loader_without_all_examples_is_refused():
    _, pruner, _ = attached(sgd)
    loader = DataLoader(TensorDataset(X, Y), batch_size=7, drop_last=True)
    with pytest.raises(ValueError, match="size 48, the training data have 42"):
        pruner.step(loader)


def test_detach_leaves_a_plain_module():
    net, pruner, optimizer = attached(sgd)
    pruner.step(DATA)
    pruner.detach()
    train_step(net, optimizer)
    assert any((net.get_parameter(n)[~m] != 0).any() for n, m in pruner.masks.items())
    plain = copy.deepcopy(net)
    train_step(plain, sgd(plain.parameters()))


def test_the_evidence_sets_the_scales_of_evidence_normal():
    net, pruner, optimizer = attached(sgd, prior=bp.priors.evidence_normal(0.3))
    assert not list(pruner.hyperparameters())
    train_step(net, optimizer)
    before = pruner.weights["0.weight_scale"]
    pruner.step(DATA)
    assert pruner.weights["0.weight_scale"] != before


def test_survivors_move_by_conditioning():
    net, pruner, optimizer = attached(sgd, pruning=replace(HALF, update="condition"))
    for _ in range(100):
        train_step(net, optimizer)
    before = pruner.weights
    record = pruner.step(DATA)
    mask = pruner.masks["0.weight"]
    assert record.decision == "pruned"
    assert not torch.equal(net[0].weight[mask], before["0.weight"][mask])


def test_the_loss_is_the_mean_negative_log_likelihood():
    net, pruner, _ = attached(sgd)
    assert pruner.loss(net(X), Y).item() == pytest.approx(cross_entropy(net(X), Y).item())
    _, pruner, _ = attached(sgd, likelihood=bp.gaussian(0.5))
    outputs, y = torch.randn(5, 2), torch.randn(5, 2)
    expected = -dist.Normal(outputs, 0.5).log_prob(y).sum() / 5
    assert pruner.loss(outputs, y).item() == pytest.approx(expected.item())


def test_the_loss_does_not_broadcast_targets():
    _, pruner, _ = attached(sgd, likelihood=bp.gaussian(0.5))
    with pytest.raises(
        ValueError, match=r"shape of the outputs' distribution, \(5, 1\), got \(5,\)"
    ):
        pruner.loss(torch.randn(5, 1), torch.randn(5))


def numbers():
    """Inputs with a real target each, and a network for them."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)), torch.randn(30, 4)
    return net, bp.Dataset(x, x[:, :1] + 0.3 * torch.randn(30, 1), x, x[:, :1])


def test_the_noise_of_a_regression_is_learnt_as_by_fit():
    net, data = numbers()
    likelihood = bp.gaussian(dist.LogNormal(0.0, 1.0))
    model = bp.BayesianModule(copy.deepcopy(net), bp.priors.normal(0.3), 30, likelihood)
    pruner = bp.Pruner(
        net, bp.priors.normal(0.3), 30, epochs=3, pruning=HALF, likelihood=likelihood
    )
    optimizer = torch.optim.Adam([*net.parameters(), *pruner.hyperparameters()], lr=0.05)
    pruner.attach(optimizer)
    start = pruner.weights["noise"]
    for _ in range(3):
        train_step(net, optimizer, pruner.loss(net(data.train_x), data.train_y))
        pruner.step(data)
    fit = bp.fit(
        model,
        data,
        pruning=HALF,
        epochs=3,
        batch_size=30,
        optim=pyro.optim.Adam({"lr": 0.05}),
        initial_weights={"noise": start},
        progress=False,
    )
    assert not torch.equal(start, pruner.weights["noise"])
    assert_near(pruner.weights, fit.weights, 1e-5)
    columns = ["validation_rmse", "validation_loss", "log_joint_after", "sparsity"]
    expected = fit.history[columns].to_numpy(float)
    assert pruner.history[columns].to_numpy(float) == pytest.approx(expected, rel=1e-4)
    assert list(pruner.history) == list(fit.history)


def test_another_likelihood_that_samples_is_refused():
    def student(outputs):
        df = pyro.sample("df", dist.Gamma(2.0, 0.1))
        return dist.StudentT(df, outputs, 0.5).to_event(1)

    net, data = numbers()
    pruner = bp.Pruner(net, bp.priors.normal(0.3), 30, epochs=1, likelihood=student)
    pruner.attach(sgd(net.parameters()))
    for use in (lambda: pruner.loss(net(data.train_x), data.train_y), lambda: pruner.step(data)):
        with pytest.raises(ValueError, match="the likelihood samples df, but Pruner can learn"):
            use()


def test_a_compiled_network_is_trained_like_a_plain_one():
    plain, first, optimizer = attached(sgd)
    net, second, compiled_optimizer = attached(sgd)
    compiled = torch.compile(net, backend="aot_eager")
    assert bp.Pruner(compiled, bp.priors.normal(0.3), 48, epochs=1).model.net is net
    for _ in range(2):
        train_step(plain, optimizer)
        train_step(compiled, compiled_optimizer)
        first.step(DATA)
        second.step(DATA)
    assert_near(second.weights, first.weights)


def test_what_is_wrong_is_refused_in_words():
    net, pruner, optimizer = attached(sgd)
    with pytest.raises(ValueError, match="this SGD is attached already"):
        pruner.attach(optimizer)
    with pytest.raises(ValueError, match="no parameter of the pruner's network"):
        pruner.attach(sgd(mlp().parameters()))
    with pytest.raises(ValueError, match="LBFGS cannot be attached"):
        pruner.attach(torch.optim.LBFGS(net.parameters()))
    fresh = bp.Pruner(net, bp.priors.layer_scale(0.3), 48, epochs=1)
    with pytest.raises(ValueError, match="attach the optimiser before the first step"):
        fresh.step(DATA)
    fresh.attach(sgd(net.parameters()))
    with pytest.raises(ValueError, match="the model learns 0.weight_scale, 2.weight_scale"):
        fresh.step(DATA)
    with pytest.raises(ValueError, match="Delta, a constant"):
        bp.Pruner(net, lambda n, s: dist.Delta(torch.zeros(s)).to_event(len(s)), 48, epochs=1)
    with pytest.raises(ValueError, match="epochs must be a positive integer, got 0"):
        bp.Pruner(net, bp.priors.normal(0.3), 48, epochs=0)
    with pytest.raises(ValueError, match="pruning must be a Pruning, got float"):
        bp.Pruner(net, bp.priors.normal(0.3), 48, epochs=1, pruning=0.5)


def test_weight_decay_that_is_a_second_prior_is_noticed():
    net = mlp()
    pruner = bp.Pruner(net, bp.priors.normal(0.3), 48, epochs=1)
    with pytest.warns(UserWarning, match="weight decay of AdamW counts as a second prior"):
        pruner.attach(torch.optim.AdamW(net.parameters()))


def test_a_parameter_that_is_frozen_later_stays_and_is_named():
    net = mlp()
    _, pruner, optimizer = attached(sgd, net)
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    train_step(net, optimizer)
    assert torch.equal(net[0].weight, before)
    with pytest.raises(ValueError, match="requires_grad of 0.weight has changed"):
        pruner.step(class_data())


def test_a_step_after_dense_weights_are_loaded_compares_the_pruned_network():
    """Early stopping and averages of weights put weights from elsewhere into the network."""
    net, pruner, optimizer = attached(sgd)
    dense = copy.deepcopy(net.state_dict())
    train_step(net, optimizer)
    assert pruner.step(DATA).sparsity == 0.5
    net.load_state_dict(dense)
    record = pruner.step(DATA)
    assert record.after == bp.log_joint(pruner.model, pruner.weights, DATA)
