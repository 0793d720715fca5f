"""Where to start.

Exported from book/07-initialization.ipynb: edit the chapter and run `make export`.
"""

import math

import numpy as np

from .shapes import check_generator, shapes

__all__ = ["fans", "xavier_normal_", "kaiming_normal_"]


# --- The variance of a sum ---
@shapes("W (fan_out, fan_in, ...) float")
def fans(W: np.ndarray) -> tuple[int, int]:
    """Return how many inputs an output sums, and how many outputs an input feeds.

    Implements {eq}`eq:fans`.
    """
    taps = math.prod(W.shape[2:])
    return W.shape[1] * taps, W.shape[0] * taps


# --- Glorot and He ---
def xavier_normal_(W: np.ndarray, rng: np.random.Generator) -> None:
    """Fill ``W`` in place with Glorot's N(0, 2 / (fan_in + fan_out)).

    Implements {eq}`eq:glorot`.

    Parameters
    ----------
    W : np.ndarray
        A weight of shape (M_out, M_in) or (C_out, C_in, f_h, f_w); its dtype stays.
    rng : np.random.Generator
        Where the random numbers come from.
    """
    check_generator(rng)
    fan_in, fan_out = fans(W)
    W[...] = rng.standard_normal(W.shape) * math.sqrt(2 / (fan_in + fan_out))


def kaiming_normal_(W: np.ndarray, rng: np.random.Generator) -> None:
    """Fill ``W`` in place with He's N(0, 2 / fan_in), for a layer before a ReLU.

    Implements {eq}`eq:he`.

    Parameters
    ----------
    W, rng
        As for ``xavier_normal_``.
    """
    check_generator(rng)
    fan_in, _ = fans(W)
    W[...] = rng.standard_normal(W.shape) * math.sqrt(2 / fan_in)
