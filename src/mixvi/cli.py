"""The command line: ``mixvi demo``, ``train``, ``annotate`` and ``counterfactual``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    help="Mixture-prior variational inference for AnnData.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

MODELS = ("gmvae", "cgmvae", "vae", "cvae", "ae")
_MIXTURES = ("gmvae", "cgmvae")
_FOR_MIXTURES = (
    "n_components",
    "n_latent_w",
    "y_prior",
    "y_posterior",
    "d_term",
    "alpha",
    "mode",
    "labelled_fraction",
    "label_weighting",
)
_USER_ERRORS = (ValueError, KeyError, TypeError, OSError, FloatingPointError)

DATA = "Data"
MODEL = "Model"
TRAINING = "Training"
Input = Annotated[Path, typer.Argument(help="Cells (h5ad). Never changed.", metavar="CELLS.h5ad")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]


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


@app.command()
def train(
    context: typer.Context,
    cells: Input,
    model_dir: Annotated[Path, typer.Option("--model-dir", help="Where the model is saved.")],
    output: Annotated[
        Path | None, typer.Option(help="Annotated cells (h5ad); default MODEL_DIR/annotated.h5ad.")
    ] = None,
    model: Annotated[
        str, typer.Option(help=f"One of {', '.join(MODELS)}.", rich_help_panel=MODEL)
    ] = "gmvae",
    layer: Annotated[
        str | None, typer.Option(help="Layer to read; default X.", rich_help_panel=DATA)
    ] = None,
    labels_key: Annotated[
        str | None, typer.Option(help="Column of known labels.", rich_help_panel=DATA)
    ] = None,
    unlabeled_category: Annotated[
        str, typer.Option(help="Its value for cells without a label.", rich_help_panel=DATA)
    ] = "Unknown",
    condition_key: Annotated[
        str | None, typer.Option(help="Column of the condition.", rich_help_panel=DATA)
    ] = None,
    batch_key: Annotated[
        str | None, typer.Option(help="Column of the nuisance batch.", rich_help_panel=DATA)
    ] = None,
    size_factor_key: Annotated[
        str | None, typer.Option(help="Column of size factors.", rich_help_panel=DATA)
    ] = None,
    likelihood: Annotated[
        str,
        typer.Option(
            help="gaussian, mse, gaussian_sigma, bernoulli, poisson, nb or zinb (raw counts).",
            rich_help_panel=MODEL,
        ),
    ] = "gaussian",
    output_activation: Annotated[
        str | None, typer.Option(help="relu or softplus, for data >= 0.", rich_help_panel=MODEL)
    ] = None,
    n_components: Annotated[
        int | None,
        typer.Option(help="Default: 2 x labels, or 20 without labels.", rich_help_panel=MODEL),
    ] = None,
    n_latent: Annotated[int, typer.Option(help="Size of z.", rich_help_panel=MODEL)] = 12,
    n_latent_w: Annotated[int, typer.Option(help="Size of w.", rich_help_panel=MODEL)] = 12,
    n_hidden: Annotated[int, typer.Option(help="Width of layers.", rich_help_panel=MODEL)] = 256,
    n_layers: Annotated[int, typer.Option(help="Hidden layers.", rich_help_panel=MODEL)] = 2,
    dropout_rate: Annotated[float, typer.Option(rich_help_panel=MODEL)] = 0.15,
    y_prior: Annotated[
        str, typer.Option(help="dirichlet or categorical.", rich_help_panel=MODEL)
    ] = "dirichlet",
    y_posterior: Annotated[
        str, typer.Option(help="network or bayes.", rich_help_panel=MODEL)
    ] = "network",
    d_term: Annotated[
        str, typer.Option(help="analytic, sample or collapsed.", rich_help_panel=MODEL)
    ] = "analytic",
    alpha: Annotated[
        float, typer.Option(help="Dirichlet concentration.", rich_help_panel=MODEL)
    ] = 1.0,
    w_prior: Annotated[
        str, typer.Option(help="cgmvae: standard or learned.", rich_help_panel=MODEL)
    ] = "standard",
    mode: Annotated[
        str,
        typer.Option(help="auto, supervised, semi or unsupervised.", rich_help_panel=TRAINING),
    ] = "auto",
    max_epochs: Annotated[
        int | None, typer.Option(help="Passes over the data.", rich_help_panel=TRAINING)
    ] = None,
    stages: Annotated[
        str | None,
        typer.Option(help="LR:EPOCHS,... in place of epochs and lr.", rich_help_panel=TRAINING),
    ] = None,
    lr: Annotated[float, typer.Option(help="Learning rate.", rich_help_panel=TRAINING)] = 1e-3,
    batch_size: Annotated[int, typer.Option(rich_help_panel=TRAINING)] = 128,
    early_stopping: Annotated[
        bool, typer.Option("--early-stopping", rich_help_panel=TRAINING)
    ] = False,
    labelled_fraction: Annotated[
        float | None,
        typer.Option(help="Share of labelled cells a minibatch.", rich_help_panel=TRAINING),
    ] = None,
    label_weighting: Annotated[
        str, typer.Option(help="rows or groups.", rich_help_panel=TRAINING)
    ] = "rows",
    accelerator: Annotated[
        str, typer.Option(help="auto, cpu, gpu or mps.", rich_help_panel=TRAINING)
    ] = "auto",
    seed: Annotated[int, typer.Option(rich_help_panel=TRAINING)] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a model; save it, and the cells annotated with what it found."""
    import scvi
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    output = output or model_dir / "annotated.h5ad"
    _check_outputs(cells, overwrite, model_dir, output)
    cls = _model_class(model)
    if model not in _MIXTURES:
        _refuse_unused(context, model, _FOR_MIXTURES)
    if model != "cgmvae":
        _refuse_unused(context, model, ("w_prior",))
    adata = _read(cells)
    scvi.settings.seed = seed
    cls.setup_anndata(
        adata,
        layer=layer,
        labels_key=labels_key,
        unlabeled_category=unlabeled_category,
        condition_key=condition_key,
        batch_key=batch_key,
        size_factor_key=size_factor_key,
    )
    options = {
        "likelihood": likelihood,
        "output_activation": output_activation,
        "n_hidden": n_hidden,
        "n_layers": n_layers,
        "dropout_rate": dropout_rate,
    }
    fitting = {
        "stages": _parse_stages(stages),
        "lr": lr,
        "batch_size": batch_size,
        "early_stopping": early_stopping,
        "accelerator": accelerator,
    }
    if model in _MIXTURES:
        options |= {
            "n_components": n_components,
            "n_latent_z": n_latent,
            "n_latent_w": n_latent_w,
            "y_prior": y_prior,
            "y_posterior": y_posterior,
            "d_term": d_term,
            "alpha": alpha,
        }
        fitting |= {
            "mode": mode,
            "labelled_fraction": labelled_fraction,
            "label_weighting": label_weighting,
        }
    else:
        options["n_latent"] = n_latent
    if model == "cgmvae":
        options["w_prior"] = w_prior
    fitted = cls(adata, **options)
    try:
        fitted.train(max_epochs, **fitting)
    except (MisconfigurationException, ModuleNotFoundError) as error:
        raise ValueError(
            f"Training cannot start with --accelerator {accelerator}: {error}"
        ) from None
    fitted.annotate()
    fitted.save(model_dir, overwrite=overwrite)
    _write(adata, output)


@app.command()
def annotate(
    model_dir: Annotated[Path, typer.Argument(help="A saved model.")],
    cells: Input,
    output: Annotated[Path, typer.Option(help="Annotated cells (h5ad).")],
    reconstruction: Annotated[
        bool, typer.Option("--reconstruction", help="Write the reconstruction as a layer too.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a model's latents, components and predictions into new cells."""
    _check_outputs(cells, overwrite, output)
    adata = _read(cells)
    model = _load(model_dir, adata)
    model.annotate(reconstruction=reconstruction)
    _write(adata, output)


@app.command()
def counterfactual(
    context: typer.Context,
    model_dir: Annotated[Path, typer.Argument(help="A saved cgmvae or cvae.")],
    cells: Input,
    output: Annotated[Path, typer.Option(help="Converted cells (h5ad).")],
    to: Annotated[str, typer.Option(help="The target condition.")],
    from_condition: Annotated[
        str | None, typer.Option("--from", help="Convert the cells of this condition alone.")
    ] = None,
    route: Annotated[str, typer.Option(help="cgmvae: w or z.")] = "w",
    labels: Annotated[str, typer.Option(help="cgmvae: auto, observed or predicted.")] = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Write the cells as they would be under another condition."""
    _check_outputs(cells, overwrite, output)
    adata = _read(cells)
    model = _load(model_dir, adata)
    if not hasattr(model, "counterfactual"):
        raise ValueError(
            f"{model_dir} holds a {type(model).__name__}, which knows no conditions. "
            "Train a cgmvae or cvae."
        )
    indices = None
    if from_condition is not None:
        key = model.condition_key
        indices = (adata.obs[key].astype(str) == from_condition).to_numpy()
        if not indices.any():
            raise ValueError(f"No cell of obs[{key!r}] is {from_condition!r} (--from).")
    options = {"route": route, "labels": labels}
    if type(model).__name__ != "CGMVAE":
        _refuse_unused(context, type(model).__name__.lower(), tuple(options))
        options = {}
    _write(model.counterfactual(to=to, indices=indices, **options), output)


def _model_class(name: str):
    import mixvi
    from mixvi.core.arguments import check_choice

    check_choice("--model", name, MODELS)
    return getattr(mixvi, name.upper())


def _load(model_dir: Path, adata):
    import mixvi
    from mixvi.core.data.files import read_record

    name = read_record(model_dir)["class"]
    if name not in mixvi.__all__ or name.lower() not in MODELS:
        raise ValueError(f"{model_dir} holds a {name!r} model, which this mixvi does not know.")
    return getattr(mixvi, name).load(model_dir, adata)


def _read(path: Path):
    import anndata

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist.")
    try:
        return anndata.read_h5ad(path)
    except PermissionError:
        raise
    except Exception as error:  # noqa: BLE001, a damaged file raises whatever HDF5 likes
        # anndata's own message is about its constructor or an HDF5 group, not about the file
        raise ValueError(f"{path} cannot be read as h5ad: {error}") from None


def _write(adata, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(path)
    Console(stderr=True, soft_wrap=True).print(f"Wrote {path}", markup=False)


def _check_outputs(cells: Path, overwrite: bool, *paths: Path) -> None:
    for path in paths:
        if path.exists() and cells.exists() and path.samefile(cells):
            raise ValueError(f"{path} is the input, which is never changed. Name another output.")
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path} exists already. Pass --overwrite or another path.")


def _refuse_unused(context: typer.Context, model: str, names: tuple[str, ...]) -> None:
    """Raise ValueError if the user typed an option that the model has no use for."""
    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise ValueError(f"--{name.replace('_', '-')} means nothing to {model}. Leave it out.")


def _parse_stages(text: str | None) -> list[tuple[float, int]] | None:
    if text is None:
        return None
    try:
        pairs = [stage.split(":") for stage in text.split(",")]
        return [(float(rate), int(epochs)) for rate, epochs in pairs]
    except ValueError:
        raise ValueError(
            f"--stages {text!r} is not of the form LR:EPOCHS,LR:EPOCHS, e.g. 1e-3:50,1e-4:10."
        ) from None


def main() -> None:
    """Run the command line; what a user can mend is one line and exit code 2."""
    try:
        app()
    except _USER_ERRORS as error:
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        message = " ".join(str(text).split())
        Console(stderr=True, soft_wrap=True).print(f"mixvi: {message}", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
