"""What the network sees.

Exported from book/21-visualize.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .correlation import output_size
from .data import one_hot
from .losses import softmax
from .network import Sequential
from .shapes import check_array, check_integer, check_labels, shapes
from .training import in_use

__all__ = [
    "activations", "saliency", "occlusion", "confusion_matrix",
    "most_confident_mistakes",
]  # fmt: skip


# --- One digit through all the layers ---
@shapes("x (N, ...)")
def activations(net: Sequential, x: np.ndarray) -> list[np.ndarray]:
    """Return the output of each layer at inference, the first layer's first."""
    outputs = []
    for layer in in_use(net):
        x = layer.forward(x)
        outputs.append(x)
    return outputs


# --- Which pixels does the score depend on? ---
@shapes("x (N, ...), y (N) integer")
def saliency(net: Sequential, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the gradient of one class's score with respect to the pixels of each image.

    Implements {eq}`eq:saliency`.
    """
    used = in_use(net)
    z = used.forward(x)
    check_array("z", z, (len(x), "K"), "the scores of the network")
    check_labels(y, *z.shape)
    return used.backward(one_hot(y, z.shape[1], z.dtype))


# --- What if it were covered? ---
@shapes("x (N, C, H, W) float, y (N) integer")
def occlusion(
    net: Sequential, x: np.ndarray, y: np.ndarray, size: int = 7, stride: int = 1,
    value: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """Compute what a class's probability loses when a patch covers each place in turn.

    Implements {eq}`eq:occlusion`; the patch is set to ``value``, and 0 is paper.
    """
    h, w = _places(x, size, stride, value)
    own, used = (np.arange(len(x)), y), in_use(net)
    P = softmax(used.forward(x))
    check_labels(y, *P.shape)
    O = np.empty((len(x), h, w), P.dtype)
    for i, j in np.ndindex(h, w):
        covered = x.copy()
        top, left = stride * i, stride * j
        covered[:, :, top : top + size, left : left + size] = value
        O[:, i, j] = P[own] - softmax(used.forward(covered))[own]
    return O


def _places(x: np.ndarray, size: int, stride: int, value: float) -> tuple[int, int]:
    """Return how many places a patch has, down and across."""
    check_integer("size", size, 1)
    check_integer("stride", stride, 1)
    if size > min(x.shape[2:]):
        raise ValueError(
            f"size is {size}, but x has shape {x.shape}; expected at most "
            f"{min(x.shape[2:])}"
        )
    if not np.isfinite(value):
        raise ValueError(f"value is {value}; expected a finite number, 0 for paper")
    (h, _), (w, _) = (output_size(H, size, stride) for H in x.shape[2:])
    return h, w


# --- Which digits are taken for which ---
@shapes("y (N) integer, answers (N) integer")
def confusion_matrix(
    y: np.ndarray, answers: np.ndarray, num_classes: int = 10
) -> np.ndarray:
    """Count the images by their label (rows) and the network's answer (columns).

    Implements {eq}`eq:confusion`.
    """
    K = check_integer("num_classes", num_classes, 1)
    check_labels(y, len(y), K)
    if not 0 <= answers.min() <= answers.max() < K:
        raise ValueError(
            f"answers holds numbers from {answers.min()} to {answers.max()}; expected "
            f"classes from 0 to {K - 1}"
        )
    C = np.zeros((K, K), dtype=np.int64)
    np.add.at(C, (y, answers), 1)
    return C


# --- The most confident mistakes ---
@shapes("P (N, K) float, y (N) integer")
def most_confident_mistakes(P: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the indices of the images that are misread, the surest mistake first."""
    check_labels(y, *P.shape)
    wrong = np.flatnonzero(P.argmax(axis=1) != y)
    return wrong[np.argsort(-P.max(axis=1)[wrong], kind="stable")]
