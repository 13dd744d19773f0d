"""Install the injector in every process of a run: Python imports this module at start if its folder is on PYTHONPATH."""

import importlib.util
import os
import sys
from pathlib import Path

_HERE = Path(__file__).parents[1]


def _load(name: str) -> object:
    """Load a module of ``tests.chaos`` from its file, because a process may not be able to import the package."""
    spec = importlib.util.spec_from_file_location(f"gantry_chaos_{name}", _HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if "GANTRY_CHAOS" in os.environ or "GANTRY_CHAOS_LOCAL" in os.environ:
    _inject = _load("inject")
    if "GANTRY_CHAOS_LOCAL" in os.environ:
        _local = _load("local")
        for _name, _patch in _local.PATCHES.items():
            _inject._after_import(_name, _patch)
    if "GANTRY_CHAOS" in os.environ:
        _inject.install(_inject.planned(os.environ["GANTRY_CHAOS"]))
