"""Convolution as matrix multiplication.

Exported from book/12-im2col.ipynb: edit the chapter and run `make export`.
"""

import functools
import math
import weakref
from collections import defaultdict
from itertools import product

import numpy as np
from numpy.lib.stride_tricks import as_strided

from .correlation import Geometry, Padding, check_conv, geometry, padded_size, windows
from .correlation_grad import check_conv_backward, crop
from .data import check_array, check_integer

__all__ = [
    "empty",
    "im2col",
    "conv2d_im2col",
    "col2im",
    "conv2d_im2col_backward",
    "conv2d_bands",
    "conv2d_bands_backward",
    "PRICES",
    "cost",
    "choose",
]


# --- Memory that is used again ---


class _Pool:
    """Blocks of memory, ``most`` bytes of them at most, that go from dead arrays to new ones."""

    def __init__(self, most: int) -> None:
        self.most = most
        # By the number of a weak reference: the reference, and the block that its array lies in.
        self.loans: dict[int, tuple[weakref.ref, tuple[bytearray, int]]] = {}
        # The references whose arrays have died, by the size of their blocks.
        self.free: dict[int, list[weakref.ref]] = defaultdict(list)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype, size: int) -> np.ndarray:
        """Make an array of ``size`` bytes in a block that nobody looks at."""
        # Powers of two: arrays of different sizes share their blocks.
        size = 1 << (size + 63).bit_length()
        free, block = self.free[size], None
        try:
            while block is None:  # passing over references whose blocks are gone
                loan = free.pop()
                _, block = self.loans.pop(id(loan), (None, None))
        except IndexError:
            memory = bytearray(size)
            block = memory, -np.frombuffer(memory, np.uint8).ctypes.data % 64
            if not self.has_room(size):
                return np.ndarray(shape, dtype, *block)
        a = np.ndarray(shape, dtype, *block)
        # What runs when the array dies, which may be at any moment, is a single call of C.
        loan = weakref.ref(a, free.append)
        self.loans[id(loan)] = loan, block
        return a

    def has_room(self, size: int) -> bool:
        """Tell whether a new block may be kept, if need be in place of all that lie idle."""
        if size <= self.most < self.held() + size:
            for number, (loan, _) in list(self.loans.items()):
                if loan() is None:
                    self.loans.pop(number, None)
        return self.held() + size <= self.most

    def held(self) -> int:
        """Return the size of all blocks."""
        return sum(len(memory) for _, (memory, _) in list(self.loans.values()))


_pool = _Pool(2**30)


def empty(shape: int | tuple[int, ...], dtype: type | np.dtype) -> np.ndarray:
    """Return an array with arbitrary contents, in memory that dead arrays have left.

    It is to large arrays what ``np.empty`` is to all: the block goes to another array only
    after this one has died, and every view of it.

    Parameters
    ----------
    shape : int or tuple of int
        The shape.
    dtype : type or np.dtype
        The dtype.

    Returns
    -------
    np.ndarray
        The array, C-contiguous; a large one begins at a multiple of 64 bytes.

    Raises
    ------
    TypeError
        The shape holds something else than integers, or there is no such dtype.
    ValueError
        A size is negative.

    Examples
    --------
    >>> empty((100, 8, 14, 14), np.float32).shape
    (100, 8, 14, 14)
    """
    dtype = np.dtype(dtype)
    count = int(math.prod(shape) if isinstance(shape, tuple) else shape)
    size = count * dtype.itemsize
    if size < 2**16 or dtype.hasobject:  # what is small the system serves as fast
        return np.empty(shape, dtype)
    return _pool.empty(shape, dtype, size)


def _frame(xbar: np.ndarray, x: np.ndarray, top: int, left: int) -> None:
    """Write images into ``xbar``, zeros around them; both begin (rows, columns)."""
    h0, w0 = max(top, 0), max(left, 0)
    h1 = max(min(top + x.shape[0], xbar.shape[0]), h0)
    w1 = max(min(left + x.shape[1], xbar.shape[1]), w0)
    xbar[:h0] = xbar[h1:] = 0
    xbar[h0:h1, :w0] = xbar[h0:h1, w1:] = 0
    xbar[h0:h1, w0:w1] = x[h0 - top : h1 - top, w0 - left : w1 - left]


def _compact(a: np.ndarray) -> np.ndarray:
    """Return the array itself if it is C-contiguous, otherwise a copy that is."""
    if a.flags.c_contiguous:
        return a
    copy = empty(a.shape, a.dtype)
    np.copyto(copy, a)
    return copy


def im2col(x: np.ndarray, f_h: int, f_w: int, g: Geometry) -> np.ndarray:
    """Copy every window of the padded images into a column.

    Implements {eq}`eq:columns`.

    Parameters
    ----------
    x : np.ndarray
        The images, shape (N, C, H, W).
    f_h, f_w : int
        The filter's rows and columns.
    g : Geometry
        What ``geometry`` returned for this image and this filter.

    Returns
    -------
    np.ndarray
        V, shape (N, C·f_h·f_w, h_out·w_out), dtype as ``x``. Where there is nothing to copy it is
        a view of ``x``.

    Raises
    ------
    TypeError
        ``x`` is no array of numbers.
    ValueError
        ``x`` has not the size that ``g`` was made for.
    """
    rows, columns = padded_size(f_h, f_w, g)
    size = (rows - g.top - g.bottom, columns - g.left - g.right)
    check_array("x", x, ("N", "C", *size), f"for a {f_h} × {f_w} filter and {g}")
    N, C, xbar = *x.shape[:2], x
    if size != (rows, columns):
        xbar = empty((N, C, rows, columns), x.dtype)
        _frame(xbar.transpose(2, 3, 0, 1), x.transpose(2, 3, 0, 1), g.top, g.left)
    V = _compact(windows(xbar, f_h, f_w, g))
    return V.reshape(N, C * f_h * f_w, g.h_out * g.w_out)


# --- Forward: one product ---


def conv2d_im2col(
    x: np.ndarray,
    W: np.ndarray,
    b: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
) -> np.ndarray:
    """Cross-correlate with one matrix product per image.

    Implements {eq}`eq:conv-columns`.

    Parameters
    ----------
    x : np.ndarray
        The images, shape (N, C_in, H, W).
    W : np.ndarray
        The filters, shape (C_out, C_in, f_h, f_w), dtype as ``x``.
    b : np.ndarray
        The bias, shape (C_out,), dtype as ``x``.
    stride, dilation : int
        The steps between windows and between the taps of one window.
    padding : int or tuple of int
        Zeros around the image: p, (rows, columns), or (top, bottom, left, right).

    Returns
    -------
    np.ndarray
        The output z, shape (N, C_out, h_out, w_out), dtype as ``x``.

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes differ.
    ValueError
        The shapes do not fit, or the filter is larger than the padded image.
    """
    check_conv(x, W, b)
    C_out, _, f_h, f_w = W.shape
    g = geometry(x.shape[2:], (f_h, f_w), stride, padding, dilation)
    z = empty((len(x), C_out, g.h_out * g.w_out), x.dtype)
    np.matmul(W.reshape(C_out, -1), im2col(x, f_h, f_w, g), out=z)
    z += b[:, np.newaxis]
    return z.reshape(len(x), C_out, g.h_out, g.w_out)


# --- Backward: two products, and the way home ---


def col2im(dV: np.ndarray, g: Geometry) -> np.ndarray:
    """Add each window's numbers to the pixels they were read from, as im2col in reverse.

    Implements {eq}`eq:conv-columns-dx`.

    Parameters
    ----------
    dV : np.ndarray
        A number for each tap of each window, shape (N, C, f_h, f_w, h_out, w_out).
    g : Geometry
        What ``geometry`` returned for this image and this filter.

    Returns
    -------
    np.ndarray
        dx̄, shape (N, C, top + H + bottom, left + W + right), dtype as ``dV``.

    Raises
    ------
    TypeError
        ``dV`` is no array of numbers.
    ValueError
        ``dV`` has another number of windows than ``g``.
    """
    check_array("dV", dV, ("N", "C", "f_h", "f_w", g.h_out, g.w_out), f"for {g}")
    N, C, f_h, f_w, h_out, w_out = dV.shape
    dxbar = empty((N, C, *padded_size(f_h, f_w, g)), dV.dtype)
    dxbar[...] = 0
    for a, c in np.ndindex(f_h, f_w):
        h = slice(g.d * a, g.d * a + g.s * h_out, g.s)
        w = slice(g.d * c, g.d * c + g.s * w_out, g.s)
        dxbar[:, :, h, w] += dV[:, :, a, c]
    return dxbar


def conv2d_im2col_backward(
    dz: np.ndarray,
    x: np.ndarray,
    W: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    input_gradient: bool = True,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Turn the gradient by a convolution's output into those by its input and parameters.

    Implements {eq}`eq:conv-columns-dW` and {eq}`eq:conv-columns-dV`; the bias is {eq}`eq:conv-db`.

    Parameters
    ----------
    dz : np.ndarray
        The gradient of the cost by the output, shape (N, C_out, h_out, w_out).
    x, W : np.ndarray
        What ``conv2d_im2col`` was given: shapes (N, C_in, H, W) and (C_out, C_in, f_h, f_w),
        dtype as ``dz``.
    stride, padding, dilation : int or tuple of int
        What ``conv2d_im2col`` was given.
    input_gradient : bool
        Whether to compute ``dx``.

    Returns
    -------
    dx : np.ndarray or None
        Shape (N, C_in, H, W); None where ``input_gradient`` is false.
    dW : np.ndarray
        Shape (C_out, C_in, f_h, f_w).
    db : np.ndarray
        Shape (C_out,).

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes differ.
    ValueError
        The shapes do not fit.
    """
    g = check_conv_backward(dz, x, W, stride, padding, dilation)
    (C_out, C_in, f_h, f_w), N = W.shape, len(x)
    dz = _compact(dz)
    db = dz.sum(axis=(0, 2, 3))
    dz = dz.reshape(N, C_out, -1)
    V = im2col(x, f_h, f_w, g)
    dW = empty((N, C_out, V.shape[1]), W.dtype)
    np.matmul(dz, V.transpose(0, 2, 1), out=dW)
    dW = dW.sum(axis=0).reshape(W.shape)
    if not input_gradient:
        return None, dW, db
    dV = empty(V.shape, W.dtype)
    np.matmul(W.reshape(C_out, -1).T, dz, out=dV)
    dV = dV.reshape(N, C_in, f_h, f_w, g.h_out, g.w_out)
    return crop(col2im(dV, g), x.shape, g), dW, db


# --- Between the two ---


def _blocks(
    x: np.ndarray, top: int, left: int, rows: int, count: int, step: int, k: int
) -> np.ndarray:
    """Cut ``count`` blocks of k columns, ``step`` apart, from x with its padding.

    See {eq}`eq:band-blocks`; (count, rows, k, C, N), one block not copied.
    """
    N, C = x.shape[:2]
    xbar = empty((rows, step * (count - 1) + k, C, N), x.dtype)
    _frame(xbar, x.transpose(2, 3, 1, 0), top, left)
    h, w, mu, n = xbar.strides
    X = as_strided(xbar, (count, rows, k, C, N), (step * w, h, w, mu, n))
    return _compact(X)


def _bands(
    X: np.ndarray, start: int, count: int, s: int, taps: int, d: int
) -> np.ndarray:
    """View each block as its bands: band i has the rows start + s i + d a.

    See {eq}`eq:band`; (blocks, count, taps·k·C, N), copied where d is not 1.
    """
    X = X[:, start:]
    (J, _, k, C, N), (block, h, *inner) = X.shape, X.strides
    B = as_strided(X, (J, count, taps, k, C, N), (block, s * h, d * h, *inner))
    if d > 1 and taps > 1:
        B = _compact(B)
    return B.reshape(J, count, taps * k * C, N)


def _toeplitz(
    W: np.ndarray, outputs: range, columns: range, s: int, d: int
) -> np.ndarray:
    """Spread the taps over the columns that they meet.

    See {eq}`eq:toeplitz`; (outputs, C_out, f_h, columns, C_in).
    """
    C_out, C_in, f_h, f_w = W.shape
    T = np.zeros((len(outputs), C_out, f_h, len(columns), C_in), W.dtype)
    for (p, j), c in product(enumerate(outputs), range(f_w)):
        if (w := s * j + d * c) in columns:
            T[p, :, :, columns.index(w)] = W[:, :, :, c].transpose(0, 2, 1)
    return T


# --- Forward ---


def conv2d_bands(
    x: np.ndarray,
    W: np.ndarray,
    b: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    m: int | None = None,
) -> np.ndarray:
    """Cross-correlate with one matrix product for each m neighbouring outputs.

    Implements {eq}`eq:toeplitz`, {eq}`eq:band-blocks`, {eq}`eq:band` and {eq}`eq:conv-bands`.

    Parameters
    ----------
    x : np.ndarray
        The images, shape (N, C_in, H, W), in any order of memory.
    W : np.ndarray
        The filters, shape (C_out, C_in, f_h, f_w), dtype as ``x``.
    b : np.ndarray
        The bias, shape (C_out,), dtype as ``x``.
    stride, dilation : int
        The steps between windows and between the taps of one window.
    padding : int or tuple of int
        Zeros around the image: p, (rows, columns), or (top, bottom, left, right).
    m : int, optional
        How many outputs of a row one product makes, a divisor of the row's length. By default the
        number that is predicted to be the cheapest.

    Returns
    -------
    np.ndarray
        The output z, shape (N, C_out, h_out, w_out), dtype as ``x``: a view of an array in the
        order (h_out, w_out, C_out, N).

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes differ.
    ValueError
        The shapes do not fit, the filter is larger than the padded image, or ``m`` does not
        divide the outputs of a row.
    """
    check_conv(x, W, b)
    g = geometry(x.shape[2:], W.shape[2:], stride, padding, dilation)
    m = _outputs_at_a_time(m, len(x), W.shape, g)
    B, columns = _input_bands(x, W.shape, g, m)
    T = _toeplitz(W, range(m), columns, g.s, g.d).reshape(m * len(W), -1)
    z = empty((g.h_out, g.w_out, len(W), len(x)), x.dtype)
    np.matmul(T, B, out=_by_block(z, m))
    z += b[:, np.newaxis]
    return z.transpose(3, 2, 0, 1)


def _input_bands(
    x: np.ndarray, W_shape: tuple[int, ...], g: Geometry, m: int
) -> tuple[np.ndarray, range]:
    """Return the bands of the images in blocks for m outputs, and a block's columns."""
    _, _, f_h, f_w = W_shape
    rows = g.s * (g.h_out - 1) + g.d * (f_h - 1) + 1
    k = g.s * (m - 1) + g.d * (f_w - 1) + 1
    X = _blocks(x, g.top, g.left, rows, g.w_out // m, g.s * m, k)
    return _bands(X, 0, g.h_out, g.s, f_h, g.d), range(k)


def _by_block(z: np.ndarray, m: int) -> np.ndarray:
    """View (h, w, C, N) as one matrix for each block of m columns and each row."""
    h, w, C, N = z.shape
    return z.reshape(h, w // m, m * C, N).swapaxes(0, 1)


def _outputs_at_a_time(
    m: int | None, N: int, W_shape: tuple[int, ...], g: Geometry
) -> int:
    """Return ``m`` if it divides the outputs of a row, or the cheapest for None."""
    if m is None:
        return _cheapest(N, W_shape, g)[0]
    m = check_integer("m", m, 1)
    if g.w_out % m:
        raise ValueError(
            f"m is {m}; expected a divisor of the {g.w_out} outputs of a row"
        )
    return m


# --- Backward ---


def conv2d_bands_backward(
    dz: np.ndarray,
    x: np.ndarray,
    W: np.ndarray,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    input_gradient: bool = True,
    m: int | None = None,
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Turn the gradient by a convolution's output into those by its input and parameters.

    Implements {eq}`eq:conv-bands-dW` and {eq}`eq:conv-bands-dx`; the bias is {eq}`eq:conv-db`.

    Parameters
    ----------
    dz : np.ndarray
        The gradient of the cost by the output, shape (N, C_out, h_out, w_out), in any order of
        memory.
    x, W : np.ndarray
        What ``conv2d_bands`` was given: shapes (N, C_in, H, W) and (C_out, C_in, f_h, f_w),
        dtype as ``dz``.
    stride, padding, dilation : int or tuple of int
        What ``conv2d_bands`` was given.
    input_gradient : bool
        Whether to compute ``dx``.
    m : int, optional
        As in ``conv2d_bands``; for ``dx`` a product makes s·m pixels.

    Returns
    -------
    dx : np.ndarray or None
        Shape (N, C_in, H, W), a view of an array in the order (H, W, C_in, N); None where
        ``input_gradient`` is false.
    dW : np.ndarray
        Shape (C_out, C_in, f_h, f_w).
    db : np.ndarray
        Shape (C_out,).

    Raises
    ------
    TypeError
        An argument has the wrong type, or the dtypes differ.
    ValueError
        The shapes do not fit, or ``m`` does not divide the outputs of a row.
    """
    g = check_conv_backward(dz, x, W, stride, padding, dilation)
    pixels = _cheapest(len(x), W.shape, g)[1] if m is None else g.s * m
    m = _outputs_at_a_time(m, len(x), W.shape, g)
    dz = _compact(dz.transpose(2, 3, 1, 0))
    db = dz.reshape(-1, len(W), len(x)).sum(axis=0).sum(axis=1)
    dW = _bands_dW(dz, x, W.shape, g, m)
    dx = _bands_dx(dz, x.shape, W, g, pixels) if input_gradient else None
    return dx, dW, db


def _bands_dW(
    dz: np.ndarray, x: np.ndarray, W_shape: tuple[int, ...], g: Geometry, m: int
) -> np.ndarray:
    """Return the gradient by the weights; ``dz`` is in the order (h, w, C, N).

    See {eq}`eq:conv-bands-dW`.
    """
    C_out, C_in, f_h, f_w = W_shape
    B, columns = _input_bands(x, W_shape, g, m)
    dT = empty((*B.shape[:3], m * C_out), x.dtype)
    np.matmul(B, _by_block(dz, m).swapaxes(2, 3), out=dT)
    dT = dT.reshape(-1, dT[0, 0].size).sum(axis=0)
    dT = dT.reshape(f_h, len(columns), C_in, m, C_out)
    span = g.d * (f_w - 1) + 1
    dW = sum(dT[:, g.s * j : g.s * j + span : g.d, :, j] for j in range(m))
    return np.ascontiguousarray(dW.transpose(3, 2, 0, 1))


def _bands_dx(
    dz: np.ndarray, shape: tuple[int, ...], W: np.ndarray, g: Geometry, m: int
) -> np.ndarray:
    """Return the gradient by the input, m pixels of a row at a time; ``dz`` as above.

    See {eq}`eq:conv-bands-dx`.
    """
    (N, C, H, width), (_, _, f_h, f_w) = shape, W.shape
    # The first and the last row of outputs that reads the image; a block's columns of outputs.
    i0, i1 = -((g.d * (f_h - 1) - g.top) // g.s), (g.top + H - 1) // g.s
    j0, j1 = -((g.d * (f_w - 1) - g.left) // g.s), (g.left + m - 1) // g.s
    outputs, blocks = range(j0, j1 + 1), -(-width // m)
    dz = dz.transpose(3, 2, 0, 1)
    Z = _blocks(dz, -i0, -j0, i1 - i0 + 1, blocks, m // g.s, len(outputs))
    T = _toeplitz(W, outputs, range(g.left, g.left + m), g.s, g.d)
    T = T.transpose(3, 4, 2, 0, 1)  # rows (w, mu), columns (a, j, nu)
    dx, apart = empty((H, blocks * m, C, N), W.dtype), g.d // math.gcd(g.s, g.d)
    for h in range(min(g.s, H)):
        rows = _by_block(dx, m)[:, h :: g.s]
        met = [a for a in reversed(range(f_h)) if (g.top + h - g.d * a) % g.s == 0]
        if met:
            first = (g.top + h - g.d * met[0]) // g.s - i0
            B = _bands(Z, first, rows.shape[1], 1, len(met), apart)
            np.matmul(T[:, :, met].reshape(m * C, -1), B, out=rows)
        else:
            rows[...] = 0
    return dx[:, :width].transpose(3, 2, 0, 1)


# --- What it costs ---


# What a product, an operation and a number moved typically cost, in seconds.
PRICES = (1e-7, 2e-11, 4e-10)


def cost(
    way: str,
    N: int,
    W_shape: tuple[int, ...],
    g: Geometry,
    input_gradient: bool = True,
) -> np.ndarray:
    """Count what a convolution costs: products, operations, and numbers moved.

    Parameters
    ----------
    way : str
        "im2col" or "bands".
    N : int
        The number of images.
    W_shape : tuple of int
        The filters' shape, (C_out, C_in, f_h, f_w).
    g : Geometry
        Where the filters go.
    input_gradient : bool
        Whether the backward pass computes the gradient by the input.

    Returns
    -------
    np.ndarray
        Shape (2, 3): the forward and the backward pass, each with its three counts.

    Raises
    ------
    TypeError
        ``N`` is no integer.
    ValueError
        ``way`` is none of the two, ``N`` is too small, or ``W_shape`` has not four sizes.
    """
    if way not in ("im2col", "bands"):
        raise ValueError(f"way is {way!r}; expected 'im2col' or 'bands'")
    N = check_integer("N", N, 1)
    if len(W_shape) != 4:
        raise ValueError(f"W_shape is {W_shape}; expected (C_out, C_in, f_h, f_w)")
    if way == "im2col":
        forward, dx = _im2col_cost(N, W_shape, g)
    else:
        m, pixels = _cheapest(N, tuple(W_shape), g)
        forward = _bands_cost(N, W_shape, g, m)
        dx = _bands_dx_cost(N, W_shape, g, pixels)
    return np.array([forward, forward + input_gradient * dx])


def _count(
    *moved: tuple[int, ...], products: int = 0, sizes: tuple[int, int, int] = (0, 0, 0)
) -> np.ndarray:
    """Count products of these sizes, their operations, and the arrays' numbers."""
    M, K, N = sizes
    operations = products * M * K * (N + -N % 16)
    return np.array([products, operations, sum(map(math.prod, moved))])


def _im2col_cost(
    N: int, W_shape: tuple[int, ...], g: Geometry
) -> tuple[np.ndarray, np.ndarray]:
    """Count the forward pass (as much as the gradient by the weights), and dx."""
    C_out, C_in, f_h, f_w = W_shape
    K, L, size = C_in * f_h * f_w, g.h_out * g.w_out, padded_size(f_h, f_w, g)
    multiply = _count(products=N, sizes=(C_out, K, L))
    V, z = (N, K, L) if f_h * f_w * g.s > 1 else (), (N, C_out, L)
    xbar = (N, C_in, *size) if g.top + g.bottom + g.left + g.right else ()
    # dV is written, read, and added.
    dx = multiply + _count(V, V, V, (N, C_in, *size))
    return multiply + _count(xbar, V, z), dx


def _bands_cost(N: int, W_shape: tuple[int, ...], g: Geometry, m: int) -> np.ndarray:
    """Count the forward pass, or the gradient by the weights, m outputs at a time."""
    C_out, C_in, f_h, f_w = W_shape
    k, blocks = g.s * (m - 1) + g.d * (f_w - 1) + 1, g.w_out // m
    rows, columns = padded_size(f_h, f_w, g)
    moved = [(rows, columns, C_in, N), (g.h_out, g.w_out, C_out, N)]
    moved += [(blocks, rows, k, C_in, N)] * (blocks > 1)
    moved += [(blocks, g.h_out, f_h, k, C_in, N)] * (g.d > 1)
    sizes = (m * C_out, f_h * k * C_in, N)
    return _count(*moved, products=blocks * g.h_out, sizes=sizes)


def _bands_dx_cost(N: int, W_shape: tuple[int, ...], g: Geometry, m: int) -> np.ndarray:
    """Count the gradient by the input in blocks of m pixels."""
    C_out, C_in, f_h, f_w = W_shape
    rows, columns = padded_size(f_h, f_w, g)
    H, blocks = rows - g.top - g.bottom, -(-(columns - g.left - g.right) // m)
    k = (g.left + m - 1) // g.s + (g.d * (f_w - 1) - g.left) // g.s + 1
    moved = [(g.h_out, g.w_out, C_out, N), (blocks, g.h_out, k, C_out, N)]
    sizes = (m * C_in, -(-f_h // g.s) * k * C_out, N)
    return _count(*moved, products=blocks * H, sizes=sizes)


@functools.lru_cache(256)
def _cheapest(N: int, W_shape: tuple[int, ...], g: Geometry) -> tuple[int, int]:
    """Return how many outputs, and how many pixels of dx, a product should make."""
    width = padded_size(*W_shape[2:], g)[1] - g.left - g.right
    outputs = [m for m in range(1, g.w_out + 1) if g.w_out % m == 0]
    pixels = range(g.s, width + g.s, g.s)
    return (
        min(outputs, key=lambda m: float(_bands_cost(N, W_shape, g, m) @ PRICES)),
        min(pixels, key=lambda m: float(_bands_dx_cost(N, W_shape, g, m) @ PRICES)),
    )


def choose(
    N: int, W_shape: tuple[int, ...], g: Geometry, input_gradient: bool = True
) -> str:
    """Return which way is predicted to be the faster one, forward and backward together.

    Parameters
    ----------
    N, W_shape, g, input_gradient
        As in ``cost``.

    Returns
    -------
    str
        "im2col" or "bands".

    Raises
    ------
    TypeError, ValueError
        As in ``cost``.
    """
    return _choice(N, tuple(W_shape), g, input_gradient)


@functools.lru_cache(256)
def _choice(N: int, W_shape: tuple[int, ...], g: Geometry, input_gradient: bool) -> str:
    """Return the cheaper way, remembered for each layer."""

    def seconds(way: str) -> float:
        return float((cost(way, N, W_shape, g, input_gradient) @ PRICES).sum())

    return min(("bands", "im2col"), key=seconds)
