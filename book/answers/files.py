"""What the exercises of chapters 31 to 34 ask for: the answers are here. Try first.

For each function: one that is right, as plain as possible; the calls to try; mistakes, in words.
"""

import gzip
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from exercises import Case, Rng, Task, after

from answers.learning import idx_bytes, idx_cases, idx_with

# --- 31 Files that may lie ---


def write_idx(path, a):
    """Write the bytes beside the file, and rename."""
    write_content(path, idx_bytes(a))


def write_content(path, content: bytes, packed: bool | None = None) -> None:
    """Write a file in one piece, compressed where its name says so or where it is told."""
    packed = str(path).endswith(".gz") if packed is None else packed
    beside = Path(f"{path}.beside")
    beside.write_bytes(gzip.compress(content) if packed else content)
    os.replace(beside, path)


def write_cases(rng: Rng) -> Iterator[Case]:
    """Yield names, relative to a folder of their own, and arrays."""
    for n, (kind, a) in enumerate(idx_cases(rng)):
        yield kind, "a.gz" if n % 2 else "a", a
    yield "over an older file", "old", rng.integers(0, 256, (2, 3), np.uint8)
    yield "over an older file", "old.gz", rng.integers(0, 256, (4,), np.uint8)
    yield "a name with gz in the middle", "a.gz.idx", rng.integers(0, 256, 5, np.uint8)


def write_call(function: Callable, name: str, a) -> tuple | None:
    """Write into a new folder; return what then is in the files, and whether they are packed.

    The older file has a second name. Who writes into it changes both; who renames, one.
    """
    with TemporaryDirectory() as folder:
        path, second = Path(folder, name), Path(folder, "second")
        if name.startswith("old"):
            path.write_bytes(b"what was there")
            os.link(path, second)
        function(path, a)
        if second.exists() and second.read_bytes() != b"what was there":
            return ("the older file, overwritten in its place",)
        if second.exists():
            second.unlink()
            if path.read_bytes() == b"what was there":
                return None
        return found_in(folder) or None


def found_in(folder: str) -> tuple:
    """Return name, content and packing of all files."""
    found = []
    for path in sorted(Path(folder).iterdir()):
        content = path.read_bytes()
        packed = content[:2] == b"\x1f\x8b"
        found += [path.name, gzip.decompress(content) if packed else content, packed]
    return tuple(found)


def write_in_place(path, a):
    """Write into the file itself."""
    content = idx_bytes(a)
    packed = str(path).endswith(".gz")
    Path(path).write_bytes(gzip.compress(content) if packed else content)


def write_by(content: Callable, packed: bool | None = None) -> Callable:
    """Return a function that writes other bytes, or packs them always or never."""
    return lambda path, a: write_content(path, content(a), packed)


WRITE = {
    "it is not compressed where the name ends in .gz": write_by(idx_bytes, False),
    "it is always compressed": write_by(idx_bytes, True),
    "it is compressed where .gz stands anywhere in the name": lambda path, a: (
        write_content(path, idx_bytes(a), ".gz" in Path(path).name)
    ),
    "an older file is overwritten in its place: half written for a while": write_in_place,
    "the sizes have their least significant byte first": write_by(idx_with("<u4")),
    "each size has one byte, not four": write_by(idx_with("u1")),
    "each size has eight bytes, not four": write_by(idx_with(">u8")),
    "the 8, which says that bytes follow, is missing": write_by(idx_with(code=0)),
    "the numbers are in the order of memory, not of their indices": write_by(
        idx_with(order="A")
    ),
    "the header is missing": write_by(lambda a: a.tobytes()),
}


# --- 32 Stopping and going on ---


def batch_of(N, batch_size, seed, t):
    """Deal all batches until then."""
    rng, dealt = np.random.default_rng(seed), []
    while len(dealt) < t:
        order = rng.permutation(N)
        dealt += [
            order[first : first + batch_size] for first in range(0, N, batch_size)
        ]
    return dealt[t - 1]


def batch_cases(rng: Rng) -> Iterator[Case]:
    """Yield N, batch_size, seed, t."""
    for N, size in ((10, 5), (95, 10), (7, 3), (5, 1), (4, 10), (1, 1)):
        per_epoch = -(-N // size)
        for t in sorted(
            {1, 2, per_epoch, per_epoch + 1, 3 * per_epoch, 3 * per_epoch + 2}
        ):
            last = t % per_epoch == 0 and N % size
            kind = "the first epoch" if t <= per_epoch else "later epochs"
            kind = "a smaller batch at the end of an epoch" if last else kind
            yield kind, N, size, int(rng.integers(100)), t


def batch_by(
    epoch: Callable = lambda t, n: (t - 1) // n,
    place: Callable = lambda t, n: (t - 1) % n,
    batches: Callable = lambda N, size: -(-N // size),
    order: Callable | None = None,
) -> Callable:
    """Return a function that counts epochs or batches, or shuffles, in its own way."""

    def shuffled(N, seed, epochs):
        rng = np.random.default_rng(seed)
        return [rng.permutation(N) for _ in range(epochs + 1)][-1]

    def batch(N, size, seed, t):
        n = max(1, batches(N, size))
        first = place(t, n) * size
        return (order or shuffled)(N, seed, epoch(t, n))[first : first + size]

    return batch


def reshuffled(N, seed, epochs):
    """Shuffle what is shuffled already."""
    rng, order = np.random.default_rng(seed), np.arange(N)
    for _ in range(epochs + 1):
        order = order[rng.permutation(N)]
    return order


BATCH = {
    "t is counted from 0, not from 1": batch_by(
        lambda t, n: t // n, lambda t, n: t % n
    ),
    "all epochs have the order of the first": batch_by(lambda t, n: 0),
    "the smaller batch at an epoch's end is left out": batch_by(
        batches=lambda N, size: N // size
    ),
    "there is one shuffle too many": batch_by(lambda t, n: (t - 1) // n + 1),
    "each epoch has a seed of its own": batch_by(
        order=lambda N, seed, k: np.random.default_rng(seed + k).permutation(N)
    ),
    "an epoch's last batch belongs to the next": batch_by(lambda t, n: t // n),
    "the images are not shuffled": batch_by(order=lambda N, seed, k: np.arange(N)),
    "what is shuffled already is shuffled again": batch_by(order=reshuffled),
    "each step shuffles anew": batch_by(lambda t, n: t - 1),
}


# --- 33 Pictures that somebody else made ---


def holes(mask):
    """Flood the ground from each pixel that is still dry."""
    return len(pools(mask)) - len([pool for pool in pools(mask) if at_edge(pool, mask)])


def pools(mask, corners: bool = False) -> list[set]:
    """Return the connected pieces of the ground; ``corners`` may connect them, too."""
    dry, found = {tuple(map(int, k)) for k in np.argwhere(~mask)}, []
    steps = [(0, 1), (1, 0), (0, -1), (-1, 0)]
    steps += [(1, 1), (1, -1), (-1, 1), (-1, -1)] if corners else []
    while dry:
        wet = [dry.pop()]
        found.append(set(wet))
        while wet:
            h, w = wet.pop()
            near = {(h + i, w + j) for i, j in steps} & dry
            dry -= near
            wet += near
            found[-1] |= near
    return found


def at_edge(pool: set, mask) -> bool:
    """Return whether a piece of the ground reaches the edge."""
    H, W = mask.shape
    return any(h in (0, H - 1) or w in (0, W - 1) for h, w in pool)


DRAWN = {
    "a 0": "### #.# ###",
    "a 1": ".#. .#. .#.",
    "an 8": "### #.# ### #.# ###",
    "an 8 with large holes": "##### #...# #...# ##### #...# #####",
    "ground in three pieces at the edge": "#.# ### ...",
    "a hole that has a dot in it": "##### #...# #.#.# #...# #####",
    "a gap at a corner": ".##. #..# #..# ###.",
    "two holes that touch at a corner": "##### #.### ##.## #####",
    "two shapes": "###.### #.#.#.# ###.###",
}


def holes_cases(rng: Rng) -> Iterator[Case]:
    """Yield masks."""
    for kind, rows in DRAWN.items():
        mask = np.array([[c == "#" for c in row] for row in rows.split()])
        yield kind, mask
        yield kind, np.pad(mask, 2)
        yield f"{kind}, enlarged", np.kron(mask, np.ones((2, 3))) > 0
    yield "no shape", np.zeros((4, 5), bool)
    yield "no ground", np.ones((2, 3), bool)
    yield "one pixel", np.array([[True]])
    for _ in range(5):
        yield "random pixels", rng.random((9, 8)) < 0.6


HOLES = {
    "the ground that reaches the edge is counted too": lambda mask: len(pools(mask)),
    "one piece is subtracted for the outside; it may be none, or several": lambda mask: (
        len(pools(mask)) - 1
    ),
    "pieces that touch at a corner count as one": lambda mask: len(
        [pool for pool in pools(mask, True) if not at_edge(pool, mask)]
    ),
    "the shapes are counted, not the holes": lambda mask: len(pools(~mask)),
    "the holes of the ground are counted, not those of the shape": lambda mask: holes(
        ~mask
    ),
    "the pixels of the holes are counted": lambda mask: sum(
        len(pool) for pool in pools(mask) if not at_edge(pool, mask)
    ),
    "the pieces that reach the edge are counted": lambda mask: len(
        [pool for pool in pools(mask) if at_edge(pool, mask)]
    ),
    "it says whether there are holes, not how many": lambda mask: min(1, holes(mask)),
}


# --- 34 The program ---


@cache
def album() -> tuple[TemporaryDirectory, dict[str, tuple[int, float] | None]]:
    """Return a folder of pictures and, by file, the digit and how probable it is."""
    from PIL import Image

    from cnn.data import digits
    from cnn.pictures import read_digit
    from cnn.recipes import probabilities
    from cnn.weights import load_weights

    folder, net, found = TemporaryDirectory(), load_weights(), {}
    images = digits().x_test
    for n in (10, 12, 32):  # a 6, something between 2 and 8, another 6
        path = f"{folder.name}/{n}.png"
        paper = np.pad(255 - 255 * images[n, 0], 6, constant_values=255)
        Image.fromarray(paper.astype(np.uint8)).resize((80, 80)).save(path)
        P = probabilities(net, read_digit(path))[0]
        found[path] = int(P.argmax()), float(P.max())
    Path(folder.name, "letter.png").write_bytes(b"Dear reader, this is no picture.")
    found[f"{folder.name}/letter.png"] = None
    return folder, found


def drawers(files):
    """Look up what the pictures show."""
    return sorted_by(lambda k, p: k if p >= 0.9 else None)(files)


def sorted_by(drawer: Callable, broken: bool = True, name: Callable = str) -> Callable:
    """Return a function with other drawers; ``broken``: whether broken files have one."""

    def found(files):
        sorted_files = {}
        for file in files:
            seen = album()[1][file]
            if seen or broken:
                key = drawer(*seen) if seen else None
                sorted_files.setdefault(key, []).append(name(file))
        return sorted_files

    return found


def drawers_cases(rng: Rng) -> Iterator[Case]:
    """Yield two lists of files: each costs a run of the program."""
    files = list(album()[1])
    yield "all kinds of files", [*files]
    yield "one file", files[:1]


DRAWERS = {
    "pictures of which the program is not sure are under their digit": sorted_by(
        lambda k, p: k
    ),
    "files that can't be read are missing": sorted_by(
        lambda k, p: k if p >= 0.9 else None, broken=False
    ),
    "the digits are texts, not numbers": sorted_by(
        lambda k, p: str(k) if p >= 0.9 else None
    ),
    "pictures of which the program is sure are under None, the others not": sorted_by(
        lambda k, p: k if p < 0.9 else None
    ),
    "the folder is missing in the files' names": sorted_by(
        lambda k, p: k if p >= 0.9 else None, name=lambda file: Path(file).name
    ),
    "each digit has one file, not a list of them": after(
        drawers, lambda found, files: {k: names[-1] for k, names in found.items()}
    ),
    "the files are counted, not listed": after(
        drawers, lambda found, files: {k: len(names) for k, names in found.items()}
    ),
    "the drawer None is missing": after(
        drawers, lambda found, files: {k: v for k, v in found.items() if k is not None}
    ),
}


EXERCISES = {
    "ex-files-write": (Task(write_idx, write_cases, WRITE, call=write_call),),
    "ex-checkpoint-batch": (Task(batch_of, batch_cases, BATCH),),
    "ex-pictures-holes": (Task(holes, holes_cases, HOLES),),
    "ex-program-drawers": (Task(drawers, drawers_cases, DRAWERS),),
}
