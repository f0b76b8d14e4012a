"""Training steps may compute outputs in bfloat16; decisions and evaluations never do."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from helpers import class_data
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune._utils.process import full_precision
from pyro_bayesprune.experiments.config import Config


class Noted(nn.Linear):
    """A layer that notes in which mode it runs, and the dtype of its outputs."""

    seen: set

    def forward(self, x):
        y = super().forward(x)
        self.seen.add((self.training, y.dtype))
        return y


def noted_fit(autocast, prior, hidden=20, **pruning):
    torch.manual_seed(0)
    data = class_data()
    inputs, classes = data.train_x.shape[1], data.num_classes
    net = nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), Noted(hidden, classes))
    Noted.seen = set()
    model = bp.BayesianModule(net, prior, data.num_train)
    settings = {"sparsity": 0.5, "schedule": "constant", "gate": "propose"} | pruning
    pruning = bp.Pruning(**settings)
    fit = bp.fit(model, data, epochs=2, pruning=pruning, autocast=autocast, progress=False)
    return fit, data, Noted.seen


@pytest.mark.parametrize("prior", [bp.priors.normal(0.3), bp.priors.layer_scale()], ids=str)
def test_only_training_steps_use_bfloat16(prior):
    fit, data, seen = noted_fit("bf16", prior)
    assert seen == {(True, torch.bfloat16), (False, torch.float32)}
    assert all(weight.dtype == torch.float32 for weight in fit.weights.values())
    joint = bp.log_joint(fit.model, fit.weights, data).total
    assert fit.history["log_joint_after"].iloc[-1] == joint
    assert fit.history["train_loss"].iloc[-1] == pytest.approx(
        noted_fit("none", prior)[0].history["train_loss"].iloc[-1], rel=0.05
    )


def test_sparse_matrices_are_trained_in_bfloat16_too():
    fit, _, seen = noted_fit("bf16", bp.priors.normal(0.3), 30_000, scope="layer", sparsity=0.9)
    assert (True, torch.bfloat16) in seen and fit.sparsity > 0


def test_a_decision_inside_autocast_is_in_full_precision():
    fit, data, _ = noted_fit("none", bp.priors.normal(0.3))
    expected = bp.log_joint(fit.model, fit.weights, data)
    with torch.autocast("cpu", torch.bfloat16):
        assert bp.log_joint(fit.model, fit.weights, data) == expected


def test_other_values_and_models_are_refused():
    def model(x, y=None):
        weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 10, subsample=x):
            pyro.sample("obs", dist.Normal(x * weight, 1.0), obs=y)

    with pytest.raises(ValueError, match="autocast='bf16' needs a BayesianModule"):
        bp.fit(model, (torch.zeros(10), torch.zeros(10)), epochs=1, autocast="bf16")
    with pytest.raises(ValueError, match="autocast must be one of none, bf16, got 'fp16'"):
        noted_fit("fp16", bp.priors.normal(0.3))
    with pytest.raises(ValueError, match="autocast must be one of none, bf16, got 'fp16'"):
        Config(autocast="fp16")
    assert Config(autocast="bf16").id != Config().id == Config(autocast="none").id


def test_on_cuda_full_precision_excludes_tf32_and_is_deterministic(monkeypatch):
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    new = hasattr(matmul, "fp32_precision")
    parts = (cudnn.conv, cudnn.rnn, matmul) if new else (cudnn, matmul)
    name, exact = ("fp32_precision", "ieee") if new else ("allow_tf32", False)

    def state():
        return [getattr(part, name) for part in parts], cudnn.deterministic, cudnn.benchmark

    before = state()
    with full_precision():
        assert state() == before  # nothing computes on CUDA in this process
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(RuntimeError, match="inside"), full_precision():
        assert state() == ([exact] * len(parts), True, False)
        raise RuntimeError("inside")
    assert state() == before
