"""Damage files at random and read them; kill a training at random and let it go on.

    python tests/fuzz.py                        100 000 files of each kind, 50 kills
    python tests/fuzz.py --files 300 --kills 3  a sample, as in the tests

A reader may refuse a damaged file with a ValueError, within a bound of memory and without a
warning. What it does return must be what was written, or, in a format without checksums, what a
literal second reader finds in the same bytes. A training that is killed must end, after as many
tries as it takes, with the same bits as one that was left alone. The seed decides how each file is
damaged; a failure prints the command that damages that file again.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import resource
import secrets
import struct
import subprocess
import sys
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy
from PIL import Image

from cnn.batchnorm import BatchNorm2d
from cnn.checkpoint import fit
from cnn.conv import Conv2d
from cnn.data import Dataset, read_idx
from cnn.decoding import read_picture
from cnn.files import load_arrays, save_arrays
from cnn.models import simple_cnn
from cnn.network import Flatten, Linear, ReLU, Sequential
from cnn.optimizers import Adam
from cnn.regularization import Dropout
from cnn.weights import load_weights

MEMORY = 256 << 20  # bytes that reading a file may take, beyond what the process has


# --- The kinds of files ---


class Kind(NamedTuple):
    """A format: intact files, its reader, and whether what that returns is right."""

    name: str  # of the file
    intact: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    right: Callable[[bytes, Any], bool]
    front: int = 1 << 62  # where most of the damage is done: within so many bytes


def idx_files() -> list[bytes]:
    """Return two files of images."""
    shapes, rng = ((3, 5, 4), (2, 28, 28)), np.random.default_rng(0)
    return [
        b"\0\0\x08\x03" + struct.pack(">3I", *s) + rng.bytes(np.prod(s)) for s in shapes
    ]


def read_images(path: Path) -> np.ndarray:
    """Read an IDX file, compressed or not."""
    return read_idx(path, ndim=3)


def right_idx(content: bytes, images: np.ndarray) -> bool:
    """Read the file literally."""
    magic, *shape = struct.unpack(">4I", content[:16])
    pixels = np.array(list(content[16:]), np.uint8)
    return magic == 0x803 and np.array_equal(images, pixels.reshape(shape))


def gz_files() -> list[bytes]:
    """Return the two files, compressed."""
    return [gzip.compress(content, mtime=0) for content in idx_files()]


def right_gz(content: bytes, images: np.ndarray) -> bool:
    """Compare with what was compressed: there is a checksum."""
    return any(right_idx(original, images) for original in idx_files())


def npz_files() -> list[bytes]:
    """Return a file of ours, and one that NumPy writes."""
    rng, file = np.random.default_rng(0), io.BytesIO()
    arrays = {
        "w": rng.random((3, 4), np.float32),
        "t": np.array(7),
        "e": np.empty((0, 2)),
    }
    np.savez(file, **arrays, order=np.asfortranarray(rng.random((2, 3))))
    with tempfile.TemporaryDirectory() as folder:
        save_arrays(Path(folder, "a.npz"), arrays)
        return [Path(folder, "a.npz").read_bytes(), file.getvalue()]


@cache
def npz_arrays() -> list[np.ndarray]:
    """Return all the arrays in these files."""
    loaded = [np.load(io.BytesIO(content)) for content in npz_files()]
    return [a for arrays in loaded for a in arrays.values()]


def right_npz(content: bytes, arrays: dict[str, np.ndarray]) -> bool:
    """Compare with what was written: there are checksums, though none of the list of names."""
    return all(any(same(a, b) for b in npz_arrays()) for a in arrays.values())


def same(a: np.ndarray, b: np.ndarray) -> bool:
    """Compare two arrays bit for bit."""
    return (a.shape, a.dtype, a.tobytes()) == (b.shape, b.dtype, b.tobytes())


def safetensors_files() -> list[bytes]:
    """Return the weights of two networks."""
    hows = {}, {"num_classes": 3, "dtype": np.float64}
    nets = (simple_cnn(rng=np.random.default_rng(0), **how) for how in hows)
    return [safetensors.numpy.save(net.state_dict()) for net in nets]


def right_safetensors(content: bytes, net: Sequential) -> bool:
    """Read the file literally."""
    (length,) = struct.unpack("<Q", content[:8])
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    header.pop("__metadata__", None)
    dtypes = {"F32": np.dtype("<f4"), "F64": np.dtype("<f8")}
    written = {
        name: np.frombuffer(
            body[slice(*a["data_offsets"])], dtypes[a["dtype"]]
        ).reshape(a["shape"])
        for name, a in header.items()
    }
    state = net.state_dict()
    return state.keys() == written.keys() and all(
        same(state[k], a) for k, a in written.items()
    )


def png_files() -> list[bytes]:
    """Return pictures of several modes: grey, coloured, transparent, with a palette, 1 bit."""
    rng, contents = np.random.default_rng(0), []
    picture = Image.fromarray(rng.integers(0, 256, (9, 7, 4), np.uint8), "RGBA")
    for mode in ("L", "RGB", "RGBA", "LA", "P", "1", "I;16"):
        file = io.BytesIO()
        picture.convert("RGB" if mode == "P" else "RGBA").convert(
            "L" if mode == "I;16" else mode
        ).convert(mode).save(file, "PNG")
        contents.append(file.getvalue())
    return contents


@cache
def png_pictures() -> list[np.ndarray]:
    """Return what these pictures show."""
    with tempfile.TemporaryDirectory() as folder:
        path, pictures = Path(folder, "p.png"), []
        for content in png_files():
            path.write_bytes(content)
            pictures.append(read_picture(path))
        return pictures


def right_png(content: bytes, picture: np.ndarray) -> bool:
    """Compare with what was drawn, unless all checksums hold: an intact file, though another."""
    return any(same(picture, p) for p in png_pictures()) or sound_png(content)


def sound_png(content: bytes) -> bool:
    """Check each chunk's checksum, and that of the pixels."""
    place, pixels, kind = 8, b"", b""
    while kind != b"IEND":
        if len(content) < place + 12:
            return False
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        body = content[place + 8 : place + 8 + length]
        crc = content[place + 8 + length : place + 12 + length]
        if crc != struct.pack(">I", zlib.crc32(kind + body)):
            return False
        pixels += body if kind == b"IDAT" else b""
        place += length + 12
    try:
        zlib.decompress(pixels)
    except zlib.error:
        return False
    return True


KINDS = {
    "idx": Kind("images", idx_files, read_images, right_idx),
    "gz": Kind("images.gz", gz_files, read_images, right_gz),
    "npz": Kind("a.npz", npz_files, load_arrays, right_npz),
    "safetensors": Kind(
        "w.safetensors", safetensors_files, load_weights, right_safetensors, front=1500
    ),
    "png": Kind("p.png", png_files, read_picture, right_png),
}


# --- Damage ---

EDGES = (
    0,
    1,
    2,
    3,
    4,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
)
EDGES += (2**40, 2**63 - 1, 2**63, 2**64 - 1)


def damage(content: bytes, front: int, rng: np.random.Generator) -> bytes:
    """Return the content with one to four things done to it."""
    new = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3, 4])):
        most = min(front, len(new)) if rng.random() < 0.9 else len(new)
        at = int(rng.integers(most + 1))
        span = slice(at, at + int(rng.choice([1, 2, 4, 8, 16, 200])))
        other = int(rng.integers(most + 1))
        match rng.integers(9):
            case 0:  # a bit
                new[at : at + 1] = bytes(
                    b ^ 1 << int(rng.integers(8)) for b in new[at : at + 1]
                )
            case 1:  # a number, at the edge of what fits
                width = int(rng.choice([1, 2, 4, 8]))
                number = int(rng.choice(np.array(EDGES, object))) % 256**width
                new[at : at + width] = number.to_bytes(
                    width, rng.choice(["little", "big"])
                )
            case 2:  # a digit, in a header that people can read
                new[at : at + 1] = bytes([rng.choice(list(b"0123456789-{}[]\"',:eN"))])
            case 3:
                new[span] = rng.bytes(len(new[span]))
            case 4:
                del new[span]
            case 5:  # said twice
                new[other:other] = new[span]
            case 6:
                new[span] = bytes(len(new[span]))
            case 7:
                del new[int(rng.integers(len(new) + 1)) :]
            case 8:
                new += rng.bytes(int(rng.integers(1, 40)))
    return bytes(new)


def fault_of(kind: Kind, path: Path, content: bytes) -> str:
    """Read one file and return what is wrong with the reader, or nothing."""
    path.write_bytes(content)
    try:
        result = kind.read(path)
    except ValueError:
        return ""
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    try:
        return "" if kind.right(content, result) else "a wrong read"
    except Exception as err:  # the literal reader finds no sense in it
        return f"a wrong read ({type(err).__name__}: {err})"


def read_damaged(name: str, seed: int, numbers: range, folder: Path) -> str:
    """Damage and read these files; return what is wrong with the first wrong read, or nothing."""
    kind, place = KINDS[name], list(KINDS).index(name)
    intact, path, at = kind.intact(), folder / kind.name, folder / f"{name}.at"
    for content in intact:
        fault = fault_of(kind, path, content)
        if fault or not kind.right(content, kind.read(path)):
            return f"{name}: an intact file is not read: {fault}"
    with open(at, "wb", buffering=0) as progress, warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in numbers:
            os.pwrite(progress.fileno(), b"%9d" % number, 0)
            rng = np.random.default_rng([seed, place, number])
            content = damage(intact[rng.integers(len(intact))], kind.front, rng)
            if fault := fault_of(kind, path, content):
                return f"{again(name, seed, number)}: {fault}"
    return ""


def again(name: str, seed: int, number: int) -> str:
    """Return the command that damages and reads one file."""
    return (
        f"python tests/fuzz.py --kind {name} --seed {seed} --first {number} --files 1"
    )


def bound_memory() -> None:
    """Let this process take so much more memory, and no more, where the system can tell."""
    if not Path("/proc/self/statm").exists():
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


# --- Killed ---


def train(folder: Path) -> None:
    """Train a small network with a checkpoint after every iteration; write what it ends with."""
    rng = np.random.default_rng(0)
    x, y = rng.random((40, 1, 6, 6), np.float32), rng.integers(0, 3, 40)
    data, init = Dataset("noise", x[:33], y[:33], x[33:], y[33:]), rng.spawn(1)[0]
    net = Sequential(
        Conv2d(1, 2, 3, rng=init), BatchNorm2d(2), ReLU(),
        Flatten(), Dropout(0.5, rng=init), Linear(32, 3, rng=init),
    )  # fmt: skip
    adam = Adam(net.params, lr=0.01)
    print("begins", flush=True)
    history = fit(
        net, adam, data, epochs=30, rng=rng, batch_size=5, every=1,
        checkpoint=folder / "checkpoint.npz",
    )  # fmt: skip
    losses = {"loss": np.array(history.loss), "test_loss": np.array(history.test_loss)}
    save_arrays(folder / "end.npz", net.state_dict() | adam.state_dict() | losses)


def begin(folder: Path) -> subprocess.Popen:
    """Start, or go on with, a training in another process, and wait until it is at work."""
    command = [sys.executable, __file__, "--train", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.readline()
    return process


def finish(process: subprocess.Popen) -> None:
    """Wait for a training's end."""
    _, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the training failed: {err.decode()}")


def kill(count: int, seed: int, folder: Path) -> str:
    """Kill trainings so many times; return what is wrong with an end, or nothing."""
    rng, killed, run = np.random.default_rng(seed), 0, 0
    process, start = begin(folder / "whole"), time.perf_counter()
    finish(process)
    lasts = time.perf_counter() - start
    whole = (folder / "whole" / "end.npz").read_bytes()
    while killed < count:
        run += 1
        place, kills = folder / f"run {run}", 0
        while not (place / "end.npz").exists():
            process = begin(place)
            if killed < count:
                time.sleep(rng.uniform(0, lasts))
                process.kill()
                process.communicate()
                killed, kills = killed + 1, kills + 1
            else:
                finish(process)
        if (place / "end.npz").read_bytes() != whole:
            return (
                f"killed {kills} times (seed {seed}), a training ends with other bits"
            )
    return ""


# --- The program ---


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=100_000, help="of each kind")
    parser.add_argument("--kind", choices=KINDS, action="append", help="by default all")
    parser.add_argument("--first", type=int, default=0, help="number of the first file")
    parser.add_argument("--kills", type=int, help="by default 50, or none with --kind")
    parser.add_argument("--seed", type=int, help="by default another one every time")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.train:
        train(args.train)
        return 0
    seed = secrets.randbits(32) if args.seed is None else args.seed
    numbers = range(args.first, args.first + args.files)
    if args.work:
        bound_memory()
        fault = read_damaged(args.kind[0], seed, numbers, args.work)
        print(fault)
        return bool(fault)
    kills = args.kills if args.kills is not None else 0 if args.kind else 50
    with tempfile.TemporaryDirectory(prefix="fuzz ") as folder:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            work = {
                name: pool.submit(watch, name, seed, numbers, Path(folder))
                for name in args.kind or KINDS
                if numbers
            }
        faults = [fault for future in work.values() if (fault := future.result())]
        for name in work:
            print(f"{name}: {args.files} files, seed {seed}")
        if kills:
            faults += [fault] if (fault := kill(kills, seed, Path(folder))) else []
            print(f"{kills} kills, seed {seed}")
    print(*faults, sep="\n", file=sys.stderr)
    return bool(faults)


def watch(name: str, seed: int, numbers: range, folder: Path) -> str:
    """Read one kind's files in a process that may crash; return what is wrong, or nothing."""
    command = [
        sys.executable,
        __file__,
        "--kind",
        name,
        "--seed",
        seed,
        "--work",
        folder,
    ]
    command += ["--first", numbers.start, "--files", len(numbers)]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if done.returncode in (0, 1) and not done.stderr:
        return done.stdout.strip()
    number = int((folder / f"{name}.at").read_text() or -1)
    return f"{again(name, seed, number)}: exit code {done.returncode}\n{done.stderr}"


if __name__ == "__main__":
    sys.exit(main())
