"""Tables of the deploy benchmark say where there is no gain."""

from pyro_bayesprune.benchmarks import deploy_tables


def test_no_gain_is_said():
    rows = {"network": "baked"}
    assert deploy_tables._gain([1.5, 1.2, 2.0], rows) == "1.50 [1.20, 2.00]"
    assert deploy_tables._gain([1.5, 1.0, 2.0], rows).endswith("**no gain**")
