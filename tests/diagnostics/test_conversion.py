"""InferenceData: groups, and files that are complete or refused."""

import json

import numpy as np
import pytest
import xarray as xr

import pyro_bayesprune as bp
from pyro_bayesprune.diagnostics import _arviz, conversion


def test_the_groups_are_there(drawn_fit):
    fit, data, draws, idata = drawn_fit
    assert {"posterior", "sample_stats", "log_prior", "log_likelihood", "posterior_predictive",
            "prior_predictive", "observed_data", "predictions", "pruning_history"} <= set(
        _arviz.groups(idata)
    )  # fmt: skip
    assert idata.log_likelihood["obs"].shape == (2, 60, data.num_train)
    assert _arviz.group(idata, "posterior")["probability"].shape == (2, 60, 12)
    assert list(_arviz.group(idata, "posterior")["layer"].to_numpy()) == list(draws.index)
    assert idata.pruning_history.sizes["epoch"] == 3
    assert idata.pruning_history["layer_sparsity"].dims == ("epoch", "pruned_layer")
    assert json.loads(idata.attrs["config"]) == {"dataset": "<data>"}
    assert _arviz.group(idata, "posterior")["log_joint"].attrs["units"] == "nats"


def test_the_log_joint_of_draws_is_the_log_joint_but_for_a_constant(drawn_fit):
    fit, data, draws, idata = drawn_fit  # the constant: the prior of what is not drawn
    exact = [bp.log_joint(fit.model, draws.at(1, i), data).total for i in (3, 7)]
    values = _arviz.group(idata, "posterior")["log_joint"][1, [3, 7]].to_numpy()
    assert values[0] - values[1] == pytest.approx(exact[0] - exact[1], abs=1e-3)


def test_written_and_read_again_it_is_equal(drawn_fit, tmp_path):
    idata = drawn_fit[-1]
    conversion.save(idata, tmp_path / "posterior.nc")
    again = conversion.load(tmp_path / "posterior.nc")
    assert set(_arviz.groups(again)) == set(_arviz.groups(idata))
    for name in _arviz.groups(idata):
        assert _arviz.group(again, name).equals(_arviz.group(idata, name)), name
    assert dict(again.attrs) | {"drawn_sites": None} == dict(idata.attrs) | {"drawn_sites": None}
    assert [path.name for path in tmp_path.iterdir()] == ["posterior.nc"]


def test_a_file_of_another_kind_is_an_error(tmp_path):
    (tmp_path / "x.nc").write_text("no")
    with pytest.raises(ValueError, match="is not InferenceData"):
        conversion.load(tmp_path / "x.nc")


def test_a_damaged_file_is_noticed(tmp_path):
    path = tmp_path / "posterior.nc"
    draws = xr.Dataset({"a": (("chain", "draw"), np.ones((2, 5)))})
    conversion.save(_arviz.from_datasets({"posterior": draws}, {}), path)
    content = path.read_bytes()
    assert (_arviz.group(conversion.load(path), "posterior")["a"] == 1).all()
    assert (_arviz.group(_arviz.read(path), "posterior")["a"] == 1).all()
    for place in range(0, len(content), len(content) // 50):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match="posterior.nc is not .*: its checksum does not match"):
            conversion.load(path)
