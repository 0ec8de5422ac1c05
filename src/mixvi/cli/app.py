"""The command line: what all commands share, and how errors are shown.

Models are imported by the command that needs them, so that help comes at once.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

INTERRUPTED = 130  # 128 + SIGINT, as shells say it
_USER_ERRORS = (ValueError, KeyError, TypeError, OSError, FloatingPointError, ImportError)


class Interrupted(Exception):
    """Ctrl-C, with what is left of the work."""


class _Commands(TyperGroup):
    def invoke(self, ctx: typer.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise Interrupted(f"{interrupt or 'Interrupted.'} Nothing was written.") from None


app = typer.Typer(
    cls=_Commands,
    help="Mixture-prior variational inference for AnnData.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"mixvi {version('mixvi')}")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    output: Annotated[Path, typer.Option(help="Directory for the results.")] = Path("mixvi-demo"),
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 100,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress bars.")] = False,
) -> None:
    """Train on real cells and write annotated h5ad files, figures and a report."""
    from mixvi.demo import run_demo

    run_demo(output, epochs=epochs, progress=not quiet)


def check_outputs(source: Path, overwrite: bool, *paths: Path) -> None:
    """Raise if an output is the input, or is there already."""
    for path in paths:
        if path.exists() and source.exists() and path.samefile(source):
            raise ValueError(f"{path} is the input, which is never changed. Name another output.")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists already. Pass --overwrite or another path.")


def wrote(path: Path) -> None:
    """Say what was written."""
    Console(stderr=True, soft_wrap=True).print(f"Wrote {path}", markup=False)


def say(text: object) -> None:
    """Say a line about the work."""
    line = " ".join(str(text).split())
    Console(stderr=True, soft_wrap=True).print(f"mixvi: {line}", markup=False)


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    say(f"warning: {message}")


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 2."""
    warnings.showwarning = _show_warning
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        # for who writes libraries, not for who calls a command
        warnings.simplefilter("ignore", category)
    try:
        app()
    except Interrupted as stopped:
        say(stopped)
        sys.exit(INTERRUPTED)
    except _USER_ERRORS as error:
        say(error.args[0] if isinstance(error, KeyError) and error.args else error)
        sys.exit(2)
