"""Batch normalisation.

Exported from book/16-batch-norm.ipynb: edit the chapter and run `make export`.
"""

import math

import numpy as np

from .network import Layer
from .shapes import check_array, check_integer, check_same_dtype

__all__ = ["moments", "batch_norm", "batch_norm_backward", "BatchNorm1d", "BatchNorm2d"]


# --- Forward ---


def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute mean and variance of each channel, over images and places.

    Implements {eq}`eq:bn-mean` and {eq}`eq:bn-variance`.

    Parameters
    ----------
    x : np.ndarray
        Shape (N, C) or (N, C, H, W), of a floating dtype.

    Returns
    -------
    m, v : np.ndarray
        The means and the biased variances (divided by B, not B - 1), shape (C,).

    Raises
    ------
    TypeError
        ``x`` is not an array of floating-point numbers.
    ValueError
        ``x`` has fewer than two axes, is empty, or has a single number in each channel.
    """
    check_array("x", x, ("N", "C", *np.shape(x)[2:]), kind="float")
    if x.size == x.shape[1]:
        raise ValueError(
            f"x has shape {x.shape}, one number in each channel; expected at least 2, because a "
            "single number is its own mean, and nothing is left of it"
        )
    m = x.mean(axis=_values(x))
    d = x - _per_channel(m, x)
    d *= d
    return m, d.mean(axis=_values(x))


def _values(x: np.ndarray) -> tuple[int, ...]:
    """Return the axes that a channel's values lie along: all but the second."""
    return (0, *range(2, x.ndim))


def _per_channel(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Give ``a`` of shape (C,) the axes that let it meet ``x`` channel by channel."""
    return a.reshape(-1, *(1,) * (x.ndim - 2))


def _normalize(
    x: np.ndarray, m: np.ndarray, v: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return x̂, shaped as ``x``, and σ, shape (C,)."""
    sigma = np.sqrt(v + eps)
    xhat = x - _per_channel(m, x)
    xhat /= _per_channel(sigma, x)
    return xhat, sigma


def batch_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float = 1e-5
) -> np.ndarray:
    """Bring each channel to mean 0 and variance 1 over the batch, then scale and shift it.

    Implements {eq}`eq:bn-normalize` and {eq}`eq:bn-output`.

    Parameters
    ----------
    x : np.ndarray
        The input, shape (N, C) or (N, C, H, W), of a floating dtype.
    gamma, beta : np.ndarray
        Scale and shift of each channel, shape (C,), dtype as ``x``.
    eps : float
        A small positive ε that keeps the division finite.

    Returns
    -------
    np.ndarray
        The output y, shape and dtype as ``x``.

    Raises
    ------
    TypeError
        An argument is no array of floating-point numbers, or their dtypes differ.
    ValueError
        The shapes do not fit, a channel has a single number, or ``eps`` is not positive.
    """
    _check_channels(x, eps, gamma=gamma, beta=beta)
    xhat, _ = _normalize(x, *moments(x), eps)
    return _per_channel(gamma, x) * xhat + _per_channel(beta, x)


def _check_channels(x: np.ndarray, eps: float, **arrays: np.ndarray) -> None:
    """Raise unless ``x`` has channels, and each array one number for each of them."""
    check_array("x", x, ("N", "C", *np.shape(x)[2:]), kind="float")
    for name, a in arrays.items():
        check_array(name, a, (x.shape[1],), f"because x has shape {x.shape}")
    check_same_dtype(x=x, **arrays)
    _check_eps(eps)


def _check_eps(eps: float) -> None:
    if not 0 < eps < math.inf:
        raise ValueError(f"eps is {eps}; expected a small positive number")


# --- Backward ---


def batch_norm_backward(
    dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn the gradient by ``batch_norm``'s output into those by its input and parameters.

    Implements {eq}`eq:bn-dx`, {eq}`eq:bn-dgamma` and {eq}`eq:bn-dbeta`.

    Parameters
    ----------
    dy : np.ndarray
        The gradient of the cost by the output, shape as ``x``.
    x, gamma, eps
        What ``batch_norm`` was given: shapes (N, C) or (N, C, H, W), and (C,), dtype as ``dy``.

    Returns
    -------
    dx : np.ndarray
        The gradient by the input, shape as ``x``.
    dgamma, dbeta : np.ndarray
        The gradients by scale and shift, shape (C,).

    Raises
    ------
    TypeError
        An argument is no array of floating-point numbers, or their dtypes differ.
    ValueError
        The shapes do not fit, a channel has a single number, or ``eps`` is not positive.
    """
    _check_channels(x, eps, gamma=gamma)
    check_array("dy", dy, x.shape, "the shape of x")
    check_same_dtype(dy=dy, x=x)
    xhat, sigma = _normalize(x, *moments(x), eps)
    dgamma, dbeta = _parameter_gradients(dy, xhat)
    return _input_gradient(dy, xhat, sigma, gamma, dgamma, dbeta), dgamma, dbeta


def _parameter_gradients(
    dy: np.ndarray, xhat: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    return (dy * xhat).sum(axis=_values(dy)), dy.sum(axis=_values(dy))


def _input_gradient(
    dy: np.ndarray,
    xhat: np.ndarray,
    sigma: np.ndarray,
    gamma: np.ndarray,
    dgamma: np.ndarray,
    dbeta: np.ndarray,
) -> np.ndarray:
    B = dy.size // len(gamma)
    dx = dy - _per_channel(dbeta / B, dy)
    dx -= _per_channel(dgamma / B, dy) * xhat
    dx *= _per_channel(gamma / sigma, dy)
    return dx


# --- When there is no batch ---


class _BatchNorm(Layer):
    """What the layers for dense units and for images share: all but the input's shape."""

    _places: tuple[str, ...]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        *,
        dtype: type = np.float32,
    ) -> None:
        super().__init__()
        check_integer("num_features", num_features, 1)
        _check_eps(eps)
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum is {momentum}; expected a number from 0 to 1")
        if np.dtype(dtype).kind not in "fc":
            raise TypeError(
                f"dtype is {np.dtype(dtype)}; expected a floating-point dtype"
            )
        self.eps, self.momentum = float(eps), float(momentum)
        ones, zeros = np.ones(num_features, dtype), np.zeros(num_features, dtype)
        self.params = {"weight": ones, "bias": zeros}
        self.buffers = {
            "running_mean": zeros.copy(),
            "running_var": ones.copy(),
            "num_batches_tracked": np.zeros((), np.int64),
        }

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Normalise with the batch's moments while training, with the running ones in use."""
        gamma, beta = self.params.values()
        C = len(gamma)
        check_array("x", x, ("N", C, *self._places), f"for {self!r}", kind="float")
        check_same_dtype(x=x, weight=gamma)
        m, v, _ = self.buffers.values()
        if self.training:
            m, v = self._track(x)
        xhat, sigma = _normalize(x, m, v, self.eps)
        self._seen, self._sigma, self._by_batch = xhat, sigma, self.training
        return _per_channel(gamma, x) * xhat + _per_channel(beta, x)

    def _track(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the batch's moments, and move the running ones towards them."""
        m, v = moments(x)
        B = x.size // len(m)
        m_run, v_run, count = self.buffers.values()
        for running, new in ((m_run, m), (v_run, B / (B - 1) * v)):
            running *= 1 - self.momentum
            running += self.momentum * new
        count += 1
        return m, v

    def backward(
        self, dy: np.ndarray, *, input_gradient: bool = True
    ) -> np.ndarray | None:
        """Return the gradient by the input, or None; fill ``grads``."""
        xhat, gamma = self._recall(), self.params["weight"]
        check_array("dy", dy, xhat.shape, "the shape of x")
        check_same_dtype(dy=dy, x=xhat)
        dgamma, dbeta = _parameter_gradients(dy, xhat)
        self.grads = {"weight": dgamma, "bias": dbeta}
        if not input_gradient:
            return None
        if self._by_batch:
            return _input_gradient(dy, xhat, self._sigma, gamma, dgamma, dbeta)
        return _per_channel(gamma / self._sigma, dy) * dy

    def __repr__(self) -> str:
        C = len(self.params["weight"])
        return (
            f"{type(self).__name__}({C}, eps={self.eps:g}, momentum={self.momentum:g})"
        )


class BatchNorm1d(_BatchNorm):
    """Batch normalisation of the units of a dense layer: inputs of shape (N, C).

    Implements {eq}`eq:bn-running` and {eq}`eq:bn-fixed-dx`.

    Parameters
    ----------
    num_features : int
        The number of units, C.
    eps : float
        A small positive ε that keeps the division finite.
    momentum : float
        The share of a new batch in the running mean and variance.
    dtype : type
        The parameters' dtype, and hence that of the input.

    Attributes
    ----------
    params : dict of str to np.ndarray
        ``weight`` (the scale γ, ones at first) and ``bias`` (the shift β, zeros), shape (C,).
    buffers : dict of str to np.ndarray
        ``running_mean``, ``running_var`` and the count ``num_batches_tracked``, as in PyTorch.

    Raises
    ------
    TypeError
        ``num_features`` is no integer, or ``dtype`` no floating-point dtype.
    ValueError
        A number is out of range.
    """

    _places = ()


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of the channels of images: inputs of shape (N, C, H, W).

    Implements {eq}`eq:bn-running` and {eq}`eq:bn-fixed-dx`.

    Parameters
    ----------
    num_features : int
        The number of channels, C.
    eps : float
        A small positive ε that keeps the division finite.
    momentum : float
        The share of a new batch in the running mean and variance.
    dtype : type
        The parameters' dtype, and hence that of the input.

    Attributes
    ----------
    params : dict of str to np.ndarray
        ``weight`` (the scale γ, ones at first) and ``bias`` (the shift β, zeros), shape (C,).
    buffers : dict of str to np.ndarray
        ``running_mean``, ``running_var`` and the count ``num_batches_tracked``, as in PyTorch.

    Raises
    ------
    TypeError
        ``num_features`` is no integer, or ``dtype`` no floating-point dtype.
    ValueError
        A number is out of range.
    """

    _places = ("H", "W")
