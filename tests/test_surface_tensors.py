"""Tensors of every class and form as input, state, weight, loss and edit: a harmless one gives the
numbers of a plain tensor, any other is refused with the reason."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map
from verbs import CPU, plain, traced

import rnnscope as rs


class Tagged(Tensor):
    """Adds a name, and nothing else."""


class Viewed(Tensor):
    """As the classes of torchvision: what is computed of it is a plain tensor."""

    @classmethod
    def __torch_function__(cls, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))


class Counted(nn.Parameter):
    """A parameter of somebody's own class."""


class Wrapper(Tensor):
    """Holds another tensor and computes by it, as a DTensor does."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        inside = tree_map(lambda v: v.inner if isinstance(v, Wrapper) else v, (args, kwargs or {}))
        found = func(*inside[0], **inside[1])
        return tree_map(lambda v: Wrapper(v) if isinstance(v, Tensor) else v, found)


def masked(value: Tensor) -> Tensor:
    return torch.masked.masked_tensor(value, torch.ones_like(value).bool())


def fake(value: Tensor) -> Tensor:
    with FakeTensorMode() as mode:
        return mode.from_tensor(value)


HARMLESS: dict[str, Callable[[Tensor], Tensor]] = {
    "a class that adds a name": lambda v: v.as_subclass(Tagged),
    "a class as torchvision's": lambda v: v.as_subclass(Viewed),
    "a Parameter": nn.Parameter,
    "a Buffer": nn.Buffer,
    "a class of Parameter": Counted,
    "a Parameter of a class": lambda v: nn.Parameter(v.as_subclass(Tagged)),
    "a view with the sign turned": lambda v: torch._neg_view(-v),
}
REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "wrapper": (Wrapper, r"from a Wrapper, which computes in its own way \(__torch_dispatch__\)"),
    "masked": (masked, "from a MaskedTensor, which computes in its own way"),
    "fake": (fake, "from a FakeTensor, which computes in its own way"),
    "nested": (lambda v: torch.nested.nested_tensor(list(v)), "from a nested or sparse tensor"),
    "jagged": (
        lambda v: torch.nested.nested_tensor(list(v), layout=torch.jagged),
        "from a nested or sparse tensor",
    ),
    "sparse": (lambda v: v.to_sparse(), "from a nested or sparse tensor"),
    "mkldnn": (lambda v: v.to_mkldnn(), "from a nested or sparse tensor"),
    "quantised": (
        lambda v: torch.quantize_per_tensor(v, 0.1, 0, torch.qint8),
        r"from a quantised tensor \(torch.qint8\)",
    ),
    "meta": (lambda v: v.to("meta"), "on the meta device"),
    "complex": (lambda v: v.to(torch.complex64), r"from a complex tensor \(torch.complex64\)"),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:The PyTorch API of:UserWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "GRU": lambda: nn.GRU(3, 4, **CPU),
    "LSTMCell": lambda: nn.LSTMCell(3, 4, **CPU),
    "Recurrent": lambda: rs.unfuse(nn.GRU(3, 4, **CPU)),
}


def inputs(layer: nn.Module) -> tuple[Tensor, tuple[Tensor, ...]]:
    drawn = torch.Generator("cpu").manual_seed(5)
    single = isinstance(layer, nn.LSTMCell)
    shape, state = ((2, 3), (2, 4)) if single else ((5, 2, 3), (1, 2, 4))
    states = tuple(torch.randn(state, generator=drawn, **CPU) for _ in range(1 + single))
    return torch.randn(shape, generator=drawn, **CPU), states


def called(layer: nn.Module, x: Any, states: tuple[Any, ...]) -> rs.Trace:
    return rs.trace(layer, x, states if len(states) > 1 else states[0])


def with_weights(layer: nn.Module, form: Callable[[Tensor], Any]) -> nn.Module:
    """The layer with parameters of another form."""
    changed = copy.deepcopy(layer)
    for name, weight in layer.named_parameters():
        value = form(weight.detach())
        kept = value if isinstance(value, nn.Parameter) else nn.Parameter(value, False)
        changed._parameters[name] = kept
    if isinstance(changed, nn.RNNBase):
        changed._flat_weights = [changed._parameters[name] for name in changed._flat_weights_names]
    return changed


def used(tr: rs.Trace, folder: Path) -> Any:
    """What all verbs say of it; tensors among it are plain."""
    loss = (tr.h_n * 2).sum() if tr.h_n.requires_grad else None
    gradients = tr.gradients(loss) if loss is not None else tr.gradients(h_n=tr.h_n * 0 + 2)
    assert {type(value) for value in (*tr.values(), *gradients.values())} == {Tensor}
    tr.save(folder / "t.safetensors")
    loaded = rs.load_trace(folder / "t.safetensors")
    copies = [copy.deepcopy(tr), pickle.loads(pickle.dumps(tr)), loaded]
    assert all(plain(dict(each)) == plain(dict(tr)) for each in copies)
    explained = tr.explain("h", layer=0, direction="forward", batch=0, time=0, unit=0)
    rerun = tr.rerun(rs.Edit("h", time=0, unit=1, to=0.5))
    found = [traced(tr), str(explained), str(tr.shapes()), dict(rerun), tr.view().html]
    return plain(found), {**gradients, **gradients.parameters}


def same(found: Any, expected: Any) -> None:
    """Equal, but for the gradients' rounding: an LSTMCell's graph is another where a class of
    somebody's own wraps what it returns."""
    assert found[0] == expected[0]
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "form"),
    [
        pytest.param(kind, form, marks=[pytest.mark.slow] * (kind != "GRU" and k > 0))
        for kind in LAYERS
        for k, form in enumerate(HARMLESS)
    ],
)
def test_a_harmless_class_gives_the_numbers_of_plain_tensors(
    kind: str, form: str, tmp_path: Path
) -> None:
    """The judge is the same call with plain tensors."""
    layer = LAYERS[kind]()
    x, states = inputs(layer)
    change = HARMLESS[form]
    expected = used(called(layer, x, states), tmp_path)
    same(used(called(layer, change(x), states), tmp_path), expected)
    same(used(called(layer, x, tuple(map(change, states))), tmp_path), expected)
    if form != "a class as torchvision's":  # torch itself refuses it as a Parameter
        other = with_weights(layer, change)
        same(used(called(other, x, states), tmp_path), expected)
    with rs.watch(layer) as seen:
        layer(change(x), states if len(states) > 1 else states[0])
    assert plain(dict(seen.trace)) == expected[0][0][0]


@pytest.mark.parametrize("form", REFUSED)
@pytest.mark.parametrize("kind", LAYERS)
def test_any_other_class_is_refused_with_the_reason(kind: str, form: str, tmp_path: Path) -> None:
    layer = LAYERS[kind]()
    x, states = inputs(layer)
    change, why = REFUSED[form]
    for check in (True, False):
        with pytest.raises(rs.RefusedError, match=f"{why}.*, as x is: "):
            rs.trace(layer, change(x), check=check)
    odd = tuple(map(change, states))
    with pytest.raises(rs.RefusedError, match=f"{why}.*, as h_0 is: "):
        called(layer, x, odd)
    tr = called(layer, x, states)
    with pytest.raises(rs.RefusedError, match=f"{why}.*, as h_n is: "):
        tr.gradients(h_n=odd[0])
    with pytest.raises(rs.RefusedError, match=f"{why}.*, as the loss is: "):
        tr.gradients(odd[0])
    said = (
        "must hold real numbers" if form == "complex" else f"{why}.*, as to of the edit of h is: "
    )
    with pytest.raises((rs.RefusedError, rs.DtypeError), match=said):
        tr.rerun(rs.Edit("h", to=odd[0]))
    name, weight = next(iter(tr.parameters.items()))
    if form in ("nested", "jagged"):
        return  # no layer takes such a parameter
    with pytest.raises(rs.RefusedError, match=f"{why}.*, as weights: {name} is: "):
        tr.rerun(weights={name: change(weight)})
    if form == "mkldnn" or (form, kind) == ("sparse", "Recurrent"):
        return
    with pytest.raises(rs.RefusedError, match=f"{why}.*, as weight_ih.* is: "):
        called(with_weights(layer, change), x, states)
