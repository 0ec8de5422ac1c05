"""What a model has to say of each row, collected before any of it is written into the AnnData."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData

# warnings name the line outside that called
_PACKAGE = str(Path(__file__).parents[2])


@dataclass
class Annotations:
    """Columns, arrays and layers under their keys, and notes for ``uns``."""

    key: str
    """What all keys are named for; ``uns`` holds the notes under it."""
    notes: dict[str, Any]
    """Notes; ``"model"`` is the class of the model."""
    obs: dict[str, Any] = field(default_factory=dict)
    obsm: dict[str, np.ndarray] = field(default_factory=dict)
    layers: dict[str, np.ndarray] = field(default_factory=dict)

    def write(self, adata: AnnData) -> None:
        """Write everything, with a warning before what another model or a user wrote is replaced.

        The same class's keys are replaced without one: a model is annotated again after training.
        """
        slots = {"obs": self.obs, "obsm": self.obsm, "layers": self.layers}
        taken = [
            f"{slot}[{name!r}]"
            for slot, found in slots.items()
            for name in found
            if name in getattr(adata, slot)
        ]
        before = adata.uns.get(self.key)
        writer = before.get("model") if isinstance(before, dict) else None
        if before is not None and writer is None:
            taken.append(f"uns[{self.key!r}]")
        if taken and writer != self.notes["model"]:
            owner = "no mixvi model wrote" if writer is None else f"a {writer} wrote"
            warnings.warn(
                f"annotate replaces what {owner}: {', '.join(taken)}. Pass key_added=... to keep "
                "both.",
                UserWarning,
                skip_file_prefixes=(_PACKAGE,),
            )
        for slot, found in slots.items():
            for name, values in found.items():
                getattr(adata, slot)[name] = values
        adata.uns[self.key] = self.notes


def warn_of_outdated(adata: AnnData, key: str, name: str) -> None:
    """Warn of a column of ``obs`` that a model wrote under ``key`` before, and that stays."""
    if name not in adata.obs or key not in adata.uns:
        return
    warnings.warn(
        f"obs[{name!r}] is of an earlier model or training, and is left as it is: this one has no "
        f"labels. Delete it (del adata.obs[{name!r}]), or pass key_added=... to keep both.",
        UserWarning,
        skip_file_prefixes=(_PACKAGE,),
    )


def check_key_added(key_added: str | None) -> None:
    """Raise ValueError unless ``key_added`` can name keys in a file; None is fine."""
    if key_added is None:
        return
    if not isinstance(key_added, str) or not key_added or "/" in key_added:
        raise ValueError(f"key_added must be a word without '/', but is {key_added!r}.")
