"""Objectives of two-variable models, one file each; a file that is put here is found."""

from importlib import import_module
from pkgutil import iter_modules

from mixvi.images.objective import OBJECTIVES

for _file in iter_modules(__path__):
    import_module(f"{__name__}.{_file.name}")

# each class under its own name, as mixvi.images.objectives.WVAE
globals().update({cls.__name__: cls for cls in OBJECTIVES.values()})
__all__ = sorted(cls.__name__ for cls in OBJECTIVES.values())
