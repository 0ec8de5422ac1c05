"""Docstrings that explain every argument where it is.

A docstring explains what is particular to it. An argument that it leaves out is explained as in the
same verb of a base class, or else in the words that all models share. :func:`explain_arguments`
writes both into the docstring when the class is made, so that ``help`` and the documentation have
them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from itertools import groupby

SHARED = """
adata
    Cells or images as :meth:`setup_anndata` registers them; default those that the model was built
    on.
indices
    Rows, by number or as a boolean mask; default all.
batch_size
    Rows that are computed at a time; default ``scvi.settings.batch_size``, fewer where
    series of images are large.
n_hidden
    Width of the hidden layers of every network.
n_layers
    Number of hidden layers of every network.
dropout_rate
    Share of the hidden units that are dropped in training.
use_batch_norm
    Whether hidden layers have batch norm.
likelihood
    What the decoder says of a cell. ``"auto"``: ``"nb"`` where the registered matrix holds whole
    numbers alone, which a line says; else ``"gaussian"``. Raw counts: ``"nb"``, ``"zinb"`` or
    ``"poisson"``; log-normalised or scaled values: ``"gaussian"``, ``"gaussian_sigma"`` or
    ``"mse"``; values between 0 and 1: ``"bernoulli"``. See :mod:`mixvi.core.maths.likelihoods`.
output_activation
    ``"relu"`` or ``"softplus"`` for Gaussian likelihoods on data that are never negative.
sigma
    With ``"gaussian_sigma"``, the scale: ``"shared"`` by all genes, one a ``"feature"``, or
    ``"analytic"``, the optimum of each minibatch.
dispersion
    With ``"nb"`` and ``"zinb"``: one a ``"gene"``, or one a gene and batch (``"gene-batch"``).
inject_covariates
    Feed covariates to every layer instead of the first.
registry
    Registry of a saved model, which :meth:`load` passes on.
accelerator
    Where the model is put, as in lightning: ``"cpu"``, ``"gpu"``, ``"mps"`` or ``"auto"``.
device
    Which device of the accelerator; ``"auto"``: the first.
"""

# names that share a text, and the text's lines
Entry = tuple[list[str], list[str]]


def explain_arguments(cls: type, section: str = "Parameters") -> None:
    """Complete the docstrings of a class and of its public methods.

    Parameters
    ----------
    cls
        The class; what it inherits from mixvi is completed, too.
    section
        Where the class's own arguments stand: ``"Parameters"``, or ``"Attributes"`` of dataclasses,
        whose annotated fields are their arguments.
    """
    names = _fields(cls) if section == "Attributes" else _names(cls.__init__)
    cls.__doc__ = completed(cls.__doc__, names, [b.__doc__ for b in cls.__mro__[1:]], section)
    for i, base in enumerate(cls.__mro__):
        if not base.__module__.startswith("mixvi"):
            continue
        for name, value in vars(base).items():
            function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            if inspect.isfunction(function) and function.__doc__ and not name.startswith("_"):
                above = [getattr(vars(b).get(name), "__doc__", None) for b in cls.__mro__[i + 1 :]]
                function.__doc__ = completed(function.__doc__, _names(function), above)


def completed(
    doc: str | None, names: list[str], sources: Iterable[str | None], section: str = "Parameters"
) -> str:
    """A docstring that has an entry for each name that a source or ``SHARED`` explains.

    Parameters
    ----------
    doc
        NumPy-style docstring.
    names
        Arguments in order, with the stars of a variable number.
    sources
        Docstrings that may explain them, nearest first.
    section
        The section's title.
    """
    parts = _sections(doc)
    entries = _entries(parts.get(section, ""))
    known = {name for group, _ in entries for name in group}
    texts = {name: text for group, text in _entries(SHARED) for name in group}
    for source in reversed(list(sources)):
        found = _entries(_sections(source).get(section, ""))
        texts |= {name: text for group, text in found for name in group}
    missing = [name for name in names if name not in known and name in texts]
    entries += [(list(group), text) for text, group in groupby(missing, texts.get)]
    if not missing:
        return inspect.cleandoc(doc or "")
    entries.sort(key=lambda entry: min(names.index(n) if n in names else 99 for n in entry[0]))
    text = "\n".join(", ".join(group) + "\n" + "\n".join(lines) for group, lines in entries)
    # after the introduction, if there was no such section
    parts = {"": parts.pop(""), section: text} | parts | {section: text}
    heads = [f"{title}\n{'-' * len(title)}\n" if title else "" for title in parts]
    return "\n\n".join(head + body for head, body in zip(heads, parts.values(), strict=True)) + "\n"


def _sections(doc: str | None) -> dict[str, str]:
    """Text of each section by title; what stands before the first is called ``""``."""
    sections, title, body = {}, "", []
    for line in inspect.cleandoc(doc or "").splitlines():
        if line and not line.strip("-") and body and body[-1]:
            *body, following = body
            sections[title] = "\n".join(body).strip("\n")
            title, body = following, []
        else:
            body.append(line)
    return sections | {title: "\n".join(body).strip("\n")}


def _entries(text: str) -> list[Entry]:
    """The entries of a section."""
    entries = []
    for line in text.splitlines():
        if line and not line.startswith(" "):
            entries.append(([name.strip() for name in line.split(" : ")[0].split(",")], []))
        elif entries:
            entries[-1][1].append(line)
    return entries


def _names(function: Callable) -> list[str]:
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    parameters = inspect.signature(function).parameters.values()
    return [stars.get(p.kind, "") + p.name for p in parameters if p.name not in ("self", "cls")]


def _fields(cls: type) -> list[str]:
    """Annotated fields of a dataclass and its bases, those of a base first."""
    hints = {}
    for base in reversed(cls.__mro__):
        hints |= inspect.get_annotations(base)
    return [name for name, hint in hints.items() if "ClassVar" not in str(hint)]
