# What the notebook 03_bring_your_own_model must have shown; it runs after its last cell.
assert same and fit.sparsity > 0.7 and accuracy > 0.9
assert zeros == sum(int((~mask).sum()) for mask in fit.masks.values())
assert fit.buffers["net.bn1.running_mean"].abs().sum() > 0
assert not any("bn" in name for name in fit.masks)  # parameters of one dimension stay
assert regression_fit.masks["w"].tolist() == (truth != 0).tolist()
assert size > 100_000 and fitted.sparsity == 0.5
assert abs(means.item() - 0.3) < 0.1
assert (seen_by_obs - x[:, :3].sum(1)).abs().max() < 1e-5
