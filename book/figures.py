"""Drawing helpers that several chapters share: for the figures only, not in the package."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle


def paint(
    ax: Axes,
    labels: Mapping[tuple[int, int], object],
    color: str = "none",
    at: tuple[float, float] = (0, 0),
    size: float = 11,
) -> None:
    """Draw single squares of a grid, with what is written in them, over what is there.

    Parameters
    ----------
    ax : Axes
        Where to draw; one square is one unit wide.
    labels : mapping of (row, column) to object
        What to write in which square.
    color : str
        The squares' colour; the writing on a colour is white.
    at : tuple of float
        The grid's upper left corner: x to the right, y downwards.
    size : float
        The font size.
    """
    x, y = at
    ink, above = ({}, 1) if color == "none" else ({"color": "w"}, 4)
    for (i, j), label in labels.items():
        corner = (x + j, -y - i - 1)
        edge = {"edgecolor": "0.5", "lw": 0.8}
        ax.add_patch(Rectangle(corner, 1, 1, facecolor=color, zorder=above, **edge))
        middle = (corner[0] + 0.5, corner[1] + 0.47)
        center = {"ha": "center", "va": "center"}
        ax.text(*middle, f"{label}", size=size, zorder=above + 2, **center, **ink)


def draw_grid(
    ax: Axes,
    a: np.ndarray,
    at: tuple[float, float] = (0, 0),
    fill: Mapping[tuple[int, int], str] | None = None,
    label: str = "",
    size: float = 11,
) -> None:
    """Draw a matrix as squares with their numbers, row 0 on top.

    Parameters
    ----------
    ax, at, size
        As for ``paint``.
    a : np.ndarray
        Numbers or strings, shape (rows, columns). An empty string leaves a square blank.
    fill : mapping of (row, column) to colour, optional
        Which squares to colour.
    label : str
        A name to write above the matrix.
    """
    rows, columns = np.shape(a)
    for i in range(rows):
        for j in range(columns):
            paint(ax, {(i, j): a[i][j]}, (fill or {}).get((i, j), "none"), at, size)
    if label:
        ax.text(at[0] + columns / 2, -at[1] + 0.35, label, ha="center", va="bottom")
    ax.set_aspect("equal")
    ax.axis("off")
    ax.autoscale_view()
