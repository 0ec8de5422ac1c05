"""The commands of cells: ``mixvi train``, ``annotate`` and ``counterfactual``.

An option that is left out is not passed on: its default is the model's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from mixvi.cli.app import Interrupted, app, check_outputs, say, wrote

MODELS = ("gmvae", "cgmvae", "vae", "cvae", "ae")
RESIDUALS = {"auto": "auto", "yes": True, "no": False, "centred": "centred"}


def _in_panel(panel: str) -> Callable:
    def option(text: str, default: str | bool = False) -> Any:
        return typer.Option(help=text, show_default=default, rich_help_panel=panel)

    return option


_data, _model, _training = _in_panel("Data"), _in_panel("Model"), _in_panel("Training")
Input = Annotated[Path, typer.Argument(help="Cells (h5ad). Never changed.", metavar="CELLS.h5ad")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]


@app.command()
def train(
    context: typer.Context,
    cells: Input,
    model_dir: Annotated[Path, typer.Option("--model-dir", help="Where the model is saved.")],
    output: Annotated[
        Path | None, typer.Option(help="Annotated cells (h5ad); default MODEL_DIR/annotated.h5ad.")
    ] = None,
    overwrite: Overwrite = False,
    layer: Annotated[str | None, _data("Layer to read.", "X")] = None,
    labels_key: Annotated[str | None, _data("Column of known labels.")] = None,
    unlabeled_category: Annotated[
        str | None, _data("Its value for cells without a label.", "Unknown")
    ] = None,
    condition_key: Annotated[
        list[str] | None, _data("Column of the condition; repeated, several that combine.")
    ] = None,
    batch_key: Annotated[str | None, _data("Column of the nuisance batch.")] = None,
    categorical_covariate_keys: Annotated[
        list[str] | None, _data("Further nuisance columns of categories; may be repeated.")
    ] = None,
    continuous_covariate_keys: Annotated[
        list[str] | None, _data("Further nuisance columns of numbers; may be repeated.")
    ] = None,
    size_factor_key: Annotated[str | None, _data("Column of size factors.")] = None,
    model: Annotated[str, _model(f"One of {', '.join(MODELS)}.", True)] = "gmvae",
    likelihood: Annotated[
        str | None,
        _model(
            "nb, zinb, poisson (raw counts); gaussian, gaussian_sigma, mse, bernoulli; or auto.",
            "auto",
        ),
    ] = None,
    output_activation: Annotated[
        str | None, _model("relu or softplus, for other data >= 0.")
    ] = None,
    n_components: Annotated[
        int | None, _model("Number of components.", "as the data carry; 2 x labels")
    ] = None,
    n_latent_z: Annotated[
        int | None,
        typer.Option(
            "--n-latent-z",
            "--n-latent",
            help="Size of the latent z.",
            show_default="12",
            rich_help_panel="Model",
        ),
    ] = None,
    n_latent_w: Annotated[int | None, _model("Size of the style latent w.", "12")] = None,
    n_hidden: Annotated[int | None, _model("Width of layers.", "256")] = None,
    n_layers: Annotated[int | None, _model("Hidden layers.", "2")] = None,
    dropout_rate: Annotated[float | None, _model("Share of units dropped.", "0.15")] = None,
    y_prior: Annotated[
        str | None, _model("Of components: dirichlet or categorical.", "dirichlet")
    ] = None,
    y_posterior: Annotated[str | None, _model("network or bayes.", "network")] = None,
    d_term: Annotated[str | None, _model("analytic, sample or collapsed.", "analytic")] = None,
    alpha: Annotated[float | None, _model("Dirichlet concentration.", "1.0")] = None,
    w_prior: Annotated[str | None, _model("cgmvae: standard or learned.", "standard")] = None,
    condition_in: Annotated[
        str | None, _model("cgmvae: networks that see the condition, all or x_only.", "all")
    ] = None,
    w_free_bits: Annotated[
        float | None, _model("Nats that a dimension of w has for free.", "0.0")
    ] = None,
    classification_weight: Annotated[
        float | None, _model("Weight of labels against expression.", "50, cgmvae 1")
    ] = None,
    components_per_class: Annotated[int | None, _model("Components of each label.", "1")] = None,
    mode: Annotated[
        str | None, _training("auto, supervised, semi or unsupervised.", "auto")
    ] = None,
    init: Annotated[
        str | None,
        _training("Start of the components: auto, kmeans, leiden, discriminant or none.", "auto"),
    ] = None,
    init_epochs: Annotated[
        int | None, _training("Epochs of that start.", "by the number of cells; discriminant: 10")
    ] = None,
    max_epochs: Annotated[
        int | None, _training("Passes over the data.", "by the number of cells and labels")
    ] = None,
    stages: Annotated[
        str | None, _training("LR:EPOCHS,... in place of --max-epochs and --lr.")
    ] = None,
    lr: Annotated[float | None, _training("Learning rate.", "0.001; 0.0003 from clusters")] = None,
    weight_decay: Annotated[float | None, _training("Weight decay.", "0.0")] = None,
    batch_size: Annotated[int | None, _training("Cells a minibatch.", "128")] = None,
    early_stopping: Annotated[
        bool | None,
        typer.Option(
            "--early-stopping",
            help="Stop when held-out cells no longer improve.",
            rich_help_panel="Training",
        ),
    ] = None,
    train_size: Annotated[
        float | None, _training("Share of the cells.", "1, or 0.9 with early stopping")
    ] = None,
    labelled_fraction: Annotated[
        float | None, _training("Share of labelled cells a minibatch.", "as they come")
    ] = None,
    label_weighting: Annotated[str | None, _training("rows or groups.", "rows")] = None,
    checkpoint_dir: Annotated[
        Path | None, _training("Directory for a checkpoint an epoch.")
    ] = None,
    resume: Annotated[
        bool | None,
        typer.Option(
            "--resume",
            help="Go on with the run in --checkpoint-dir.",
            rich_help_panel="Training",
        ),
    ] = None,
    accelerator: Annotated[str | None, _training("auto, cpu, gpu or mps.", "auto")] = None,
    data_on: Annotated[
        str | None, _training("Where the data lie: auto, host or device.", "auto")
    ] = None,
    seed: Annotated[int, _training("Of all random numbers.", True)] = 0,
) -> None:
    """Train a model; save it, and the cells annotated with what it found."""
    output = output or model_dir / "annotated.h5ad"
    check_outputs(cells, overwrite, model_dir, output)
    cls = _model_class(model)
    setup, options, fitting = _sort_options(context, model, cls)
    if "stages" in fitting:
        fitting["stages"] = _parse_stages(fitting["stages"])
    if fitting.get("init") == "none":
        fitting["init"] = None
    adata = _read(cells)

    import scvi

    scvi.settings.seed = seed
    cls.setup_anndata(adata, **setup)
    fitted = cls(adata, **options)
    stopped = None
    try:
        fitted.train(**fitting)
    except KeyboardInterrupt as interrupt:
        if not fitted.is_trained:
            raise
        stopped = interrupt
    fitted.annotate()
    fitted.save(model_dir, overwrite=overwrite)
    _write(adata, output)
    if stopped is not None:
        raise Interrupted(f"{stopped} It is saved in {model_dir}.")


@app.command()
def annotate(
    model_dir: Annotated[Path, typer.Argument(help="A saved model.")],
    cells: Input,
    output: Annotated[Path, typer.Option(help="Annotated cells (h5ad).")],
    reconstruction: Annotated[
        bool, typer.Option("--reconstruction", help="Write the reconstruction as a layer too.")
    ] = False,
    key_added: Annotated[
        str | None, typer.Option(help="What keys are named for.", show_default="model's name")
    ] = None,
    reject: Annotated[
        float | None,
        typer.Option(
            help="gmvae, cgmvae: share of cells of known types that may be called Unknown; novelty "
            "is written, too.",
            show_default="none",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write a model's latents, components and predictions into new cells."""
    check_outputs(cells, overwrite, output)
    adata = _read(cells)
    model = _load(model_dir, adata)
    options = {} if reject is None else {"reject": reject}
    model.annotate(key_added=key_added, reconstruction=reconstruction, **options)
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
    route: Annotated[
        str | None, typer.Option(help="cgmvae: shift, w or z.", show_default="shift")
    ] = None,
    keep_residual: Annotated[
        str | None,
        typer.Option(
            help="cgmvae: keep what the model leaves unexplained of each cell: auto, yes, no or "
            "centred.",
            show_default="auto",
        ),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="cgmvae: auto, observed or predicted.", show_default="auto")
    ] = None,
    correct_means: Annotated[
        bool | None,
        typer.Option(
            "--correct-means/--no-correct-means",
            help="cgmvae: correct the decoder's means by what they miss of the training cells.",
            show_default="with route shift",
        ),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write the cells as they would be under another condition."""
    from mixvi.core.arguments import near_matches
    from mixvi.core.data.combinations import names_of_cells

    check_outputs(cells, overwrite, output)
    if keep_residual is not None and keep_residual not in RESIDUALS:
        raise ValueError(
            f"--keep-residual is {keep_residual!r}, but may be {', '.join(RESIDUALS)}."
        )
    adata = _read(cells)
    model = _load(model_dir, adata)
    name = type(model).__name__
    if not hasattr(model, "counterfactual"):
        raise ValueError(
            f"{model_dir} holds a {name}, which knows no conditions. Train a cgmvae or cvae."
        )
    indices = None
    if from_condition is not None:
        key = model.condition_key
        found = names_of_cells(adata.obs, key)
        indices = found == from_condition
        if not indices.any():
            near = near_matches(from_condition, set(found))
            raise ValueError(f"No cell of obs[{key!r}] is {from_condition!r} (--from). {near}")
    options = _given(context, ("route", "keep_residual", "labels", "correct_means"))
    _refuse_unused(name.lower(), set(options) - _arguments(model.counterfactual))
    if keep_residual is not None:
        options["keep_residual"] = RESIDUALS[keep_residual]
    _write(model.counterfactual(to=to, indices=indices, **options), output)


def _given(context: typer.Context, names: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Options that the user typed, by name."""
    return {
        name: value
        for name, value in context.params.items()
        if (names is None or name in names)
        and context.get_parameter_source(name).name == "COMMANDLINE"
    }


def _arguments(function: Callable) -> set[str]:
    return set(inspect.signature(function).parameters)


def _sort_options(context: typer.Context, model: str, cls: type) -> tuple[dict, dict, dict]:
    """Arguments of ``setup_anndata``, the class and ``train``; an option of none is refused."""
    given = _given(context)
    for own in ("cells", "model_dir", "output", "overwrite", "model", "seed"):
        given.pop(own, None)
    if "n_latent_z" in given and "n_latent_z" not in _arguments(cls):
        given["n_latent"] = given.pop("n_latent_z")
    takers = (cls.setup_anndata, cls, cls.train)
    sorted_options = tuple(
        {name: value for name, value in given.items() if name in _arguments(taker)}
        for taker in takers
    )
    _refuse_unused(model, set(given).difference(*sorted_options))
    return sorted_options


def _refuse_unused(model: str, names: set[str]) -> None:
    if names:
        option = min(names).replace("_", "-")
        raise ValueError(f"--{option} means nothing to {model}. Leave it out.")


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
    cls = getattr(mixvi, name)
    _bring_genes(cls, model_dir, adata)
    return cls.load(model_dir, adata)


def _bring_genes(cls: type, model_dir: Path, adata) -> None:
    """Bring cells onto the model's genes, which a shell has no way to, and say so."""
    genes = cls.prepare_query_anndata(adata, model_dir, return_reference_var_names=True)
    n = adata.n_vars
    if n == len(genes) and (adata.var_names.astype(str) == genes.astype(str)).all():
        return
    cls.prepare_query_anndata(adata, model_dir)
    say(f"cells have {n} genes; the model's {len(genes)} are read and written, in its order.")


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
    wrote(path)


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
