"""On a graphics processor.

Exported from book/29-gpu.ipynb: edit the chapter and run `make export`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, cuda, float32

from .correlation import Padding, geometry, pad
from .shapes import shapes

__all__ = [
    "SIMULATED", "TILE", "THREADS", "DEEP", "TILES", "zero", "place", "conv2d_gpu",
    "conv2d_gpu_backward", "product",
]  # fmt: skip


# --- A thread for each output ---
SIMULATED = bool(config.ENABLE_CUDASIM)
TILE = 2 if SIMULATED else 16  # rows and columns of a tile
THREADS = TILE * TILE  # in a block
DEEP = 2 if SIMULATED else 4  # tiles of each matrix that are fetched together
TILES = 4 * 2 * DEEP * TILE * TILE  # bytes
zero = np.float32(0)  # a plain 0 would be a whole number, 0.0 a float64


@cuda.jit(device=True)
def place(t, C, h, w):
    """Return image, channel, row and column of number t.

    Implements {eq}`eq:gpu-place`.
    """
    return t // (C * h * w), t // (h * w) % C, t // w % h, t % w


# --- The literal loops, once more ---
@cuda.jit
def _forward(z, xbar, W, b, s, d):
    """Compute one output a thread."""
    N, C_out, h_out, w_out = z.shape
    _, C_in, f_h, f_w = W.shape
    t = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if t < N * C_out * h_out * w_out:
        n, nu, i, j = place(t, C_out, h_out, w_out)
        total = b[nu]
        for mu in range(C_in):
            for a in range(f_h):
                for c in range(f_w):
                    total += W[nu, mu, a, c] * xbar[n, mu, s * i + d * a, s * j + d * c]
        z[n, nu, i, j] = total


def _launch(kernel: Any, out: np.ndarray, *args: Any) -> np.ndarray:
    """Run a kernel with a thread for each number of ``out``, and return what it has written."""
    there = [cuda.to_device(a) if isinstance(a, np.ndarray) else a for a in args]
    result = cuda.to_device(out)
    kernel[-(-out.size // THREADS), THREADS](result, *there)
    return result.copy_to_host()


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), b (C_out)")
def conv2d_gpu(
    x: np.ndarray, W: np.ndarray, b: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1,
) -> np.ndarray:  # fmt: skip
    """Cross-correlate images with filters, one output a thread.

    Implements {eq}`eq:conv-forward`.
    """
    g = geometry(x.shape[2:], W.shape[2:], stride, padding, dilation)
    z = np.zeros((len(x), len(W), g.h_out, g.w_out), x.dtype)
    return _launch(_forward, z, pad(x, g), W, b, g.s, g.d)


# --- Nobody adds to another's number ---
@cuda.jit
def _input_gradient(dx, dz, W, s, d, top, left):
    """Compute the gradient of one pixel a thread."""
    N, C_in, H, width = dx.shape
    C_out, _, f_h, f_w = W.shape
    _, _, h_out, w_out = dz.shape
    t = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if t < N * C_in * H * width:
        n, mu, h, w = place(t, C_in, H, width)
        total = dx[n, mu, h, w]  # 0, in the array's dtype
        for a in range(f_h):
            for c in range(f_w):
                si, sj = h + top - d * a, w + left - d * c
                inside = 0 <= si < s * h_out and 0 <= sj < s * w_out
                if inside and si % s == 0 and sj % s == 0:
                    for nu in range(C_out):
                        total += W[nu, mu, a, c] * dz[n, nu, si // s, sj // s]
        dx[n, mu, h, w] = total


@cuda.jit
def _weight_gradient(dW, dz, xbar, s, d):
    """Compute the gradient of one weight a thread: a sum over images and outputs."""
    C_out, C_in, f_h, f_w = dW.shape
    N, _, h_out, w_out = dz.shape
    t = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if t < C_out * C_in * f_h * f_w:
        nu, mu, a, c = place(t, C_in, f_h, f_w)
        total = dW[nu, mu, a, c]
        for n in range(N):
            for i in range(h_out):
                for j in range(w_out):
                    total += dz[n, nu, i, j] * xbar[n, mu, s * i + d * a, s * j + d * c]
        dW[nu, mu, a, c] = total


@cuda.jit
def _bias_gradient(db, dz):
    """Compute the gradient of one bias a thread."""
    N, C_out, h_out, w_out = dz.shape
    nu = cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x
    if nu < C_out:
        total = db[nu]
        for n in range(N):
            for i in range(h_out):
                for j in range(w_out):
                    total += dz[n, nu, i, j]
        db[nu] = total


@shapes("W (C_out, C_in, f_h, f_w), x (N, C_in, H, W), dz (N, C_out, h_out, w_out)")
def conv2d_gpu_backward(
    dz: np.ndarray, x: np.ndarray, W: np.ndarray, stride: int = 1,
    padding: Padding = 0, dilation: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Turn dz into dx, dW and db, one number a thread.

    Implements {eq}`eq:conv-dx`, {eq}`eq:conv-dW` and {eq}`eq:conv-db`.
    """
    g = geometry(x.shape[2:], W.shape[2:], stride, padding, dilation)
    where = g.s, g.d, g.top, g.left
    dx = _launch(_input_gradient, np.zeros_like(x), dz, W, *where)
    dW = _launch(_weight_gradient, np.zeros_like(W), dz, pad(x, g), g.s, g.d)
    db = _launch(_bias_gradient, np.zeros(len(W), W.dtype), dz)
    return dx, dW, db


# --- A tile of a matrix product ---
def product(
    read_a: Callable, read_b: Callable, a_turned: bool = False, b_turned: bool = False
) -> Callable:
    """Make a function that multiplies matrices: a tile for each block, a number a thread.

    Implements {eq}`eq:gpu-tile`. The matrices are what two functions read.
    """
    T, there = TILE, DEEP * TILE * TILE  # where B begins

    @cuda.jit(device=True)
    def tile(i, j, I, J, K, q, dq, r, theta):
        """Return the number (i, j); all threads of a block call it together."""
        pool, total = cuda.shared.array(0, float32), zero
        A, B = cuda.local.array(DEEP, float32), cuda.local.array(DEEP, float32)
        ti, tj = i % T, j % T
        a_row, a_col = (tj, ti) if a_turned else (ti, tj)
        b_row, b_col = (tj, ti) if b_turned else (ti, tj)
        for first in range(0, K, DEEP * T):
            for m in range(DEEP):
                row, k = i - ti + a_row, first + m * T + a_col
                inside = row < I and k < K
                A[m] = read_a(row, k, q, dq, r, theta) if inside else zero
                k, col = first + m * T + b_row, j - tj + b_col
                inside = k < K and col < J
                B[m] = read_b(k, col, q, dq, r, theta) if inside else zero
            for m in range(DEEP):
                pool[(m * T + a_row) * T + a_col] = A[m]
                pool[there + (m * T + b_row) * T + b_col] = B[m]
            cuda.syncthreads()
            for m in range(DEEP):
                for k in range(T):
                    a, b = (m * T + ti) * T + k, there + (m * T + k) * T + tj
                    total += pool[a] * pool[b]
            cuda.syncthreads()
        return total

    return tile
