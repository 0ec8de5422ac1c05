"""The classifier whose features FID and IS of a benchmark see: trained once, kept with its hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.compare import in_child

from mixvi.metrics import ImageClassifier, train_image_classifier

CACHE = Path(".mixvi-cache")


def feature_network(
    name: str, train: tuple, held_out: tuple, settings: dict[str, Any]
) -> tuple[ImageClassifier, dict[str, Any]]:
    """The classifier of a data set, and what the record says of it.

    Parameters
    ----------
    name
        Of the data set.
    train, held_out
        Images and labels each.
    settings
        Of ``train_image_classifier``.
    """
    sizes = "-".join(str(value) for value in settings.values())
    place = CACHE / f"classifier-{name}-{sizes}"
    if not place.exists():
        CACHE.mkdir(exist_ok=True)
        # in a process of its own: one that has used a GPU cannot be forked for the runs
        in_child(_train, place, train, held_out, settings)
    classifier = ImageClassifier.load(place)
    return classifier, settings | {
        "n_train": classifier.settings["n_train"],
        "sha256": classifier.sha256,
        "held_out_accuracy": classifier.held_out_accuracy,
    }


def _train(place: Path, train: tuple, held_out: tuple, settings: dict[str, Any]) -> dict:
    train_image_classifier(*train, held_out=held_out, **settings).save(place)
    return {}
