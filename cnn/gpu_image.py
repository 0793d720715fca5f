"""An image for each block: convolutions on a graphics processor.

Exported from book/30-gpu-step.ipynb: edit the chapter and run `make export`.
"""

import math
from collections.abc import Callable

from numba import cuda, float32

from .conv import Conv2d
from .gpu import SIMULATED, THREADS, place, zero
from .gpu_plan import Stage, sizes

__all__ = [
    "at", "activation", "loader", "SPAN", "convolution", "filter_gradient",
    "input_gradient", "deconvolution", "chain", "convolving", "deconvolving",
]  # fmt: skip


# --- An image's block ---
@cuda.jit(device=True)
def at(c, y, x, h, w):
    """Return the number of a pixel: channel c, row y, column x."""
    return (c * h + y) * w + x


def activation(stage: Stage) -> tuple[Callable, Callable]:
    """Make what stands behind a stage's sums, and its derivative."""
    relu, drop, target = stage.relu, bool(stage.drops), stage.target

    @cuda.jit(device=True)
    def activate(z, n, k, r):
        """Return q for the sum z, number k of image n."""
        if relu:
            z = max(z, zero)
        if drop:
            z *= r[n, target + k]
        return z

    @cuda.jit(device=True)
    def derive(dq, n, k, q, r):
        """Return dz for the number dq."""
        if drop:
            dq *= r[n, target + k]
        if relu and q[n, target + k] <= zero:
            dq = zero
        return dq

    return activate, derive


def loader(stage: Stage) -> Callable:
    """Make the function with which a block fetches an image and the filters."""
    C_in, H, W, _, _, _, _, _, _, _, top, left, Hbar, Wbar, filters, _, dz, _ = sizes(
        stage
    )
    source, first = stage.source, stage.first

    @cuda.jit(device=True)
    def load(n, q, theta, pool):
        """Fill the shared memory: the image with zeros around it, filters and biases."""
        for t in range(cuda.threadIdx.x, filters, THREADS):
            _, mu, y, x = place(t, C_in, Hbar, Wbar)
            y, x = y - top, x - left
            inside = 0 <= y < H and 0 <= x < W
            pool[t] = q[n, source + at(mu, y, x, H, W)] if inside else zero
        for t in range(cuda.threadIdx.x, dz - filters, THREADS):
            pool[filters + t] = theta[first + t]
        cuda.syncthreads()

    return load


SPAN = 2 if SIMULATED else 7  # outputs of a thread


def convolution(stage: Stage) -> Callable:
    """Make the function that convolves one image, by one block."""
    C_in, _, _, C_out, h, w, f_h, f_w, s, d, _, _, Hbar, Wbar, filters, bias, _, _ = (
        sizes(stage)
    )
    load, (activate, _), target = loader(stage), activation(stage), stage.target
    P = min(SPAN, w)
    spans = -(-w // P)

    @cuda.jit(device=True)
    def convolve(n, q, r, theta, pool):
        """Write q of the stage for image n."""
        load(n, q, theta, pool)
        z = cuda.local.array(P, float32)
        for t in range(cuda.threadIdx.x, C_out * h * spans, THREADS):
            _, nu, i, span = place(t, C_out, h, spans)
            j = min(P * span, w - P)
            for p in range(P):
                z[p] = pool[bias + nu]
            for mu in range(C_in):
                for a in range(f_h):
                    for c in range(f_w):
                        tap = pool[filters + at(nu * C_in + mu, a, c, f_h, f_w)]
                        pixel = at(mu, s * i + d * a, s * j + d * c, Hbar, Wbar)
                        for p in range(P):
                            z[p] += tap * pool[pixel + s * p]
            k = at(nu, i, j, h, w)
            for p in range(P):
                q[n, target + k + p] = activate(z[p], n, k + p, r)
        cuda.syncthreads()

    return convolve


def filter_gradient(stage: Stage) -> Callable:
    """Make the function that computes one image's part of dW and db."""
    C_in, _, _, C_out, h, w, f_h, f_w, s, d, _, _, Hbar, Wbar, filters, bias, dz, _ = (
        sizes(stage)
    )
    first, n_weights = stage.first, bias - filters
    P = f_w if n_weights > THREADS else 1  # weights of a thread

    @cuda.jit(device=True)
    def differentiate(n, part, pool):
        """Write the parts: of a row's weights, or of one, a thread."""
        dW = cuda.local.array(P, float32)
        for t in range(cuda.threadIdx.x, n_weights // P, THREADS):
            nu, mu, a, c = place(t, C_in, f_h, f_w // P)
            for p in range(P):
                dW[p] = zero
            for i in range(h):
                for j in range(w):
                    blame = pool[dz + at(nu, i, j, h, w)]
                    pixel = at(mu, s * i + d * a, s * j + d * c, Hbar, Wbar)
                    for p in range(P):
                        dW[p] += blame * pool[pixel + d * p]
            for p in range(P):
                part[n, first + t * P + p] = dW[p]
        # the last threads first: they have had the least to do
        for nu in range(THREADS - 1 - cuda.threadIdx.x, C_out, THREADS):
            db = zero
            for k in range(h * w):
                db += pool[dz + nu * h * w + k]
            part[n, first + n_weights + nu] = db

    return differentiate


def input_gradient(stage: Stage) -> Callable:
    """Make the function that computes dq of one image's input."""
    C_in, H, W, C_out, h, w, f_h, f_w, s, d, top, left, _, _, filters, _, dz, _ = sizes(
        stage
    )
    source, h_s, w_s = stage.source, -(-H // s), -(-W // s)

    @cuda.jit(device=True)
    def differentiate(n, dq, pool):
        """Write dq, a pixel a thread: over the windows that read it."""
        for t in range(cuda.threadIdx.x, s * s * C_in * h_s * w_s, THREADS):
            kind, mu, y, x = place(t, C_in, h_s, w_s)
            y, x = s * y + kind // s, s * x + kind % s
            total = zero
            for a in range(f_h):
                for c in range(f_w):
                    si, sj = y + top - d * a, x + left - d * c
                    inside = 0 <= si < s * h and 0 <= sj < s * w
                    if inside and si % s == 0 and sj % s == 0:
                        for nu in range(C_out):
                            tap = filters + at(nu * C_in + mu, a, c, f_h, f_w)
                            total += (
                                pool[tap] * pool[dz + at(nu, si // s, sj // s, h, w)]
                            )
            if y < H and x < W:
                dq[n, source + at(mu, y, x, H, W)] = total

    return differentiate


def deconvolution(stage: Stage) -> Callable:
    """Make the function that goes back through one convolution with one image."""
    *_, C_out, h, w = stage.after
    size, target, dz = math.prod(stage.after), stage.target, sizes(stage).dz
    to_input = stage.source > 0
    load, (_, derive) = loader(stage), activation(stage)
    for_filters, for_input = filter_gradient(stage), input_gradient(stage)

    @cuda.jit(device=True)
    def deconvolve(n, q, dq, r, theta, part, pool):
        """Write the image's parts of dW and db, and dq of the input unless that is the image."""
        load(n, q, theta, pool)
        for t in range(cuda.threadIdx.x, size, THREADS):
            pool[dz + t] = derive(dq[n, target + t], n, t, q, r)
        cuda.syncthreads()
        for_filters(n, part, pool)
        if to_input:
            for_input(n, dq, pool)
        cuda.syncthreads()

    return deconvolve


def chain(steps: list[Callable]) -> Callable:
    """Make one function that calls several in turn, with the same arguments."""
    if not steps:
        return cuda.jit(device=True)(lambda *args: None)
    *before, last = steps
    rest = chain(before)

    @cuda.jit(device=True)
    def both(*args):
        rest(*args)
        last(*args)

    return both


def convolving(stages: list[Stage]) -> Callable:
    """Make the kernel that fetches an image and sends it through all convolutions."""
    conv = [stage for stage in stages if isinstance(stage.layer, Conv2d)]
    through, pixels = (
        chain([convolution(stage) for stage in conv]),
        math.prod(stages[0].before),
    )

    @cuda.jit
    def kernel(images, order, clock, spot, q, r, theta):
        """Let block n compute with the batch's image n."""
        pool, n = cuda.shared.array(0, float32), cuda.blockIdx.x
        first = clock[0]
        if cuda.threadIdx.x == 0:
            spot[n] = first + n
        for k in range(cuda.threadIdx.x, pixels, THREADS):
            q[n, k] = images[order[first + n], k]
        cuda.syncthreads()
        through(n, q, r, theta, pool)

    return kernel


def deconvolving(stages: list[Stage]) -> Callable:
    """Make the kernel that sends an image's gradient back through all convolutions."""
    conv = [stage for stage in stages if isinstance(stage.layer, Conv2d)]
    back = chain([deconvolution(stage) for stage in reversed(conv)])

    @cuda.jit
    def kernel(q, dq, r, theta, part):
        """Let block n compute with image n."""
        pool = cuda.shared.array(0, float32)
        back(cuda.blockIdx.x, q, dq, r, theta, part, pool)

    return kernel
