"""How a model shows itself: as text, as a card in notebooks, and what it was set up with."""

from __future__ import annotations

import inspect
from html import escape
from typing import Any

from anndata import AnnData
from rich.console import Console
from rich.pretty import Pretty
from scvi.data import AnnDataManager

# the verbs that a trained model is asked for most, in the order of their use
NEXT_CALLS = {
    "predict": "predict()",
    "get_latent_representation": "get_latent_representation()",
    "differential_expression": "differential_expression(...)",
    "counterfactual": "counterfactual(to=...)",
    "sample": "sample(n)",
    "annotate": "annotate()",
    "save": "save(directory)",
}
# what is said of the last epoch, where it was recorded
LAST_RECORDS = ("train_loss", "elbo_validation", "accuracy_train")
LONGEST_LIST = 6


class CardMixin:
    """``repr``, the card of notebooks and ``view_anndata_setup`` of every model."""

    @property
    def summary_string(self) -> str:
        """What the model is, its data, settings and training, and what to call next."""
        rows = self._card_rows()
        width = max(map(len, rows)) + 2
        lines = [f"  {name + ':':<{width}}{text}" for name, text in rows.items()]
        return "\n".join([self._model_summary_string, *lines])

    def __repr__(self) -> str:
        return self.summary_string

    def _repr_html_(self) -> str:
        """The same as a table, with all settings to unfold."""
        cell = "padding: 0.15em 0.8em 0.15em 0; text-align: left; vertical-align: top"
        rows = "".join(
            f'<tr><th style="{cell}">{escape(name)}</th><td style="{cell}">{escape(text)}</td></tr>'
            for name, text in self._card_rows().items()
        )
        settings = "<br/>".join(escape(f"{k}={v!r}") for k, v in self.init_params_.items())
        return (
            '<div style="border: 1px solid currentColor; border-radius: 0.4em; '
            'padding: 0.6em 1em; display: inline-block">'
            f"<strong>{escape(self._model_summary_string)}</strong>"
            f'<table style="margin: 0.4em 0; border: none">{rows}</table>'
            f"<details><summary>All settings</summary><code>{settings}</code></details></div>"
        )

    def _card_rows(self) -> dict[str, str]:
        """Names and texts of the card's rows; subclasses add to them."""
        rows = {"Data": self._data_text(), "Settings": self._settings_text()}
        rows["Training"] = self._training_text()
        if components := self._components_text():
            rows["Components"] = components
        return rows | {"Next": self._next_text()}

    def _data_text(self) -> str:
        """Size of the data, and the keys they were registered by."""
        size = "not loaded" if self.adata is None else f"{self.adata.n_obs:,} rows"
        keys = {k: v for k, v in self._setup_args.items() if v is not None}
        return "; ".join([size, *(f"{k}={v!r}" for k, v in keys.items())])

    def _settings_text(self) -> str:
        parameters = inspect.signature(type(self).__init__).parameters
        changed = {
            name: value
            for name, value in self.init_params_.items()
            if name not in parameters or value != parameters[name].default
        }
        return ", ".join(f"{k}={v!r}" for k, v in changed.items()) or "all defaults"

    def _training_text(self) -> str:
        if not self.is_trained_:
            return "not trained"
        tables = self.history_ if isinstance(self.history_, dict) else {}
        epochs = max((len(table) for table in tables.values()), default=0)
        of_last = [f"{name} {_last(tables[name]):.4g}" for name in LAST_RECORDS if name in tables]
        text = "trained" if not epochs else f"{epochs} epoch{'s' if epochs > 1 else ''}"
        return text + (f"; in the last: {', '.join(of_last)}" if of_last else "")

    def _components_text(self) -> str | None:
        """How many components or clusters are in use, for models that have some."""
        return None

    def _next_text(self) -> str:
        if not self.is_trained_:
            return "model.train()"
        return ", ".join(
            f"model.{call}" for verb, call in NEXT_CALLS.items() if hasattr(self, verb)
        )

    def view_anndata_setup(
        self, adata: AnnData | None = None, hide_state_registries: bool = False
    ) -> None:
        """Print what was registered, and the codes of the categories.

        Parameters
        ----------
        adata
            An AnnData that the model has seen; default that of the model, or, for a model that was
            loaded without data, what it remembers of them.
        hide_state_registries
            Leave out the codes.

        Raises
        ------
        ValueError
            If the AnnData was never given to the model.
        """
        manager = self.adata_manager
        if adata is not None:
            manager = self.get_anndata_manager(adata, required=False)
            if manager is None:
                raise ValueError(
                    f"This AnnData was not registered with the {type(self).__name__}. Call one of "
                    "its verbs with it first, e.g. get_latent_representation(adata)."
                )
        registry = self.registry if manager is None else manager.registry
        # names of categories are text, whatever brackets are in them
        console = Console(markup=False, highlight=False)
        console.print(f"Set up with scvi-tools {registry['scvi_version']} by")
        console.print(f"{registry['model_name']}.setup_anndata(adata, **arguments), arguments =")
        console.print(Pretty(dict(registry["setup_args"])))
        stats = AnnDataManager._get_summary_stats_from_registry(registry)
        console.print(self._view_summary_stats(stats))
        found = AnnDataManager._get_data_registry_from_registry(registry)
        console.print(self._view_data_registry(found))
        if hide_state_registries:
            return
        for field in self._fields(registry["setup_args"]) if manager is None else manager.fields:
            state = registry["field_registries"][field.registry_key]["state_registry"]
            table = field.view_state_registry(state)
            if table is not None:
                console.print(table)

    def view_registry(self, hide_state_registries: bool = False) -> None:
        """As :meth:`view_anndata_setup`, of the model's own data."""
        self.view_anndata_setup(hide_state_registries=hide_state_registries)


def _last(table: Any) -> float:
    """The last value of a table of epoch records."""
    return float(table.iloc[-1, 0])


def listed(values: list) -> str:
    """A list as text, by its first values."""
    shown = ", ".join(map(str, values[:LONGEST_LIST]))
    return shown + (", ..." if len(values) > LONGEST_LIST else "")
