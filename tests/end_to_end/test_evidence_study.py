"""The calibration of log Bayes factors against held-out data."""

import pandas as pd
import pytest
from helpers import report_script

import pyro_bayesprune as bp
from pyro_bayesprune.inference import savage_dickey

study = report_script("evidence")


def test_a_summary_counts_signs_and_ranks():
    table = pd.DataFrame(
        {
            "joint": [-2.0, -1.0, 1.0, 2.0],
            "laplace": [1.0, 2.0, 3.0, 4.0],
            "savage_dickey": [4.0, 3.0, 2.0, 1.0],
            "held_out_now": [-2.0, -1.0, 0.5, 3.0],
            "held_out_later": [-2.0, -1.0, -0.5, 3.0],
        }
    )
    found = study.summary(table).set_index(["truth", "kind"])
    now = found.loc["held_out_now"]
    assert now["sign_agreement"].to_dict() == {"joint": 1.0, "laplace": 0.5, "savage_dickey": 0.5}
    assert now["spearman"].tolist() == pytest.approx([1, 1, -1])
    assert found.loc[("held_out_later", "joint"), "base_rate"] == 0.75
    assert found.loc[("held_out_later", "joint"), "sign_agreement"] == 0.75


def test_a_calibration_looks_at_every_decision_and_leaves_the_training_alone():
    data = bp.load_dataset("digits", validation=0.8)
    net = bp.FCN(data.shape, 10, hidden=(16,))
    model = bp.BayesianModule(net, bp.priors.normal(0.3), data.num_train)
    plan = study.Decisions(epochs=(1, 2), criteria=("random", "opd"), levels=(0.0, 0.5), later=1)
    table = study.calibrate(model, data, plan)
    assert len(table) == 8
    nothing = table[table["sparsity"] == 0]
    truths = nothing[["joint", "laplace", "savage_dickey", "held_out_now", "held_out_later"]]
    assert (truths == 0).all(axis=None)  # no weight removed: the same network, the same batches
    half = table[table["sparsity"] > 0]
    assert (half["laplace"] > half["joint"]).all()
    alone = study.calibrate(model, data, study.Decisions((2,), ("random",), (0.5,), later=1))
    both = table[(table["epoch"] == 2) & (table["criterion"] == "random") & (table["sparsity"] > 0)]
    assert alone["joint"].item() == both["joint"].item()


def test_the_sum_of_single_factors_is_the_groups_where_the_posterior_is_diagonal():
    """One linear layer on orthonormal inputs under a gaussian likelihood."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    x = torch.linalg.qr(torch.randn(30, 4)).Q
    data = bp.Dataset(x, torch.randn(30, 1))
    model = bp.BayesianModule(
        nn.Linear(4, 1, bias=False), bp.priors.normal(0.5), 30, bp.gaussian(0.5)
    )
    weights = {"weight": (x.T @ data.train_y).T / 0.25 / (4 + 4)}  # the posterior mean
    masks = {"weight": torch.tensor([[True, False, False, True]])}
    found = study.log_factors(model, weights, masks, data)
    exact = savage_dickey.savage_dickey_group(
        weights["weight"][0, 1:3].double(),
        torch.eye(2, dtype=torch.float64) / 8,
        torch.full((2,), 4.0, dtype=torch.float64),
    )
    assert found["savage_dickey"] == pytest.approx(exact, rel=1e-4)
    assert found["laplace"] == pytest.approx(exact, rel=1e-4)
