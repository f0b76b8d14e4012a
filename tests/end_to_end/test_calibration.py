"""Simulation-based calibration of every sampler on a small conjugate network."""

from typing import get_args

import pytest
from helpers import report_script

from pyro_bayesprune.inference.draws import Method


@pytest.mark.slow
@pytest.mark.parametrize("method", get_args(Method))
def test_the_ranks_of_true_weights_are_uniform(method):
    counts = report_script("calibration").table({method: 40 if "nuts" in method else 150})
    assert counts["count"].sum() == 3 * (40 if "nuts" in method else 150)
    assert counts["p_value"].iloc[0] > 0.001
