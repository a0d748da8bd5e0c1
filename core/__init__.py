"""What everything stands on: errors, result files, the way to the Hub. Imports nothing of ours."""

import os

VERSION = "1.0.0"  # of the toolkit, as --version and every result say it

# OpenMP reads this when torch is loaded. Its threads spin for each other by default, which makes a
# forward 2 to 20 times slower where another process shares the cores; see docs/speed.md.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
