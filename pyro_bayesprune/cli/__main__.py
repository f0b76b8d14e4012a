"""Run the command line: ``python -m pyro_bayesprune.cli``."""

import sys

from pyro_bayesprune.cli.app import main

sys.exit(main())
