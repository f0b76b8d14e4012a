"""Data in every form have the same examples, in a fixed order."""

import numpy as np
import pytest
import torch
from helpers.loaders import Rows, Stream, forms
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from pyro_bayesprune.data.batches import TensorBatches
from pyro_bayesprune.data.loading import as_batches, as_inputs

X, Y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 4
LIKE = torch.zeros(1)


def whole(batches, size=16):
    parts = list(batches.chunks(size))
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


@pytest.mark.parametrize("form", forms(X, Y))
def test_all_forms_have_the_same_examples(form):
    batches = as_batches(forms(X, Y)[form], like=LIKE)
    x, y = whole(batches)
    assert batches.num_data == 40 and x.dtype == torch.float32
    if form != "shuffled loader":
        assert torch.equal(x, X) and torch.equal(y, Y)
    assert torch.equal(x.sort(0)[0], X.sort(0)[0])
    assert all(torch.equal(*pair) for pair in zip(whole(batches), (x, y), strict=True))
    assert torch.equal(batches.first(2)[1], Y[:2])
    positions = torch.tensor([5, 39, 0, 7])
    assert torch.equal(batches.rows(positions)[0], X[positions])
    part = batches.at(positions)
    assert torch.equal(whole(part, 3)[0], X[positions])
    samples = [b.sample(9, torch.Generator().manual_seed(1)) for b in (batches, as_batches((X, Y)))]
    assert torch.equal(samples[0][0], samples[1][0])


def test_tensors_in_memory_are_not_copied():
    batches = as_batches((X, Y))
    assert batches.whole()[0].data_ptr() == X.data_ptr()
    assert as_batches(batches) is batches
    assert isinstance(as_batches(TensorDataset(X, Y)), TensorBatches)


def test_inputs_may_be_tuples_and_dictionaries():
    loader = DataLoader([((x, x[:2]), y) for x, y in zip(X, Y, strict=True)], batch_size=6)
    (a, b), _ = as_batches(loader).rows(torch.tensor([3, 1]))
    assert torch.equal(a, X[[3, 1]]) and torch.equal(b, X[[3, 1], :2])
    batches = as_batches(({"a": X.numpy(), "b": X[:, 0].int()}, Y))
    (x, _), *_ = batches.chunks(8)
    assert list(x) == ["a", "b"] and torch.equal(x["b"], X[:8, 0].int())


def test_a_loader_reads_with_fixed_random_numbers_and_leaves_those_of_the_caller():
    loader = DataLoader(Rows(X, Y, noise=1.0), batch_size=8, shuffle=True)
    batches = as_batches(loader)
    before = torch.get_rng_state(), np.random.get_state()[1]
    first, second = whole(batches), whole(batches)
    assert torch.equal(first[0], second[0]) and not torch.equal(first[0], X)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    epochs = [torch.cat([x for x, _ in batches.epoch(0, n, None)]) for n in (1, 2, 1)]
    assert torch.equal(epochs[0], epochs[2]) and not torch.equal(epochs[0], epochs[1])


def test_the_generator_of_a_loader_is_as_before():
    generator = torch.Generator().manual_seed(3)
    batches = as_batches(DataLoader(Rows(X, Y), batch_size=8, shuffle=True, generator=generator))
    state = generator.get_state()
    assert torch.equal(whole(batches)[0], whole(batches)[0])
    assert torch.equal(generator.get_state(), state)


class Restless(Stream):
    """A loader with noise from a generator of its own."""

    def __iter__(self):
        return ((x + torch.rand(()).item() * self.noise(), y) for x, y in self.batches)

    generators = iter(range(100))

    def noise(self):
        return next(self.generators)


class Generated(IterableDataset):
    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def test_an_iterable_data_set_is_counted():
    assert as_batches(Generated()).num_data == 40


def test_a_sampler_decides_which_examples_a_loader_has():
    few = DataLoader(Rows(X, Y), batch_size=8, sampler=range(10, 30))
    assert torch.equal(whole(as_batches(few))[0], X[10:30])
    assert torch.equal(as_batches(few).rows(torch.tensor([4, 0]))[0], X[[14, 10]])
    assert as_batches(DataLoader(Rows(X, Y), batch_size=12, drop_last=True)).num_data == 36


@pytest.mark.parametrize(
    "data, message",
    [
        (X, "must be a Dataset or a pair .*, got Tensor"),
        ((X, Y, Y), "must be a Dataset or a pair .*, got tuple"),
        ((b for b in [(X, Y)]), "can be read only once"),
        ([], "the loader has no batches"),
        ([(X, Y, Y)], "must be a pair .*, got a tuple of 3.*unpack="),
        ([{"x": X, "y": Y}], "got a dict of x, y"),
        ([(X * torch.nan, Y)], "inputs must be finite"),
        ([(X, Y[1:])], "equally many, got 40, 39"),
        (([X.tolist()], Y), "must be tensors, got list, Tensor"),
    ],
)
def test_other_data_are_errors(data, message):
    with pytest.raises(ValueError, match=message):
        whole(as_batches(data))


def test_a_loader_that_changes_is_an_error():
    batches = as_batches(Restless(X, Y))
    whole(batches)
    with pytest.raises(ValueError, match="does not give the same examples in each pass"):
        whole(batches)


def test_inputs_without_targets():
    loader = DataLoader(TensorDataset(X), batch_size=8)
    for data in (X, X.numpy(), loader, DataLoader(TensorDataset(X, Y), 8), [X[:20], X[20:]]):
        assert torch.equal(torch.cat(list(as_inputs(data).inputs(16))), X)
    with pytest.raises(ValueError, match="this one shuffles: use shuffle=False"):
        as_inputs(DataLoader(TensorDataset(X), shuffle=True))


@pytest.mark.parametrize(
    "options",
    [
        {"sampler": SubsetRandomSampler(range(40))},
        {"sampler": WeightedRandomSampler([1.0] * 40, 40)},
        {"batch_sampler": BatchSampler(RandomSampler(range(40)), 8, drop_last=False)},
    ],
)
def test_predictions_need_a_loader_in_order_whatever_shuffles_it(options):
    with pytest.raises(ValueError, match="use shuffle=False"):
        as_inputs(DataLoader(TensorDataset(X, Y), **options))


@pytest.mark.parametrize("where", ["sampler", "batch_sampler"])
def test_examples_that_are_drawn_with_replacement_are_not_all_examples(where):
    sampler = WeightedRandomSampler([1.0] * 40, 40)
    loader = DataLoader(
        TensorDataset(X, Y),
        **{where: sampler if where == "sampler" else BatchSampler(sampler, 8, drop_last=False)},
    )
    with pytest.raises(ValueError, match="with replacement"):
        _ = as_batches(loader).num_data
