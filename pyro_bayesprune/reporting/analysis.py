"""What a finished run's report needs beyond its history: draws, their diagnostics, doubt.

Both are written into the run folder, so that a report is built in seconds: ``posterior.nc``
(InferenceData) and ``analysis.json`` (tables).
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from pyro_bayesprune._utils.random import random_stream
from pyro_bayesprune.data.dataset import Dataset
from pyro_bayesprune.diagnostics import calibration, conversion, shift, statistics
from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.inference import samplers
from pyro_bayesprune.inference.draw_predictions import last_layer, predict_proba
from pyro_bayesprune.inference.draws import Draws, surviving

MAX_LAST = 300  # surviving weights of the last layer up to which NUTS takes minutes
MAP = "MAP"
PREDICTIVE = 100  # draws over which predictions are averaged
SHIFTED = 500  # test examples that are turned and noised
Choice = Literal["auto", "none", "laplace", "last_layer_laplace", "last_layer_nuts", "nuts"]


def analyse(
    run: Run,
    data: Dataset,
    *,
    method: Choice = "auto",
    foreign: Dataset | None = None,
    examples: int = 2000,
    seed: int = 0,
    **options: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Draw around a finished run, diagnose, calibrate; write it into the run folder; return it.

    Args:
        run: a finished run.
        data: its data set, with a test part.
        method: of the draws. ``"auto"``: NUTS on the last layer where at most `MAX_LAST` of its
            weights survive, else Laplace on the last layer. ``"none"``: calibration of the MAP
            alone.
        foreign: another data set of the same shape, for out-of-distribution inputs.
        examples: test examples that are looked at (and training examples, for LOO).
        seed: of the draws and choices.
        **options: ``draws``, ``chains``, ``warmup``, as in `samplers.posterior_draws`.

    Raises:
        ValueError: for foreign inputs of another shape, and as `samplers.posterior_draws`.
    """
    if foreign is not None and foreign.shape != data.shape:
        expected, found_shape = tuple(data.shape), tuple(foreign.shape)
        raise ValueError(f"foreign inputs must have shape {expected}, got {found_shape}")
    if (folder := run.folder) is None:
        raise ValueError(f"{run.title} has no folder: an analysis is of a finished run in a folder")
    started = time.perf_counter()
    draws = None if method == "none" else _draw(run, data, method, seed, options)
    predictors: dict[str, Callable[[Tensor], Tensor]] = {MAP: run.predict_proba}
    found: dict[str, Any] = {"examples": examples, "method": method, "seed": seed}
    if draws is not None:
        few = draws.thinned(PREDICTIVE)
        predictors["mean over draws"] = lambda x: predict_proba(few, x)
        idata = conversion.to_arviz(
            draws,
            data,
            history=run.history,
            config=run.settings,
            examples=examples,
            seed=seed,
        )
        conversion.save(idata, folder / conversion.FILE)
        found["averaged"] = few.values.shape[0] * few.values.shape[1]
        found |= {"method": draws.method, "draws": str(draws), "seconds_drawing": draws.seconds}
        found["diagnostics"] = diagnose(idata, data.num_classes)
    found |= calibrate(predictors, data, foreign, examples, seed)
    found["seconds"] = time.perf_counter() - started
    folders.write_record(folder / folders.ANALYSIS, _json_value(found))
    return folders.read_analysis(folder)


def _draw(run: Run, data: Dataset, method: str, seed: int, options: Mapping[str, Any]) -> Draws:
    if method == "auto":
        names, _ = last_layer(run.model, run.weights, data.train_x[:1])
        size = sum(len(i) for i in surviving(run.weights, run.masks, names).values())
        method = "last_layer_nuts" if size <= MAX_LAST else "last_layer_laplace"
    return samplers.posterior_draws(run, data, method, seed=seed, **options)  # type: ignore[arg-type]


def diagnose(idata: Any, num_classes: int) -> dict[str, Any]:  # noqa: ANN401
    """Return the tables of ArviZ's diagnostics: summary, convergence, LOO, prior sensitivity."""
    left_out = statistics.loo(idata)
    summary = statistics.summary(idata)
    quantities = summary[~summary.index.str.startswith("weight[")]
    return {
        "approximation": idata.attrs["approximation"],
        "log_likelihood_total": idata.attrs["log_likelihood_total"],
        "surviving_weights_drawn": int(idata.attrs["surviving_weights_drawn"]),
        "drawn_sites": list(idata.attrs["drawn_sites"]),
        "chains": idata.posterior.sizes["chain"],
        "draws": idata.posterior.sizes["draw"],
        "convergence": statistics.convergence(idata),
        "summary": _rows(quantities.rename_axis("quantity").reset_index()),
        "loo": {
            "elpd": float(left_out.elpd_loo),
            "se": float(left_out.se),
            "p_loo": float(left_out.p_loo),
            "examples": int(left_out.n_data_points),
            "pareto": _rows(statistics.pareto_table(left_out)),
        },
        "power_scaling": _rows(
            statistics.power_scaling(idata).rename_axis("quantity").reset_index()
        ),
        "frequencies": _rows(statistics.frequencies(idata, num_classes)),
        "trace": _rows(statistics.trace_frame(idata)),
    }


def calibrate(
    predictors: Mapping[str, Callable[[Tensor], Tensor]],
    data: Dataset,
    foreign: Dataset | None,
    examples: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the tables of `doubt` for each predictor, on test examples chosen at random."""
    if data.test_x is None or data.test_y is None:
        return {}
    chosen = conversion.chosen(len(data.test_x), examples, seed, "test")
    order = torch.randperm(len(chosen), generator=random_stream(seed, "shifted"))
    x, y = data.test_x[chosen[order]], data.test_y[chosen[order]]
    inside = {name: predict(x) for name, predict in predictors.items()}
    tables: dict[str, Any] = {
        "scores": [{"network": n, **calibration.scores(p, y)} for n, p in inside.items()],
        "reliability": _named(inside, lambda p: calibration.reliability_table(p, y)),
        "rejection": _named(inside, lambda p: calibration.rejection_table(p, y)),
        "shift": _rows(shift.shift_table(predictors, x[:SHIFTED], y[:SHIFTED])),
        "foreign": [],
    }
    if foreign is not None and foreign.test_x is not None:
        for name, predict in predictors.items():
            outside = predict(foreign.test_x[:examples])
            auroc = shift.out_of_distribution_auroc(inside[name], outside)
            tables["foreign"].append({"network": name, "data": foreign.name, "auroc": auroc})
    return tables


def _named(
    inside: Mapping[str, Tensor], table: Callable[[Tensor], pd.DataFrame]
) -> list[dict[str, Any]]:
    return [{"network": n, **row} for n, p in inside.items() for row in _rows(table(p))]


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def _json_value(value: Any) -> Any:  # noqa: ANN401
    """Return JSON values: NaN and infinity, which JSON lacks, as None."""
    if isinstance(value, dict):
        return {k: _json_value(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
