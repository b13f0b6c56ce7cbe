"""compare(gradients=True) and compare(backward=...): how a candidate is called, what cannot be."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs
from rnnscope.errors import CandidateError, DtypeError, NotRecurrentError, ShapeError

Arrays = dict[str, Any]


def drawn(layer: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            drawn = torch.rand(parameter.shape, generator=generator, dtype=parameter.dtype)
            parameter.copy_(1.6 * drawn - 0.8)
    return layer


RNN = drawn(nn.RNN(3, 4).double())
X = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
H_0 = torch.randn(1, 2, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
G = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def text(verdict: rs.Verdict) -> str:
    return " ".join(str(verdict).split())


# --- backward functions, as people write them -----------------------------------------------------


def backward(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
    """A right one, in NumPy."""
    W_ih, W_hh = weights["weight_ih_l0"], weights["weight_hh_l0"]
    b = weights["bias_ih_l0"] + weights["bias_hh_l0"]
    hs = [initial[0]]
    for x_t in x:
        hs.append(np.tanh(x_t @ W_ih.T + hs[-1] @ W_hh.T + b))
    total = {name: np.zeros_like(value) for name, value in weights.items()}
    dx, das, dhs, dh = np.zeros_like(x), np.zeros_like(grad_output), [], grad_final[0]
    for t in reversed(range(len(x))):
        dh = dh + grad_output[t]
        dhs.insert(0, dh)
        da = das[t] = dh * (1 - hs[t + 1] ** 2)
        total["weight_ih_l0"] += da.T @ x[t]
        total["weight_hh_l0"] += da.T @ hs[t]
        total["bias_ih_l0"] += da.sum(0)
        total["bias_hh_l0"] += da.sum(0)
        dx[t] = da @ W_ih
        dh = da @ W_hh
    return total | {"x": dx, "h_0": dh, "grad.h": np.stack(dhs), "grad.h_pre": das}


def compared(function: Any, **options: Any) -> rs.Verdict:
    return rs.compare(RNN, RNN, X, H_0, backward=function, **options)


def test_a_right_backward_pass_agrees() -> None:
    verdict = compared(backward)
    assert verdict, str(verdict)
    assert verdict.gradients is not None
    assert verdict.gradients.compared[:2] == ("weight_ih_l0", "weight_hh_l0")
    assert "h_pre" in verdict.gradients.compared


def test_h_t_in_place_of_h_before() -> None:
    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        total = backward(x, initial, weights, grad_output, grad_final)
        hs = RNN(torch.from_numpy(x), torch.from_numpy(initial))[0].detach().numpy()
        return total | {"weight_hh_l0": np.einsum("tbg,tbh->gh", total["grad.h_pre"], hs)}

    verdict = compared(mine)
    assert not verdict
    assert [str(cause) for cause in verdict.causes] == ["h_of_dw after"]
    assert verdict.first is None
    assert verdict.gradients is not None
    first = verdict.gradients.first
    assert first is not None
    assert (first.name, first.layer, first.time) == ("weight_hh_l0", 0, None)
    assert "agrees: differs by at most" in text(verdict)  # the outputs
    assert "dW_hh += da.T @ h_prev" in text(verdict)
    assert verdict.to_dict()["gradients"]["first"]["name"] == "weight_hh_l0"


def test_the_first_difference_is_the_latest_step_of_what_came_back_by_name() -> None:
    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        total = backward(x, initial, weights, grad_output, grad_final)
        total["grad.h"][:3] *= 2
        return total

    verdict = compared(mine)
    assert verdict.gradients is not None
    first = verdict.gradients.first
    assert first is not None
    assert (first.name, first.time) == ("h", 2)
    assert first.yours == pytest.approx(2 * first.expected)


def test_any_parameters_and_any_order_are_taken() -> None:
    def mine(*, w: Any, dy: Any, hx: Any, x: Any, grad_h_n: Any) -> Arrays:
        return {k: v for k, v in backward(x, hx, w, dy, grad_h_n).items() if k in ("x", "h_0")}

    verdict = compared(mine)
    assert verdict, str(verdict)
    assert verdict.gradients is not None
    assert set(verdict.gradients.compared) == {"x", "h_0"}


def test_batch_first_is_as_the_layer_has_it() -> None:
    layer = drawn(nn.RNN(3, 4, batch_first=True).double())

    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        turned = (x.swapaxes(0, 1), initial, weights, grad_output.swapaxes(0, 1), grad_final)
        total = backward(*turned)
        return total | {"x": total["x"].swapaxes(0, 1)}

    assert rs.compare(layer, layer, backward=mine)


# --- dropout --------------------------------------------------------------------------------------


@pytest.mark.parametrize("applied", [pytest.param(True, marks=pytest.mark.slow), False])
def test_dropouts_masks_are_given_in_training(applied: bool) -> None:
    layer = drawn(nn.GRU(3, 4, num_layers=2, dropout=0.4).double()).train()

    def mine(
        x: Tensor,
        initial: Tensor,
        weights: dict[str, Tensor],
        grad_output: Tensor,
        grad_final: Tensor,
        masks: list[Tensor],
    ) -> Arrays:
        class Masked(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, value: Tensor) -> Tensor:
                return value * masks[0]

            @staticmethod
            def backward(ctx: Any, gradient: Tensor) -> Tensor:
                return gradient * masks[0] if applied else gradient

        with torch.enable_grad():
            x, initial = x.clone().requires_grad_(), initial.clone().requires_grad_()
            flow, finals, wanted = x, [], {"x": x, "h_0": initial}
            for k in range(2):
                one = nn.GRU(flow.shape[-1], 4).double()
                one.load_state_dict(
                    {n[:-1] + "0": v for n, v in weights.items() if n.endswith(f"l{k}")}
                )
                wanted |= {n[:-1] + str(k): p for n, p in one.named_parameters()}
                flow, final = one(flow, initial[k : k + 1])
                finals.append(final)
                flow = Masked.apply(flow) if k == 0 else flow
            loss = (flow * grad_output).sum() + (torch.cat(finals) * grad_final).sum()
            return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))

    verdict = rs.compare(copy.deepcopy(layer).eval(), layer, backward=mine)
    assert bool(verdict) == applied, str(verdict)
    assert [str(cause) for cause in verdict.causes] == ([] if applied else ["handed_down unmasked"])


# --- by autograd ----------------------------------------------------------------------------------


def loop(detached: str = "", activation: Any = torch.tanh) -> Any:
    def mine(x: Tensor, initial: Tensor, weights: dict[str, Tensor]) -> Any:
        h, outputs = initial[0], []
        for t, x_t in enumerate(x):
            before = h.detach() if detached == "h" or (detached == "2" and t == 2) else h
            a = x_t @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
            h = activation(a + before @ weights["weight_hh_l0"].T + weights["bias_hh_l0"])
            outputs.append(h)
        return torch.stack(outputs), h[None]

    return mine


@pytest.mark.slow
def test_a_right_loop_and_the_layer_itself_have_right_gradients() -> None:
    rs.assert_agrees(loop(), RNN, gradients=True)
    lstm = drawn(nn.LSTM(3, 4, bidirectional=True, batch_first=True))
    rs.assert_agrees(copy.deepcopy(lstm), lstm, X, gradients=True)


def test_a_detached_state_is_named() -> None:
    verdict = rs.compare(loop("h"), RNN, gradients=True)
    assert [str(cause) for cause in verdict.causes] == ["through_state h"]
    with pytest.raises(AssertionError, match="no gradient through h_"):
        rs.assert_agrees(loop("h"), RNN, X, H_0, gradients=True)
    rs.assert_agrees(loop("h"), RNN, X, H_0)  # the outputs are right


def test_a_module_inside_another_gives_the_gradients_of_its_own_parameters() -> None:
    layer = drawn(nn.GRU(3, 4, batch_first=True).double())

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = copy.deepcopy(layer)
            self.gru.bias_hh_l0.requires_grad_(False)

        def forward(self, x: Tensor, hx: Tensor | None = None) -> Any:
            return self.gru(x, hx)

    verdict = rs.compare(Model(), layer, X, gradients=True)
    assert verdict, str(verdict)
    assert verdict.gradients is not None
    assert {"x", "weight_ih_l0", "weight_hh_l0"} < set(verdict.gradients.compared)


@pytest.mark.slow
def test_lengths_are_kept_apart() -> None:
    gru = drawn(nn.GRU(3, 4, bidirectional=True).double())
    verdict = rs.compare(gru, gru, X, lengths=[5, 2], gradients=True)
    assert verdict, str(verdict)


def test_a_wrong_forward_pass_is_told_first_and_gradients_are_judged_against_it() -> None:
    verdict = rs.compare(loop("h", torch.sigmoid), RNN, gradients=True)
    names = [str(cause) for cause in verdict.causes]
    assert names == ["activation h:sigmoid", "through_state h"]
    assert "judged against your own forward pass" in text(verdict)


def test_right_gradients_of_gates_in_another_order() -> None:
    """Those of the rows stand where the candidate reads them."""
    lstm = drawn(nn.LSTM(3, 4).double())

    def mine(x: Tensor, initial: Any, weights: dict[str, Tensor]) -> Any:
        h, c = (state[0] for state in initial)
        outputs = []
        for x_t in x:
            a = x_t @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
            a = a + h @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
            i, f, o, g = a.chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs), (h[None], c[None])

    verdict = rs.compare(mine, lstm, gradients=True)
    assert [str(cause) for cause in verdict.causes] == ["gate_order ifog of all"]
    assert verdict.gradients is not None
    assert verdict.gradients.agrees, str(verdict)


def test_where_no_equation_is_wrong_but_what_is_returned_gradients_are_not_judged() -> None:
    def mine(x: Tensor, initial: Tensor, weights: dict[str, Tensor]) -> Any:
        output, final = loop()(x, initial, weights)
        return output.flip(0), final

    verdict = rs.compare(mine, RNN, gradients=True)
    assert [str(cause) for cause in verdict.causes] == ["time_reversed output"]
    assert "The gradients are not judged" in text(verdict)


def test_gradients_of_a_declared_cell_with_parameters_of_its_own() -> None:
    layer = drawn(rs.Recurrent(rs.cells.LSTM_PEEPHOLE, 3, 4).double())
    verdict = rs.compare(layer, layer, X, gradients=True)
    assert verdict, str(verdict)
    assert verdict.gradients is not None
    assert any(name.startswith("peephole") for name in verdict.gradients.compared)


@pytest.mark.slow
def test_right_gradients_of_a_wrong_forward_pass() -> None:
    right = rs.compare(loop("", torch.sigmoid), RNN, gradients=True)
    assert right.gradients is not None
    assert right.gradients.agrees
    assert not right.gradients.forward
    assert not right


def test_where_the_forward_pass_is_not_known_gradients_are_not_judged() -> None:
    def mine(x: Tensor, initial: Tensor, weights: dict[str, Tensor]) -> Any:
        output, final = loop()(x, initial, weights)
        return output**3 + 0.1 * output, final

    verdict = rs.compare(mine, RNN, X, H_0, gradients=True, effort=0.0)
    assert not verdict
    assert "The gradients are not judged" in text(verdict)


def test_without_the_argument_nothing_is_said_of_gradients() -> None:
    verdict = rs.compare(loop("h"), RNN, X, H_0)
    assert verdict
    assert verdict.gradients is None
    assert "gradients" not in verdict.to_dict()


# --- recorded -------------------------------------------------------------------------------------


def recorded() -> Arrays:
    x, h = X.clone().requires_grad_(), H_0.clone().requires_grad_()
    output, _ = RNN(x, h)
    parameters = dict(RNN.named_parameters())
    wanted = {"x": x, "h_0": h} | parameters
    gradients = torch.autograd.grad((output * G).sum(), list(wanted.values()))
    named = dict(zip(wanted, gradients, strict=True))
    return {"output": output.detach(), "grad_output": G, "grad": named}


def test_recorded_gradients_agree_in_a_dict_and_in_a_file(tmp_path: Any) -> None:
    numbers = recorded()
    assert rs.compare(numbers, RNN, X, H_0)
    flat = {f"grad.{name}": value.numpy() for name, value in numbers["grad"].items()}
    np.savez(tmp_path / "g.npz", output=numbers["output"].numpy(), grad_output=G.numpy(), **flat)
    assert rs.compare(tmp_path / "g.npz", RNN, X, H_0)


def test_gradients_alone_need_no_output() -> None:
    numbers = recorded()
    del numbers["output"]
    verdict = rs.compare(numbers, RNN, X, H_0)
    assert verdict
    assert "gradients alone were given" in text(verdict)


# --- what cannot be compared: a sentence each -----------------------------------------------------


def test_numpy_has_no_gradient() -> None:
    def mine(x: Any, initial: Any, weights: Any) -> Any:
        h, outputs = initial[0], []
        for x_t in x:
            a = x_t @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
            h = np.tanh(a + h @ weights["weight_hh_l0"].T + weights["bias_hh_l0"])
            outputs.append(h)
        return np.stack(outputs), h[None]

    with pytest.raises(CandidateError, match="NumPy keeps no graph: give the backward pass"):
        rs.compare(mine, RNN, X, H_0, gradients=True)


def test_a_detached_output_has_no_gradient() -> None:
    def mine(x: Tensor, initial: Tensor, weights: dict[str, Tensor]) -> Any:
        output, final = loop()(x, initial, weights)
        return output.detach(), final.detach()

    with pytest.raises(CandidateError, match="mine has no gradient: what it returns has no graph"):
        rs.compare(mine, RNN, X, H_0, gradients=True)


def test_changes_in_place_that_break_the_graph() -> None:
    def mine(x: Tensor, initial: Tensor, weights: dict[str, Tensor]) -> Any:
        h, outputs = initial[0], []
        for x_t in x:
            a = x_t @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
            h = torch.tanh(a + h @ weights["weight_hh_l0"].T + weights["bias_hh_l0"])
            outputs.append(h * 1)
            h.mul_(1.0)  # tanh needs it as it was
        return torch.stack(outputs), h[None]

    with pytest.raises(CandidateError, match="collect outputs in a list"):
        rs.compare(mine, RNN, X, H_0, gradients=True)


def test_a_backward_pass_that_raises() -> None:
    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        raise KeyError("dh")

    with pytest.raises(CandidateError, match=r"mine, called with .* raised KeyError: 'dh', at "):
        compared(mine)


@pytest.mark.parametrize(
    ("returned", "error", "words"),
    [
        ((1.0,), DtypeError, "must be a dict of gradients by name"),
        ({}, ShapeError, "no gradient is known of nothing; expected any of x, h_0, weight_ih_l0"),
        ({"nothing": [1.0]}, ShapeError, "no gradient is known of 'nothing'"),
        ({"weight_ih_l0": np.zeros((5, 2))}, ShapeError, r"expected|\(4, 3\); got \(5, 2\)"),
        ({"weight_ih_l0": np.zeros((2, 6))}, ShapeError, "as many numbers: look at the order"),
        ({"x": np.zeros((5, 2, 3), int)}, DtypeError, "floating point"),
        (
            {"x": np.zeros((5, 2, 0))},
            ShapeError,
            r"x in .* is empty, \(5, 2, 0\); expected numbers",
        ),
        ({"x": np.zeros((3, 2, 5))}, ShapeError, r"it belongs to, \(5, 2, 3\); got \(3, 2, 5\)"),
        ({"h_0": np.zeros((1, 4, 2))}, ShapeError, r"it belongs to, \(1, 2, 4\); got \(1, 4, 2\)"),
        ({"grad.h": np.zeros((5, 4))}, ShapeError, r"also \(time, batch, unit\); got \(5, 4\)"),
    ],
)
def test_what_is_no_gradient(returned: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        compared(lambda x, initial, weights, grad_output, grad_final: returned)


def test_a_transposed_gradient_is_told_and_turned_back() -> None:
    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        total = backward(x, initial, weights, grad_output, grad_final)
        return total | {"weight_ih_l0": total["weight_ih_l0"].T}

    verdict = compared(mine)
    assert not verdict
    assert [str(cause) for cause in verdict.causes] == ["gradient_transposed weight_ih_l0"]
    assert "return dweight_ih_l0.T" in text(verdict)


@pytest.mark.parametrize("name", ["x", "h_0"])
def test_a_gradient_of_x_or_a_state_with_its_axes_exchanged(name: str) -> None:
    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        total = backward(x, initial, weights, grad_output, grad_final)
        total["h_0"] = total["h_0"][None]
        return total | {name: total[name].swapaxes(0, 1)}

    verdict = compared(mine)
    assert [str(cause) for cause in verdict.causes] == [f"gradient_transposed {name}"]
    assert f"return d{name}.swapaxes(0, 1)" in text(verdict)


def test_axes_of_length_one_may_be_missing_or_more() -> None:
    """x of one sequence without its batch, a bias as one row."""

    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        total = backward(x, initial, weights, grad_output, grad_final)
        return {"x": total["x"][:, 0], "bias_ih_l0": total["bias_ih_l0"][None]}

    assert rs.compare(RNN, RNN, X[:, :1], H_0[:, :1], backward=mine)


def test_a_function_of_any_arguments_is_given_all_in_order() -> None:
    verdict = compared(lambda *arguments: backward(*arguments))
    assert verdict, str(verdict)


def test_what_it_changes_in_place_and_what_it_does_not_take_are_told() -> None:
    """Without grad_final, nothing reaches the final states."""

    def mine(x: Any, initial: Any, weights: Any, grad_output: Any) -> Arrays:
        total = backward(x, initial, weights, grad_output, np.zeros_like(initial))
        grad_output[:] = 0
        return total

    verdict = compared(mine)
    assert verdict, str(verdict)
    assert "mine changes grad_output in place" in text(verdict)


def test_a_mistake_in_the_parameters_alone_is_named_without_x() -> None:
    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        total = backward(x, initial, weights, grad_output, grad_final)
        return {"weight_hh_l0": total["weight_hh_l0"].T, "bias_hh_l0": total["bias_hh_l0"]}

    assert [str(cause) for cause in compared(mine).causes] == ["dw_transposed"]


def test_of_x_alone_one_mistake_in_every_layer_is_named() -> None:
    """Nothing came back of the layers themselves, so they cannot be searched one by one."""
    layer = drawn(nn.RNN(3, 4, num_layers=2).double())

    def mine(
        x: Tensor, initial: Tensor, weights: Any, grad_output: Tensor, grad_final: Tensor
    ) -> Arrays:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            flow, finals = x, []
            for k in range(2):
                h, outputs = initial[k], []
                for x_t in flow:
                    a = x_t @ weights[f"weight_ih_l{k}"].T + weights[f"bias_ih_l{k}"]
                    b = h.detach() @ weights[f"weight_hh_l{k}"].T + weights[f"bias_hh_l{k}"]
                    h = torch.tanh(a + b)
                    outputs.append(h)
                flow = torch.stack(outputs)
                finals.append(h)
            loss = (flow * grad_output).sum() + (torch.stack(finals) * grad_final).sum()
            return {"x": torch.autograd.grad(loss, x)[0]}

    verdict = rs.compare(layer, layer, backward=mine)
    assert [str(cause) for cause in verdict.causes] == ["through_state h"]


def test_what_is_not_found_with_little_effort_is_said_to_be_so() -> None:
    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        total = backward(x, initial, weights, grad_output, grad_final)
        total["weight_ih_l0"][0, 1] += 0.1
        return total

    verdict = compared(mine, effort=0.0)
    assert not verdict.causes
    assert "sets of mistakes were tried, singles and not all pairs: a larger effort=" in (
        text(verdict)
    )
    assert "singles and not all pairs" not in text(compared(mine))


def test_gradients_in_another_type_of_number_are_told() -> None:
    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        total = backward(x, initial, weights, grad_output, grad_final)
        return {"x": total["x"].astype(np.float32)}

    verdict = compared(mine)
    assert verdict, str(verdict)
    assert "rounding in float64 (the candidate's: float32) allows" in text(verdict)


def test_gradients_of_quantities_are_not_compared_on_padding() -> None:
    steps, lengths = 5, torch.tensor([5, 2])
    h, hs = H_0[0].clone().requires_grad_(), []
    for t in range(steps):
        now = torch.tanh(
            X[t] @ RNN.weight_ih_l0.T + RNN.bias_ih_l0 + h @ RNN.weight_hh_l0.T + RNN.bias_hh_l0
        )
        h = torch.where((t < lengths)[:, None], now, h)
        hs.append(h)
    valid = (torch.arange(steps)[:, None] < lengths)[..., None]
    grads = torch.autograd.grad((torch.stack(hs) * G * valid).sum(), hs)
    by_step = torch.stack(grads).transpose(0, 1)[None, None] + 7 * ~valid.transpose(0, 1)
    numbers = {"grad_output": G * valid, "grad": {"grad.h": by_step}}
    verdict = rs.compare(numbers, RNN, X, H_0, lengths=[5, 2])
    assert verdict, str(verdict)
    by_step[0, 0, 1, 1] += 1
    verdict = rs.compare(numbers, RNN, X, H_0, lengths=[5, 2])
    assert verdict.gradients is not None
    assert verdict.gradients.first is not None
    assert (verdict.gradients.first.batch, verdict.gradients.first.time) == (1, 1)


def test_a_call_that_raises_at_some_inputs_is_left_out() -> None:
    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        if len(x) == 1:
            raise ValueError("one step")
        return backward(x, initial, weights, grad_output, grad_final)

    verdict = rs.compare(RNN, RNN, backward=mine)
    assert verdict, str(verdict)
    assert "at some inputs it raised: mine, called with" in text(verdict)


def test_nan_is_told_with_its_place() -> None:
    def mine(x: Any, initial: Any, weights: Any, grad_output: Any, grad_final: Any) -> Arrays:
        total = backward(x, initial, weights, grad_output, grad_final)
        total["weight_hh_l0"][1, 2] = np.nan
        return total

    verdict = compared(mine)
    assert not verdict
    assert "the gradient of weight_hh_l0 is NaN at [1, 2]" in text(verdict)


def test_a_name_that_may_be_meant_for_another_is_no_agreement() -> None:
    numbers = recorded()
    numbers["grad"]["weigth_ih_l0"] = numbers["grad"].pop("weight_ih_l0")
    verdict = rs.compare(numbers, RNN, X, H_0)
    assert not verdict
    assert "'weigth_ih_l0' is not read: is it 'weight_ih_l0'?" in text(verdict)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"backward": 3}, NotRecurrentError, r"expected backward\(x, initial, weights"),
        ({"backward": lambda x: {}}, NotRecurrentError, "takes no grad_output"),
        (
            {"backward": lambda a, b, c, d, e, f: {}},
            NotRecurrentError,
            "what the parameter 'f' of the backward function should be given is not known",
        ),
        ({"gradients": 1}, ValueError, "gradients must be True or False; got 1"),
        ({"gradients": True, "backward": backward}, ValueError, "one can be compared at a time"),
    ],
)
def test_what_is_asked_wrongly(options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        rs.compare(RNN, RNN, X, H_0, **options)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"grad": 1.0}, DtypeError, "'grad' must be a dict of gradients by name"),
        ({"grad_output": None}, ShapeError, "need what reached the outputs"),
        ({"grad_output": G[:4]}, ShapeError, r"shape of the output, \(5, 2, 4\); got \(4, 2, 4\)"),
        ({"grad_h_n": G}, ShapeError, "grad_h_n must have the shape of h_n"),
        ({"masks": [G]}, ShapeError, "one mask for each layer but the last, 0; got 1"),
    ],
)
def test_recorded_gradients_that_cannot_be_read(
    changes: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        rs.compare(recorded() | changes, RNN, X, H_0)


def test_recorded_outputs_have_no_gradients() -> None:
    with pytest.raises(ValueError, match="needs gradients in what was recorded"):
        rs.compare({"output": recorded()["output"]}, RNN, X, H_0, gradients=True)
