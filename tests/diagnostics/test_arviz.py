"""ArviZ 0.23 and 1 behind one module, on draws of a posterior that is known.

This file runs without torch and without Pyro: `make test-arviz` runs it with ArviZ 1.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from pyro_bayesprune.diagnostics import _arviz, statistics

FILES = Path(__file__).parent / "files"
NOISE, PRIOR, SIZE = 0.7, 1.5, 25
RNG = np.random.default_rng(3)
X = RNG.normal(size=SIZE)
Y = 1.2 * X + NOISE * RNG.normal(size=SIZE)


def posterior(x, y):
    """Mean and standard deviation of w in y ~ N(x w, NOISE²), w ~ N(0, PRIOR²)."""
    precision = (x**2).sum() / NOISE**2 + PRIOR**-2
    return (x * y).sum() / NOISE**2 / precision, precision**-0.5


def exact_loo():
    rest = [np.arange(SIZE) != i for i in range(SIZE)]
    moments = [posterior(X[keep], Y[keep]) for keep in rest]
    return np.array(
        [
            stats.norm(x * mean, np.hypot(x * sd, NOISE)).logpdf(y)
            for x, y, (mean, sd) in zip(X, Y, moments, strict=True)
        ]
    )


def draws_from(mean, sd, *, correct=True, chains=2, draws=4000, targets=Y):
    """Independent draws of w from N(mean, sd²), as conversion.to_arviz writes them."""
    w = np.random.default_rng(0).normal(mean, sd, (chains, draws))
    by_example = stats.norm(w[..., None] * X, NOISE).logpdf(targets)
    prior = stats.norm(0, PRIOR).logpdf(w)
    lp = prior + by_example.sum(-1)
    coords = {"chain": np.arange(chains), "draw": np.arange(draws)}
    by_draw, example = ("chain", "draw"), coords | {"example": np.arange(SIZE)}
    sample_stats = {"lp": (by_draw, lp)}
    if correct:
        sample_stats["log_q"] = by_draw, stats.norm(mean, sd).logpdf(w)
    groups = {
        "posterior": xr.Dataset(
            {"log_joint": (by_draw, lp), "layer_norm": ((*by_draw, "layer"), np.abs(w)[..., None]),
             "weight": ((*by_draw, "weight_name"), w[..., None])},
            coords | {"layer": ["fc.weight"], "weight_name": ["fc.weight[0, 0]"]},
        ),
        "sample_stats": xr.Dataset(sample_stats, coords),
        "log_prior": xr.Dataset({"fc.weight": (by_draw, prior)}, coords),
        "log_likelihood": xr.Dataset({"obs": ((*by_draw, "example"), by_example)}, example),
        "observed_data": xr.Dataset({"obs": (("example",), targets)}, {"example": np.arange(SIZE)}),
    }  # fmt: skip
    attrs = {"independent_draws": 1, "temperature": 1.0, "approximation": "normal"}
    return _arviz.from_datasets(groups, attrs)


@pytest.fixture(scope="module")
def exact():
    return draws_from(*posterior(X, Y))


def test_the_version_of_arviz_is_that_of_python():
    assert _arviz.SINCE_ONE == (sys.version_info >= (3, 12))
    kind = xr.DataTree if _arviz.SINCE_ONE else _arviz.az.InferenceData
    assert isinstance(draws_from(0.0, 1.0, draws=4), kind)


def test_neither_torch_nor_pyro_is_needed():
    import subprocess

    code = (
        "import sys; from pyro_bayesprune.diagnostics import _arviz, statistics;"
        "print(*[m for m in ('torch', 'pyro') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_loo_of_exact_draws_is_exact(exact):
    result = statistics.loo(exact)
    np.testing.assert_allclose(result.loo_i, exact_loo(), atol=0.03)
    assert result.elpd_loo == pytest.approx(exact_loo().sum(), abs=0.1)
    assert not result.warning and result.n_data_points == SIZE
    assert 0.5 < result.p_loo < 1.5  # one parameter


def test_loo_corrects_draws_from_an_approximation():
    """Draws that are twice too wide and off the centre."""
    mean, sd = posterior(X, Y)
    wrong = mean + sd, 2 * sd
    corrected = statistics.loo(draws_from(*wrong))
    np.testing.assert_allclose(corrected.loo_i, exact_loo(), atol=0.03)
    plain = statistics.loo(draws_from(*wrong, correct=False))
    assert abs(plain.elpd_loo - exact_loo().sum()) > 10 * abs(
        corrected.elpd_loo - exact_loo().sum()
    )


def test_an_approximation_that_is_too_narrow_has_a_large_k():
    mean, sd = posterior(X, Y)
    result = statistics.loo(draws_from(mean, sd / 4))
    assert result.warning and (result.pareto_k > 0.6).all()


def test_the_correction_is_that_of_arviz():
    if not _arviz.SINCE_ONE:
        pytest.skip("loo_approximate_posterior is in ArviZ 1")
    mean, sd = posterior(X, Y)
    idata = draws_from(mean + sd, 2 * sd)
    sample_stats = _arviz.group(idata, "sample_stats")
    theirs = _arviz.az.loo_approximate_posterior(
        idata, sample_stats["lp"], sample_stats["log_q"], pointwise=True, var_name="obs"
    )
    ours = statistics.loo(idata)
    np.testing.assert_allclose(ours.loo_i, theirs.elpd_i, rtol=1e-10)
    np.testing.assert_allclose(ours.pareto_k, theirs.pareto_k, rtol=1e-8)
    for name in ("elpd", "se", "p"):
        assert getattr(ours, name) == pytest.approx(getattr(theirs, name), rel=1e-8), name


def test_loo_without_a_correction_is_arvizs(exact):
    plain = draws_from(*posterior(X, Y), correct=False)
    theirs = _arviz.az.loo(plain, pointwise=True, var_name="obs", reff=1.0)
    ours = statistics.loo(plain)
    np.testing.assert_array_equal(ours.loo_i, theirs.elpd_i if _arviz.SINCE_ONE else theirs.loo_i)
    by_hand = _arviz.loo(plain, reff=1.0, temperature=1 + 1e-12)
    np.testing.assert_allclose(by_hand.loo_i, ours.loo_i, rtol=1e-6)
    np.testing.assert_allclose(by_hand.pareto_k, ours.pareto_k, atol=1e-4)


def test_a_result_can_be_printed_and_compared_by_arviz_itself(exact):
    result = statistics.loo(exact)
    assert "elpd_loo" in str(result)
    options = {} if _arviz.SINCE_ONE else {"ic": "loo"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        table = _arviz.az.compare({"one": result, "other": statistics.loo(exact)}, **options)
    assert set(table.index) == {"one", "other"}


def test_a_comparison_has_the_same_columns_and_signs_with_both_versions(exact):
    mean, sd = posterior(X, Y)
    table = statistics.compare({"best": exact, "worse": draws_from(mean + 4 * sd, sd)})
    columns = {"rank", "elpd_loo", "p_loo", "elpd_diff", "weight", "se", "dse", "warning"}
    assert columns <= set(table)
    other = draws_from(mean + 4 * sd, sd, correct=False)
    table = statistics.compare({"worse": other, "best": exact})
    assert list(table.index) == ["best", "worse"] and list(table["rank"]) == [0, 1]
    assert table.loc["worse", "elpd_diff"] > 0 == table.loc["best", "elpd_diff"]
    assert table.loc["worse", "elpd_diff"] == pytest.approx(
        table.loc["best", "elpd_loo"] - table.loc["worse", "elpd_loo"]
    )


def test_the_summary_of_draws(exact):
    table = statistics.summary(exact)
    mean, sd = posterior(X, Y)
    assert list(table.index) == ["log_joint", "layer_norm[fc.weight]", "weight[fc.weight[0, 0]]"]
    row = table.loc["weight[fc.weight[0, 0]]"]
    assert row["mean"] == pytest.approx(mean, abs=0.01) and row["sd"] == pytest.approx(sd, rel=0.03)
    exact.attrs["independent_draws"] = 0  # as if of NUTS
    try:
        row = statistics.summary(exact).loc["weight[fc.weight[0, 0]]"]
    finally:
        exact.attrs["independent_draws"] = 1
    assert row["r_hat"] == pytest.approx(1, abs=0.01) and row["ess_bulk"] > 4000


def test_power_scaling(exact):
    table = statistics.power_scaling(exact)
    row = table.loc["layer_norm[fc.weight]"]
    assert row["prior"] < 0.05 < row["likelihood"] and row["diagnosis"] == "-"


def test_written_and_read_again_the_draws_are_equal(exact, tmp_path):
    _arviz.write(exact, tmp_path / "draws.nc")
    again = _arviz.read(tmp_path / "draws.nc")
    assert _arviz.groups(again) == _arviz.groups(exact)
    for name in _arviz.groups(exact):
        assert _arviz.group(again, name).equals(_arviz.group(exact, name)), name
    assert again.attrs["approximation"] == "normal"


@pytest.mark.parametrize("version", ["0.23", "1.3"])
def test_a_file_of_either_version_can_be_read(version):
    """The files were written by this module (`_arviz.write`) with the version in their name."""
    idata = _arviz.read(FILES / f"arviz-{version}.nc")
    expected = draws_from(*posterior(X, Y), draws=20)
    assert set(_arviz.groups(idata)) == set(_arviz.groups(expected))
    for name in _arviz.groups(expected):
        xr.testing.assert_allclose(_arviz.group(idata, name), _arviz.group(expected, name))
    result = statistics.loo(idata)
    assert result.elpd_loo == pytest.approx(statistics.loo(expected).elpd_loo)
    assert statistics.convergence(idata)["rhat_log_joint"] is None


def test_energy_gives_bfmi():
    """Of chains whose energies are independent, bfmi is about two."""
    energy = np.random.default_rng(1).normal(size=(2, 2000))
    values = {"energy": (("chain", "draw"), energy)}
    idata = _arviz.from_datasets({"sample_stats": xr.Dataset(values)}, {})
    bfmi = _arviz.az.bfmi(idata)
    bfmi = bfmi["energy"].to_numpy() if _arviz.SINCE_ONE else bfmi
    np.testing.assert_allclose(bfmi, 2, atol=0.2)
