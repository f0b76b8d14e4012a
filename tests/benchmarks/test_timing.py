"""Measurements alternate."""

from pyro_bayesprune.benchmarks import timing


def test_turns_alternate_and_are_counted():
    order = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    times = timing.seconds(runs, 4, 1e-12)
    assert times.shape == (4, 2)
    assert "".join(order) == "aaaaabbbbb" + "ab" * 4
