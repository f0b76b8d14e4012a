"""The tables of the deployment benchmark mark variants without a gain."""

from pyro_bayesprune.benchmarks import deploy_tables


def test_variants_without_a_gain_are_marked():
    rows = {"network": "baked"}
    assert deploy_tables._gain([1.5, 1.2, 2.0], rows) == "1.50 [1.20, 2.00]"
    assert deploy_tables._gain([1.5, 1.0, 2.0], rows).endswith("**no gain**")
