"""The whole step.

Exported from book/26-whole-step.ipynb: edit the chapter and run `make export`.
"""

from collections.abc import Callable

import numpy as np

from .activations import relu, relu_backward
from .conv import conv2d, conv2d_backward
from .dense import linear, linear_backward
from .kernels import _inner, _parallel, _plain, _sum_taps, conv2d_compiled, njit, prange
from .kernels_grad import (
    _ALONE,
    _batch_last,
    _dot_taps,
    _sum,
    _turned,
    conv2d_compiled_backward,
)
from .losses import cross_entropy_and_gradient
from .network import rows
from .optimizers import adam_update

__all__ = ["TWINS"]


# --- The dense layer ---
def _batch_first(q: np.ndarray) -> np.ndarray:
    """Return rows (N, M), contiguous, copied only where needed."""
    return _turned(q.T) if q.T.flags.carray and not q.flags.carray else _plain(q)


def _rows(x: np.ndarray) -> np.ndarray:
    """Lay each image out as one row, contiguous in memory."""
    return _batch_first(x.reshape(len(x), -1))


def _linear(q: np.ndarray, W: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Compute z = q Wᵀ + b."""
    z = np.empty((len(q), len(W)), q.dtype)
    _dense(z, _batch_first(q), _plain(W), b.copy())
    return z


@_inner
def _dense(z, q, W, b):
    """Fill z: each number is a scalar product of two rows."""
    (N, M_in), M_out = q.shape, len(W)
    start, taps = np.zeros(1, np.int64), np.arange(0, M_out * M_in, M_in)
    no_sums = np.empty(0, q.dtype)
    _dot_taps(z, no_sums, q.reshape(N, 1, M_in), W.reshape(W.size), start, taps)
    for n in range(N):
        for m in range(M_out):
            z[n, m] += b[m]


def _linear_backward(
    dz: np.ndarray, q: np.ndarray, W: np.ndarray, input_gradient: bool = True
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Turn dz into dq, dW and db."""
    dW, db = np.empty(W.shape, W.dtype), np.empty(len(W), W.dtype)
    dq = np.empty(q.shape if input_gradient else (0, 0), q.dtype)
    _dense_backward(dq, dW, db, dz.copy(), dz.T.copy(), _batch_first(q), _plain(W))
    return dq if input_gradient else None, dW, db


@_inner
def _dense_backward(dq, dW, db, dz, turned, q, W):
    """Fill dW, db, and dq unless it is empty: each row is a weighted sum of rows."""
    (N, M_in), M_out = q.shape, len(W)
    start, taps = np.zeros(1, np.int64), np.arange(0, max(N, M_out) * M_in, M_in)
    zeros = np.zeros(max(N, M_out), dz.dtype)
    for m in range(M_out):
        db[m] = _sum(turned[m])
    out = dW.reshape(M_out, 1, M_in)
    _sum_taps(out, q.reshape(q.size), start, taps[:N], turned, zeros)
    if len(dq):
        out = dq.reshape(N, 1, M_in)
        _sum_taps(out, W.reshape(W.size), start, taps[:M_out], dz, zeros)


# --- ReLU ---
def _like(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return a copy of ``a`` that lies in memory as ``b`` does."""
    if a.ndim == 4 and b.transpose(1, 2, 3, 0).flags.carray:
        return _batch_last(a).transpose(3, 0, 1, 2)
    copy = np.empty_like(b)
    np.copyto(copy, a)
    return copy


def _relu(z: np.ndarray) -> np.ndarray:
    """Set what is negative to zero, in the order in which it lies in memory."""
    q = np.empty_like(z)
    fill = _clip if z.size >= _ALONE else _clip_piece
    z = z if z.strides == q.strides else _like(z, q)
    fill(q.ravel("K"), z.ravel("K"))
    return q


def _relu_backward(dq: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Let the gradient pass where q is positive."""
    dz = np.empty_like(q)
    dq = dq if dq.strides == dz.strides else _like(dq, dz)
    q = q if q.strides == dz.strides else _like(q, dz)
    fill = _gate if q.size >= _ALONE else _gate_piece
    fill(dz.ravel("K"), dq.ravel("K"), q.ravel("K"))
    return dz


_PIECE = 4096


@_parallel
def _clip(q: np.ndarray, z: np.ndarray) -> None:
    """Fill q = max(0, z), a piece for each task."""
    for piece in prange((len(z) + _PIECE - 1) // _PIECE):
        i, j = _PIECE * piece, _PIECE * (piece + 1)
        _clip_piece(q[i:j], z[i:j])


@_inner
def _clip_piece(q, z):
    """Fill one piece."""
    for t in range(len(z)):
        q[t] = 0 if z[t] < 0 else z[t]


@_parallel
def _gate(dz: np.ndarray, dq: np.ndarray, q: np.ndarray) -> None:
    """Fill dz = dq where q > 0, and 0 elsewhere."""
    for piece in prange((len(q) + _PIECE - 1) // _PIECE):
        i, j = _PIECE * piece, _PIECE * (piece + 1)
        _gate_piece(dz[i:j], dq[i:j], q[i:j])


@_inner
def _gate_piece(dz, dq, q):
    """Fill one piece."""
    zero, one = q.dtype.type(0), q.dtype.type(1)
    for t in range(len(q)):
        dz[t] = dq[t] * (one if q[t] > zero else zero)


# --- The cost ---
@_inner
def _softmax(dz, z, y):
    """Fill dz; return J, and whether all scores are finite and all labels in range."""
    N, K = z.shape
    number = z.dtype.type
    J = number(0)
    for n in range(N):
        k, m, finite = y[n], z[n, 0], True
        for j in range(K):
            m, finite = max(m, z[n, j]), finite and np.isfinite(z[n, j])
        if not (finite and 0 <= k < K):
            return J, False
        total = number(0)
        for j in range(K):
            dz[n, j] = np.exp(z[n, j] - m)
            total += dz[n, j]
        J += m + np.log(total) - z[n, k]
        for j in range(K):
            dz[n, j] /= total
        dz[n, k] -= number(1)
        for j in range(K):
            dz[n, j] /= number(N)
    return J / number(N), True


_in_numpy = cross_entropy_and_gradient.behind


def _cross_entropy(z: np.ndarray, y: np.ndarray) -> tuple[np.floating, np.ndarray]:
    """Compute J and dz; what is not finite or out of range is left to the function in NumPy."""
    dz = np.empty(z.shape, z.dtype)
    J, in_order = _softmax(dz, z.copy(), y.astype(np.int64))
    if not in_order:
        return _in_numpy(z, y)
    return z.dtype.type(J), dz


# --- Adam ---
@_parallel
def _move(theta, g, m, v, betas, rises, correct2, eps, rate):
    """Update θ, m and v in place, a piece for each task."""
    for piece in prange((len(theta) + _PIECE - 1) // _PIECE):
        i, j = _PIECE * piece, _PIECE * (piece + 1)
        rows = theta[i:j], g[i:j], m[i:j], v[i:j]
        _move_piece(*rows, betas, rises, correct2, eps, rate)


@njit(cache=True, error_model="numpy", fastmath=False)  # or it inherits its caller's
def _move_piece(theta, g, m, v, betas, rises, correct2, eps, rate):
    """Update one piece, without fast arithmetic: the same bits wherever it is cut."""
    (beta1, beta2), (rise1, rise2) = betas, rises
    for t in range(len(theta)):
        m[t] = beta1 * m[t] + rise1 * g[t]
        v[t] = beta2 * v[t] + rise2 * (g[t] * g[t])
        theta[t] -= m[t] / (np.sqrt(v[t] * correct2) + eps) * rate


def _adam(
    theta: np.ndarray, g: np.ndarray, m: np.ndarray, v: np.ndarray, t: int,
    gamma: float, betas: tuple[float, float], eps: float,
) -> None:  # fmt: skip
    """Take Adam's step with one parameter, in one walk through the memory."""
    if not (theta.flags.carray and m.flags.carray and v.flags.carray):
        adam_update(theta, g, m, v, t, gamma, betas, eps)  # changed in place: no copies
        return
    number, (beta1, beta2) = theta.dtype.type, betas
    fill = _move if theta.size >= _ALONE else _move_piece
    fill(
        theta.reshape(-1),
        g.reshape(-1),
        m.reshape(-1),
        v.reshape(-1),
        (number(beta1), number(beta2)),
        (number(1 - beta1), number(1 - beta2)),
        number(1 / (1 - beta2**t)),
        number(eps),
        number(gamma / (1 - beta1**t)),
    )


TWINS: dict[Callable, Callable] = {
    conv2d: conv2d_compiled.behind,
    conv2d_backward: conv2d_compiled_backward.behind,
    rows: _rows,
    linear: _linear,
    linear_backward: _linear_backward,
    relu: _relu,
    relu_backward: _relu_backward,
    cross_entropy_and_gradient: _cross_entropy,
    adam_update: _adam,
}
