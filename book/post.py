"""A toy post office: threads are the workers, queues their letterboxes, every letter is counted.

Its ``Comm`` has those of MPI's methods that the chapter on many machines uses, with mpi4py's
names. It is not for speed; it makes visible who sends how much to whom.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
PATIENCE = 60  # seconds for a letter that never comes: then its reader is told


class Letter(NamedTuple):
    """Who sent how many bytes to whom."""

    source: int
    dest: int
    nbytes: int


class Comm:
    """One worker's view of the post office."""

    def __init__(self, rank: int, size: int, boxes: dict, letters: list[Letter]):
        self.rank, self.size, self.boxes, self.letters = rank, size, boxes, letters

    def Send(self, a: np.ndarray, dest: int) -> None:
        """Put a copy of ``a`` into the letterbox of worker ``dest``."""
        self.letters.append(Letter(self.rank, dest, a.nbytes))
        self.boxes[self.rank, dest].put(a.copy())

    def Recv(self, a: np.ndarray, source: int) -> None:
        """Wait for a letter from worker ``source``, and copy it into ``a``."""
        a[...] = self.boxes[source, self.rank].get(timeout=PATIENCE)

    def Sendrecv(
        self, a: np.ndarray, dest: int, *, recvbuf: np.ndarray, source: int
    ) -> None:
        """Send to one worker while receiving from another."""
        self.Send(a, dest)
        self.Recv(recvbuf, source)

    def Allreduce(self, a: np.ndarray, total: np.ndarray) -> None:
        """Fill ``total`` with the sum of all workers' arrays, in the order of their numbers."""
        for q in range(self.size):
            if q != self.rank:
                self.boxes[self.rank, q].put(a.copy())
        total[...] = 0
        for q in range(self.size):
            other = (
                self.boxes[q, self.rank].get(timeout=PATIENCE) if q != self.rank else a
            )
            total += other


def together(size: int, work: Callable[[Comm], T]) -> tuple[list[T], list[Letter]]:
    """Run ``work(comm)`` as so many workers at once; return their results, and all letters."""
    boxes = {(p, q): SimpleQueue() for p in range(size) for q in range(size)}
    letters: list[Letter] = []
    comms = [Comm(rank, size, boxes, letters) for rank in range(size)]
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(work, comms)), letters
