"""GAN training and its evaluation in PyTorch; knows nothing of schedulers, trackers or clusters."""

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
"""Modules that the script of an earlier registered version imports, and where they are now."""


class _Moved(MetaPathFinder, Loader):
    """Imports moved modules by their earlier names.

    MLflow runs a registered version with the copy of ``gan_core`` beside it, except where this one is imported already.
    """

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        return spec_from_loader(fullname, self) if fullname in _MOVED else None

    def create_module(self, spec: ModuleSpec) -> None:
        """Python's default: an empty module, which the real one replaces at once."""

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(_MOVED[module.__name__])


sys.meta_path.append(_Moved())
