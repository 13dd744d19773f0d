"""Tests. See CONTRIBUTING.md."""

import os

# Keep idle OpenMP threads from spinning, which starves Ray, Prefect and the other tests on a machine with few cores.
# OpenMP reads this when torch is imported, which happens later, and child processes inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
