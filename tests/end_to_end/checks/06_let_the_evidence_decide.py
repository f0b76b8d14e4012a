# What the notebook 06_let_the_evidence_decide must have shown; it runs after its last cell.
import math

assert (factors["joint ratio"] <= 0).all()
assert (factors["Savage-Dickey"] - factors["exact"]).abs().max() < 1e-6
assert math.isclose(together, exact, abs_tol=1e-6)
assert factors["Savage-Dickey"].iloc[0] < 0 < factors["Savage-Dickey"].iloc[-1]
accepted = steps[steps["decision"] == "pruned"]
assert (accepted["log_bf"] > accepted["log_threshold"]).all()
assert (accepted["log_occam_ratio"] > 0).all() and fit.sparsity > strict.sparsity
wide_gap = at_once.pivot(index="zeros", columns="update", values="log BF per example")
assert (wide_gap["condition"] >= wide_gap["project"]).all() and automatic.sparsity > 0
assert (covariance - precision.inverse()).abs().max() < 1e-9
