"""Masks have exact counts, ties included, and only shrink."""

import math

import pytest
import torch
from helpers import all_kept, class_data, lifted, mlp, net_weights
from torch.nn.utils import prune as torch_prune

import pyro_bayesprune as bp
from pyro_bayesprune.pruning.masks import apply_masks, keep_highest, propose_masks


def magnitude_masks(weights, level, masks=None, scope="layer"):
    scores = bp.criteria.magnitude(weights, masks or weights)
    return propose_masks(scores, weights, masks or all_kept(weights), level, scope)


@pytest.mark.parametrize("level", [0.0, 0.1, 0.25, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("values", [torch.zeros, torch.ones, torch.randn], ids=lambda f: f.__name__)
def test_counts_are_exact_also_with_ties(level, values):
    weights = {"a": values(7, 13), "b": values(3, 5, 2)}
    for name, mask in magnitude_masks(weights, level).items():
        assert (~mask).sum() == round(weights[name].numel() * level)
    masks = magnitude_masks(weights, level, scope="global")
    assert sum((~m).sum() for m in masks.values()) == round(121 * level)


def test_ties_are_broken_by_position():
    assert keep_highest(torch.tensor([1.0, 0.0, 0.0, 2.0, 0.0]), 2).tolist() == [
        True, False, False, True, True
    ]  # fmt: skip


def test_the_lowest_scores_go():
    weights = {"w": torch.tensor([[3.0, -1.0], [0.5, -2.0]])}
    assert magnitude_masks(weights, 0.5)["w"].tolist() == [[True, False], [False, True]]


def test_masks_only_shrink_and_what_is_zero_goes_next():
    weights = {"w": torch.tensor([5.0, 0.0, 1.0, 4.0, 3.0, 2.0])}
    masks = {"w": torch.tensor([False, True, True, True, True, True])}  # the largest has gone
    proposed = magnitude_masks(weights, 0.5, masks)["w"]
    assert proposed.tolist() == [False, False, False, True, True, True]
    high = {"w": torch.tensor([9.0, 9.0, 1.0, 1.0, 1.0, 1.0])}  # whatever the scores say
    assert propose_masks(high, weights, masks, 0.34, "layer")["w"].tolist() == [
        False, False, True, True, True, True
    ]  # fmt: skip


def test_scores_of_minus_infinity_do_not_go_before_what_is_pruned():
    weights, masks = {"w": torch.ones(4)}, {"w": torch.tensor([True, True, True, False])}
    scores = {"w": torch.tensor([-math.inf, 1.0, 2.0, 3.0])}
    assert propose_masks(scores, weights, masks, 0.25, "layer")["w"].tolist() == [
        True, True, True, False
    ]  # fmt: skip


def test_fewer_than_are_pruned_already_changes_nothing():
    weights = {"w": torch.arange(1.0, 11.0)}
    masks = magnitude_masks(weights, 0.5)
    assert torch.equal(magnitude_masks(weights, 0.2, masks)["w"], masks["w"])


def test_global_scope_compares_all_layers():
    weights = {"small": torch.full((2, 2), 0.1), "large": torch.full((2, 2), 1.0)}
    masks = magnitude_masks(weights, 0.5, scope="global")
    assert not masks["small"].any() and masks["large"].all()


@pytest.mark.parametrize("amount", [0.1, 0.5, 0.93])
def test_masks_agree_with_torchs_where_there_are_no_ties(amount):
    net = mlp()
    result = magnitude_masks({n: w for n, w in net_weights(net).items() if w.dim() > 1}, amount)
    for layer, name in ((net[0], "0.weight"), (net[2], "2.weight")):
        torch_prune.l1_unstructured(layer, "weight", amount)
        assert torch.equal(result[name], layer.weight_mask.bool())


def test_applying_masks_leaves_other_sites_and_the_given_alone():
    weights = {"w": torch.tensor([1.0, math.nan, 3.0]), "b": torch.ones(1)}
    result = apply_masks(weights, {"w": torch.tensor([True, False, True])})
    assert result["w"].tolist() == [1.0, 0.0, 3.0] and result["b"] is weights["b"]
    assert weights["w"].isnan().sum() == 1


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_whole_fit_has_the_exact_counts(scope):
    pruning = bp.Pruning(sparsity=0.77, gate="always", scope=scope)
    fit = bp.fit(
        lifted(mlp(), class_data()), class_data(), pruning=pruning, epochs=3, progress=False
    )
    zeros = {n: int((fit.weights[n] == 0).sum()) for n in fit.masks}
    if scope == "layer":
        assert zeros == {"0.weight": round(48 * 0.77), "2.weight": round(24 * 0.77)}
    assert sum(zeros.values()) == (round(72 * 0.77) if scope == "global" else 37 + 18)


class TestUnitScope:
    def test_exact_counts_of_whole_units(self):
        generator = torch.Generator().manual_seed(0)
        weights = {
            "fc": torch.randn(10, 7, generator=generator),
            "conv": torch.randn(8, 3, 2, 2, generator=generator),
        }
        masks = {n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}
        scores = {n: w.abs() for n, w in weights.items()}
        for level in (0.0, 0.24, 0.5, 0.9):
            proposed = propose_masks(scores, weights, masks, level, "unit")
            for name, mask in proposed.items():
                units = mask.flatten(1)
                assert (units.any(1) == units.all(1)).all()
                assert (~units.any(1)).sum() == round(len(units) * level)
                sums = scores[name].flatten(1).sum(1)
                expected = keep_highest(sums, round(len(units) * level))
                assert torch.equal(units.any(1), expected)

    def test_pruned_units_stay_and_count(self):
        weights = {"fc": torch.arange(1.0, 13).view(4, 3)}
        masks = {"fc": torch.ones(4, 3, dtype=torch.bool)}
        masks["fc"][3] = False  # of the highest score
        proposed = propose_masks(weights, weights, masks, 0.5, "unit")
        assert (~proposed["fc"].any(1)).tolist() == [True, False, False, True]
