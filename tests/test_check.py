"""check: faults of kernels, planted where torch calls them, are told; a right machine agrees."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from test_cli import printed, refused
from torch import Tensor, nn

import rnnscope as rs

SMALL = [(3, 5, 4, 6)]


def with_kernel(
    monkeypatch: pytest.MonkeyPatch, name: str, change: Callable[[Callable[..., Any], Any], Any]
) -> None:
    """Torch's kernel of this name, with what ``change(kernel, arguments)`` returns instead."""
    kernel = getattr(torch._VF, name)  # type: ignore[attr-defined]
    monkeypatch.setattr(torch._VF, name, lambda *args: change(kernel, args), raising=False)
    # nn.RNN takes its kernels from a table
    table = nn.modules.rnn._rnn_impls
    monkeypatch.setitem(table, name.upper(), getattr(torch._VF, name))


def test_this_machine_agrees_and_nothing_is_changed() -> None:
    before = torch.random.get_rng_state()
    report = rs.check(sizes=SMALL)
    assert report
    assert report.agrees
    assert torch.equal(torch.random.get_rng_state(), before)
    lines = str(report).splitlines()
    assert lines[0].startswith("cpu, float32, torch ")
    assert sum("layers agree; at most 0." in line for line in lines) == 10
    assert lines[-1] == "All 45 layers agree."
    assert sum(kernel.count for kernel in report.kernels) == 45


def test_rows_that_a_kernel_computes_wrongly_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def late_rows(kernel: Callable[..., Any], arguments: Any) -> Any:
        output, h_n = kernel(*arguments)
        wrong = torch.zeros_like(output)
        wrong[..., 3:, :] = 0.01  # packed data are (step and row, unit)
        return output + wrong, h_n

    with_kernel(monkeypatch, "gru", late_rows)
    report = rs.check(sizes=SMALL)
    assert not report
    wrong = {kernel.title for kernel in report.kernels if kernel.failures}
    assert wrong == {"nn.GRU, with gradients", "nn.GRU, without"}
    assert "rows 0 to 2, not row 3" in " ".join(str(report).split())
    assert "layers differ." in str(report).splitlines()[-1]


class Doubled(torch.autograd.Function):
    """The same numbers, with twice the gradient."""

    @staticmethod
    def forward(context: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * gradients[0]


def test_a_wrong_backward_pass_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(kernel: Callable[..., Any], arguments: Any) -> Any:
        x, *others = arguments
        return kernel(Doubled.apply(x), *others)  # type: ignore[no-untyped-call]

    with_kernel(monkeypatch, "rnn_tanh", doubled)
    report = rs.check(sizes=SMALL)
    titles = {kernel.title for kernel in report.kernels if kernel.failures}
    assert titles == {"nn.RNN, tanh, with gradients"}
    assert "x" in str(report)


def test_masks_that_the_backward_pass_leaves_out_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device whose fused LSTM ignored dropout on the way back."""

    def unmasked(kernel: Callable[..., Any], arguments: Any) -> Any:
        if isinstance(arguments[1], Tensor) or not arguments[5]:  # packed, or no dropout
            return kernel(*arguments)
        masked = kernel(*arguments)
        plain = kernel(*arguments[:5], 0.0, *arguments[6:])
        return tuple(p + (m - p).detach() for m, p in zip(masked, plain, strict=True))

    with_kernel(monkeypatch, "lstm", unmasked)
    report = rs.check(sizes=SMALL)
    failures = [failure for kernel in report.kernels for failure in kernel.failures]
    assert failures
    assert all("dropout 0.5 in training" in failure.configuration for failure in failures)
    assert all("are the masks of dropout applied" in failure.text for failure in failures)


def test_a_kernel_that_a_device_lacks_is_told_and_the_others_are_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing(kernel: Callable[..., Any], arguments: Any) -> Any:
        raise NotImplementedError("gru is not implemented for this device\nand more")

    with_kernel(monkeypatch, "gru", missing)
    report = rs.check(sizes=SMALL)
    assert not report
    assert "nn.GRU, with gradients: input 3, hidden 5" in str(report)
    assert "gru is not implemented for this device" in str(report)
    assert "Not checked: nn.GRU, with gradients; nn.GRU, without." in str(report)


def test_a_layer_that_is_refused_among_others_is_no_agreement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def not_packed(kernel: Callable[..., Any], arguments: Any) -> Any:
        if isinstance(arguments[3], list | tuple):  # (data, batch_sizes, h_0, weights, ...)
            raise RuntimeError("out of memory")
        return kernel(*arguments)

    with_kernel(monkeypatch, "gru", not_packed)
    report = rs.check(sizes=SMALL)
    assert not report
    assert "2 more were refused." in str(report).splitlines()[-1]
    assert not any(kernel.failures for kernel in report.kernels)


def test_a_fault_of_the_judge_is_no_refusal_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> float:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(sys.modules["rnnscope._check.check"], "ratio_to_rounding", broken)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        rs.check(sizes=SMALL)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"device": "tpu9"}, rs.RefusedError, "nothing can be computed on device 'tpu9'"),
        ({"device": "meta"}, rs.RefusedError, "nothing can be computed on device 'meta'"),
        ({"dtype": torch.float16}, rs.DtypeError, "judges float32 and float64; got torch.float16"),
        ({"sizes": [(1, 2, 3)]}, rs.ShapeError, r"got \(1, 2, 3\)"),
        ({"sizes": [(1, 2, 3, 0)]}, rs.ShapeError, "four whole numbers above 0"),
        ({"sizes": [(1, 2, 3, 4.5)]}, rs.ShapeError, "four whole numbers above 0"),
        ({"sizes": [7]}, rs.ShapeError, "four whole numbers above 0"),
        ({"sizes": []}, rs.ShapeError, "sizes is empty"),
    ],
)
def test_what_cannot_be_checked_is_refused(options: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        rs.check(**options)


def test_the_command() -> None:
    report = json.loads(printed("check", "--sizes", "2,3,2,4", "--format", "json"))
    assert report["agrees"] is True
    assert "--sizes takes four whole numbers above 0" in refused("check", "--sizes", "2,3,2")
    assert "nothing can be computed on device 'tpu9'" in refused("check", "--device", "tpu9")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_size_agrees_here(dtype: torch.dtype) -> None:
    report = rs.check(dtype=dtype)
    assert report, str(report)
