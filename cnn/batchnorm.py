"""Batch normalisation.

Exported from book/16-batch-norm.ipynb: edit the chapter and run `make export`.
"""

import numpy as np

from .network import Layer
from .shapes import check_array, check_integer, check_number, check_same_dtype, shapes

__all__ = ["moments", "batch_norm", "batch_norm_backward", "BatchNorm1d", "BatchNorm2d"]


def _check_values(x: np.ndarray) -> None:
    """Raise unless each channel has at least two values."""
    if x.size == x.shape[1]:
        raise ValueError(
            f"x has shape {x.shape}, one number in each channel; expected at least 2, because a "
            "single number is its own mean, and nothing is left of it: take larger batches, or "
            "net.eval() to use the running moments"
        )


def _check_eps(eps: float) -> None:
    """Raise unless ε is positive and finite."""
    check_number("eps", eps)
    if eps == 0:
        raise ValueError("eps is 0; expected a small positive number")


# --- Forward ---
def _value_axes(x: np.ndarray) -> tuple[int, ...]:
    """Return the axes that a channel's values lie along: all but the second."""
    return (0, *range(2, x.ndim))


def _per_channel(a: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Give ``a`` of shape (C,) the axes that let it meet ``x`` channel by channel."""
    return a.reshape(-1, *(1,) * (x.ndim - 2))


@shapes("x (N, C, ...) float")
def moments(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute each channel's mean m and variance v (divided by B), over images and places.

    Implements {eq}`eq:bn-mean` and {eq}`eq:bn-variance`.
    """
    _check_values(x)
    m = x.mean(axis=_value_axes(x))
    d = x - _per_channel(m, x)
    return m, (d * d).mean(axis=_value_axes(x))


def _normalize(
    x: np.ndarray, m: np.ndarray, v: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return x̂, shaped as ``x``, and σ, shape (C,): {eq}`eq:bn-normalize`."""
    sigma = np.sqrt(v + eps)
    return (x - _per_channel(m, x)) / _per_channel(sigma, x), sigma


@shapes("gamma (C), beta (C), x (N, C, ...) float")
def batch_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float = 1e-5
) -> np.ndarray:
    """Bring each channel to mean 0 and variance 1 over the batch, then scale and shift it.

    Implements {eq}`eq:bn-normalize` and {eq}`eq:bn-output`.
    """
    _check_eps(eps)
    xhat, _ = _normalize(x, *moments(x), eps)
    return _per_channel(gamma, x) * xhat + _per_channel(beta, x)


# --- Backward ---
@shapes("xhat (N, C, ...) float, dy (N, C, ...), gamma (C), sigma (C)")
def _normalized_backward(
    dy: np.ndarray, xhat: np.ndarray, sigma: np.ndarray, gamma: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn dy into dx, dgamma and dbeta, with x̂ and σ from the forward pass."""
    B = dy.size // len(gamma)
    dbeta = dy.sum(axis=_value_axes(dy))
    dgamma = (dy * xhat).sum(axis=_value_axes(dy))
    dx = dy - _per_channel(dbeta / B, dy) - xhat * _per_channel(dgamma / B, dy)
    return _per_channel(gamma / sigma, dy) * dx, dgamma, dbeta


@shapes("gamma (C), x (N, C, ...) float, dy (N, C, ...)")
def batch_norm_backward(
    dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, eps: float = 1e-5
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn dy, the gradient of ``batch_norm``'s output, into dx, dgamma and dbeta.

    Implements {eq}`eq:bn-dx`, {eq}`eq:bn-dgamma` and {eq}`eq:bn-dbeta`.
    """
    _check_eps(eps)
    return _normalized_backward(dy, *_normalize(x, *moments(x), eps), gamma)


# --- When there is no batch ---
class _Statistics(Layer):
    """What batch normalisation keeps: scale and shift, running mean and variance."""

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, *,
        dtype: type = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        check_integer("num_features", num_features, 1)
        _check_eps(eps)
        check_number("momentum", momentum)
        if momentum > 1:
            raise ValueError(f"momentum is {momentum}; expected a number from 0 to 1")
        if np.dtype(dtype).kind not in "fc":
            raise TypeError(
                f"dtype is {np.dtype(dtype)}; expected a floating-point dtype"
            )
        self.eps, self.momentum = float(eps), float(momentum)
        wide = np.result_type(dtype, np.float32)  # a variance outgrows float16
        ones: np.ndarray = np.ones(num_features, dtype)
        zeros = np.zeros_like(ones)
        self.params = {"weight": ones, "bias": zeros}
        self.buffers = {
            "running_mean": zeros.astype(wide),
            "running_var": ones.astype(wide),
            "num_batches_tracked": np.zeros((), np.int64),
        }

    def __repr__(self) -> str:
        C = len(self.params["weight"])
        return (
            f"{type(self).__name__}({C}, eps={self.eps:g}, momentum={self.momentum:g})"
        )


def _track(
    buffers: dict[str, np.ndarray], x: np.ndarray, alpha: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return the batch's moments; move the running ones in place: {eq}`eq:bn-running`."""
    m, v = moments(x)
    B = x.size // len(m)
    m_run, v_run, count = buffers.values()
    m_run[...] = (1 - alpha) * m_run + alpha * m
    v_run[...] = (1 - alpha) * v_run + alpha * (B / (B - 1) * v)
    count += 1
    return m, v


class _BatchNorm(_Statistics):
    """What the layers for dense units and for images share: all but the input's shape."""

    _places: tuple[str, ...]

    def forward(self, x: np.ndarray) -> np.ndarray:
        """Normalise with the batch's moments in training, with the running ones at inference."""
        gamma, beta = self.params.values()
        check_array("x", x, ("N", len(gamma), *self._places), f"for {self!r}", "float")
        check_same_dtype(x=x, weight=gamma)
        m, v, _ = self.buffers.values()
        wide = x.astype(m.dtype, copy=False)
        if self.training:
            m, v = _track(self.buffers, wide, self.momentum)
        xhat, sigma = (a.astype(x.dtype) for a in _normalize(wide, m, v, self.eps))
        self._seen = xhat, sigma, self.training
        return _per_channel(gamma, x) * xhat + _per_channel(beta, x)

    def backward(self, dy: np.ndarray, *, input_gradient: bool = True) -> np.ndarray:
        """Return the gradient of the input; fill ``grads``."""
        xhat, sigma, by_batch = self._recall()
        gamma = self.params["weight"]
        dx, dgamma, dbeta = _normalized_backward(dy, xhat, sigma, gamma)
        self.grads = {"weight": dgamma, "bias": dbeta}
        return dx if by_batch else _per_channel(gamma / sigma, dy) * dy


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
    """

    _places = ()
    least = 2


class BatchNorm2d(_BatchNorm):
    """Batch normalisation of the channels of images: inputs of shape (N, C, H, W).

    Parameters, attributes and errors are those of ``BatchNorm1d``; C is the number of channels.
    """

    _places = ("H", "W")
