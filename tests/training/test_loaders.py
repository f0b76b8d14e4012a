"""Training reads a loader in its own order; decisions read the data that the user names."""

import pytest
import torch
from helpers import assert_same, class_data, lifted, mlp, noisy_net
from helpers.loaders import Rows, Stream
from torch.utils.data import DataLoader

import pyro_bayesprune as bp

DATA = class_data()
X, Y = DATA.train_x, DATA.train_y
PRUNING = bp.Pruning(sparsity=0.5, gate="always", update="condition")


def fitted(data, net=mlp, epochs=2, **options):
    torch.manual_seed(0)
    model = lifted(net(), DATA)
    return bp.fit(model, data, epochs=epochs, pruning=PRUNING, progress=False, **options)


def plain(epochs):
    """Adam without annealing, so that a fit can be continued under the same optimiser."""
    return {"optim": bp.training.optimizer.adam(1e-3, epochs, annealing=False)}


@pytest.mark.parametrize("net", [mlp, noisy_net])
def test_a_data_set_trains_as_tensors_bit_for_bit(net):
    expected, actual = fitted(DATA, net, batch_size=8), fitted(Rows(X, Y), net, batch_size=8)
    assert_same(expected.weights, actual.weights)
    assert_same(expected.masks, actual.masks)


def test_a_loader_keeps_its_order_and_batches(monkeypatch):
    loader = Stream(X, Y, size=7)
    observed = []
    model = lifted(mlp(), DATA)
    original = bp.training.trainer.Trainer.run_epoch

    def run_epoch(self, epoch, batch_size):
        step = self.svi.step
        self.svi.step = lambda x, y: (observed.append(x), step(x, y))[1]
        return original(self, epoch, batch_size)

    monkeypatch.setattr(bp.training.trainer.Trainer, "run_epoch", run_epoch)
    bp.fit(model, loader, epochs=1, progress=False)
    assert [len(x) for x in observed] == [7] * 6 + [6]
    assert torch.equal(torch.cat(observed), X)


def test_decisions_read_the_data_that_are_named_for_them():
    augmented = DataLoader(Rows(X, Y, noise=0.5), batch_size=8, shuffle=True)
    fit = fitted(augmented, decide_on=(X, Y))
    last = fit.history.iloc[-1]
    joint = bp.log_joint(fit.model, fit.state.weights, (X, Y))
    assert last["log_joint_after"] == joint.total
    noisy = fitted(augmented).history.iloc[-1]
    assert noisy["log_joint_after"] != joint.total


def test_a_fit_on_a_loader_continues_bit_for_bit_and_leaves_the_random_numbers():
    loader = DataLoader(Rows(X, Y, noise=0.5), batch_size=8, shuffle=True)
    whole, start = fitted(loader, **plain(2)), fitted(loader, epochs=1, **plain(2))
    model, state = lifted(mlp(), DATA), torch.get_rng_state()
    options = {"epochs": 2, "pruning": PRUNING, "progress": False} | plain(2)
    continued = bp.fit(model, loader, state=start.state, **options)
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(whole.weights, continued.weights)


def test_a_training_loader_may_drop_examples_if_decisions_have_all():
    loader = DataLoader(Rows(X, Y), batch_size=10, drop_last=True)
    with pytest.raises(ValueError, match="the training data have 40 examples"):
        fitted(loader)
    assert fitted(loader, decide_on=Rows(X, Y)).sparsity == pytest.approx(0.5, abs=0.01)


def test_a_trained_network_is_pruned_on_a_loader():
    fit = bp.fit(lifted(mlp(), DATA), DATA, epochs=1, progress=False)
    expected = bp.prune(fit.model, fit.weights, DATA, 0.5)
    actual = bp.prune(fit.model, fit.weights, DataLoader(Rows(X, Y), batch_size=48), 0.5)
    assert_same(expected.weights, actual.weights)
