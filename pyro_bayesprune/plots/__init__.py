"""Figures as functions of data frames. They return a Matplotlib figure and do not show it."""

from pyro_bayesprune._deprecated import attach

__getattr__, __dir__, __all__ = attach(
    __name__,
    methods=["accuracy_against_compression", "comparison", "loss_by_level", "twins"],
    predictions=[
        "calibration_by_sparsity", "class_frequencies", "coverage", "pit", "rejection",
        "reliability", "shifts", "sparsity_by_layer", "traces",
    ],
    scales=["is_uniform"],
    style=["METHODS", "label", "percent"],
    training=["bayes_factor_parts", "layer_sparsity", "learning_curves"],
    weights=["survivors", "weights_against_prior"],
)  # fmt: skip
