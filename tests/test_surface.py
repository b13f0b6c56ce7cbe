"""The surface: the same answers whatever torch is set to, and nothing of the caller's changed."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Context, Inexact, localcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from verbs import CPU, VERBS, Bench, plain, traced

import rnnscope as rs
from rnnscope.cells import apply, from_h, from_x

SOURCE = Path(rs.__file__).parent


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def answers(bench: Bench) -> dict[str, str]:
    return {name: answer(verb, bench) for name, verb in VERBS.items()}


def answer(verb: Any, bench: Bench) -> str:
    return json.dumps(plain(verb(bench)))


# torch's defaults ------------------------------------------------------------------------------


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def default_tensor_type() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_default_tensor_type(torch.DoubleTensor)
        try:
            yield
        finally:
            torch.set_default_tensor_type(torch.FloatTensor)


SETTINGS = {
    "device meta": lambda: default_device("meta"),
    "within device meta": lambda: torch.device("meta"),
    "device cuda": lambda: default_device("cuda"),  # absent, on most machines
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "DoubleTensor": default_tensor_type,
}


RARE = ("within device meta", "float64", "bfloat16", "DoubleTensor")


@pytest.mark.parametrize(
    "setting", [pytest.param(s, marks=[pytest.mark.slow] * (s in RARE)) for s in SETTINGS]
)
def test_answers_do_not_depend_on_torch_s_defaults(
    setting: str, bench: Bench, answers: dict[str, str]
) -> None:
    """The judge is the same verb with torch as it comes."""
    for name, verb in VERBS.items():
        if (setting, name) == ("device cuda", "compare"):
            continue  # it asks torch for the default device, which fails where that is absent
        with SETTINGS[setting]():
            found = answer(verb, bench)
        assert found == answers[name], name


def test_every_tensor_is_made_on_a_device_and_of_a_type_that_are_named() -> None:
    floats = {"tensor", "as_tensor", "asarray", "scalar_tensor", "zeros", "ones", "full", "empty"}
    floats |= {"eye", "linspace", "logspace", "rand", "randn", "normal"}
    whole_numbers = {"arange", "randint", "randperm", "tril_indices", "triu_indices"}
    wrong = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(ast.Attribute(ast.Name("torch"), maker)) if (
                    maker in floats | whole_numbers
                ):
                    words = {keyword.arg for keyword in node.keywords}
                    named = {"device"} if maker in whole_numbers else {"device", "dtype"}
                    if not named <= words:
                        wrong.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
                case ast.Call(ast.Attribute(ast.Name("torch"), "Generator"), []):
                    wrong.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert not wrong


def test_explanations_do_not_depend_on_the_caller_s_decimals(
    bench: Bench, answers: dict[str, str]
) -> None:
    with localcontext(Context(prec=2, traps=[Inexact])) as context:
        assert answer(VERBS["explain"], bench) == answers["explain"]
        assert not any(context.flags.values())


# nothing of the caller's is changed ------------------------------------------------------------

SNAPSHOTS = """
import decimal, gc, json, locale, logging, os, random, signal, sys, threading, warnings
from pathlib import Path
import numpy, torch
device, dtype = sys.argv[2:]
torch.set_default_device(device)
torch.set_default_dtype(getattr(torch, dtype))
import rnnscope
from verbs import VERBS, Bench, plain

def snapshot():
    mask = os.umask(0)
    os.umask(mask)
    return {
        "warnings": [*map(repr, warnings.filters), repr(warnings.showwarning)],
        "NumPy's printing": repr(numpy.get_printoptions()),
        "NumPy's errors": repr([numpy.geterr(), numpy.geterrcall()]),
        "torch's printing": repr(vars(torch._tensor_str.PRINT_OPTS)),
        "defaults": repr([torch.get_default_dtype(), torch.get_default_device()]),
        "gradients": [torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
                      torch.is_anomaly_enabled(), torch.is_autocast_enabled("cpu")],
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads(),
                    threading.active_count()],
        "kernels": [torch.get_float32_matmul_precision(), torch.backends.mkldnn.enabled,
                    torch.backends.cudnn.enabled, torch.are_deterministic_algorithms_enabled()],
        "locale": locale.setlocale(locale.LC_ALL),
        "environment": dict(os.environ),
        "folder": [os.getcwd(), mask],
        "decimals": str(decimal.getcontext()),
        "random": [repr(torch.get_rng_state().tolist()), repr(numpy.random.get_state()),
                   repr(random.getstate())],
        "interpreter": [sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(),
                        sys.get_int_max_str_digits(), sys.path, repr(sys.excepthook),
                        repr(sys.displayhook), repr(signal.getsignal(signal.SIGINT))],
        "logging": [logging.getLogger().level, len(logging.getLogger().handlers)],
        "hooks": len(torch.nn.modules.module._global_forward_hooks),
    }

bench = Bench(Path(sys.argv[1]))
before, changed, answers = snapshot(), [], {}
for name, verb in VERBS.items():
    answers[name] = json.dumps(plain(verb(bench)))
    after = snapshot()
    changed += [f"{name}: {what}" for what in after if after[what] != before[what]]
    before = after
print(json.dumps([changed, answers]))
"""


@pytest.mark.parametrize(
    "settings",
    [("meta", "bfloat16"), pytest.param(("cpu", "float32"), marks=pytest.mark.slow)],
)
def test_the_first_call_of_no_verb_changes_what_is_the_caller_s(
    settings: tuple[str, str], bench: Bench, answers: dict[str, str], tmp_path: Path
) -> None:
    """In a process of its own, in which each verb runs for the first time; with defaults that were
    set before the package was imported, too."""
    found = subprocess.run(
        [sys.executable, "-c", SNAPSHOTS, str(tmp_path), *settings],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{SOURCE.parent}:{Path(__file__).parent}", "OMP_NUM_THREADS": "1"},
    )
    changed, elsewhere = json.loads(found.stdout)
    assert not changed
    apart = [
        name
        for name in VERBS
        if elsewhere[name].replace(str(tmp_path), "")
        != answers[name].replace(str(bench.folder), "")
    ]
    assert not apart


# copies ----------------------------------------------------------------------------------------

COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
}


def records(bench: Bench) -> dict[str, Any]:
    """Everything that verbs return and that holds tensors."""
    found: dict[str, Any] = dict(bench.traces)
    for name, tr in bench.traces.items():
        found[f"gradients of {name}"] = tr.gradients(tr.h_n.square().sum())
    gru = bench.traces["gru"]
    scale = torch.ones((), requires_grad=True, **CPU)
    found["rerun with a graph"] = gru.rerun(rs.Edit("h", time=1, to=scale * 2))
    found["difference"] = found["rerun with a graph"].difference(gru)
    found["memory"] = gru.memory()
    with torch.inference_mode():
        found["of inference mode"] = rs.trace(bench.gru, bench.x)
    with rs.watch(bench.cell) as seen:
        state = bench.cell(bench.x[1], bench.cell(bench.x[0]))
        state[0].sum().backward()
    bench.cell.zero_grad()
    found |= {"joined": seen.joined(""), "call": seen.calls("")[0]}
    return found | {"grad": seen.calls("")[1].grad}


@pytest.mark.parametrize("how", COPIES)
def test_copies_hold_the_same_numbers(how: str, bench: Bench) -> None:
    for name, record in records(bench).items():
        copied = COPIES[how](record)
        assert list(copied) == list(record), name
        for quantity, value in record.items():
            assert torch.equal(copied[quantity], value), name
            shared = copied[quantity].data_ptr() == value.data_ptr()
            assert shared == (how == "copy"), name
        assert plain([record.layer_input(0), record.lengths]) == plain(
            [copied.layer_input(0), copied.lengths]
        )
        if isinstance(record, rs.Trace):
            assert traced(copied) == traced(record)
            assert copied.explain("h", layer=0, direction="forward", batch=0, time=0, unit=0)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_no_graph_leads_out_of_a_copy_and_losses_are_followed_to_its_outputs(how: str) -> None:
    """The judge is the loss's gradient of the copied trace's twin, and autograd of the layer."""
    layer = nn.LSTM(3, 4, **CPU)
    x = torch.randn(5, 2, 3, **CPU)
    tr = rs.trace(layer, x)
    copied = COPIES[how](tr)
    assert copied.output.grad_fn is None
    mine = copied.gradients(copied.output[-1].square().sum() + copied.c_n.sum())
    loss = tr.output[-1].square().sum() + tr.c_n.sum()
    judge = torch.autograd.grad(loss, list(layer.parameters()))
    for (name, _), expected in zip(layer.named_parameters(), judge, strict=True):
        torch.testing.assert_close(mine.parameters[name], expected)
    with pytest.raises(rs.GradientError, match="does not depend on this trace"):
        copied.gradients((tr.output * 1).sum())
    tr.output.detach().zero_()
    assert copied.output.any()


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_a_copy_of_what_was_seen_holds_no_model(how: str) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 4, **CPU)
            self.program = lambda value: value  # which no pickle holds

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.program(self.gru(x)[0])

    model = Model()
    with rs.watch(model) as seen:
        model(torch.randn(5, 2, 3, **CPU)).sum().backward()
        within = COPIES[how](seen)
    for copied in (within, COPIES[how](seen)):
        assert repr(copied) == repr(seen)
        assert torch.equal(copied["gru"]["z"], seen["gru"]["z"])
        assert torch.equal(copied["gru"].grad["z"], seen["gru"].grad["z"])


def test_a_pickle_that_cannot_be_is_refused_and_names_what_serves() -> None:
    tanh = rs.cells.Function(
        "mine", "mine", "mine", torch.tanh, torch.tanh_, lambda y: 1 - y * y, 1, (-1, 1), True, ""
    )
    cell = rs.Cell("own", "h", {"h": apply(tanh, from_x("h") + from_h("h"))})
    tr = rs.trace(rs.Recurrent(cell, 3, 4), torch.ones(2, 3))
    for record in (tr, tr.gradients(tr.h_n.sum())):
        with pytest.raises(rs.RefusedError, match=r"function of one's own.*tr\.save\(path\)"):
            pickle.dumps(record)
        assert plain(dict(copy.deepcopy(record))) == plain(dict(record))
