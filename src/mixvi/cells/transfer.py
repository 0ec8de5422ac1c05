"""Labels of one study for the cells of another (Kolb 2022, section 9.2; spec 9.6)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from anndata import AnnData, concat

from mixvi.cells.gmvae import GMVAE
from mixvi.cells.rebalancing import balanced_indices
from mixvi.core.data import checks

UNLABELLED = "Unknown"


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
    source: AnnData, target: AnnData, labels_key: str, *, study_key: str = "study"
) -> AnnData:
    """Both studies on their common genes, labels of the target hidden.

    Parameters
    ----------
    source
        Labelled cells.
    target
        Cells to label; its own ``obs[labels_key]``, if any, is not carried over.
    labels_key
        Column of ``source.obs``.
    study_key
        Column of the result: ``"source"`` or ``"target"``.

    Returns
    -------
    AnnData with ``X``, ``obs[labels_key]`` (``"Unknown"`` in the target) and ``obs[study_key]``;
    cell names end in ``-source`` and ``-target``.

    Raises
    ------
    KeyError
        If the label column is missing.
    ValueError
        If the studies share no gene names, or names repeat.
    """
    checks.check_categories(source, labels_key, "labels_key")
    for name, study in (("source", source), ("target", target)):
        if not study.var_names.is_unique:
            raise ValueError(
                f"Gene names of {name} repeat; call {name}.var_names_make_unique() first."
            )
    common = source.var_names.intersection(target.var_names, sort=False)
    if len(common) == 0:
        raise ValueError(
            "source and target share no gene names: source has e.g. "
            f"{source.var_names[0]!r}, target {target.var_names[0]!r}. Name genes alike in both, "
            "symbols or Ensembl identifiers."
        )
    parts = {}
    for name, study in (("source", source), ("target", target)):
        part = AnnData(study[:, common].X.copy(), var=pd.DataFrame(index=common))
        part.obs_names = study.obs_names
        labels = study.obs[labels_key].astype(str).to_numpy() if name == "source" else UNLABELLED
        part.obs[labels_key] = pd.Categorical(np.broadcast_to(labels, study.n_obs))
        parts[name] = part
    return concat(parts, label=study_key, index_unique="-")


def transfer_labels(
    source: AnnData,
    target: AnnData,
    labels_key: str,
    *,
    study_as_batch: bool = True,
    n_per_label: int | None = 300,
    model_kwargs: dict | None = None,
    seed: int = 0,
    **train_kwargs,
) -> Transfer:
    """Label the cells of ``target`` by semi-supervised training across both studies.

    Parameters
    ----------
    source, target, labels_key
        See :func:`join_studies`. Labels may as well be a clustering of the source.
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
    adata = join_studies(source, target, labels_key)
    GMVAE.setup_anndata(
        adata,
        labels_key=labels_key,
        unlabeled_category=UNLABELLED,
        batch_key="study" if study_as_batch else None,
    )
    n_labels = source.obs[labels_key].nunique()
    model = GMVAE(adata, **({"n_components": n_labels} | (model_kwargs or {})))
    indices = np.arange(adata.n_obs)
    if n_per_label is not None:
        labels = source.obs[labels_key].astype(str)
        drawn = balanced_indices(labels, n_per_label, seed=seed)
        # the source's rows come first in the joint data
        indices = np.concatenate([drawn, indices[source.n_obs :]])
    model.train(mode="semi", indices=indices, **train_kwargs)
    model.annotate(adata)
    ours = np.arange(source.n_obs, adata.n_obs)
    probs = model.predict(adata, ours, level="label", soft=True)
    probs.index = target.obs_names
    return Transfer(model, adata, probs.idxmax(axis=1).rename(labels_key), probs)
