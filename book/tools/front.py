"""Draw the picture on the book's first page, and the one that others show with a link to it.

    python book/tools/front.py      writes book/_static/front.svg and cover.png

A digit of the embedded set goes through the deep network whose weights the book keeps; what is
drawn is what the network computes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch, Rectangle
from matplotlib.transforms import Bbox

from cnn import digits, load_weights, softmax

BOOK = Path(__file__).resolve().parents[1]
PICTURE, COVER = BOOK / "_static" / "front.svg", BOOK / "_static" / "cover.png"
WHOLE = Bbox([[0, -0.55], [8, 3.65]])  # 1200 by 630 pixels, as links are shown
INK, FORWARD, BACKWARD = "0.5", "C0", "C1"
SIGNED = [(0.23, 0.51, 0.84), (0.96, 0.96, 0.96), (0.85, 0.4, 0.23)]


def main() -> int:
    """Draw the picture."""
    plt.style.use(BOOK / "_static" / "book.mplstyle")
    plt.rcParams |= {"svg.hashsalt": "front", "figure.constrained_layout.use": False}
    net = load_weights()
    x = digits().x_test[28:29]
    W = net.params["0.weight"][:, 0]
    maps = net.layers[1](net.layers[0](x))[0]
    chosen = np.argsort(-maps.std(axis=(1, 2)))[:4]
    P = softmax(net(x))[0]

    fig = plt.figure(figsize=(8, 3.1))
    image = show(fig, 0.01, 0.24, 0.24, x[0, 0], "784 pixels")
    signed = LinearSegmentedColormap.from_list("signed", SIGNED)
    peak = abs(W[chosen[0]]).max()
    look = {"cmap": signed, "vmin": -peak, "vmax": peak}
    weights = show(fig, 0.325, 0.37, 0.12, W[chosen[0]], "a filter", **look)
    join(fig, image, weights, (7, 13), len(W[0]))
    for k, nu in enumerate(chosen):
        left, bottom = 0.515 + 0.125 * (k % 2), 0.56 - 0.32 * (k // 2)
        show(
            fig,
            left,
            bottom,
            0.115,
            maps[nu],
            "what four filters find" if k == 0 else "",
        )
    fig.axes[2].title.set_position((1.05, 1))
    answer(fig, P)
    arrow(fig, 0.46, 0.505, 0.53, FORWARD)
    arrow(fig, 0.765, 0.805, 0.53, FORWARD)
    arrow(fig, 0.9, 0.13, 0.13, BACKWARD)
    back = "and back: how must each weight change?"
    fig.text(0.515, 0.03, back, ha="center", size=14)
    fig.savefig(PICTURE, metadata={"Date": None})
    fig.savefig(COVER, dpi=150, facecolor="white", bbox_inches=WHOLE)
    print(f"{PICTURE.name}: a {P.argmax()} with probability {P.max():.3f}")
    return 0


def show(
    fig: Figure,
    left: float,
    bottom: float,
    width: float,
    a: np.ndarray,
    title: str,
    **look: object,
) -> Axes:
    """Show a matrix as a square; places and width are shares of the figure."""
    wide, high = fig.get_size_inches()
    ax = fig.add_axes((left, bottom, width, width * wide / high))
    ax.imshow(a, **look)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, size=14, color=INK)
    ax.spines[:].set_visible(False)
    return ax


def join(fig: Figure, image: Axes, weights: Axes, at: tuple[int, int], f: int) -> None:
    """Frame the window of f × f pixels at a row and column, and lead from it to the filter."""
    top, left = at[0] - 0.5, at[1] - 0.5
    image.add_patch(Rectangle((left, top), f, f, fill=False, ec=FORWARD, lw=2))
    for start, end in ((top, -0.5), (top + f, f - 0.5)):
        line = {"axesA": image, "axesB": weights, "color": FORWARD, "lw": 1.2}
        patch = ConnectionPatch((left + f, start), (-0.5, end), "data", "data", **line)
        fig.add_artist(patch)


def answer(fig: Figure, P: np.ndarray) -> None:
    """Draw the probabilities as bars, and write the digits beside them."""
    ax = fig.add_axes((0.84, 0.24, 0.15, 0.63))
    colors = [FORWARD if k == P.argmax() else INK for k in range(10)]
    ax.barh(range(10), P, color=colors)
    ax.set(yticks=range(10), xticks=[], xlim=(0, 1), ylim=(9.6, -0.6))
    ax.spines["bottom"].set_visible(False)
    ax.tick_params(labelsize=13)
    ax.set_title("its answer", size=14, color=INK)


def arrow(fig: Figure, start: float, end: float, height: float, color: str) -> None:
    """Draw a horizontal arrow; its places are shares of the figure."""
    style = {"arrowstyle": "-|>", "color": color, "lw": 2.5, "mutation_scale": 16}
    ax = fig.add_axes((0, 0, 1, 1), zorder=5)
    ax.axis("off")
    ax.annotate("", (end, height), (start, height), arrowprops=style)


if __name__ == "__main__":
    sys.exit(main())
