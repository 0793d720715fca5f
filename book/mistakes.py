"""Classic mistakes, put into the package one at a time, and the checks that see them.

A mistake is an edit of one function's source: some text, and what takes its place. ``mutate``
makes a copy of the module with that edit; the package itself stays as it is. ``run_checks`` runs
the checks of ``checks.py`` that apply on the copy. The chapter on the gradient of a convolution
shows the results; the tests demand that no mistake gets through.
"""

import ctypes
import importlib
import inspect
import threading
from collections.abc import Mapping
from operator import attrgetter
from types import ModuleType
from typing import NamedTuple

import numpy as np
from checks import CHECKS, SUBJECTS, Check

# --- The mistakes ---


class Mistake(NamedTuple):
    """One wrong edit.

    Attributes
    ----------
    name : str
        What somebody would say who has found it.
    where : str
        The module and the function or method in it, as in ``"network.Layer.forward"``.
    subject : str
        Whose checks are tried on it: a key of ``SUBJECTS``.
    killer : str
        The check that has to see it: one of ``CHECKS``.
    old, new : str
        Text that occurs exactly once in the function, and what replaces it.
    """

    name: str
    where: str
    subject: str
    killer: str
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
            "    dz /= N\n", ""),
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
            "    np.sqrt(scratch, out=scratch)\n    scratch += eps\n",
            "    scratch += eps\n    np.sqrt(scratch, out=scratch)\n"),
    Mistake("last batch counted as a full one",
            "training.evaluate", "evaluate", "invariance",
            "J += len(z) *", "J += batch_size *"),
    # convolution, forward
    Mistake("filter turned going forward",
            "correlation.conv2d_loops", "loops", "by hand",
            "* W[nu, mu, a, c]", "* W[nu, mu, -1 - a, -1 - c]"),
    Mistake("stride and dilation exchanged",
            "correlation.conv2d_loops", "loops", "PyTorch",
            "s * i + d * a, s * j + d * c", "d * i + s * a, d * j + s * c"),
    Mistake("padding's sides in another order",
            "correlation.padding_sides", "loops", "PyTorch",
            "        return sides\n", "        return sides[2:] + sides[:2]\n"),
    # convolution, backward
    Mistake("filter not turned", BACKWARD, "correlation", "loops, nasty",
            "rot180(V).swapaxes(0, 1)", "V.swapaxes(0, 1)"),
    Mistake("channels not exchanged", BACKWARD, "correlation", "loops, nasty",
            "rot180(V).swapaxes(0, 1)", "rot180(V)"),
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
            "dz.sum(axis=(0, 2, 3))", "dz.sum(axis=(1, 2, 3))"),
    Mistake("dilation forgotten in the Toeplitz matrix",
            "im2col._toeplitz", "bands", "loops, nasty",
            "s * j + d * c", "s * j + c"),
    # pooling, regularisation
    Mistake("ties counted twice",
            "pooling.max_pool2d_backward", "max-pooling", "loops, nasty",
            "blame = (np.where(winners == number, dy, 0) for number in range(f_h * f_w))",
            "V = windows(_surround(x, x.min() - 1, g), f_h, f_w, g)\n    blame = (np.where("
            "V[:, :, a, c] == V.max(axis=(2, 3)), dy, 0) for a, c in np.ndindex(f_h, f_w))"),
    Mistake("floor for ceil in the padding",
            "pooling._overhang", "max-pooling", "PyTorch",
            "k = (f - H - p) % s", "k = (H + p - f) % s"),
    Mistake("mean over pixels that are not there",
            "pooling.window_counts", "average pooling", "PyTorch",
            "np.minimum(i + f_h, rows[1])", "(i + f_h)"),
    Mistake("batch norm without the mean's gradient",
            "regularization._input_gradient", "batch norm", "invariance",
            "dy - _per_channel(dbeta / B, dy)", "dy.copy()"),
    Mistake("batch norm in use, blamed as in training",
            "regularization._BatchNorm.backward", "running moments", "differences, nasty",
            "if self._by_batch:", "if True:"),
    Mistake("running variance left biased",
            "regularization._BatchNorm._track", "running moments", "statistics",
            "B / (B - 1) * v", "v"),
    Mistake("dropout does not amplify",
            "regularization.dropout", "dropout", "statistics",
            "    r /= 1 - p\n", ""),
    Mistake("AdamW's decay goes through Adam",
            "regularization.AdamW.decay", "AdamW", "PyTorch",
            "self.params[name] *= 1 - gamma * self.weight_decay\n        return g",
            "return super().decay(name, g, gamma)"),
]
# fmt: on


def edit(mistake: Mistake) -> tuple[str, str]:
    """Return the source of the mistake's module, as it is and with the edit.

    Parameters
    ----------
    mistake : Mistake
        What to change, and where.

    Returns
    -------
    right, wrong : str
        Two sources.

    Raises
    ------
    LookupError
        The text to replace does not occur exactly once: the code has changed, and the list of
        mistakes must follow.
    """
    name, _, path = mistake.where.partition(".")
    module = importlib.import_module(f"cnn.{name}")
    right, function = map(inspect.getsource, (module, attrgetter(path)(module)))
    for text, source in ((mistake.old, function), (function, right)):
        if (count := source.count(text)) != 1:
            raise LookupError(
                f"{mistake.name!r}: {mistake.where} holds {text!r:.70} {count} times; "
                "expected once"
            )
    return right, right.replace(function, function.replace(mistake.old, mistake.new))


def mutate(mistake: Mistake) -> ModuleType:
    """Return a copy of the mistake's module with the edit.

    All functions of the copy call one another, not the right ones. It is in no table of modules:
    whoever imports gets the right module.

    Parameters
    ----------
    mistake : Mistake
        What to change, and where.

    Returns
    -------
    ModuleType
        The wrong module.

    Raises
    ------
    LookupError
        As in ``edit``.
    """
    _, source = edit(mistake)
    name = f"cnn.{mistake.where.partition('.')[0]}"
    wrong = ModuleType(name)
    wrong.__package__ = "cnn"
    exec(compile(source, f"<{name}: {mistake.name}>", "exec"), vars(wrong))
    return wrong


# --- Who sees what ---


def run_check(check: Check, module: ModuleType, seconds: float = 60) -> str:
    """Run one check on a module.

    Parameters
    ----------
    check : callable
        Takes the module, and raises where it finds something wrong.
    module : ModuleType
        A right module or a wrong one.
    seconds : float
        How long to wait for a module that runs in circles.

    Returns
    -------
    str
        "passes", "differs" where the check has found a difference, "raises" where there was
        another error, or "hangs".
    """
    found = ["hangs"]

    def work() -> None:
        try:
            with np.errstate(all="ignore"):
                check(module)
        except AssertionError:
            found[:] = ["differs"]
        except SystemExit:  # it was told to stop
            pass
        except Exception:
            found[:] = ["raises"]
        else:
            found[:] = ["passes"]

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():  # end it at its next line of Python
        stop = ctypes.pythonapi.PyThreadState_SetAsyncExc
        stop(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    return found[0]


def run_checks(mistake: Mistake) -> dict[str, str]:
    """Run all checks of a mistake's subject on the wrong module.

    Parameters
    ----------
    mistake : Mistake
        What to get wrong.

    Returns
    -------
    dict of str to str
        What ``run_check`` says, for each of ``CHECKS`` that applies.

    Raises
    ------
    LookupError
        As in ``edit``.
    """
    wrong, checks = mutate(mistake), SUBJECTS[mistake.subject]
    return {name: run_check(checks[name], wrong) for name in CHECKS if name in checks}


MARKS = {"differs": "●", "raises": "▲", "hangs": "▲", "passes": "○"}
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
table.mistakes td.named span { box-shadow: 0 0 0 1.5px rgba(128, 128, 128, 0.9) inset;
  border-radius: 5px; }
</style>"""


def table(results: Mapping[str, Mapping[str, str]]) -> str:
    """Return the results as a table in HTML: mistakes down, checks across.

    Parameters
    ----------
    results : mapping
        What ``run_checks`` says, for each mistake's name.

    Returns
    -------
    str
        A full mark where the check sees the mistake, an empty one where it does not, and a
        frame around the check that has to.
    """
    head = "".join(f'<th scope="col"><span>{name}</span></th>' for name in CHECKS)
    lines = [f"<thead><tr><td></td>{head}</tr></thead>", "<tbody>"]
    for mistake in MISTAKES:
        cells = ""
        for name in CHECKS:
            seen = results[mistake.name].get(name, "")
            named = " named" * (name == mistake.killer)
            title = f' class="{seen}{named}" title="{name}: {seen}"' if seen else ""
            cells += f"<td{title}><span>{MARKS.get(seen, '')}</span></td>"
        lines.append(f'<tr><th scope="row">{mistake.name}</th>{cells}</tr>')
    body = "\n".join([*lines, "</tbody>"])
    return f'{STYLE}\n<table class="dataframe mistakes">\n{body}\n</table>'
