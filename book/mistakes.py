"""Classic mistakes, put into the package one at a time, and the checks that see them.

A mistake is an edit of one function's source: some text, and what takes its place. ``mutate``
makes a copy of the module with that edit; the package itself stays as it is. ``run_checks`` runs
the checks of ``checks.py`` that apply on the copy. The chapter on checks that can fail shows the
results; the tests demand that no mistake gets through.
"""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from operator import attrgetter
from types import FunctionType, ModuleType
from typing import NamedTuple

import numpy as np
from checks import CHECKS, SUBJECTS, Check

# --- The mistakes ---


class Mistake(NamedTuple):
    """One wrong edit.

    Attributes
    ----------
    name : str
        What you would say once you have found it.
    where : str
        The module and the function or method in it, as in ``"network.Layer.forward"``.
    subject : str
        Whose checks are tried on it: a key of ``SUBJECTS``.
    predicted : str
        The check that has to see it: one of ``CHECKS``.
    old, new : str
        Text that occurs exactly once in the function, however it is spaced, and what replaces it.
    """

    name: str
    where: str
    subject: str
    predicted: str
    old: str
    new: str


BACKWARD = "correlation_grad.conv2d_correlation_backward"
# fmt: off
MISTAKES = [
    # the cost
    Mistake("softmax without the shift",
            "losses.softmax", "cross-entropy", "invariance",
            "np.exp(z - z.max(axis=1, keepdims=True))", "np.exp(z)"),
    Mistake("1/N forgotten",
            "losses.cross_entropy_backward", "cross-entropy", "differences, nasty",
            "dz /= N", "pass"),
    Mistake("labels subtracted in every row",
            "losses.cross_entropy_backward", "cross-entropy", "differences, nasty",
            "dz[np.arange(N), y] -= 1", "dz[:, y] -= 1"),
    # layers
    Mistake("bias averaged, not summed",
            "dense.linear_backward", "dense", "loops, nasty",
            "dz.sum(axis=0)", "dz.mean(axis=0)"),
    Mistake("mask taken from the wrong array",
            "activations.relu_backward", "ReLU", "differences, nasty",
            "dq * (q > 0)", "dq * (dq > 0)"),
    Mistake("images mixed by Flatten",
            "network.rows", "Flatten", "invariance",
            "x.reshape(len(x), -1)", "x.reshape(-1, len(x)).T"),
    # training
    Mistake("He: variance for deviation",
            "initialization.kaiming_normal_", "He", "statistics",
            "math.sqrt(2 / fan_in)", "(2 / fan_in)"),
    Mistake("Adam's t one too large",
            "optimizers.Optimizer.__init__", "Adam", "by hand",
            "dict(params), lr, 0", "dict(params), lr, 1"),
    Mistake("Adam's ε inside the root",
            "optimizers.adam_update", "Adam", "PyTorch",
            "(np.sqrt(v / (1 - beta2**t)) + eps)", "np.sqrt(v / (1 - beta2**t) + eps)"),
    Mistake("last batch counted as a full one",
            "training.evaluate", "evaluate", "invariance",
            "J += len(z) *", "J += batch_size *"),
    # convolution, forward
    Mistake("filter turned going forward",
            "correlation.conv2d_loops", "loops", "by hand",
            "W[nu, mu, a, c]", "W[nu, mu, -1 - a, -1 - c]"),
    Mistake("stride and dilation exchanged",
            "correlation.conv2d_loops", "loops", "PyTorch",
            "s * i + d * a, s * j + d * c", "d * i + s * a, d * j + s * c"),
    Mistake("padding's sides in another order",
            "correlation.padding_sides", "loops", "PyTorch",
            "top, bottom, left, right = sides", "left, right, top, bottom = sides"),
    # convolution, backward
    Mistake("filter not turned", BACKWARD, "correlation", "loops, nasty",
            "rot180(F).swapaxes(0, 1)", "F.swapaxes(0, 1)"),
    Mistake("channels not exchanged", BACKWARD, "correlation", "loops, nasty",
            "rot180(F).swapaxes(0, 1)", "rot180(F)"),
    Mistake("stride dropped", BACKWARD, "correlation", "by hand",
            "spread(dz, g.s)", "dz"),
    Mistake("remainder forgotten in the frame", BACKWARD, "correlation", "loops, nasty",
            "(e_h, e_h + g.r_h)", "(e_h, e_h)"),
    Mistake("remainder kept in x̄", BACKWARD, "correlation", "loops, nasty",
            "xbar.shape[2] - g.r_h", "xbar.shape[2]"),
    Mistake("padding cropped at the wrong end",
            "correlation_grad.crop", "correlation", "loops, nasty",
            "g.top : g.top + H", "g.bottom : g.bottom + H"),
    # convolution as a matrix product
    Mistake("col2im assigns instead of adding",
            "im2col.col2im", "im2col", "adjoint",
            "dxbar[:, :, h, w] +=", "dxbar[:, :, h, w] ="),
    Mistake("taps before channels",
            "im2col.conv2d_im2col", "im2col", "adjoint",
            "W.reshape(C_out, -1)", "W.transpose(0, 2, 3, 1).reshape(C_out, -1)"),
    Mistake("bias summed over the wrong axes",
            "im2col.conv2d_im2col_backward", "im2col", "shapes",
            "dz.sum(axis=(0, 2))", "dz.sum(axis=(1, 2))"),
    Mistake("dilation forgotten in the strips",
            "bands._input_bands", "bands", "loops, nasty",
            "g.s, f_w, g.d", "g.s, f_w, 1"),
    # pooling, regularisation
    Mistake("ties counted twice",
            "pooling.max_pool2d_backward", "max-pooling", "loops, nasty",
            "won = winners[:, :, np.newaxis, np.newaxis] == places",
            "V = windows(pad(x - x.min() + 1, g), f_h, f_w, g)\n"
            "    won = V.max(axis=(2, 3), keepdims=True) == V"),
    Mistake("floor for ceil in the padding",
            "pooling._overhang", "max-pooling", "PyTorch",
            "u = (f - H - p) % s", "u = (H + p - f) % s"),
    Mistake("mean over pixels that are not there",
            "pooling._counted", "average pooling", "PyTorch",
            "np.minimum(start + f, h1)", "(start + f)"),
    Mistake("batch norm without the mean's gradient",
            "batchnorm._normalized_backward", "batch norm", "invariance",
            "dy - _per_channel(dbeta / B, dy)", "dy.copy()"),
    Mistake("batch norm at inference, blamed as in training",
            "batchnorm._BatchNorm.backward", "running moments", "differences, nasty",
            "return dx if by_batch else _per_channel(gamma / sigma, dy) * dy", "return dx"),
    Mistake("running variance left biased",
            "batchnorm._track", "running moments", "statistics",
            "B / (B - 1) * v", "v"),
    Mistake("dropout does not amplify",
            "regularization.dropout", "dropout", "statistics",
            "r /= 1 - p", "pass"),
    Mistake("AdamW's decay goes through Adam",
            "optimizers.AdamW.decay", "AdamW", "PyTorch",
            "theta *= 1 - gamma * self.weight_decay\n        return g",
            "return super().decay(theta, g, gamma)"),
]
# fmt: on
# Modules of later chapters: the tests try their mistakes, the chapter does not show them.
LATER = ("bands", "kernels", "kernels_grad", "kernels_step")


def edit(mistake: Mistake) -> tuple[str, str]:
    """Return the source of the mistake's module, as it is and with the edit.

    Raises a LookupError where the function is gone, or the text does not occur exactly once in
    it: the code has changed, and the list of mistakes must follow.
    """
    name, _, path = mistake.where.partition(".")
    try:
        module = importlib.import_module(f"cnn.{name}")
        right, function = map(inspect.getsource, (module, attrgetter(path)(module)))
    except (ImportError, AttributeError) as error:
        raise LookupError(
            f"{mistake.name!r}: there is no {mistake.where} ({error})"
        ) from None
    pattern = r"\s*".join(map(re.escape, re.findall(r"\w+|[^\w\s]", mistake.old)))
    if (count := len(re.findall(pattern, function))) != 1:
        raise LookupError(
            f"{mistake.name!r}: {mistake.where} holds {mistake.old!r} {count} times; "
            f"expected once. It reads:\n{function}"
        )
    wrong = re.sub(pattern, lambda _: mistake.new, function)
    return right, right.replace(function, wrong)


def mutate(mistake: Mistake) -> ModuleType:
    """Return a copy of the mistake's module with the edit.

    All functions of the copy call one another, not the right ones. It is in no table of modules,
    and what it puts into the tables of others is taken out again: an import gets the right one.
    """
    _, source = edit(mistake)
    name = f"cnn.{mistake.where.partition('.')[0]}"
    wrong = ModuleType(name)
    wrong.__package__ = "cnn"
    with undisturbed():
        exec(compile(source, f"<{name}: {mistake.name}>", "exec"), vars(wrong))
    return wrong


@contextmanager
def undisturbed() -> Iterator[None]:
    """Put the package's tables, and what stands behind its doors, back as they were."""
    things = [
        thing
        for name, module in list(sys.modules.items())
        if name.startswith("cnn.")
        for key, thing in vars(module).items()
        if not key.startswith("__")
    ]
    tables = [(table, table.copy()) for table in things if isinstance(table, dict)]
    functions = [thing for thing in things if isinstance(thing, FunctionType)]
    doors = [(door, door.behind) for door in functions if hasattr(door, "behind")]
    try:
        yield
    finally:
        for table, before in tables:
            table.clear()
            table.update(before)
        for door, behind in doors:
            door.behind = behind


# --- Who sees what ---


def run_check(check: Check, module: ModuleType) -> str:
    """Run one check on a module: "passes", "differs" or "raises" (another error)."""
    try:
        with np.errstate(all="ignore"):
            check(module)
    except AssertionError:
        return "differs"
    except Exception:
        return "raises"
    return "passes"


def run_checks(mistake: Mistake) -> dict[str, str]:
    """Run all checks that apply on the wrong module; return what each says."""
    wrong, checks = mutate(mistake), SUBJECTS[mistake.subject]
    return {name: run_check(checks[name], wrong) for name in CHECKS if name in checks}


MARKS = {"differs": "●", "raises": "▲", "passes": "○"}
STYLE = """<style>
table.mistakes { table-layout: auto !important; width: auto; margin: 0 auto; line-height: 1.3;
  border: 0 !important; border-collapse: collapse; font-size: 0.85rem; }
table.mistakes tr, table.mistakes th, table.mistakes td { background: none !important;
  border: 0 !important; padding: 0.15em 0; color: inherit; vertical-align: middle; }
table.mistakes th { font-weight: normal; text-align: left; }
table.mistakes thead th { vertical-align: bottom !important; }
table.mistakes thead th span { writing-mode: vertical-rl; transform: rotate(180deg);
  display: block; margin: 0 auto; line-height: 1; white-space: nowrap; }
table.mistakes tbody th { padding-right: 0.5em; }
table.mistakes tbody tr { border-top: 1px solid rgba(128, 128, 128, 0.3) !important; }
table.mistakes td { text-align: center; min-width: 1.3em; color: #3b82d6; }
table.mistakes td.passes { color: #d9663b; }
table.mistakes td span { display: inline-block; width: 1.3em; }
table.mistakes td.predicted span { box-shadow: 0 0 0 1.5px rgba(128, 128, 128, 0.9) inset;
  border-radius: 5px; }
</style>"""


def table(results: Mapping[str, Mapping[str, str]]) -> str:
    """Return results, by the mistake's name, as a table in HTML: mistakes down, checks across.

    A full mark where the check sees the mistake, an empty one where it does not, and a frame
    around the check that was predicted to see it.
    """
    head = "".join(f'<th scope="col"><span>{name}</span></th>' for name in CHECKS)
    lines = [f"<thead><tr><td></td>{head}</tr></thead>", "<tbody>"]
    for mistake in (m for m in MISTAKES if m.name in results):
        cells = ""
        for name in CHECKS:
            seen = results[mistake.name].get(name, "")
            predicted = " predicted" * (name == mistake.predicted)
            title = f' class="{seen}{predicted}" title="{name}: {seen}"' if seen else ""
            cells += f"<td{title}><span>{MARKS.get(seen, '')}</span></td>"
        lines.append(f'<tr><th scope="row">{mistake.name}</th>{cells}</tr>')
    body = "\n".join([*lines, "</tbody>"])
    return f'{STYLE}\n<table class="dataframe mistakes">\n{body}\n</table>'
