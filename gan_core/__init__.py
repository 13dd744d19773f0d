"""Train and evaluate GANs in PyTorch, independently of schedulers, trackers and clusters."""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from types import ModuleType

__version__ = "0.1.0"

_MOVED = {
    "gan_core.conditions": "gan_core.inference.conditions",
    "gan_core.generator": "gan_core.inference.generator",
    "gan_core.manifest": "gan_core.inference.manifest",
    "gan_core.pictures": "gan_core.images.pictures",
}
"""Modules that the scripts of earlier registered versions import, with their current names."""


class _Moved(MetaPathFinder, Loader):
    """Imports moved modules under their earlier names.

    MLflow runs a registered version with its own copy of ``gan_core``, unless the process has already imported this one.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Return None: Python creates an empty module, which exec_module replaces by the moved one."""

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(_MOVED[module.__name__])


sys.meta_path.append(_Moved())
