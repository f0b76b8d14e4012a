"""Training: seeds, isolation, masks held, continuation, schedules, objectives."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import (
    assert_same,
    class_data,
    lifted,
    linear_data,
    mlp,
    net_weights,
    noisy_net,
    random_masks,
    regression,
)
from pyro import poutine
from pyro.optim import SGD, Adam, AdamW, ClippedAdam, ExponentialLR, ReduceLROnPlateau
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.pruning.masks import apply_masks
from pyro_bayesprune.training.optimizer import JointOptim
from pyro_bayesprune.training.trainer import Trainer, TrainingDiverged

HALF = bp.Pruning("magnitude", sparsity=0.5, gate="always")
TIMES = ["seconds_training", "seconds_step"]
OPTIMISERS = {
    "adam": lambda: Adam({"lr": 0.01}),
    "fused": lambda: Adam({"lr": 0.01, "fused": True}),
    "amsgrad": lambda: Adam({"lr": 0.01, "amsgrad": True}),
    "adamw": lambda: AdamW({"lr": 0.01, "weight_decay": 0.1}),
    "clipped": lambda: ClippedAdam({"lr": 0.01, "lrd": 0.99, "clip_norm": 1.0}),
    "momentum": lambda: SGD({"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "exponential": lambda: ExponentialLR(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "gamma": 0.5}
    ),
    "plateau": lambda: ReduceLROnPlateau(
        {"optimizer": torch.optim.Adam, "optim_args": {"lr": 0.01}, "patience": 0}
    ),
}
HOLDING = OPTIMISERS.keys() - {"clipped", "momentum"}


def fit(model, data, **options):
    options = {"pruning": HALF, "epochs": 4, "batch_size": 10, "progress": False} | options
    return bp.fit(model, data, **options)


def same_history(first, second):
    first, second = first.drop(columns=TIMES), second.drop(columns=TIMES)
    return first.reset_index(drop=True).equals(second.reset_index(drop=True))


def fresh(make=mlp, data=None, prior=None):
    """The same network for every call."""
    torch.manual_seed(0)
    return lifted(make(), data or class_data(), prior)


# Seeds and isolation


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_the_same_seed_gives_identical_fits(criterion):
    options = {"pruning": bp.Pruning(criterion, sparsity=0.5, gate="always"), "seed": 4}
    first = fit(fresh(noisy_net), class_data(), **options)
    torch.manual_seed(99)
    second = fit(fresh(noisy_net), class_data(), **options)
    assert_same(first.weights, second.weights)
    assert_same(first.masks, second.masks)
    assert_same(first.buffers, second.buffers)
    assert same_history(first.history, second.history)


def test_another_seed_gives_another_order_and_other_random_masks():
    random = bp.Pruning("random", sparsity=0.5, gate="always")
    first, second = (fit(fresh(), class_data(), pruning=random, seed=s) for s in (0, 1))
    assert first.history["train_loss"][0] != second.history["train_loss"][0]
    assert not torch.equal(first.masks["0.weight"], second.masks["0.weight"])


def test_methods_of_one_seed_share_initial_weights_and_data_order():
    losses = [
        fit(fresh(noisy_net), class_data(), pruning=pruning, epochs=1).history["train_loss"][0]
        for pruning in (None, HALF, bp.Pruning("random", sparsity=0.3, gate="always"))
    ]
    assert losses[0] == losses[1] == losses[2]


def test_two_fits_side_by_side_do_not_influence_each_other():
    data = class_data()
    alone = fit(fresh(noisy_net), data, seed=1)
    trainings = [
        bp.train(fresh(noisy_net), data, pruning=HALF, epochs=4, batch_size=10, seed=seed)
        for seed in (1, 2)
    ]
    for (state, _), _ in zip(*trainings, strict=True):
        last = state
    assert_same(alone.weights, last.weights)
    assert_same(alone.buffers, last.buffers)


@pytest.mark.parametrize("prior", [bp.priors.normal(0.3), bp.priors.layer_scale()])
def test_a_fit_leaves_everything_of_the_callers_as_it_was(prior):
    model = fresh(noisy_net, prior=prior).eval()
    pyro.param("mine", torch.ones(2))
    pyro.enable_validation(False)
    held = copy.deepcopy(model.state_dict())
    generator, dtype = torch.get_rng_state(), torch.get_default_dtype()
    result = fit(model, class_data())
    assert_same(model.state_dict(), held)
    assert not model.training and not result.model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert not torch.distributions.Distribution._validate_args
    assert torch.get_default_dtype() == dtype
    assert (torch.tensor([1e-40]) * 1.0).item() != 0  # denormals are not flushed any more
    pyro.enable_validation(True)


def test_a_fit_of_a_handled_network_leaves_it_as_it_was():
    model = fresh(noisy_net)
    held = copy.deepcopy(model.state_dict())
    result = fit(poutine.scale(model, 0.5), class_data())
    assert_same(model.state_dict(), held)
    assert result.buffers["net.1.num_batches_tracked"] == 4 * 5
    assert set(result.masks) == {"0.weight", "4.weight"}


def test_changing_a_fits_weights_does_not_change_the_module():
    model = fresh()
    result = fit(model, class_data())
    before = net_weights(model.net)
    for weight in result.weights.values():
        weight.fill_(7.0)
    assert_same(net_weights(model.net), before)


# Pruned weights stay zero


@pytest.mark.parametrize("name", list(OPTIMISERS))
@pytest.mark.parametrize("objective", ["map", "mle"])
def test_pruned_weights_are_zero_after_every_step_and_moments_after_every_epoch(name, objective):
    data, model = class_data(), fresh(noisy_net)
    options = {"optim": OPTIMISERS[name](), "objective": objective, "temperature": 1.0, "seed": 0}
    trainer = Trainer(model.train(), data.train_x, data.train_y, initial_weights={}, **options)
    trainer.run_epoch(1, 10)
    masks = random_masks(trainer.weights())
    trainer.project(masks, hold=True)
    seen, step = [], trainer.svi.step

    def check(site, tensors):
        held = [t for t in tensors if isinstance(t, torch.Tensor) and t.shape == masks[site].shape]
        assert all((t[~masks[site]] == 0).all() for t in held), site
        assert all((t[masks[site]] != 0).any() for t in held), site
        seen.append(len(held))

    def observed(*batch):
        loss = step(*batch)
        for site in masks:
            check(site, [trainer.params[site].detach()])
        return loss

    trainer.svi.step = observed
    trainer.run_epoch(2, 10)
    assert seen == [1] * 5 * len(masks)
    for site in masks:
        state = trainer.optim.torch_optim.state[trainer.params[site]]
        check(site, [trainer.params[site].detach(), *state.values()])
    assert set(seen[-len(masks) :]) == {{"momentum": 2, "amsgrad": 4}.get(name, 3)}


@pytest.mark.parametrize("name", list(OPTIMISERS))
@pytest.mark.parametrize("prior", [bp.priors.normal(0.5), bp.priors.layer_scale()])
def test_what_the_optimiser_holds_trains_as_under_masked_gradients(monkeypatch, name, prior):
    def trained():
        data = class_data()
        model = fresh(data=data, prior=prior)
        options = {"optim": OPTIMISERS[name](), "objective": "map", "temperature": 1.0, "seed": 0}
        trainer = Trainer(model, data.train_x, data.train_y, initial_weights={}, **options)
        trainer.run_epoch(1, 10)
        trainer.project(random_masks(net_weights(model.net)), hold=True)
        return trainer, [trainer.run_epoch(epoch, 10) for epoch in (2, 3)]

    held, losses = trained()
    assert held.optim.holds("0.weight") == (name in HOLDING)
    monkeypatch.setattr(JointOptim, "holds", lambda self, site: False)
    masked, expected = trained()
    assert losses == expected
    assert_same(held.weights(), masked.weights())
    state, other = (t.optim.get_state()["optimizer"]["state"] for t in (held, masked))
    for index in state:
        assert_same(*({k: torch.as_tensor(v) for k, v in s[index].items()} for s in (state, other)))


def test_after_training_the_handler_changes_nothing():
    data, result = class_data(), fit(fresh(noisy_net), class_data())
    assert result.sparsity == 0.5
    logits = [
        poutine.trace(poutine.condition(m, data=result.weights)).get_trace(data.train_x)
        for m in (result.model.eval(), bp.pruned(result.model, result.masks))
    ]
    assert torch.equal(*(trace.nodes["obs"]["fn"].logits for trace in logits))
    assert bp.log_joint(result.model, result.weights, data) == bp.log_joint(
        result.model, result.weights, data, result.masks
    )


def test_masks_only_shrink_and_weights_stay_zero():
    pruning = bp.Pruning("random", sparsity=0.9, gate="always")
    states = [s for s, _ in bp.train(fresh(), class_data(), pruning=pruning, epochs=8)]
    assert bp.metrics.sparsity(states[0].masks) < bp.metrics.sparsity(states[-1].masks)
    for earlier, later in zip(states, states[1:], strict=False):
        for name, mask in later.masks.items():
            assert not (mask & ~earlier.masks[name]).any()
            assert (later.weights[name][~mask] == 0).all()


def test_with_regrow_weights_come_back_between_steps():
    pruning = bp.Pruning("random", sparsity=0.5, gate="always", schedule="constant", regrow=True)
    states = [s for s, _ in bp.train(fresh(), class_data(), pruning=pruning, epochs=3)]
    for earlier, later in zip(states, states[1:], strict=False):
        assert later.weights["0.weight"][~earlier.masks["0.weight"]].any()
        assert (later.weights["0.weight"] == 0).sum() == 24  # half of 8 x 6, each time


# Continuation


@pytest.mark.parametrize(
    ("make", "prior"),
    [
        (mlp, None),
        (noisy_net, None),
        (noisy_net, bp.priors.layer_scale()),
        (noisy_net, bp.priors.student_t(3.0, 0.3)),
    ],
)
@pytest.mark.parametrize("name", ["fused", "clipped", "momentum", "exponential", "plateau"])
def test_a_continued_fit_is_the_undisturbed_one(make, prior, name):
    data, options = class_data(), {"pruning": HALF, "batch_size": 10, "epochs": 5, "seed": 3}
    whole = fit(fresh(make, prior=prior), data, optim=OPTIMISERS[name](), **options)
    training = bp.train(fresh(make, prior=prior), data, optim=OPTIMISERS[name](), **options)
    for state, _ in training:
        if state.epoch == 2:
            break
    model = fresh(make, prior=prior)
    rest = fit(model, data, optim=OPTIMISERS[name](), state=copy.deepcopy(state), **options)
    assert_same(rest.weights, whole.weights)
    assert_same(rest.masks, whole.masks)
    assert_same(rest.buffers, whole.buffers)
    assert same_history(rest.history, whole.history[2:])


def test_a_fit_that_is_at_its_end_is_returned_as_it_is():
    first = fit(fresh(), class_data())
    again = fit(fresh(), class_data(), state=first.state)
    assert_same(first.weights, again.weights)
    assert len(again.history) == 0 and "4 epochs" in repr(again)


def test_a_refused_step_changes_neither_weights_nor_buffers():
    never = bp.Pruning(sparsity=0.9, beta=1e300)
    refused = fit(fresh(noisy_net), class_data(), pruning=never)
    free = fit(fresh(noisy_net), class_data(), pruning=None)
    assert set(refused.history["decision"]) == {"refused"}
    assert set(free.history["decision"]) == {"unchanged"}
    assert_same(refused.weights, free.weights)
    assert_same(refused.buffers, free.buffers)


def test_guide_set_up_does_not_advance_buffers():
    result = fit(fresh(noisy_net), class_data(), epochs=1)
    assert result.buffers["net.1.num_batches_tracked"] == 5  # 48 examples, 10 a step


# Initial weights


def test_a_fit_starts_from_the_modules_weights():
    model = fresh()
    tiny = Adam({"lr": 1e-12})
    result = fit(model, class_data(), optim=tiny, pruning=None, epochs=1)
    for name, weight in net_weights(model.net).items():
        assert torch.allclose(result.weights[name], weight, atol=1e-9)


def test_initial_weights_prune_a_trained_network():
    data = class_data()
    trained = fit(fresh(), data, pruning=None, epochs=8).weights
    still = {"optim": SGD({"lr": 1e-12}), "epochs": 1, "initial_weights": trained}
    result = fit(
        fresh(), data, **still, pruning=bp.Pruning(sparsity=0.5, gate="always", schedule="constant")
    )
    expected = apply_masks(trained, result.masks)
    for name, weight in result.weights.items():
        assert torch.allclose(weight, expected[name], atol=1e-9)


def test_initial_weights_may_be_given_for_some_sites():
    model, weight = fresh(), torch.full((8, 6), 0.25)
    still = {"optim": SGD({"lr": 1e-12}), "epochs": 1, "pruning": None}
    result = fit(model, class_data(), initial_weights={"0.weight": weight}, **still)
    assert torch.allclose(result.weights["0.weight"], weight)
    assert torch.allclose(result.weights["2.weight"], model.net[2].weight)
    assert (weight == 0.25).all()


# Optimisers and schedules


def test_a_learning_rate_schedule_takes_its_step_after_each_epoch():
    optim = OPTIMISERS["exponential"]()
    rates = [
        state.optimizer["optimizer"]["param_groups"][0]["lr"]
        for state, _ in bp.train(fresh(), class_data(), optim=optim, epochs=3)
    ]
    assert rates == pytest.approx([0.005, 0.0025, 0.00125])


def test_a_plateau_schedule_sees_the_training_loss():
    """A learning rate of zero makes no progress: the schedule must lower it (to zero: to 1e-9)."""
    args = {"optim_args": {"lr": 1e-9}, "patience": 0, "factor": 0.5, "eps": 0.0}
    optim = ReduceLROnPlateau({"optimizer": torch.optim.SGD, **args})
    *_, (state, _) = bp.train(fresh(), class_data(), optim=optim, epochs=6)
    assert state.optimizer["optimizer"]["param_groups"][0]["lr"] < 1e-9


def test_gradients_are_clipped_with_the_priors_part():
    """One step of SGD whose gradient is clipped to a norm moves a site by rate times norm."""
    data = class_data()
    model = fresh(prior=bp.priors.normal(1e-3))  # the prior's gradient is by far the larger
    optim = SGD({"lr": 1.0}, {"clip_norm": 0.01})
    result = fit(model, data, optim=optim, pruning=None, epochs=1, batch_size=data.num_train)
    for name, weight in net_weights(model.net).items():
        assert (result.weights[name] - weight).norm() == pytest.approx(0.01, rel=1e-3)


def test_options_may_differ_by_site():
    model = fresh()
    optim = SGD(lambda name: {"lr": 0.1 if name.startswith("2.") else 0.0})
    result = fit(model, class_data(), optim=optim, pruning=None, epochs=1)
    assert torch.equal(result.weights["0.weight"], model.net[0].weight)
    assert not torch.equal(result.weights["2.weight"], model.net[2].weight)


@pytest.mark.parametrize("objective", ["map", "mle"])
def test_training_is_plain_pytorch_with_weight_decay(objective):
    """An oracle written in PyTorch alone: cross-entropy, Adam, weight decay 1/(N σ²)."""
    data, model = class_data(dtype=torch.float64), None
    torch.manual_seed(0)
    net = mlp().double()
    model = lifted(copy.deepcopy(net), data, bp.priors.normal(0.3))
    decay = 1 / (data.num_train * 0.3**2) if objective == "map" else 0.0
    optim = torch.optim.Adam(net.parameters(), lr=0.01, weight_decay=decay)
    for _ in range(3):
        optim.zero_grad()
        nn.functional.cross_entropy(net(data.train_x), data.train_y).backward()
        optim.step()
    result = fit(
        model,
        data,
        optim=Adam({"lr": 0.01}),
        objective=objective,
        pruning=None,
        epochs=3,
        batch_size=data.num_train,
    )
    for name, weight in net_weights(net).items():
        assert torch.allclose(result.weights[name], weight, rtol=0, atol=1e-12)


# What it converges to


def descent():
    return SGD({"lr": 0.3})


@pytest.mark.parametrize("temperature", [1.0, 0.25])
def test_the_map_of_a_hand_written_regression_is_ridge(temperature):
    x, y, _ = linear_data(dim=3)
    precision = x.T @ x / 0.5**2 / temperature + torch.eye(3) / 0.7**2
    ridge = torch.linalg.solve(precision, x.T @ y / 0.5**2 / temperature)
    model = regression(12, prior_scale=0.7, noise=0.5, dim=3)
    rate = SGD({"lr": 0.15 * temperature})
    result = fit(
        model, (x, y), pruning=None, epochs=60, batch_size=12, optim=rate, temperature=temperature
    )
    assert torch.allclose(result.weights["w"], ridge, rtol=0, atol=1e-6)
    assert torch.allclose(result.predict(x), x @ ridge, atol=1e-5)
    assert set(result.history["temperature"]) == {temperature}


def test_the_map_of_a_lifted_regression_is_ridge():
    x, y, _ = linear_data(dim=3)
    model = bp.BayesianModule(
        nn.Linear(3, 1, bias=False).double(), bp.priors.normal(0.7), 12, bp.gaussian(0.5)
    )
    result = fit(
        model, (x, y[:, None]), pruning=None, epochs=60, batch_size=12, optim=SGD({"lr": 0.15})
    )
    ridge = torch.linalg.solve(x.T @ x / 0.25 + torch.eye(3) / 0.49, x.T @ y / 0.25)
    assert torch.allclose(result.weights["weight"][0], ridge, rtol=0, atol=1e-6)


def test_maximum_likelihood_is_least_squares():
    x, y, _ = linear_data(dim=3)
    model = regression(12, prior_scale=0.01, dim=3)
    result = fit(
        model,
        (x, y),
        pruning=None,
        objective="mle",
        epochs=60,
        batch_size=12,
        optim=SGD({"lr": 0.5}),
    )
    assert torch.allclose(result.weights["w"], torch.linalg.lstsq(x, y).solution, atol=1e-6)


def test_a_pruned_regression_is_ridge_on_the_weights_that_are_left():
    x, y, _ = linear_data(dim=4)
    pruning = bp.Pruning(sparsity=0.5, gate="always", schedule="constant")
    model = regression(12, prior_scale=0.7, noise=0.5, dim=4)
    result = fit(model, (x, y), pruning=pruning, epochs=60, batch_size=12, optim=SGD({"lr": 0.15}))
    kept = result.masks["w"]
    left = x[:, kept]
    ridge = torch.linalg.solve(left.T @ left / 0.25 + torch.eye(2) / 0.49, left.T @ y / 0.25)
    assert torch.allclose(result.weights["w"][kept], ridge, rtol=0, atol=1e-6)
    assert (result.weights["w"][~kept] == 0).all() and result.sparsity == 0.5


def test_minibatches_are_scaled_to_the_data_set():
    """The loss of an epoch at fixed weights is the mean over the data, whatever the batch size."""
    still = {"optim": SGD({"lr": 1e-30}), "pruning": None, "epochs": 1}
    data, model = class_data(dtype=torch.float64), lifted(mlp().double(), class_data())
    losses = [fit(model, data, batch_size=b, **still).history["train_loss"][0] for b in (7, 48)]
    expected = nn.functional.cross_entropy(model.net(data.train_x), data.train_y).item()
    assert losses == pytest.approx([expected, expected], abs=1e-9)


@pytest.mark.parametrize("prior", [bp.priors.layer_scale(), bp.priors.normal(0.3)])
@pytest.mark.parametrize("make", [mlp, noisy_net])
def test_networks_learn_while_they_are_pruned(make, prior):
    data = class_data(n=200)
    result = fit(fresh(make, data, prior), data, epochs=8, batch_size=20, optim=Adam({"lr": 0.05}))
    assert result.sparsity == 0.5
    assert result.history["validation_accuracy"].iloc[-1] > 0.7


def test_pruned_zeros_do_not_shrink_a_layers_scale():
    """The scale's MAP given fixed surviving weights is the same however many zeros there are."""
    data = class_data()

    def scale_after(masks):
        model = fresh(prior=bp.priors.layer_scale(0.3, 4.0))
        trainer = Trainer(
            model,
            data.train_x,
            data.train_y,
            initial_weights={},
            seed=0,
            optim=SGD(lambda n: {"lr": 0.05 if "scale" in n else 0.0}),
            objective="map",
            temperature=1.0,
        )
        trainer.project(masks, hold=True)
        for epoch in range(1, 40):
            trainer.run_epoch(epoch, 48)
        return trainer.weights()["0.weight_scale"].item(), trainer.weights()["0.weight"]

    masks = {"0.weight": torch.rand(8, 6) > 0.9}
    scale, weight = scale_after(masks)
    kept = weight[masks["0.weight"]]
    n, t = 48, torch.linspace(-3, 1, 40001, dtype=torch.float64)
    energy = 0.5 * 4 * n * (t - math.log(0.3)) ** 2 + t
    energy = energy + len(kept) * t + kept.double().square().sum() / (2 * torch.exp(2 * t))
    assert scale == pytest.approx(t[energy.argmin()].exp().item(), rel=2e-2)


# What is returned


def test_the_history_has_a_row_an_epoch_that_adds_up():
    data = class_data()
    result = fit(fresh(), data, pruning=bp.Pruning(sparsity=0.5))
    history = result.history
    assert list(history["epoch"]) == [1, 2, 3, 4]
    for _, row in history.iterrows():
        assert row["log_bf"] == pytest.approx(row["log_likelihood_ratio"] + row["log_prior_ratio"])
        assert row["log_joint_after"] == row["log_likelihood_after"] + row["log_prior_after"]
        assert row["bf_per_datum"] == pytest.approx(math.exp(row["log_bf"] / data.num_train))
        if row["decision"] == "pruned":
            difference = row["log_joint_after"] - row["log_joint_before"]
            assert row["log_bf"] == pytest.approx(difference, abs=1e-6)
    last = history.iloc[-1]
    final = bp.log_joint(result.model, result.weights, data)
    assert last["log_joint_after"] == final.total
    assert last["sparsity"] == result.sparsity
    assert last["sparsity/0.weight"] == bp.metrics.sparsity({"w": result.masks["0.weight"]})
    proba = result.predict_proba(data.validation_x)
    assert last["validation_accuracy"] == bp.metrics.accuracy(proba, data.validation_y)


def test_the_prior_is_recorded_where_the_objective_leaves_it_out():
    result = fit(fresh(), class_data(), objective="mle", pruning=None)
    expected = bp.log_joint(result.model, result.weights, class_data()).log_prior
    assert result.history["log_prior_before"].iloc[-1] == expected != 0


def test_predictions_use_the_trained_buffers():
    data, result = class_data(), fit(fresh(noisy_net), class_data())
    net = noisy_net()
    net.load_state_dict(
        result.weights | {n.removeprefix("net."): b for n, b in result.buffers.items()}
    )
    expected = net.eval()(data.validation_x).softmax(1)
    assert torch.allclose(result.predict_proba(data.validation_x), expected, atol=1e-6)


# Divergence


@pytest.mark.parametrize("rate", [1e30, 1e38])
@pytest.mark.parametrize("likelihood", [bp.categorical, bp.gaussian(1.0)])
def test_a_loss_that_is_not_finite_stops_the_fit_and_returns_what_there_is(likelihood, rate):
    """The learning rate explodes in the second epoch; Pyro's validation is on."""
    data = class_data()
    if likelihood is not bp.categorical:
        data = bp.Dataset(data.train_x, data.train_x[:, :3])
    with pytest.warns(RuntimeWarning, match="training stopped: the loss became"):
        result = fit(fresh_like(likelihood, data), data, optim=exploding(rate))
    assert "in epoch 2, step" in result.stopped and result.stopped in repr(result)
    assert result.state.epoch == 1 == len(result.history)
    assert all(torch.isfinite(w).all() for w in result.weights.values())


def test_weights_that_are_not_finite_after_the_last_step_stop_the_fit():
    data = class_data()
    data = bp.Dataset(1e4 * data.train_x, data.train_y)  # gradients large enough to overflow
    with pytest.warns(RuntimeWarning, match="a weight became NaN or infinite in epoch 2, step 1"):
        result = fit(fresh(), data, optim=exploding(1e40), batch_size=data.num_train)
    assert result.state.epoch == 1


def exploding(rate):
    args = {"optim_args": {"lr": 0.01}, "lr_lambda": lambda epoch: rate if epoch else 1.0}
    return pyro.optim.LambdaLR({"optimizer": torch.optim.SGD, **args})


def fresh_like(likelihood, data):
    torch.manual_seed(0)
    return bp.BayesianModule(mlp(), bp.priors.normal(0.3), data.num_train, likelihood)


def test_a_hand_written_model_that_diverges_stops_too():
    x, y, _ = linear_data(dim=3)
    with pytest.warns(RuntimeWarning, match="training stopped: .* epoch 2"):
        result = fit(
            regression(12, dim=3), (x, y), optim=exploding(1e200), pruning=None, batch_size=4
        )
    assert result.state.epoch == 1


def test_divergence_in_the_first_epoch_is_an_error_with_its_place():
    with pytest.raises(TrainingDiverged, match="epoch 1, step") as raised:
        fit(fresh(), class_data(), optim=SGD({"lr": 1e30}))
    assert raised.value.epoch == 1 and raised.value.step > 1


# Ways to give data


def test_a_pair_of_tensors_is_a_training_set():
    data = class_data()
    pair = fit(fresh(), (data.train_x, data.train_y))
    assert_same(pair.weights, fit(fresh(), data).weights)
    assert pair.history["validation_loss"].isna().all()


def test_the_data_may_lie_elsewhere_than_the_module_only_by_device():
    result = fit(fresh(), class_data(), device="cpu")
    assert_same(result.weights, fit(fresh(), class_data()).weights)


def test_a_fit_shows_nothing_where_it_is_told_so(capsys):
    fit(fresh(), class_data(), epochs=1)
    assert capsys.readouterr() == ("", "")
    fit(fresh(), class_data(), epochs=1, progress=True)
    assert "epoch 1/1" in capsys.readouterr().err


def test_a_user_model_with_positive_sites_and_a_factor_is_fitted_and_pruned():
    """Sites that are not real are held, and only real sites of several elements are pruned."""
    x, y, _ = linear_data(dim=4, dtype=torch.float32)

    def model(x, y=None):
        scale = pyro.sample("noise", dist.LogNormal(-1.0, 0.5))
        bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Laplace(torch.zeros(4), 0.5).to_event(1))
        pyro.factor("pull", -bias.square())
        with pyro.plate("data", 12, subsample=x):
            return pyro.sample("y", dist.Normal(x @ w + bias, scale), obs=y)

    result = fit(
        model,
        (x, y),
        pruning=bp.Pruning(sparsity=0.5, gate="always"),
        epochs=60,
        optim=Adam({"lr": 0.05}),
    )
    assert list(result.masks) == ["w"] and result.sparsity == 0.5
    assert result.weights["noise"] > 0
    assert (result.predict(x) - y).square().mean() < y.var()
