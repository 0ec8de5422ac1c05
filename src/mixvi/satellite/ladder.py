"""Tables of hierarchical models: which layer of latents is generated from which.

Latents are ``z_0 = (s, l)``, a segmentation and codes, then maps ``z_1 ... z_{M-1}``; the image is
``z_M``. Hruška 2023, section 3.2: the decoder is itself a U from the segmentation to the
bottleneck and on to the image, and the encoder mirrors its blocks and skips.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

from mixvi.core import arguments

KERNELS = (1, 3)


@dataclass(frozen=True)
class Layer:
    """One row of the table of a hierarchy.

    Attributes
    ----------
    n_channels
        Channels of the map; the last layer is the image, whose bands the data decide (0).
    scale
        By how much height and width are smaller than those of the image.
    parents
        Numbers of the layers that it is generated from; 0 is segmentation and code.
    hidden
        Channels between the convolutions of its decoder block.
    mirrored
        The same for the encoder block that mirrors it; default ``hidden`` in reverse order.
    kernel
        Dates, rows and columns that a convolution sees; 1 looks at each pixel of each date alone,
        and is many times faster.
    """

    n_channels: int
    scale: int
    parents: tuple[int, ...]
    hidden: tuple[int, ...]
    mirrored: tuple[int, ...] | None = None
    kernel: int = 3

    @property
    def encoder_hidden(self) -> tuple[int, ...]:
        """Channels between the convolutions of the encoder block."""
        return self.hidden[::-1] if self.mirrored is None else self.mirrored


LAYERS = {
    # for CPUs and single images; its skip is at full resolution, for maps with sharp borders
    "light": (
        Layer(16, 1, (0,), (16,)),
        Layer(24, 2, (1,), (32,)),
        Layer(16, 1, (2,), (32,)),
        Layer(0, 1, (3, 1), (16,)),
    ),
    # for series: all that is said of a pixel and a date is said by their codes
    "codes": (Layer(0, 1, (0,), (32, 32), kernel=1),),
    "series": (
        Layer(32, 1, (0,), (32, 32)),
        Layer(32, 2, (1,), (32, 32)),
        Layer(64, 4, (2,), (64, 64), (32, 32)),
        Layer(128, 8, (3,), (128, 128), (64, 64)),
        Layer(128, 8, (4,), (128, 128)),
        Layer(64, 4, (5, 4), (64, 64), (128, 128)),
        Layer(32, 2, (6, 3), (32, 32), (64, 64)),
        Layer(0, 1, (7, 2), (32, 32), (32, 32)),
    ),
    "thesis": (
        Layer(128, 1, (0,), (256, 256), (256, 128)),
        Layer(128, 2, (1,), (128, 128)),
        Layer(128, 4, (2,), (128, 128)),
        Layer(256, 8, (3,), (256, 256), (128, 128)),
        Layer(256, 8, (4,), (512,)),
        Layer(128, 4, (5, 4), (128, 128), (256, 256)),
        Layer(64, 2, (6, 3), (128, 64), (128, 128)),
        Layer(0, 1, (7, 2), (64, 64, 64)),
    ),
}


def resolve_layers(
    layers: str | Sequence[Mapping | Layer], width: float = 1.0
) -> tuple[Layer, ...]:
    """The table of a hierarchy, with all channels times ``width``.

    Parameters
    ----------
    layers
        Name of a table, or its rows as :class:`Layer` or dicts of its attributes, the image last.
    width
        Factor of the channels.

    Raises
    ------
    ValueError
        If the name is unknown, or layers do not fit each other.
    """
    arguments.check_positive("width", width, integer=False)
    if isinstance(layers, str):
        arguments.check_choice("layers", layers, LAYERS)
        table = LAYERS[layers]
    elif isinstance(layers, Mapping) or not isinstance(layers, Sequence):
        raise ValueError(
            f"layers must be a name or a list of dicts, but is {arguments.shown(layers)}."
        )
    else:
        table = tuple(_layer(row, number) for number, row in enumerate(layers, start=1))
    _check_table(table)

    def scaled(channels: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if channels is None else tuple(max(1, round(width * n)) for n in channels)

    return tuple(
        replace(
            layer,
            n_channels=layer.n_channels and scaled((layer.n_channels,))[0],
            hidden=scaled(layer.hidden),
            mirrored=scaled(layer.mirrored),
        )
        for layer in table
    )


def _layer(row: Mapping | Layer, number: int) -> Layer:
    if isinstance(row, Layer):
        return row
    names = [field.name for field in fields(Layer)]
    arguments.check_options("layers", row, names, f"row {number}")
    missing = [name for name in names[1:4] if name not in row]
    if missing:
        raise ValueError(f"layers: row {number} has no {' and no '.join(missing)}.")
    row = {k: tuple(v) if isinstance(v, Sequence) else v for k, v in row.items()}
    return Layer(**({"n_channels": 0} | row))


def _check_table(table: tuple[Layer, ...]) -> None:
    """Raise ValueError unless blocks and their mirror images fit each other."""
    if not table or table[-1].scale != 1:
        raise ValueError("layers: the last row is the image, of scale 1.")
    scales = [1, *(layer.scale for layer in table)]
    for t, layer in enumerate(table, start=1):
        if t < len(table):
            arguments.check_positive(f"layers: n_channels of row {t}", layer.n_channels)
        arguments.check_positive(f"layers: scale of row {t}", layer.scale)
        if t - 1 not in layer.parents or min(layer.parents) < 0 or max(layer.parents) >= t:
            raise ValueError(
                f"layers: row {t} has the parents {layer.parents}; one must be {t - 1}, and "
                "all must be numbers of rows before it."
            )
        if t > 1 and 0 in layer.parents:
            raise ValueError(
                f"layers: row {t} has the parent 0, but a skip from the segmentation has no mirror "
                "image in the encoder. Row 1 alone has it."
            )
        if layer.kernel not in KERNELS:
            raise ValueError(f"layers: kernel of row {t} must be 1 or 3, but is {layer.kernel!r}.")
        if any(scales[parent] != scales[t - 1] for parent in layer.parents):
            raise ValueError(
                f"layers: the parents {layer.parents} of row {t} are of several scales, "
                f"{[scales[parent] for parent in layer.parents]}; they are joined at one."
            )
        small, large = sorted((scales[t - 1], layer.scale))
        if large % small:
            raise ValueError(f"layers: rows {t - 1} and {t} have scales {small} and {large}.")


def children(table: tuple[Layer, ...], t: int) -> tuple[int, ...]:
    """Numbers of the layers that are generated from layer ``t``."""
    return tuple(j for j, layer in enumerate(table, start=1) if t in layer.parents)
