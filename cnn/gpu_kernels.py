"""The dense layers, the cost and Adam on a graphics processor.

Exported from book/30-gpu-step.ipynb: edit the chapter and run `make export`.
"""

import math
from collections.abc import Callable

import numpy as np
from numba import cuda, float32

from .conv import Conv2d
from .gpu import THREADS, TILE, product, zero
from .gpu_image import activation
from .gpu_plan import Stage
from .optimizers import Adam, AdamW

__all__ = [
    "hidden", "blaming", "softmax", "joined", "scoring", "adam", "Task", "move_filters",
    "move_weights", "either", "updating",
]  # fmt: skip


# --- A tile's block ---
def hidden(stage: Stage) -> Callable:
    """Make the kernel of a dense layer: q W^T + b, a tile of images and units for each block."""
    (M_in,), (M_out,) = stage.before, stage.after
    T, columns = TILE, -(-M_out // TILE)
    source, target, first, bias = stage.source, stage.target, stage.first, stage.bias
    activate, _ = activation(stage)

    @cuda.jit(device=True)
    def read_q(n, mu, q, dq, r, theta):
        return q[n, source + mu]

    @cuda.jit(device=True)
    def read_W(mu, nu, q, dq, r, theta):
        return theta[first + nu * M_in + mu]

    tile = product(read_q, read_W, b_turned=True)

    @cuda.jit
    def kernel(N, q, dq, r, theta):
        n = cuda.blockIdx.x // columns * T + cuda.threadIdx.x // T
        nu = cuda.blockIdx.x % columns * T + cuda.threadIdx.x % T
        z = tile(n, nu, N, M_out, M_in, q, dq, r, theta)
        if n < N and nu < M_out:
            q[n, target + nu] = activate(z + theta[bias + nu], n, nu, r)

    return kernel


def blaming(stage: Stage) -> Callable:
    """Make the kernel that computes dq = dz W of a dense layer, a tile for each block."""
    M_in, M_out, source, first = *stage.before, *stage.after, stage.source, stage.first
    T, columns = TILE, -(-stage.before[0] // TILE)
    _, derive = activation(stage)

    @cuda.jit(device=True)
    def read_dz(n, nu, q, dq, r, theta):
        return derive(n, nu, q, dq, r)

    @cuda.jit(device=True)
    def read_W(nu, mu, q, dq, r, theta):
        return theta[first + nu * M_in + mu]

    tile = product(read_dz, read_W)

    @cuda.jit
    def kernel(N, q, dq, r, theta):
        n = cuda.blockIdx.x // columns * T + cuda.threadIdx.x // T
        mu = cuda.blockIdx.x % columns * T + cuda.threadIdx.x % T
        total = tile(n, mu, N, M_in, M_out, q, dq, r, theta)
        if n < N and mu < M_in:
            dq[n, source + mu] = total

    return kernel


# --- Scores, cost, blame ---
def softmax(K: int) -> Callable:
    """Make the function that looks at the K scores of an image."""

    @cuda.jit(device=True)
    def look(z, y):
        """Return the largest score, the exponentials' sum, J, and whether y is not the best."""
        best, total, nothing = 0, zero, zero
        for k in range(K):
            if z[k] > z[best]:
                best = k
            nothing += zero * z[k]  # 0, but NaN where a score is not finite
        for k in range(K):
            total += math.exp(z[k] - z[best])
        return z[best], total, math.log(total) + z[best] - z[y] + nothing, best != y

    return look


@cuda.jit(device=True)
def joined(part, pool, first):
    """Return the sum of a column's parts; all threads of a block call it together."""
    t, total = cuda.threadIdx.x, zero
    pool[first + t] = part
    cuda.syncthreads()
    for row in range(TILE):
        total += pool[first + row * TILE + t % TILE]
    cuda.syncthreads()
    return total


def scoring(stage: Stage) -> Callable:
    """Make the kernel of the last layer: scores, cost, dz, and dq of what came in."""
    M_in, K, source, target = *stage.before, *stage.after, stage.source, stage.target
    first, bias, look = stage.first, stage.bias, softmax(stage.after[0])

    @cuda.jit
    def kernel(N, labels, order, clock, spot, q, dq, theta, costs):
        """Let block n compute with image n, and block 0 move the clock on."""
        z, n = cuda.shared.array(0, float32), cuda.blockIdx.x
        t = cuda.threadIdx.x
        for k in range(t % TILE, -(-K // TILE) * TILE, TILE):
            part = zero
            if k < K:
                for mu in range(t // TILE, M_in, TILE):
                    part += theta[first + k * M_in + mu] * q[n, source + mu]
            total = joined(part, z, K)
            if t < TILE and k < K:
                z[k] = theta[bias + k] + total
        cuda.syncthreads()
        y = labels[order[spot[n]]]
        m, total, J, wrong = look(z, y)
        for k in range(t, K, THREADS):
            hit = float32(k == y)
            dq[n, target + k] = (math.exp(z[k] - m) / total - hit) / float32(N)
        cuda.syncthreads()
        for mu in range(t, M_in if source > 0 else 0, THREADS):
            total = zero
            for k in range(K):
                total += dq[n, target + k] * theta[first + k * M_in + mu]
            dq[n, source + mu] = total
        if t == 0:
            costs[spot[n], 0] = J
            costs[spot[n], 1] = wrong
            if n == 0:
                clock[0] += N
                clock[1] += 1

    return kernel


# --- Adam where the gradient is born ---
def adam(optimizer: Adam) -> Callable:
    """Make the function that takes Adam's or AdamW's step with one parameter."""
    beta1, beta2, eps = map(np.float32, (*optimizer.betas, optimizer.eps))
    rise1, rise2 = (np.float32(1 - beta) for beta in optimizer.betas)
    coupled = 0.0 if isinstance(optimizer, AdamW) else optimizer.weight_decay
    decay = np.float32(coupled)

    @cuda.jit(device=True)
    def move(p, g, theta, m, v, rates, t):
        """Move number p by its gradient g, at the rates of step t."""
        old, m_p, v_p = theta[p], m[p], v[p]
        g += decay * old
        m_p = beta1 * m_p + rise1 * g
        v_p = beta2 * v_p + rise2 * (g * g)
        step = m_p / (math.sqrt(v_p * rates[t, 1]) + eps) * rates[t, 0]
        theta[p], m[p], v[p] = rates[t, 2] * old - step, m_p, v_p

    return move


Task = tuple[int, Callable]  # how many blocks, and what each of them does


def move_filters(stage: Stage, move: Callable) -> Task:
    """Return the task of a convolution: add the images' parts up, always in the same order."""
    first, T = stage.first, TILE
    size = sum(a.size for a in stage.layer.params.values())

    @cuda.jit(device=True)
    def task(block, N, q, dq, r, part, theta, m, v, rates, t):
        pool, k, g = cuda.shared.array(0, float32), cuda.threadIdx.x, zero
        p = first + block * T + k % T
        if p < first + size:
            for n in range(k // T, N, T):
                g += part[n, p]
        g = joined(g, pool, 0)
        if k < T and p < first + size:
            move(p, g, theta, m, v, rates, t)

    return -(-size // T), task


def move_weights(stage: Stage, move: Callable) -> Task:
    """Return the task of a dense layer: a tile of dz^T (q, 1), that is dW and db, a block."""
    M_in, M_out, source, first = *stage.before, *stage.after, stage.source, stage.first
    T, columns, bias = TILE, -(-(stage.before[0] + 1) // TILE), stage.bias
    _, derive = activation(stage)

    @cuda.jit(device=True)
    def read_dz(nu, n, q, dq, r, theta):
        return derive(n, nu, q, dq, r)

    @cuda.jit(device=True)
    def read_q(n, mu, q, dq, r, theta):
        return q[n, source + mu] if mu < M_in else float32(1)

    tile = product(read_dz, read_q, a_turned=True)

    @cuda.jit(device=True)
    def task(block, N, q, dq, r, part, theta, m, v, rates, t):
        nu = block // columns * T + cuda.threadIdx.x // T
        mu = block % columns * T + cuda.threadIdx.x % T
        g = tile(nu, mu, M_out, M_in + 1, N, q, dq, r, theta)
        if nu < M_out and mu <= M_in:
            p = first + nu * M_in + mu if mu < M_in else bias + nu
            move(p, g, theta, m, v, rates, t)

    return -(-M_out // T) * columns, task


def either(tasks: list[Task]) -> Task:
    """Make one task of several: the first blocks do the first one, and so on."""
    (count, first), *others = tasks
    if not others:
        return count, first
    more, rest = either(others)

    @cuda.jit(device=True)
    def task(block, *args):
        if block < count:
            first(block, *args)
        else:
            rest(block - count, *args)

    return count + more, task


def updating(stages: list[Stage], optimizer: Adam) -> tuple[int, Callable]:
    """Make the kernel of all sums over images and of Adam, and count its blocks."""
    move, tasks = adam(optimizer), []
    for stage in stages:
        of = move_filters if isinstance(stage.layer, Conv2d) else move_weights
        tasks.append(of(stage, move))
    blocks, task = either(tasks)

    @cuda.jit
    def kernel(N, clock, q, dq, r, part, theta, m, v, rates):
        task(cuda.blockIdx.x, N, q, dq, r, part, theta, m, v, rates, clock[1] - 1)

    return blocks, kernel
