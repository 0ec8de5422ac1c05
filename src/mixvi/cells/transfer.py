"""Labels of one study for the cells of another (Kolb 2022, section 9.2)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData, concat

from mixvi.cells.gmvae import GMVAE
from mixvi.cells.rebalancing import balanced_indices
from mixvi.core.data import checks
from mixvi.core.data.backed import is_backed
from mixvi.core.data.fields import found_categories, name_of
from mixvi.core.data.support import holds_counts

UNLABELLED = "Unknown"
# warnings name the user's line
_PACKAGE = str(Path(__file__).parents[1])


@dataclass(frozen=True)
class Transfer:
    """What :func:`transfer_labels` gives back.

    Attributes
    ----------
    model
        The trained model.
    adata
        Both studies on their common genes, annotated by the model.
    labels
        Label of each target cell, Series ``(n_target,)``.
    probs
        Probability of each label, DataFrame ``(n_target, n_labels)``.
    """

    model: GMVAE
    adata: AnnData
    labels: pd.Series
    probs: pd.DataFrame


def join_studies(
    source: AnnData,
    target: AnnData,
    labels_key: str,
    *,
    layer: str | None = None,
    study_key: str = "study",
) -> AnnData:
    """Both studies on their common genes, labels of the target hidden.

    Parameters
    ----------
    source
        Labelled cells; those whose label is missing (NaN) or ``"Unknown"`` are not.
    target
        Cells to label; its own ``obs[labels_key]``, if any, is not carried over.
    labels_key
        Column of ``source.obs``.
    layer
        Layer of both that becomes ``X``; ``None``: their ``X``.
    study_key
        Column of the result: ``"source"`` or ``"target"``.

    Returns
    -------
    AnnData with ``X``, ``obs[labels_key]`` as text (``"Unknown"`` without a label) and
    ``obs[study_key]``; cell names end in ``-source`` and ``-target``.

    Raises
    ------
    KeyError
        If the label column or the layer is missing.
    TypeError
        If a matrix is of a kind that cannot be read.
    ValueError
        If a matrix is missing or not finite, no cell has a label, the studies share no gene names,
        or names repeat.

    Warns
    -----
    UserWarning
        If a label is called as cells without one are, such as "unknown", the studies share fewer
        than half of the genes of the smaller one, or one has raw counts and the other has not.
    """
    studies = {"source": source, "target": target}
    for name, study in studies.items():
        _check_study(study, name, layer)
    checks.check_labels(source, labels_key, UNLABELLED)
    checks.warn_no_labels(source, labels_key, UNLABELLED)
    common = source.var_names.intersection(target.var_names, sort=False)
    if len(common) == 0:
        raise ValueError(
            "source and target share no gene names: source has e.g. "
            f"{source.var_names[0]!r}, target {target.var_names[0]!r}. Name genes alike in both, "
            "symbols or Ensembl identifiers."
        )
    parts = {}
    for name, study in studies.items():
        shared = study[:, common]
        x = shared.X if layer is None else shared.layers[layer]
        part = AnnData(x.copy(), var=pd.DataFrame(index=common))
        part.obs_names = study.obs_names
        part.obs[labels_key] = UNLABELLED
        parts[name] = part
    _warn_of_differences(parts, min(source.n_vars, target.n_vars), layer)
    parts["source"].obs[labels_key] = _label_names(source.obs[labels_key])
    joint = concat(parts, label=study_key, index_unique="-")
    joint.obs[labels_key] = joint.obs[labels_key].astype("category")
    return joint


def _check_study(study: AnnData, name: str, layer: str | None) -> None:
    """Raise unless a study's matrix can be read and its genes told apart by name."""
    checks.check_anndata(study, "transfer_labels")
    checks.check_key(study, "layers", layer, "layer")
    x = study.X if layer is None else study.layers[layer]
    text = f"{name}.X" if layer is None else f"{name}.layers[{layer!r}]"
    if is_backed(x):
        raise ValueError(f"{text} is on disk. Take it into memory first: {name}.to_memory().")
    checks.check_matrix(x, text)
    if not study.var_names.is_unique:
        raise ValueError(f"Gene names of {name} repeat; call {name}.var_names_make_unique() first.")


def _warn_of_differences(parts: dict[str, AnnData], n_genes: int, layer: str | None) -> None:
    """Warn where two studies are hardly of one kind: few genes in common, or other values."""
    shared = parts["source"].n_vars
    if shared < 0.5 * n_genes:
        warnings.warn(
            f"source and target share {shared} gene names alone, the smaller of them has {n_genes} "
            "genes. Labels are told by those: name genes alike, and choose variable genes of one "
            "study that the other has as well.",
            UserWarning,
            skip_file_prefixes=(_PACKAGE,),
        )
    counted = {name: holds_counts(part.X) for name, part in parts.items()}
    if len(set(counted.values())) > 1:
        raw, other = sorted(counted, key=counted.get, reverse=True)
        where = "X" if layer is None else f"layers[{layer!r}]"
        warnings.warn(
            f"{raw}.{where} holds whole numbers alone, as raw counts are, {other}.{where} does "
            "not. Bring both to one scale, or name a layer that has the counts of both: layer=....",
            UserWarning,
            skip_file_prefixes=(_PACKAGE,),
        )


def _label_names(labels: pd.Series) -> np.ndarray:
    """What each cell's label is called, and ``"Unknown"`` without one, ``(n_obs,)``."""
    codes, found = found_categories(labels)
    return np.array([*map(name_of, found), UNLABELLED])[codes]


def transfer_labels(
    source: AnnData,
    target: AnnData,
    labels_key: str,
    *,
    layer: str | None = None,
    study_as_batch: bool = True,
    n_per_label: int | None = 300,
    model_kwargs: dict | None = None,
    seed: int = 0,
    **train_kwargs,
) -> Transfer:
    """Label the cells of ``target`` by semi-supervised training across both studies.

    Parameters
    ----------
    source
        Labelled cells; those whose label is missing (NaN) or ``"Unknown"`` are not.
    target
        Cells to label, with some genes of the same names.
    labels_key
        Column of ``source.obs``; it may as well be a clustering of the source.
    layer
        Layer of both to read, such as raw counts; ``None``: ``X``.
    study_as_batch
        Give encoder and decoder the study as a batch; the thesis has no such covariate.
    n_per_label
        Source cells a label, drawn with replacement, so that rare labels count as much as common
        ones; ``None``: the source as it is.
    model_kwargs
        Passed to :class:`mixvi.GMVAE`. ``n_components``: one a label unless given.
    seed
        Of the draws.
    **train_kwargs
        Passed to :meth:`mixvi.GMVAE.train`.

    Returns
    -------
    :class:`Transfer`.

    Raises
    ------
    KeyError, ValueError
        As :func:`join_studies` and :meth:`mixvi.GMVAE.train`.
    """
    adata = join_studies(source, target, labels_key, layer=layer)
    GMVAE.setup_anndata(
        adata,
        labels_key=labels_key,
        unlabeled_category=UNLABELLED,
        batch_key="study" if study_as_batch else None,
    )
    names = {name_of(label): label for label in found_categories(source.obs[labels_key])[1]}
    names.pop(UNLABELLED, None)
    model = GMVAE(adata, **({"n_components": len(names)} | (model_kwargs or {})))
    indices = np.arange(adata.n_obs)
    if n_per_label is not None:
        labels = _label_names(source.obs[labels_key])
        known = np.flatnonzero(labels != UNLABELLED)
        drawn = balanced_indices(labels[known], n_per_label, seed=seed)
        # the source's rows come first in the joint data
        indices = np.concatenate([known[drawn], np.setdiff1d(indices, known)])
    model.train(mode="semi", indices=indices, **train_kwargs)
    model.annotate(adata)
    ours = np.arange(source.n_obs, adata.n_obs)
    probs = model.predict(adata, ours, level="label", soft=True)
    probs.index = target.obs_names
    # as the source has them: numbers stay numbers
    probs.columns = [names[name] for name in probs.columns]
    return Transfer(model, adata, probs.idxmax(axis=1).rename(labels_key), probs)
