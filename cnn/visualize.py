"""What the network sees.

Exported from book/21-visualize.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .correlation import output_size
from .data import one_hot
from .losses import softmax
from .network import Sequential
from .shapes import check_array, check_integer, check_labels
from .training import in_use

__all__ = [
    "activations",
    "saliency",
    "occlusion",
    "confusion_matrix",
    "most_confident_mistakes",
]


# --- One digit through all the layers ---


def activations(net: Sequential, x: np.ndarray) -> list[np.ndarray]:
    """Return the output of each layer, the first layer's first.

    The network computes as after ``net.eval()``, and every layer's mode is put back.

    Parameters
    ----------
    net : Sequential
        The network.
    x : np.ndarray
        The images, shape (N, C, H, W) or whatever the first layer takes.

    Returns
    -------
    list of np.ndarray
        As many arrays as layers, N images along the first axis of each. They are what the layers
        remember for ``backward``, not copies.

    Raises
    ------
    TypeError, ValueError
        ``x`` is no array of numbers, is empty, or does not fit the network.
    """
    check_array("x", x, ("N", *np.shape(x)[1:]))
    outputs = []
    with in_use(net):
        for layer in net:
            x = layer.forward(x)
            outputs.append(x)
    return outputs


# --- Which pixels does the score depend on? ---


def saliency(net: Sequential, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Compute the gradient of one class's score by the pixels, for each image.

    Implements {eq}`eq:saliency`. The network computes as after ``net.eval()``, and every layer's
    mode is put back; ``net.grads`` are those of this pass afterwards.

    Parameters
    ----------
    net : Sequential
        A network from images to scores of shape (N, K).
    x : np.ndarray
        The images, shape (N, C, H, W) or whatever the first layer takes.
    y : np.ndarray
        Whose score: one class for each image, shape (N,), integers from 0 to K - 1.

    Returns
    -------
    np.ndarray
        S, shape and dtype as ``x``: above zero where more ink would raise the score.

    Raises
    ------
    TypeError, ValueError
        ``x`` is empty or does not fit the network, ``y`` does not fit ``x``, or a class is out
        of range.
    """
    check_array("x", x, ("N", *np.shape(x)[1:]))
    with in_use(net):
        z = net.forward(x)
        check_array("z", z, (len(x), "K"), "the scores of the network")
        check_labels(y, *z.shape)
        return net.backward(one_hot(y, z.shape[1], z.dtype))


# --- What if it were covered? ---


def occlusion(
    net: Sequential,
    x: np.ndarray,
    y: np.ndarray,
    size: int = 7,
    stride: int = 1,
    value: float = 0.0,
) -> np.ndarray:
    """Compute how much of a class's probability is lost when a patch covers the image.

    Implements {eq}`eq:occlusion`. The network computes as after ``net.eval()``, and every layer's
    mode is put back. The patch is laid on each image, place by place.

    Parameters
    ----------
    net : Sequential
        A network from images to scores of shape (N, K).
    x : np.ndarray
        The images, shape (N, C, H, W), of a floating dtype. They are not changed.
    y : np.ndarray
        Whose probability: one class for each image, shape (N,), integers from 0 to K - 1.
    size, stride : int
        The patch's rows and columns, and the pixels from one place to the next.
    value : float
        What the covered pixels are set to; 0 is paper.

    Returns
    -------
    np.ndarray
        O, shape (N, places down, places across), dtype as the probabilities: near 1 where the
        class is lost when that place is covered, below 0 where covering it helps.

    Raises
    ------
    TypeError, ValueError
        ``x`` is empty or does not fit the network, ``y`` does not fit ``x``, a class is out of
        range, or the patch is larger than the image.
    """
    check_array("x", x, ("N", "C", "H", "W"), kind="real float")
    check_integer("size", size, 1)
    check_integer("stride", stride, 1)
    if size > min(x.shape[2:]):
        raise ValueError(
            f"size is {size}, but x has shape {x.shape}; expected at most {min(x.shape[2:])}"
        )
    if not np.isfinite(value):
        raise ValueError(f"value is {value}; expected a finite number, 0 for paper")
    (h, _), (w, _) = (output_size(H, size, stride) for H in x.shape[2:])
    with in_use(net):
        P = softmax(net.forward(x))
        check_labels(y, *P.shape)
        own = np.arange(len(x)), y
        O = np.empty((len(x), h, w), P.dtype)
        for i, j in np.ndindex(h, w):
            covered = x.copy()
            top, left = stride * i, stride * j
            covered[:, :, top : top + size, left : left + size] = value
            O[:, i, j] = P[own] - softmax(net.forward(covered))[own]
    return O


# --- Which digits are taken for which ---


def confusion_matrix(
    y: np.ndarray, answers: np.ndarray, num_classes: int = 10
) -> np.ndarray:
    """Count the images by their label and the network's answer.

    Implements {eq}`eq:confusion`.

    Parameters
    ----------
    y, answers : np.ndarray
        Labels and answers, shape (N,), integers from 0 to ``num_classes`` - 1.
    num_classes : int
        How many classes there are: K.

    Returns
    -------
    np.ndarray
        C, shape (K, K), integers: a row for each label, a column for each answer.

    Raises
    ------
    TypeError, ValueError
        An argument is no array of integers, the lengths differ, or a class is out of range.
    """
    check_integer("num_classes", num_classes, 1)
    check_array("y", y, ("N",), kind="integer")
    check_array("answers", answers, y.shape, f"because y has shape {y.shape}", "iu")
    check_labels(y, len(y), num_classes)
    if not 0 <= answers.min() <= answers.max() < num_classes:
        raise ValueError(
            f"answers holds numbers from {answers.min()} to {answers.max()}; expected classes "
            f"from 0 to {num_classes - 1}"
        )
    C = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(C, (y, answers), 1)
    return C


# --- The most confident mistakes ---


def most_confident_mistakes(P: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the indices of the images that are misread, the surest mistake first.

    Parameters
    ----------
    P : np.ndarray
        The probabilities, shape (N, K).
    y : np.ndarray
        The labels, shape (N,), integers from 0 to K - 1.

    Returns
    -------
    np.ndarray
        Indices of images, shape (number of mistakes,). Where two mistakes are equally sure, the
        one with the lower index comes first.

    Raises
    ------
    TypeError, ValueError
        ``P`` is no array of floating-point numbers, ``y`` does not fit it, or holds a class out
        of range.
    """
    check_array("P", P, ("N", "K"), kind="real float")
    check_labels(y, *P.shape)
    wrong = np.flatnonzero(P.argmax(axis=1) != y)
    return wrong[np.argsort(-P.max(axis=1)[wrong], kind="stable")]
