# What the notebook 02_swap_priors must have shown; it runs after its last cell.
assert set(table.index) == set(PRIORS) and (table["sparsity"] > 0.85).all()
assert sensitivity.loc[0.1, "accuracy"] < sensitivity.loc[1.0, "accuracy"]
assert (table["Δ log prior"].drop("layer_scale()") > 0).all()
assert (table["accuracy"] > 0.9).all()
assert set(scales) == {f"fc{layer}.weight_scale" for layer in range(1, 4)}
assert favourites[1.0] > favourites[0.03]
assert sensitivity.loc[0.1, "Δ log prior"] > sensitivity.loc[1.0, "Δ log prior"] > 0
