"""Export: the same outputs, from fewer units, from files that are checked before they are used."""

import json
from collections import OrderedDict
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import pyro_bayesprune as bp
from pyro_bayesprune._utils.files import digest
from pyro_bayesprune.export import compaction, files, graphs
from pyro_bayesprune.export.chain import BiasMap, NotAChain, chain
from pyro_bayesprune.models import plain
from pyro_bayesprune.pruning.masks import keep_highest, propose_masks

SHAPE = (1, 8, 8)
CARD_FORMATS = ("safetensors", "csr", "bitmask", "sparse")


class OwnForward(nn.Module):
    """A chain written as a forward of its own, with functions, a nested part and BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(6, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5))
        self.fc = nn.Linear(5 * 4 * 4, 9)
        self.out = nn.Linear(9, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        x = torch.sigmoid(self.block(x))
        x = F.leaky_relu(self.fc(x.view(x.size(0), -1)), 0.1)
        return self.out(F.dropout(x, training=self.training))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return x + self.fc(x)


NETWORKS = {
    "fcn": lambda: bp.FCN(SHAPE, 4, (12, 11, 10)),
    "cnn": lambda: bp.CNN(SHAPE, 4, (5, 6), (12, 11, 10)),
    "own forward": OwnForward,
    "pools": lambda: nn.Sequential(
        nn.BatchNorm2d(1),
        nn.Conv2d(1, 5, 3, stride=2, padding=1, padding_mode="reflect"),
        nn.ELU(),
        nn.AvgPool2d(2, 1, padding=1),
        nn.Conv2d(5, 6, 3, padding="same", dilation=2),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 7),
        nn.BatchNorm1d(7, affine=False),
        nn.Linear(7, 3),
        nn.Softplus(),
    ),
}


def sparse(net, share, generator, dead=0.4):
    """Prune single weights and whole rows at random; set biases and statistics at random too."""
    for layer in net.modules():
        state = layer.state_dict() if not list(layer.children()) else {}
        for name, value in state.items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                value.copy_(noise.abs() + 0.1 if name == "running_var" else noise)
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            weight = layer.weight.data
            weight.mul_(torch.rand(weight.shape, generator=generator) >= share)
            weight[torch.rand(len(weight), generator=generator) < dead] = 0
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.data[0] = 0
    return net.eval()


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(32, *SHAPE, generator=torch.Generator().manual_seed(1))


def fitted(net, data, **options):
    model = bp.BayesianModule(net, bp.priors.normal(0.3), data.num_train)
    return bp.fit(model, data, epochs=2, progress=False, **options)


def with_batch_norm():
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 6, 3, padding=1),
            norm=nn.BatchNorm2d(6),
            relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(96, 10),
        )
    )


class TestBake:
    def test_outputs_are_the_fits(self, digits_part):
        fit = fitted(with_batch_norm(), digits_part, pruning=bp.Pruning(sparsity=0.5))
        net = plain.bake(fit)
        expected = fit.predict_proba(digits_part.test_x)
        torch.testing.assert_close(net(digits_part.test_x).softmax(1), expected)
        assert not net.training
        for name, mask in fit.masks.items():
            assert (net.get_parameter(name)[~mask] == 0).all()

    def test_module_of_the_fit_is_left_alone(self, digits_part):
        fit = fitted(with_batch_norm(), digits_part)
        before = {n: v.clone() for n, v in fit.model.net.state_dict().items()}
        plain.bake(fit, recalibrate=digits_part.train_x)
        for name, value in fit.model.net.state_dict().items():
            assert torch.equal(value, before[name]), name

    def test_recalibration_takes_the_statistics_of_the_data(self, digits_part):
        fit = fitted(with_batch_norm(), digits_part, pruning=bp.Pruning(sparsity=0.8))
        net = plain.bake(fit, recalibrate=digits_part.train_x)
        before = net.conv(digits_part.train_x)  # 359 examples: one chunk
        torch.testing.assert_close(net.norm.running_mean, before.mean((0, 2, 3)))
        torch.testing.assert_close(net.norm.running_var, before.var((0, 2, 3)))
        assert net.norm.momentum == 0.1

    def test_what_does_not_fit_is_refused(self, digits_part):
        fit = fitted(bp.FCN(SHAPE, 10, (4, 4, 4)), digits_part)
        parts = {"model": fit.model, "masks": fit.masks, "buffers": {}}
        with pytest.raises(ValueError, match="weights must have 'fc1.weight'"):
            plain.bake(SimpleNamespace(weights={}, **parts))
        with pytest.raises(ValueError, match="only a BayesianModule"):
            plain.bake(SimpleNamespace(model=lambda x, y: None, weights={}, masks={}, buffers={}))


class TestCompact:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_outputs_are_equal_on_random_networks(self, name, inputs):
        generator = torch.Generator().manual_seed(0)
        sizes = []
        for share in (0.0, 0.5, 0.8, 0.9, 0.97) * 5:
            net = sparse(NETWORKS[name](), share, generator)
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
            net.conv1.bias[0] = 1.0  # seen at the border: there its neighbours are zeros
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
            (nn.Sequential(nn.Flatten(0), nn.Linear(4, 2)), "flattens"),
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

    def test_chain_names_and_skips(self):
        net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Linear(2, 2)), nn.Identity(), nn.ReLU())
        assert [type(m) for m in chain(net).values()] == [nn.Linear, nn.ReLU]
        assert list(chain(bp.FCN((2,), 2, (3,)))) == ["flatten", "fc1", "relu_fc1", "fc2"]
        with pytest.raises(NotAChain):
            chain(Residual())


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
                kept = keep_highest(sums, round(len(units) * level))
                assert torch.equal(units.any(1), kept)

    def test_pruned_units_stay_and_count(self):
        weights = {"fc": torch.arange(1.0, 13).view(4, 3)}
        masks = {"fc": torch.ones(4, 3, dtype=torch.bool)}
        masks["fc"][3] = False  # of the highest score
        proposed = propose_masks(weights, weights, masks, 0.5, "unit")
        assert (~proposed["fc"].any(1)).tolist() == [True, False, False, True]

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

    def test_the_gate_decides(self, digits_part):
        pruning = bp.Pruning(sparsity=0.9, scope="unit", beta=3.0, schedule="constant")
        fit = fitted(bp.FCN(SHAPE, 10, (20, 20, 20)), digits_part, pruning=pruning)
        assert (fit.history["decision"] == "refused").all() and fit.sparsity == 0
        tried = json.loads(fit.history["tried"][0])
        assert [row[0] for row in tried[:3]] == pytest.approx([0.9, 0.45, 0.225], abs=0.05)

    def test_what_has_no_units_is_refused(self, digits_part):
        pruning = bp.Pruning(scope="unit", sites=("fc4.weight",))
        with pytest.raises(ValueError, match="not 'fc4.weight': that is the output layer"):
            fitted(bp.FCN(SHAPE, 10, (5, 5, 5)), digits_part, pruning=pruning)


class TestFiles:
    @pytest.mark.parametrize("name", NETWORKS)
    @pytest.mark.parametrize("format", CARD_FORMATS)
    def test_exact_round_trip(self, name, format, inputs, tmp_path):
        net = sparse(NETWORKS[name](), 0.8, torch.Generator().manual_seed(2))
        for module in (net, compaction.compact(net, SHAPE)):
            size = files.write(module, tmp_path / "net", SHAPE, format=format)
            assert size == (tmp_path / "net").stat().st_size
            assert list(tmp_path.iterdir()) == [tmp_path / "net"]  # nothing is left beside it
            torch.testing.assert_close(
                files.read(tmp_path / "net")(inputs), module(inputs), atol=1e-6, rtol=1e-5
            )
            filled = files.read(tmp_path / "net", net=module)
            for key, value in module.state_dict().items():
                assert torch.equal(filled.state_dict()[key], value), key

    @pytest.mark.parametrize("values, error", [("float16", 1e-3), ("int8", 1 / 127)])
    @pytest.mark.parametrize("format", CARD_FORMATS)
    def test_narrow_values(self, format, values, error, tmp_path):
        net = sparse(bp.FCN(SHAPE, 4, (30, 20, 10)), 0.8, torch.Generator().manual_seed(2))
        net.fc1.weight.data[0] *= 1e-3  # its own scale keeps a small row exact
        files.write(net, tmp_path / "net", SHAPE, format=format, values=values)
        found = files.read(tmp_path / "net")
        for name, value in net.named_parameters():
            stored = found.get_parameter(name)
            assert stored.dtype == torch.float32
            largest = value.abs().flatten(1).amax(1, keepdim=True) if value.dim() > 1 else value
            assert ((stored - value).abs() <= error * largest.abs() + 1e-12).all(), name

    def test_sparse_files_are_small_and_narrow_ones_smaller(self, tmp_path):
        net = sparse(bp.FCN((1, 28, 28), 10, (300, 300, 300)), 0.99, torch.Generator(), dead=0)

        def size(**options):
            return files.write(net, tmp_path / "net", (1, 28, 28), **options)

        dense, csr, mask = (size(format=f) for f in ("safetensors", "csr", "bitmask"))
        assert dense > 30 * csr and csr < mask
        assert size(format="sparse") <= csr
        assert size(format="csr", values="int8") < size(format="csr", values="float16") < csr

    def test_channels_last_comes_back(self, tmp_path):
        files.write(bp.CNN(SHAPE, 4), tmp_path / "net", SHAPE)
        weight = files.read(tmp_path / "net").conv2.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)

    def test_a_network_that_is_no_chain_needs_its_module(self, tmp_path):
        net, x = Residual(), torch.randn(3, 4)
        with pytest.warns(UserWarning, match="holds no architecture"):
            files.write(net, tmp_path / "net", (4,), format="sparse")
        with pytest.raises(ValueError, match=r"read\(path, net=...\)"):
            files.read(tmp_path / "net")
        torch.testing.assert_close(files.read(tmp_path / "net", net=Residual())(x), net(x))
        with pytest.raises(ValueError, match="the network needs"):
            files.read(tmp_path / "net", net=nn.Linear(4, 3))

    @pytest.mark.parametrize("name", ["fcn", pytest.param("own forward", marks=pytest.mark.slow)])
    def test_torch_export(self, name, inputs, tmp_path):
        net = sparse(NETWORKS[name](), 0.8, torch.Generator().manual_seed(2))
        files.write(net, tmp_path / "net.pt2", SHAPE, format="torch")
        loaded = torch.export.load(tmp_path / "net.pt2").module()
        torch.testing.assert_close(loaded(inputs), net(inputs))
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            files.read(tmp_path / "net.pt2")

    @pytest.mark.parametrize(
        "name",
        ["fcn", *(pytest.param(n, marks=pytest.mark.slow) for n in ["own forward", "pools"])],
    )
    def test_onnx(self, name, inputs, tmp_path):
        net = sparse(NETWORKS[name](), 0.8, torch.Generator().manual_seed(2))
        small = compaction.compact(net, SHAPE)
        files.write(small, tmp_path / "net.onnx", SHAPE, format="onnx")
        session = graphs.onnx_session(tmp_path / "net.onnx")
        for x in (inputs, inputs[:1]):
            found = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
            torch.testing.assert_close(found, net(x), atol=1e-5, rtol=1e-4)

    def test_unknown_formats_and_values_are_refused(self, tmp_path):
        net = nn.Linear(2, 2)
        for options in ({"format": "pickle"}, {"values": "int4"}):
            with pytest.raises(ValueError, match="must be one of"):
                files.write(net, tmp_path / "net", (2,), **options)
        with pytest.raises(ValueError, match="float32 values only"):
            files.write(net, tmp_path / "net", (2,), format="onnx", values="int8")
        net.weight.data[0] = 1e6
        with pytest.raises(ValueError, match="float16 cannot hold"):
            files.write(net, tmp_path / "net", (2,), values="float16")
        assert not list(tmp_path.iterdir())


def parts(path):
    with safe_open(path, framework="pt") as file:
        return load_file(path), dict(file.metadata())


def rewrite(path, change):
    """Change a file's card or tensors and set the checksum right again."""
    tensors, metadata = parts(path)
    card = json.loads(metadata["card"])
    change(card, tensors)
    metadata["card"] = json.dumps(card)
    metadata["sha256"] = digest(tensors, metadata["card"])
    save_file(tensors, path, metadata)


class TestRefused:
    @pytest.fixture
    def path(self, tmp_path):
        net = sparse(bp.FCN(SHAPE, 4, (9, 8, 7)), 0.8, torch.Generator().manual_seed(2))
        files.write(net, tmp_path / "net", SHAPE, format="csr")
        return tmp_path / "net"

    def test_any_changed_byte(self, path):
        content = path.read_bytes()
        for place in np.linspace(0, len(content) - 1, 60).astype(int):
            changed = bytearray(content)
            changed[place] ^= 1
            path.write_bytes(changed)
            with pytest.raises(ValueError, match="cannot be read as a network"):
                files.read(path)

    def test_a_file_cut_short_and_one_that_is_not_there(self, path):
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(ValueError, match="not a readable safetensors file"):
            files.read(path)
        with pytest.raises(ValueError, match="cannot be read as a network"):
            files.read(path.with_name("none"))

    def test_a_file_without_a_card(self, path):
        save_file({"a": torch.ones(2)}, path)
        with pytest.raises(ValueError, match="it has no card"):
            files.read(path)

    @pytest.mark.parametrize(
        "change, message",
        [
            (lambda c, t: c.update(version=99), "version 1, got"),
            (lambda c, t: c["layers"][1].__setitem__(1, "system"), "not a known one"),
            (lambda c, t: c["layers"][1][2].update(device="meta"), "not a known one"),
            (lambda c, t: c["layers"][1][2].update(out_features=8), "the network needs"),
            (lambda c, t: c["layers"][1][2].update(out_features="x"), "cannot be read"),
            (lambda c, t: c["tensors"]["fc1.weight"].update(layout="x"), "unknown layout"),
            (lambda c, t: c["tensors"]["fc1.weight"].update(shape=[9, 2]), "cannot be read"),
            (lambda c, t: c["tensors"]["fc1.weight"].update(dtype="object"), "cannot be read"),
            (lambda c, t: c["tensors"].pop("fc1.bias"), "unknown tensors"),
            (lambda c, t: c.pop("layers"), "cannot be read"),
            (lambda c, t: t.pop("fc1.weight.columns"), "cannot be read"),
            (lambda c, t: t.update({"more": torch.ones(1)}), "unknown tensors"),
            (lambda c, t: t["fc1.weight.rows"].add_(1), "must have shape"),
            (lambda c, t: t["fc1.weight.columns"].fill_(99), "cannot be read"),
        ],
    )
    def test_a_card_that_does_not_match(self, path, change, message):
        rewrite(path, change)
        with pytest.raises(ValueError, match=message):
            files.read(path)

    def test_another_network(self, path):
        with pytest.raises(ValueError, match="the network needs"):
            files.read(path, net=bp.FCN(SHAPE, 4, (9, 8, 6)))

    def test_onnx_files_that_were_changed(self, tmp_path):
        path = tmp_path / "net.onnx"
        weights = [onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "w")]
        graph = onnx.helper.make_graph([], "net", [], [], weights)
        model = onnx.helper.make_model(graph)
        onnx.helper.set_model_props(model, {"sha256": graphs._onnx_digest(model)})
        assert graphs._checked_onnx(self.saved(model, path))
        graph = model.graph.initializer[0]
        graph.raw_data = graph.raw_data[:-1] + b"@"
        with pytest.raises(ValueError, match="SHA-256 differs"):
            graphs.onnx_session(self.saved(model, path))
        path.write_bytes(b"no graph at all")
        with pytest.raises(ValueError, match="not a readable ONNX file"):
            graphs.onnx_session(path)

    @staticmethod
    def saved(model, path):
        path.write_bytes(model.SerializeToString())
        return path
