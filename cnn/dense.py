"""The dense layer.

Exported from book/04-dense.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .shapes import shapes

__all__ = ["linear", "linear_backward"]


# --- Forward ---
@shapes("W (M_out, M_in), q (N, M_in), b (M_out)")
def linear(q: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute the dense layer z = q Wᵀ + b, shape (N, M_out).

    Implements {eq}`eq:dense-forward`.
    """
    return q @ W.T + b


# --- As matrices ---
@shapes("W (M_out, M_in), q (N, M_in), dz (N, M_out)")
def linear_backward(
    dz: np.ndarray, q: np.ndarray, W: np.ndarray, input_gradient: bool = True
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Turn dz into the gradients dq (None where it is not wanted), dW and db.

    Implements {eq}`eq:dense-dq`, {eq}`eq:dense-dW` and {eq}`eq:dense-db`.
    """
    dq = dz @ W if input_gradient else None
    dW = dz.T @ q
    db = dz.sum(axis=0)
    return dq, dW, db
