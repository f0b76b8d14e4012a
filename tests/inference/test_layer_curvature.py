"""The closed form of layers has the diagonal of the full matrix."""

import pytest
import torch
from helpers.closed_forms import lifted_small_net, small_nets

from pyro_bayesprune.inference import curvature, layer_curvature

pytestmark = pytest.mark.usefixtures("double")


@pytest.mark.parametrize("kind", ["classification", "regression"])
@pytest.mark.parametrize("name", small_nets())
def test_closed_form_and_full_matrix_have_one_diagonal(name, kind):
    model, weights, data = lifted_small_net(name, kind)
    assert layer_curvature.has_closed_form(model, weights, data[0]) == (name != "norm")
    diagonal = curvature.flat(model, curvature.ggn_diagonal(model, weights, data, chunk_size=7))
    full = curvature.ggn_full(model, weights, data)
    torch.testing.assert_close(diagonal, full.diagonal())
    assert torch.linalg.eigvalsh(full).min() > -1e-8
