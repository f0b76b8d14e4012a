"""A run's decisions replay from its history, and tampering shows."""

import json
from dataclasses import replace

import pytest
from helpers.runs import small_config

from pyro_bayesprune.experiments.running import run
from pyro_bayesprune.pruning.replay import replay


def test_decisions_replay_and_tampering_shows(finished_run):
    assert replay(finished_run.history, finished_run.config) == []
    history = finished_run.history.copy()
    history.loc[0, "decision"] = "refused"
    assert replay(history, finished_run.config) == [1]
    history = finished_run.history.copy()
    tries = json.loads(history.loc[0, "tried"])
    tries[0][1] += 1.0
    history.loc[0, "tried"] = json.dumps(tries)
    assert replay(history, finished_run.config) == [1]


@pytest.mark.parametrize("gate", ["previous", "propose", "always"])
@pytest.mark.parametrize("beta", [0.5, 1.5])
def test_decisions_of_every_gate_replay(gate, beta, tmp_path):
    config = replace(small_config(sparsity=0.8), gate=gate, beta=beta, schedule="cubic", epochs=4)
    result = run(config, out=tmp_path, progress=False)
    assert replay(result.history, config) == []
