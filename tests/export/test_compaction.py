"""A compacted network has the same outputs from fewer units."""

import pytest
import torch
import torch.nn.functional as F
from helpers import fitted
from helpers.exports import NETWORKS, SHAPE, Residual, sparsified
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune.export import compaction
from pyro_bayesprune.export.chain import BiasMap
from pyro_bayesprune.models import plain


class TestCompact:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_outputs_are_equal_on_random_networks(self, name, inputs):
        generator = torch.Generator().manual_seed(0)
        sizes = []
        for share in (0.0, 0.5, 0.8, 0.9, 0.97) * 5:
            net = sparsified(NETWORKS[name](), share, generator)
            small = compaction.compact(net, SHAPE)
            expected = net(inputs)
            scale = max(1.0, expected.abs().max().item())
            assert (small(inputs) - expected).abs().max() <= 1e-5 * scale
            sizes.append(sum(p.numel() for p in small.parameters()))
        assert min(sizes) < sum(p.numel() for p in net.parameters()) / 3

    def test_nothing_is_removed_from_a_dense_network(self, inputs):
        net = bp.CNN(SHAPE, 4, (3, 4), (6, 5, 4)).eval()
        small = compaction.compact(net, SHAPE)
        assert small.state_dict().keys() == net.state_dict().keys()
        for name, value in net.state_dict().items():
            assert torch.equal(small.state_dict()[name], value), name
        torch.testing.assert_close(small(inputs), net(inputs))
        assert small.conv2.weight.is_contiguous(memory_format=torch.channels_last)

    def test_dead_and_unused_units_by_hand(self):
        net = bp.FCN((3,), 2, (4, 3, 3))
        with torch.no_grad():
            net.fc1.weight[1] = 0  # constant
            net.fc2.weight[:, 2] = 0  # unused
            net.fc3.weight[:, 0] = 0  # unused, and alone in using unit 3 of the layer before
            net.fc2.weight[1:, 3] = 0
        small = compaction.compact(net, (3,))
        assert [m.out_features for m in small if isinstance(m, nn.Linear)] == [1, 2, 3, 2]
        x = torch.randn(9, 3)
        torch.testing.assert_close(small(x), net(x))

    def test_constant_filters_under_zero_padding(self, inputs):
        net = bp.CNN(SHAPE, 4, (3, 4), (6, 5, 4)).eval()
        with torch.no_grad():
            net.conv1.weight[0] = 0
            net.conv1.bias[0] = 1.0  # visible at the border, where its neighbours are zeros
        small = compaction.compact(net, SHAPE)
        assert small.conv1.out_channels == 2 and isinstance(small.conv2_bias, BiasMap)
        torch.testing.assert_close(small(inputs), net(inputs))

    def test_a_network_of_zeros_keeps_a_unit_a_layer(self, inputs):
        net = bp.CNN(SHAPE, 4, (3, 4), (6, 5, 4)).eval()
        for name, parameter in net.named_parameters():
            if name.endswith("weight"):
                parameter.data.zero_()
        small = compaction.compact(net, SHAPE)
        assert [m.out_features for m in small if isinstance(m, nn.Linear)] == [1, 1, 1, 4]
        torch.testing.assert_close(small(inputs), net(inputs))

    def test_random_state_and_module_are_left_alone(self):
        net, state = bp.FCN(SHAPE, 4, (5, 5, 5)), torch.get_rng_state()
        compaction.compact(net, SHAPE)
        assert torch.equal(torch.get_rng_state(), state)
        assert net.training

    @pytest.mark.parametrize(
        "net, reason",
        [
            (Residual(), "does not follow from the layer before it alone"),
            (nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), "Softmax"),
            (nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False)), "stat"),
            (nn.Sequential(nn.Flatten(0), nn.Linear(4, 2)), "does not flatten"),
        ],
    )
    def test_what_cannot_be_analysed_comes_back_as_it_is(self, net, reason):
        with pytest.warns(UserWarning, match=reason):
            small = compaction.compact(net, (4,))
        assert small is not net and not small.training
        assert small.state_dict().keys() == net.state_dict().keys()

    def test_a_forward_that_the_trace_does_not_show(self):
        class Noisy(nn.Sequential):
            def forward(self, x):
                return F.dropout(super().forward(x), 0.5)  # also in evaluation mode

        with pytest.warns(UserWarning, match="outputs are not those"):
            compaction.compact(Noisy(nn.Linear(64, 64)), (64,))


class TestUnitScope:
    def test_training_prunes_units_but_no_outputs_and_compacts(self, digits_part):
        net = bp.CNN(SHAPE, 10, (8, 10), (30, 20, 20))
        pruning = bp.Pruning(sparsity=0.5, scope="unit", gate="always", schedule="constant")
        fit = fitted(net, digits_part, pruning=pruning)
        hidden = ["conv1", "conv2", "fc1", "fc2", "fc3"]
        assert sorted(fit.masks) == [f"{name}.weight" for name in hidden]
        assert fit.sparsity == 0.5
        assert fit.history["log_bf"].iloc[0] != 0
        baked = plain.bake(fit)
        small = compaction.compact(baked, SHAPE)
        assert [small.get_submodule(n).weight.shape[0] for n in hidden] == [4, 5, 15, 10, 10]
        torch.testing.assert_close(small(digits_part.test_x), baked(digits_part.test_x))
