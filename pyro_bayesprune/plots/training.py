"""Figures of the training of one configuration: losses, decisions, sparsity by layer."""

from dataclasses import replace

import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pyro_bayesprune.plots import scales, style
from pyro_bayesprune.plots.style import COLOURS, Look


def learning_curves(history: pd.DataFrame) -> Figure:
    """Draw the loss, the log Bayes factor of each pruning step, and the sparsity, by epoch.

    This is figure 4 of the paper. The log Bayes factor belongs to the last candidate of the epoch's
    pruning step, in nats over the data set; its scale is linear around zero. The marker shows
    the decision, and an epoch without a step has none. The dashed line is the gate's threshold.

    Args:
        history: one row per epoch, as in `Fit.history`. Without a validation loss, the test loss is
            drawn. Several runs have a column ``run`` with their names and are drawn over each
            other, with the validation loss (or the test loss, or the training loss) that all of
            them have. The lines of more than twelve runs are grey and have no names. Without the
            column ``log_threshold`` there is no dashed line: leave it out for the gate ``always``,
            which ignores the threshold.

    Returns:
        The figure. It is not displayed; ``figure.savefig(path)`` writes it to a file.

    Raises:
        ValueError: if a column is missing.
    """
    style.check_columns(history, ["epoch", "train_loss", "log_bf", "decision", "sparsity"])
    runs = {"": history}
    if "run" in history and history["run"].nunique() > 1:
        runs = {str(name): run for name, run in history.groupby("run", sort=False)}
    options = {"sharex": True, "height_ratios": (3, 3, 1.3)}
    figure, (loss, factor, sparsity) = style.panels(3, 1, figsize=(6, 6.4), **options)
    if len(runs) == 1:
        looks = {"": Look("log Bayes factor", COLOURS[2], "")}
        _losses(loss, history)
    else:
        looks = style.looks(runs)
        _losses_of_runs(figure, loss, runs, looks)
    gated = [_draw_steps(factor, run, looks[name], len(runs) == 1) for name, run in runs.items()]
    for name, run in runs.items():
        style.curve(sparsity, run, "sparsity", looks[name], marker="", label=name or "sparsity")
    style.legend_right(factor, style.decision_samples(history, any(gated)))
    _label(loss, factor, sparsity, history, f"{len(runs)} runs" if len(runs) > 1 else "")
    return figure


def _label(loss: Axes, factor: Axes, sparsity: Axes, history: pd.DataFrame, runs: str) -> None:
    """Set the scales and texts of the three strips."""
    scales.log_if_positive(loss)
    scales.nats(factor)
    loss.set_ylabel(style.LOSS)
    factor.set_ylabel("log Bayes factor (nats)")
    none = set(history["decision"]) <= {"unchanged"}
    factor.set_title("Pruning steps (none)" if none else "Pruning steps", loc="left")
    share = f"{history['sparsity'].iloc[-1]:.2%} at the end"
    sparsity.set_title(f"Sparsity, {runs or share}", loc="left")
    epochs = history["epoch"].min() - 0.6, history["epoch"].max() + 0.6
    sparsity.set(xlabel="epoch", ylabel="share of zeros", xlim=epochs, ylim=(-0.05, 1.05))
    sparsity.set_yticks([0, 0.5, 1])
    loss.figure.align_ylabels()


def _losses(ax: Axes, history: pd.DataFrame) -> None:
    style.curve(ax, history, "train_loss", Look("train", COLOURS[0], "o"))
    if part := style.held_out(history):
        style.curve(ax, history, f"{part}_loss", Look(part, COLOURS[1], "s"))
    ax.set_title("Loss", loc="left")
    style.legend_right(ax)


def _losses_of_runs(
    figure: Figure, ax: Axes, runs: dict[str, pd.DataFrame], looks: dict[str, Look]
) -> None:
    """Draw the loss that all runs have, and make space for a legend with the names of the runs."""
    parts = [style.held_out(run) for run in runs.values()]
    part = parts[0] if len(set(parts)) == 1 and parts[0] else "train"
    for name, run in runs.items():
        style.curve(ax, run, f"{part}_loss", looks[name], markersize=4)
    ax.set_title(f"Loss ({part}), {len(runs)} runs", loc="left")
    names = [look for look in looks.values() if look is not style.UNLABELLED]
    if names:
        rows = style.legend_below(figure, [style.sample(look) for look in names])
        figure.set_figheight(figure.get_figheight() + 0.22 * rows)


def _draw_steps(ax: Axes, history: pd.DataFrame, look: Look, is_single: bool) -> bool:
    """Draw the log Bayes factors and the threshold, and return whether there is a threshold."""
    line = style.without_unchanged(history, ["log_bf"])
    style.curve(ax, line, "log_bf", look, marker="", linewidth=1)
    style.steps(ax, history, look.colour, markersize=7 if is_single else 4)
    return style.threshold(ax, history, "black" if is_single else look.colour)


def layer_sparsity(histories: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the sparsity of each layer, and of all layers together, by epoch.

    The colours of more than twelve layers show their order, and only the first and the last layer
    are named.

    Args:
        histories: one row per epoch of the runs of one configuration. The columns of the layers are
            called ``sparsity/<layer>``.
        ax: axes to draw on. The default is a new figure.
    """
    columns = map(str, histories.dropna(axis="columns", how="all"))
    layers = [name for name in columns if name.startswith("sparsity/")]
    figure, ax = style.one_axes(ax)
    looks = _looks_of_layers([name[9:].removesuffix(".weight") for name in layers])
    for number, (name, look) in enumerate(zip(layers, looks, strict=True)):
        size = 5 + max(0, 6 - 2 * number)  # lines of equally pruned layers coincide
        style.curve(ax, histories, name, look, markersize=size)
    style.curve(ax, histories, "sparsity", Look("all", "black", "o"), linestyle="--")
    ax.set(xlabel="epoch", ylabel="share of weights that are zero", ylim=(-0.05, 1.05))
    style.legend_above(ax, title="layer")
    return figure


def _looks_of_layers(names: list[str]) -> list[Look]:
    if len(names) <= len(style.RUNS):
        return [replace(look, label=name) for name, look in zip(names, style.RUNS, strict=False)]
    colours = sns.color_palette("viridis", len(names))
    labels = [names[0], *(f"_{name}" for name in names[1:-1]), names[-1]]
    return [Look(label, colour, "") for label, colour in zip(labels, colours, strict=True)]


def bayes_factor_parts(histories: pd.DataFrame, ax: Axes | None = None) -> Figure:
    """Draw the log Bayes factor of each epoch's pruning step and its parts, in nats per data set.

    A log Bayes factor of the kind ``joint`` has a likelihood part and a prior part. It compares the
    joint densities of two points, that is, their posterior odds, and not marginal likelihoods. The
    kind ``laplace`` also has an Occam factor. A step passes above the threshold, a dashed line.
    Epochs without a step have no points. The vertical scale is linear around zero, within ± 1 nat
    unless there are values beyond 1,000 nats, and logarithmic outside.

    Args:
        histories: one row per epoch of the runs of one configuration.
        ax: axes to draw on. The default is a new figure.

    Raises:
        ValueError: if a column is missing.
    """
    style.check_columns(histories, ["epoch", *style.PARTS])
    figure, ax = style.one_axes(ax)
    empty = pd.Series(dtype=float)
    occam = style.OCCAM if histories.get("log_occam_ratio", empty).any() else {}
    parts = occam | style.PARTS
    drawn = style.without_unchanged(histories, [*parts])
    for name, look in parts.items():
        style.curve(ax, drawn, name, look)
    gated = style.threshold(ax, histories)
    scales.nats(ax)
    epochs = histories["epoch"].min() - 0.6, histories["epoch"].max() + 0.6
    ax.set(xlabel="epoch", ylabel="log Bayes factor (nats)", xlim=epochs)
    names = [style.sample(look) for look in parts.values()]
    style.legend_above(ax, names + ([style.sample(style.THRESHOLD)] if gated else []))
    return figure
