# What the notebook 01_quickstart must have shown; it runs after its last cell.
history = fit.history
assert (fit.weights["fc1.weight"][~fit.masks["fc1.weight"]] == 0).all()
sums = history["log_likelihood_ratio"] + history["log_prior_ratio"]
assert (history["log_bf"] - sums).abs().max() < 1e-6
pruned_steps = history[history["decision"] == "pruned"]
assert (pruned_steps["log_bf"] > pruned_steps["log_threshold"]).all()
assert factor.log_prior_ratio > 0 > factor.log_likelihood_ratio
assert 0.5 < fit.sparsity <= 0.9001 and history["validation_accuracy"].iloc[-1] > 0.85
