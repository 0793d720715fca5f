"""The sum itself.

Exported from book/27-many-machines.ipynb: edit the chapter and run `make export`.
"""

from typing import Any

import numpy as np

__all__ = ["sum_naive", "sum_tree", "sum_ring"]


# --- The sum itself ---
def sum_naive(comm: Any, a: np.ndarray) -> None:
    """Replace everybody's ``a`` by the sum: all send to worker 0, and it sends back."""
    other = np.empty_like(a)
    if comm.rank:
        comm.Send(a, dest=0)
        comm.Recv(a, source=0)
        return
    for p in range(1, comm.size):
        comm.Recv(other, source=p)
        a += other
    for p in range(1, comm.size):
        comm.Send(a, dest=p)


def sum_tree(comm: Any, a: np.ndarray) -> None:
    """Replace everybody's ``a`` by the sum: each round, half of the workers are left."""
    other, reach = np.empty_like(a), 1
    while reach < comm.size:
        if comm.rank % (2 * reach) == reach:
            comm.Send(a, dest=comm.rank - reach)
        elif comm.rank % (2 * reach) == 0 and comm.rank + reach < comm.size:
            comm.Recv(other, source=comm.rank + reach)
            a += other
        reach *= 2
    while (reach := reach // 2) >= 1:
        if comm.rank % (2 * reach) == reach:
            comm.Recv(a, source=comm.rank - reach)
        elif comm.rank % (2 * reach) == 0 and comm.rank + reach < comm.size:
            comm.Send(a, dest=comm.rank + reach)


def sum_ring(comm: Any, a: np.ndarray) -> None:
    """Replace everybody's ``a``, a row, by the sum: its pieces go around a ring.

    Implements {eq}`eq:parallel-ring`: so many bytes are sent by each worker.
    """
    P, p = comm.size, comm.rank
    pieces, after, before = np.array_split(a, P), (p + 1) % P, (p - 1) % P
    for t in range(P - 1):
        mine, theirs = pieces[(p - t) % P], pieces[(p - t - 1) % P]
        other = np.empty_like(theirs)
        comm.Sendrecv(mine, after, recvbuf=other, source=before)
        theirs += other
    for t in range(P - 1):
        mine, theirs = pieces[(p - t + 1) % P], pieces[(p - t) % P]
        other = np.empty_like(theirs)
        comm.Sendrecv(mine, after, recvbuf=other, source=before)
        theirs[...] = other
