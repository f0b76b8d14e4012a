# What the notebook 05_diagnostics must have shown; it runs after its last cell.
assert (draws.at(0, 0)["fc4.weight"][~runs["pruned"].masks["fc4.weight"]] == 0).all()
assert draws.stats["diverging"].double().mean() < 0.1
assert table.loc["log_joint", "r_hat"] < 1.05 and left_out.elpd_loo < 0
assert all(0 <= score["ece"] < 0.5 for score in scores.values())
turned = shift[shift["amount"] > 0].groupby("amount")["accuracy"].mean()
assert turned.is_monotonic_decreasing
assert "<script src" not in page.read_text() and any("seed" in flag.text for flag in raised)
