"""The analysis of a finished run for its report: posterior draws, diagnostics, calibration.

The results are written into the run folder, so that a report takes only seconds: ``posterior.nc``
(InferenceData) and ``analysis.json`` (tables). Only draws need ArviZ.
"""

import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from pyro_bayesprune._utils.random import choose_examples, random_stream
from pyro_bayesprune.data.dataset import Dataset, Pair
from pyro_bayesprune.data.inputs import examples as at
from pyro_bayesprune.diagnostics import shift
from pyro_bayesprune.diagnostics.calibration import rejection_table, reliability_table, scores
from pyro_bayesprune.experiments import folders
from pyro_bayesprune.experiments.loading import Run
from pyro_bayesprune.inference import draw_predictions, samplers
from pyro_bayesprune.inference.draw_predictions import last_layer, predict_proba
from pyro_bayesprune.inference.draws import Draws, surviving
from pyro_bayesprune.inference.prediction import (
    class_probabilities,
    predictions,
    target_distributions,
)
from pyro_bayesprune.inference.targets import Predictions, coverage_table, pit_table, probabilities
from pyro_bayesprune.models.plain import Fitted

MAX_LAST = 300  # surviving weights of the last layer up to which NUTS takes minutes
PREDICTIVE = 100  # draws for averaged predictions
SHIFTED = 500  # test examples for shifted inputs
Choice = Literal["auto", "none", "laplace", "last_layer_laplace", "last_layer_nuts", "nuts"]
Predictors = Mapping[str, Callable[[Any], Tensor]]


def analyse(
    run: Run,
    data: Dataset,
    *,
    method: Choice = "auto",
    foreign: Dataset | None = None,
    examples: int = 2000,
    seed: int = 0,
    redraw: bool = False,
    **options: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Draw posterior samples of a finished run, and compute diagnostics and calibration.

    Draws can take minutes. An analysis with draws is therefore kept: it is returned again if its
    settings agree, and with ``method="none"``.

    Args:
        run: a finished run in a folder. The results are written into this folder.
        data: data set of the run, with test data.
        method: sampling method. ``"auto"`` uses the last layer: NUTS if at most `MAX_LAST` of its
            weights survive, otherwise Laplace. ``"none"`` analyses the MAP estimate only.
        foreign: another data set of the same shape, for out-of-distribution inputs.
        examples: maximal number of test examples (and of training examples for LOO).
        seed: seed of the draws and of the choice of examples.
        redraw: replace a stored analysis.
        **options: ``draws``, ``chains``, ``warmup``, as in `samplers.posterior_draws`.

    Returns:
        The content of analysis.json.

    Raises:
        ValueError: if the folder has draws with other settings, if the foreign inputs have another
            shape, if the run has no folder, for fewer than 25 draws, or if
            `samplers.posterior_draws` does not support the method or the network.
    """
    if foreign is not None and foreign.shape != data.shape:
        expected, shape = tuple(data.shape), tuple(foreign.shape)
        raise ValueError(f"foreign inputs must have shape {expected}, got {shape}")
    if (folder := run.folder) is None:
        raise ValueError(f"{run.title} has no folder, but an analysis needs the folder of a run")
    if method == "auto":
        method = _method_for(run, data)
    sizes = {"examples": examples, "seed": seed}
    requested = {"method": method, **sizes, **options} | (
        {"foreign": foreign.name} if foreign else {}
    )
    if not redraw and _keeps(folder, requested):
        return folders.read_analysis(folder)
    start = time.perf_counter()
    result: dict[str, Any] = {"settings": requested, "method": method}
    draws = None
    if method != "none":
        from pyro_bayesprune.diagnostics import conversion, statistics  # need ArviZ

        chains = options.get("chains", samplers.CHAINS) if "nuts" in method else 1
        statistics.check_loo(options.get("draws", samplers.DRAWS) * chains)  # before sampling
        draws = samplers.posterior_draws(run, data, method, seed=seed, **options)  # type: ignore[arg-type]
        idata = conversion.to_arviz(draws, data, history=run.history, config=run.settings, **sizes)
        result |= diagnosed(run, data, draws, idata)
    result |= sizes | calibrated(run, data, draws, foreign, **sizes)
    result["seconds"] = time.perf_counter() - start
    if draws is not None:  # after all that can fail, so that the files belong together
        conversion.save(idata, folder / conversion.FILE)
    folders.write_record(folder / folders.ANALYSIS, plain(result))
    return folders.read_analysis(folder)


def _method_for(run: Run, data: Dataset) -> Choice:
    """Return the method that ``"auto"`` stands for."""
    names, _ = last_layer(run.model, run.weights, at(data.train_x, slice(1)))
    size = sum(len(i) for i in surviving(run.weights, run.masks, names).values())
    return "last_layer_nuts" if size <= MAX_LAST else "last_layer_laplace"


def _keeps(folder: Path, requested: Mapping[str, Any]) -> bool:
    """Return whether the folder has the requested draws, or draws while none are requested.

    Raises:
        ValueError: if it has draws with other settings, which are not replaced silently.
    """
    stored = folders.read_analysis(folder)
    if not stored.get("diagnostics"):
        return False
    if requested["method"] == "none":
        requested = {name: value for name, value in requested.items() if name == "foreign"}
    known: dict[str, Any] = {"warmup": samplers.WARMUP}
    known |= {name: stored["diagnostics"][name] for name in ("draws", "chains")}
    known |= {name: stored.get(name) for name in ("method", "examples", "seed")}
    known |= {"foreign": next((row["data"] for row in stored.get("foreign") or []), None)}
    known |= stored.get("settings", {})  # which analyses of version 0.1 do not have
    for name, value in requested.items():
        if known.get(name) != value:
            raise ValueError(
                f"{folder} has draws with {name} {known.get(name)}, but {value} is requested: "
                "redraw (--redraw) to replace them"
            )
    return True


def plain(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return tables as JSON has them: without NumPy's scalars, and None for NaN and infinity."""
    text = json.dumps(result, default=lambda value: value.item())
    return json.loads(text, parse_constant=lambda name: None)


def diagnosed(fit: Fitted, data: Dataset, draws: Draws, idata: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the diagnostics of draws around a fit or a run, and how they were drawn."""
    classes = num_classes(fit, data)
    return {
        "method": draws.method,
        "draws": str(draws),
        "seconds_drawing": draws.seconds,
        "averaged": draws.thinned(PREDICTIVE).values.shape[:2].numel(),
        "diagnostics": _diagnose(idata, classes),
    }


def calibrated(
    fit: Fitted,
    data: Dataset,
    draws: Draws | None,
    foreign: Dataset | None = None,
    *,
    examples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return tables of scores and calibration on test examples, of the MAP and of the draws."""
    few = None if draws is None else draws.thinned(PREDICTIVE)
    if num_classes(fit, data) is None:
        numbers = {"MAP": partial(predictions, fit.model, fit.weights)}
        if few is not None:
            numbers["mean over draws"] = partial(draw_predictions.predictions, few)
        return _calibrate_numbers(numbers, data, examples, seed)
    predictors = {"MAP": partial(class_probabilities, fit.model, fit.weights)}
    if few is not None:
        predictors["mean over draws"] = partial(predict_proba, few)
    return _calibrate(predictors, data, foreign, examples, seed)


def num_classes(fit: Fitted, data: Dataset) -> int | None:
    """Return the number of classes, or None if the targets are no classes."""
    few = at(data.train_x, slice(2))
    point = next(target_distributions(fit.model, fit.weights, few))
    classes = probabilities(point)
    return None if classes is None else classes.shape[-1]


def _diagnose(idata: Any, num_classes: int | None) -> dict[str, Any]:  # noqa: ANN401
    """Return tables of ArviZ's diagnostics: summary, convergence, LOO, prior sensitivity."""
    from pyro_bayesprune.diagnostics import statistics

    loo = statistics.loo(idata)
    summary = statistics.summary(idata).rename_axis("quantity").reset_index()
    sizes = statistics.group(idata, "posterior").sizes
    scaling = statistics.power_scaling(idata).rename_axis("quantity").reset_index()
    return {
        "approximation": idata.attrs["approximation"],
        "log_likelihood_total": idata.attrs["log_likelihood_total"],
        "surviving_weights_drawn": int(idata.attrs["surviving_weights_drawn"]),
        "drawn_sites": list(idata.attrs["drawn_sites"]),
        "chains": sizes["chain"],
        "draws": sizes["draw"],
        "convergence": statistics.convergence(idata),
        "summary": summary[~summary["quantity"].str.startswith("weight[")].to_dict("records"),
        "loo": {
            "elpd": float(loo.elpd_loo),
            "se": float(loo.se),
            "p_loo": float(loo.p_loo),
            "examples": int(loo.n_data_points),
            "pareto": statistics.pareto_table(loo).to_dict("records"),
        },
        "power_scaling": scaling.to_dict("records"),
        "frequencies": statistics.frequencies(idata, num_classes).to_dict("records"),
        "trace": statistics.trace_frame(idata).to_dict("records"),
    }


def _calibrate(
    predictors: Predictors, data: Dataset, foreign: Dataset | None, examples: int, seed: int
) -> dict[str, Any]:
    """Return tables of calibration and of shifted inputs, on test examples chosen at random."""
    if data.test_x is None or data.test_y is None:
        return {}
    rows = choose_examples(len(data.test_y), examples, seed, "test")
    order = torch.randperm(len(rows), generator=random_stream(seed, "shifted"), device="cpu")
    rows = rows[order]
    x, y = at(data.test_x, rows), data.test_y[rows].long()
    predicted = {name: predict(x) for name, predict in predictors.items()}
    shifted = pd.DataFrame()  # inputs of several tensors are not shifted
    if isinstance(x, Tensor):
        shifted = shift.shift_table(predictors, x[:SHIFTED], y[:SHIFTED])
    result: dict[str, Any] = {
        "scores": [{"network": n, **scores(p, y)} for n, p in predicted.items()],
        "shift": shifted.to_dict("records"),
        "foreign": [],
    }
    for name, table in (("reliability", reliability_table), ("rejection", rejection_table)):
        frame = pd.concat({n: table(p, y) for n, p in predicted.items()}, names=["network"])
        result[name] = frame.reset_index("network").to_dict("records")
    if foreign is not None and foreign.test_x is not None and foreign.test_y is not None:
        inputs = at(foreign.test_x, choose_examples(len(foreign.test_y), examples, seed, "test"))
        for name, predict in predictors.items():
            outside = predict(inputs)
            auroc = shift.out_of_distribution_auroc(predicted[name], outside)
            result["foreign"].append({"network": name, "data": foreign.name, "auroc": auroc})
    return result


def _calibrate_numbers(
    predictors: Mapping[str, Callable[[Pair], Predictions]],
    data: Dataset,
    examples: int,
    seed: int,
) -> dict[str, Any]:
    """Return tables of scores, and of PIT and coverage if known, of targets that are no classes."""
    if data.test_x is None or data.test_y is None:
        return {}
    rows = choose_examples(len(data.test_y), examples, seed, "test")
    test = at(data.test_x, rows), data.test_y[rows]
    predicted = {name: predict(test) for name, predict in predictors.items()}
    result: dict[str, Any] = {
        "scores": [{"network": n, **p.scores()} for n, p in predicted.items()]
    }
    if any(p.pit is None for p in predicted.values()):  # an unknown distribution function
        return result
    for name, table in (("pit", pit_table), ("coverage", coverage_table)):
        frame = pd.concat({n: table(p) for n, p in predicted.items()}, names=["network"])
        result[name] = frame.reset_index("network").to_dict("records")
    return result
