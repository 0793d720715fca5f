"""The dense layers, the cost and Adam on a graphics processor.

Exported from book/30-gpu-step.ipynb: edit the chapter and run `make export`.
"""

import math
from collections.abc import Callable

import numpy as np
from numba import cuda, float32

from .conv import Conv2d
from .gpu import TILE, TILES, product, zero
from .gpu_image import activation, chain
from .gpu_plan import Stage
from .optimizers import Adam, AdamW

__all__ = [
    "row_and_column", "linear_tile", "hidden", "blame_tile", "blaming", "SCORES",
    "softmax_tile", "scoring", "adam", "Task", "move_filters", "move_weights", "either",
    "updating",
]  # fmt: skip


# --- A tile's block ---
@cuda.jit(device=True)
def row_and_column(block, columns):
    """Return which number of a matrix is this thread's."""
    t = cuda.threadIdx.x
    return block // columns * TILE + t // TILE, block % columns * TILE + t % TILE


def linear_tile(stage: Stage) -> Callable:
    """Make the function that computes z = q W^T + b of a dense layer, a number a thread."""
    (M_in,), (M_out,), source = stage.before, stage.after, stage.source
    first, bias = stage.first, stage.bias

    @cuda.jit(device=True)
    def read_q(n, mu, q, dq, r, theta):
        return q[n, source + mu]

    @cuda.jit(device=True)
    def read_W(mu, nu, q, dq, r, theta):
        return theta[first + nu * M_in + mu]

    tile = product(read_q, read_W, b_turned=True)

    @cuda.jit(device=True)
    def linear(n, nu, N, q, dq, r, theta):
        """Return z; all threads of a block call it together."""
        z = tile(n, nu, N, M_out, M_in, q, dq, r, theta)
        return z + theta[bias + nu] if nu < M_out else zero

    return linear


def hidden(stage: Stage) -> Callable:
    """Make the kernel of a hidden layer: a tile of images and units for each block."""
    M_out, target, columns = stage.after[0], stage.target, -(-stage.after[0] // TILE)
    linear, (activate, _) = linear_tile(stage), activation(stage)

    @cuda.jit
    def kernel(N, q, dq, r, theta):
        n, nu = row_and_column(cuda.blockIdx.x, columns)
        z = linear(n, nu, N, q, dq, r, theta)
        if n < N and nu < M_out:
            q[n, target + nu] = activate(z, n, nu, r)

    return kernel


def blame_tile(stage: Stage, read_dz: Callable) -> Callable:
    """Make the function that computes dq = dz W of a dense layer, a number a thread."""
    M_in, M_out, source, first = *stage.before, *stage.after, stage.source, stage.first

    @cuda.jit(device=True)
    def read_W(nu, mu, q, dq, r, theta):
        return theta[first + nu * M_in + mu]

    tile = product(read_dz, read_W)

    @cuda.jit(device=True)
    def blame(n, mu, N, q, dq, r, theta):
        """Write dq; all threads of a block call it together."""
        total = tile(n, mu, N, M_in, M_out, q, dq, r, theta)
        if n < N and mu < M_in:
            dq[n, source + mu] = total

    return blame


def blaming(stage: Stage) -> Callable:
    """Make the kernel of a hidden layer, backwards: a tile of images and inputs a block."""
    target, columns = stage.target, -(-stage.before[0] // TILE)
    _, derive = activation(stage)

    @cuda.jit(device=True)
    def read_dz(n, nu, q, dq, r, theta):
        return derive(dq[n, target + nu], n, nu, q, r)

    blame = blame_tile(stage, read_dz)

    @cuda.jit
    def kernel(N, q, dq, r, theta):
        n, mu = row_and_column(cuda.blockIdx.x, columns)
        blame(n, mu, N, q, dq, r, theta)

    return kernel


# --- Scores, cost, blame ---
SCORES = TILES // 4  # where a tile's scores begin in shared memory


def softmax_tile(stage: Stage) -> Callable:
    """Make the function by which a block turns its images' scores into dz."""
    K, T, linear = stage.after[0], TILE, linear_tile(stage)

    @cuda.jit(device=True)
    def classify(n, y, N, q, dq, r, theta, z):
        """Leave dz in shared memory; return cost and mistake of the thread's image."""
        row, column = SCORES + n % T * K, cuda.threadIdx.x % T
        for k in range(column, -(-K // T) * T, T):
            score = linear(n, k, N, q, dq, r, theta)
            if k < K:
                z[row + k] = score
            cuda.syncthreads()
        best, total, nothing = row, zero, zero
        for k in range(row, row + K):
            if z[k] > z[best]:
                best = k
            nothing += zero * z[k]  # 0, but NaN where a score is not finite
        m = z[best]
        for k in range(row, row + K):
            total += math.exp(z[k] - m)
        J = math.log(total) + m - z[row + y] + nothing
        cuda.syncthreads()  # everybody has looked
        for k in range(column, K, T):
            hit = float32(k == y)
            z[row + k] = (math.exp(z[row + k] - m) / total - hit) / float32(N)
        cuda.syncthreads()
        return J, best != row + y

    return classify


def scoring(stage: Stage, below: Stage | None) -> Callable:
    """Make the kernel of scores, cost, and blame down to the inputs of the layer below."""
    (M_in,), (K,), first = stage.before, stage.after, stage.first
    source, target = stage.source, stage.target
    columns = -(-(below or stage).before[0] // TILE)
    _, derive = activation(below or stage)

    @cuda.jit(device=True)
    def blame_of(n, mu, theta):
        """Return dq of input mu."""
        dz, row, total = cuda.shared.array(0, float32), SCORES + n % TILE * K, zero
        for k in range(K):
            total += dz[row + k] * theta[first + k * M_in + mu]
        return total

    @cuda.jit(device=True)
    def read_dz(n, mu, q, dq, r, theta):
        return derive(blame_of(n, mu, theta), n, mu, q, r)

    classify = softmax_tile(stage)
    go_on = chain([blame_tile(below, read_dz)] if below else [])

    @cuda.jit
    def kernel(N, labels, order, clock, spot, q, dq, r, theta, costs):
        pool = cuda.shared.array(0, float32)
        n, mu = row_and_column(cuda.blockIdx.x, columns)
        place = spot[min(n, N - 1)]  # the last tile may have more rows than images
        J, wrong = classify(n, labels[order[place]], N, q, dq, r, theta, pool)
        if n < N:
            for k in range(mu, K, columns * TILE):
                dq[n, target + k] = pool[SCORES + n % TILE * K + k]
            for nu in range(mu, M_in if source > 0 else 0, columns * TILE):
                dq[n, source + nu] = blame_of(n, nu, theta)
            if mu == 0:
                costs[place, 0] = J
                costs[place, 1] = wrong
        if n + mu == 0:
            clock[0] += N
            clock[1] += 1
        go_on(n, mu, N, q, dq, r, theta)

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
        pool[k] = g
        cuda.syncthreads()
        if k < T and p < first + size:
            g = zero
            for row in range(T):
                g += pool[row * T + k]
            move(p, g, theta, m, v, rates, t)

    return -(-size // T), task


def move_weights(stage: Stage, move: Callable) -> Task:
    """Return the task of a dense layer: a tile of dz^T (q, 1), that is dW and db, a block."""
    (M_in,), (M_out,), first, bias = stage.before, stage.after, stage.first, stage.bias
    source, target, columns = stage.source, stage.target, -(-(M_in + 1) // TILE)
    _, derive = activation(stage)

    @cuda.jit(device=True)
    def read_dz(nu, n, q, dq, r, theta):
        return derive(dq[n, target + nu], n, nu, q, r)

    @cuda.jit(device=True)
    def read_q(n, mu, q, dq, r, theta):
        return q[n, source + mu] if mu < M_in else float32(1)

    tile = product(read_dz, read_q, a_turned=True)

    @cuda.jit(device=True)
    def task(block, N, q, dq, r, part, theta, m, v, rates, t):
        nu, mu = row_and_column(block, columns)
        g = tile(nu, mu, M_out, M_in + 1, N, q, dq, r, theta)
        if nu < M_out and mu <= M_in:
            p = first + nu * M_in + mu if mu < M_in else bias + nu
            move(p, g, theta, m, v, rates, t)

    return -(-M_out // TILE) * columns, task


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
