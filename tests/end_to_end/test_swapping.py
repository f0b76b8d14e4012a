"""The page on priors and modules says what happens."""

import pytest
from helpers import report_script


@pytest.mark.slow
def test_the_tables_are_what_the_script_finds():
    make = report_script("swapping")
    readme = (make.HERE / "README.md").read_text()
    assert make.page() in readme
