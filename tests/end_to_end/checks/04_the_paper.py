# What the notebook 04_the_paper must have shown; it runs after its last cell.
assert len(paper.paper_table1()) == 126 and table["paper"].notna().any()
ours = table[table["seeds"] > 0]
assert ((ours["mean"] > 0) & (ours["mean"] <= 1)).all()
assert (ours.loc[ours["sparsity"] > 0, "achieved_sparsity"] <= ours["sparsity"].max() + 0.001).all()
once = betas[~betas["regrow"]]
assert once["test_accuracy"].nunique() == 1 and (once["pruned"] == 1).all()  # whatever β is
assert betas[betas["regrow"]]["refused"].nunique() == 2
by_width = widths.groupby("hidden", sort=False)["test_accuracy"].mean()
assert by_width.iloc[-1] > by_width.iloc[0]
