"""One run of a configuration, its replay, and the controls."""

import json
from dataclasses import replace

import pytest
import torch

from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.build import build_data, build_model, epochs_of, trainings
from pyro_bayesprune.experiments.config import configure
from pyro_bayesprune.experiments.designs import INPUTS, controls, small_dense
from pyro_bayesprune.experiments.loading import load_run
from pyro_bayesprune.experiments.running import run
from pyro_bayesprune.models.networks import FCN
from pyro_bayesprune.pruning.registry import METHODS
from pyro_bayesprune.pruning.replay import replay

SMALL = {"hidden": (16, 16), "epochs": 2, "learning_rate": 0.01}


def small(method="bayes_magnitude", **settings):
    return configure("paper", method, **(SMALL | settings))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return run(small(sparsity=0.5), out=tmp_path_factory.mktemp("runs"), progress=False)


def test_a_result_holds_what_readers_compare(finished):
    metrics = finished.metrics
    assert metrics["method"] == "bayes_magnitude"
    assert metrics["achieved_sparsity"] == pytest.approx(0.5, abs=1e-3)
    prunable, parameters = (
        64 * 16 + 16 * 16 + 16 * 10,
        sum(p.numel() for p in FCN((1, 8, 8), 10, (16, 16)).parameters()),
    )
    assert (metrics["prunable"], metrics["parameters"]) == (prunable, parameters)
    pruned = round(64 * 16 / 2) + round(16 * 16 / 2) + round(16 * 10 / 2)
    assert metrics["compression_ratio"] == pytest.approx(parameters / (parameters - pruned))
    assert metrics["multiply_adds"] == prunable
    assert metrics["theoretical_speedup"] == pytest.approx(prunable / (prunable - pruned))
    assert {"python", "torch", "pyro-ppl"} <= set(metrics["versions"])


def test_a_loaded_run_predicts_what_was_measured(finished):
    from pyro_bayesprune.experiments.build import build_data

    again = load_run(finished.folder)
    data = build_data(finished.config)
    probabilities = again.predict_proba(data.test_x)
    accuracy = (probabilities.argmax(1) == data.test_y).double().mean()
    assert accuracy.item() == finished.metrics["test_accuracy"]


def test_a_finished_run_is_not_run_again(finished, monkeypatch):
    monkeypatch.setattr("pyro_bayesprune.experiments.build.train", None)
    assert run(finished.config, out=finished.folder.parent).metrics == finished.metrics


def test_decisions_replay_and_tampering_shows(finished):
    assert replay(finished.history, finished.config) == []
    history = finished.history.copy()
    history.loc[0, "decision"] = "refused"
    assert replay(history, finished.config) == [1]
    history = finished.history.copy()
    tries = json.loads(history.loc[0, "tried"])
    tries[0][1] += 1.0
    history.loc[0, "tried"] = json.dumps(tries)
    assert replay(history, finished.config) == [1]


@pytest.mark.parametrize("gate", ["previous", "propose", "always"])
@pytest.mark.parametrize("beta", [0.5, 1.5])
def test_decisions_of_every_gate_replay(gate, beta, tmp_path):
    config = replace(small(sparsity=0.8), gate=gate, beta=beta, schedule="cubic", epochs=4)
    result = run(config, out=tmp_path, progress=False)
    assert replay(result.history, config) == []


@pytest.mark.parametrize("method", METHODS)
def test_the_paper_s_methods_keep_their_names(method):
    pruned = {} if "sparsity" in METHODS[method] else {"sparsity": 0.5}
    assert configure("paper", method, **pruned).method == method


def test_methods_of_one_seed_share_their_initial_weights(tmp_path):
    first, second = (
        build_model(small(method, sparsity=0.5), (1, 8, 8), 10, 100).net.state_dict()
        for method in ("random", "bayes_magnitude")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("restart", ["rewind", "reinitialise", "shuffle"])
def test_a_restart_trains_again_under_the_final_masks(restart, finished, tmp_path):
    config = replace(finished.config, restart=restart)
    result = run(config, out=tmp_path, progress=False)
    assert len(result.history) == 2 * config.epochs
    assert result.history["sparsity"].iloc[-1] == finished.metrics["achieved_sparsity"]
    same = [torch.equal(result.masks[n], m) for n, m in finished.masks.items()]
    assert not any(same) if restart == "shuffle" else all(same)
    for name, mask in result.masks.items():
        assert int(mask.sum()) == int(finished.masks[name].sum())
        assert not result.weights[name][~mask].any()


def test_iterated_rounds_prune_equal_shares_and_return_to_an_early_epoch(tmp_path):
    config = replace(small(sparsity=0.875), restart="rewind", rounds=3, rewind_epoch=1)
    config = replace(config, gate="always", schedule="one_shot", epochs=3)
    seen = []
    assert [round(part.sparsity, 6) for part in trainings(config)] == [0.5, 0.75, 0.875, 0.0]
    data = build_data(config)
    model = build_model(config, data.shape, data.num_classes, data.num_train)
    [first, *_] = epochs_of(trainings(config)[0], model, data, epochs=3)
    original = folders.write_checkpoint
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folders, "write_checkpoint", lambda *a: (seen.append(a[1]), original(*a))[1])
        result = run(config, out=tmp_path, progress=False)
    assert list(result.history["sparsity"].round(3).iloc[2::3]) == [0.5, 0.75, 0.875, 0.875]
    assert list(result.history["sparsity"].iloc[[3, 6]].round(3)) == [0.5, 0.75]  # one shot again
    starts = [state for state in seen if state.epoch in (3, 6, 9)]
    for state in starts:  # what each training but the first starts from
        for name, mask in state.masks.items():
            torch.testing.assert_close(state.weights[name], first[0].weights[name] * mask)


def test_a_small_dense_control_has_as_many_weights():
    config = configure("paper", "magnitude", dataset="mnist", sparsity=0.9)
    widths = [INPUTS["mnist"], *small_dense(config, INPUTS["mnist"], 10), 10]
    weights = sum(n * m for n, m in zip(widths, widths[1:], strict=False))
    full = 784 * 1024 + 2 * 1024**2 + 1024 * 10
    assert weights == pytest.approx(0.1 * full, rel=0.01)


def test_controls_are_distinct_configurations():
    made = controls(configure("paper", "bayes_magnitude", dataset="mnist", sparsity=0.9))
    assert len({config.id for config in made.values()}) == len(made) == 10
    with pytest.raises(ValueError, match="cnn"):
        controls(configure("paper", "bayes_magnitude", network="cnn", sparsity=0.9))
