"""Checks of arguments, and the sentences that name what is wrong with one."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np


def near_matches(name: str, known: Iterable) -> str:
    """A phrase that lists the known names, the nearest first, for the end of a message."""
    known = [str(k) for k in known]
    if not known:
        return "There are none."
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(map(repr, near))}?"
    shown = ", ".join(map(repr, known[:10])) + (", ..." if len(known) > 10 else "")
    return f"Known: {shown}."


def shown(value: object) -> str:
    """How a message shows a value: NumPy's numbers as the numbers they are."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def check_choice(argument: str, value: object, choices: Iterable[str]) -> None:
    """Raise ValueError unless ``value`` is one of ``choices``."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{argument}={shown(value)} is not known. {near_matches(str(value), choices)}"
        )


def check_options(argument: str, options: Mapping | None, known: Iterable[str], owner: str) -> None:
    """Raise ValueError unless ``options`` is a dict of names that ``owner`` takes, or None."""
    if options is not None and not isinstance(options, Mapping):
        raise ValueError(f"{argument} must be a dict of options, but is {shown(options)}.")
    known = list(known)
    for name in options or ():
        if name not in known:
            raise ValueError(
                f"{argument}: {owner} has no option {name!r}. {near_matches(name, known)}"
            )


def check_positive(argument: str, value: float, integer: bool = True) -> None:
    """Raise ValueError unless ``value`` is a positive number (an integer by default)."""
    kinds = (int, np.integer) if integer else (int, float, np.integer, np.floating)
    if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:
        kind = "positive whole number" if integer else "positive number"
        raise ValueError(f"{argument} must be a {kind}, but is {shown(value)}.")


def check_count(argument: str, value: int) -> None:
    """Raise ValueError unless ``value`` is a whole number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise ValueError(f"{argument} must be a whole number of at least 0, but is {shown(value)}.")


def check_weight(argument: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a finite number of at least 0."""
    if not _is_number(value) or not 0 <= value < float("inf"):
        raise ValueError(f"{argument} must be a number of at least 0, but is {shown(value)}.")


def check_bool(argument: str, value: object) -> None:
    """Raise ValueError unless ``value`` is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{argument} must be True or False, but is {shown(value)}.")


def check_rate(argument: str, value: float) -> None:
    """Raise ValueError unless ``value`` lies in [0, 1)."""
    if not _is_number(value) or not 0.0 <= value < 1.0:
        raise ValueError(f"{argument} must lie in [0, 1), but is {shown(value)}.")


def check_share(argument: str, value: float) -> None:
    """Raise ValueError unless ``value`` lies between 0 and 1, neither of which is meant."""
    if not _is_number(value) or not 0.0 < value < 1.0:
        raise ValueError(f"{argument} must lie between 0 and 1, but is {shown(value)}.")


def check_settings(settings: Any) -> None:
    """Check a dataclass by its annotations: ``int`` is positive, ``float`` a weight.

    Raises
    ------
    ValueError
        If one of its numbers is not.
    """
    for field in fields(settings):
        value = getattr(settings, field.name)
        if field.type in (int, "int"):
            check_positive(field.name, value)
        elif field.type in (float, "float"):
            check_weight(field.name, value)


def made(argument: str, name: str, classes: Mapping[str, type], options: Mapping | None) -> Any:
    """An instance of the dataclass that has a name, with settings given as ``<argument>_kwargs``.

    Raises
    ------
    ValueError
        If there is none of that name, or it has no such setting.
    """
    check_choice(argument, name, classes)
    known = [field.name for field in fields(classes[name])]
    check_options(f"{argument}_kwargs", options, known, f"{argument}={name!r}")
    return classes[name](**(options or {}))


def _is_number(value: object) -> bool:
    kinds = (int, float, np.integer, np.floating)
    return isinstance(value, kinds) and not isinstance(value, bool)


def check_stages(stages: object) -> None:
    """Raise unless ``stages`` is a list of (learning rate, epochs) pairs."""
    message = "stages must be a list of (learning rate, epochs) pairs, e.g. [(1e-3, 20), (1e-4, 5)]"
    if isinstance(stages, str | Mapping) or not isinstance(stages, Sequence) or not stages:
        raise ValueError(f"{message}, but is {stages!r}.")
    for stage in stages:
        if not isinstance(stage, Sequence) or len(stage) != 2:
            raise ValueError(f"{message}; {stage!r} is not such a pair.")
        check_positive("the learning rate of a stage", stage[0], integer=False)
        check_positive("the number of epochs of a stage", stage[1])


def check_new_name(kind: str, cls: type, known: Mapping[str, type]) -> None:
    """Raise ValueError if another class has the name; one that is defined anew may replace itself.

    Parameters
    ----------
    kind
        What the message calls it.
    cls
        Class with a ``name``.
    known
        Classes by their names.
    """
    there = known.get(cls.name)
    path = f"{cls.__module__}.{cls.__qualname__}"
    if there is None or f"{there.__module__}.{there.__qualname__}" == path:
        return
    raise ValueError(
        f"The {kind} {cls.name!r} is there already ({there.__module__}.{there.__qualname__}). "
        "Choose another name."
    )


def told_by_class(method: Callable) -> Callable:
    """A class method whose complaints about its arguments name the class that was called.

    The interpreter's own name the base class that has the method, which users do not know.
    """
    parameters = list(inspect.signature(method).parameters.values())[1:]
    known = [p.name for p in parameters]
    first = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    others = [f"{name}=..." for name in known if name not in first][:4]

    @functools.wraps(method)
    def checked(cls: type, *args: Any, **options: Any) -> Any:
        called = f"{cls.__name__}.{method.__name__}"
        if len(args) > len(first):
            named = f" Name the others: {', '.join(others)}." if others else ""
            raise TypeError(f"{called} takes {', '.join(first)} by position and no more.{named}")
        for name in options:
            if name not in known:
                raise TypeError(f"{called} has no argument {name!r}. {near_matches(name, known)}")
        return method(cls, *args, **options)

    return checked
