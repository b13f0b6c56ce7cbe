"""compare as it is used: what it says of whole cases, beyond which mistakes it finds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mutations
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import rnnscope as rs


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


# --- the order of axes ----------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [6, 4], ids=["free", "square"])
@pytest.mark.parametrize("given", [True, False])
def test_an_output_with_its_axes_exchanged_is_no_agreement(steps: int, given: bool) -> None:
    layer = nn.LSTM(3, 5, batch_first=True)

    def time_first(x: Tensor, initial: Any = None) -> Tensor:
        return layer(x, initial)[0].transpose(0, 1)

    arguments = (torch.randn(4, steps, 3),) if given else ()
    verdict = rs.compare(time_first, layer, *arguments)
    assert not verdict
    assert [cause.name for cause in verdict.causes] == ["output_axes"]
    assert verdict.explanations[0].left < 1e-6
    assert "time first" in plain(verdict)
    with pytest.raises(AssertionError, match="axes"):
        rs.assert_agrees(time_first, layer, *arguments)


def test_other_mistakes_are_found_beside_exchanged_axes() -> None:
    layer = nn.GRU(3, 5)
    other = nn.GRU(3, 5)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        other.bias_hh_l0.zero_()
    verdict = rs.compare(lambda x, h=None: other(x, h)[0].transpose(0, 1), layer)
    assert [cause.name for cause in verdict.causes] == ["output_axes", "bias_missing"]


def test_recorded_numbers_may_have_their_own_order() -> None:
    layer = nn.LSTM(3, 5, batch_first=True)
    x = torch.randn(4, 6, 3)
    assert rs.compare(layer(x)[0].detach().transpose(0, 1), layer, x)


# --- what calls alone tell ------------------------------------------------------------------------


def test_random_numbers_are_not_called_dropout() -> None:
    layer = nn.GRU(3, 5)

    def noisy(x: Tensor, initial: Any = None) -> Tensor:
        return layer(x, initial)[0] + 0.1 * torch.randn(())

    verdict = rs.compare(noisy, layer)
    assert [cause.name for cause in verdict.causes] == ["random"]
    assert "dropout" not in plain(verdict)


def test_dropout_in_training_is_named() -> None:
    layer = nn.GRU(3, 5, 2).eval()
    other = nn.GRU(3, 5, 2, dropout=0.5)
    other.load_state_dict(layer.state_dict())
    verdict = rs.compare(other, layer)
    assert [cause.name for cause in verdict.causes] == ["random"]
    assert "p=0.5" in plain(verdict)


class Keeping(nn.Module):
    """An LSTM that goes on from where its last call ended, if it is not told where to start."""

    def __init__(self, lstm: nn.LSTM, uses_initial: bool = True) -> None:
        super().__init__()
        self.lstm, self.uses_initial, self.kept = lstm, uses_initial, None

    def forward(self, x: Tensor, initial: Any = None) -> Tensor:
        initial = initial if self.uses_initial and initial is not None else self.kept
        if initial is not None and initial[0].shape[1] != x.shape[1]:
            initial = None
        with torch.no_grad():
            output, self.kept = self.lstm(x, initial)
        return output


@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("of_module", [True, False])
def test_a_state_that_is_kept_between_calls_is_said_first(of_module: bool, given: bool) -> None:
    """Also where initial states set it anew."""
    layer = nn.LSTM(3, 4)
    module = Keeping(layer)
    candidate = module if of_module else lambda x, initial=None: module(x, initial)
    verdict = rs.compare(candidate, layer, *([torch.randn(6, 3, 3)] if given else []), effort=0.2)
    assert not verdict
    assert [cause.name for cause in verdict.causes] == ["calls_chained"]
    assert plain(verdict).startswith("the state is kept from call to call: the same input gives")


def test_what_is_wrong_beside_a_kept_state_is_found_too() -> None:
    layer = nn.LSTM(3, 4)
    verdict = rs.compare(Keeping(layer, uses_initial=False), layer)
    assert [cause.name for cause in verdict.causes] == ["calls_chained", "initial_ignored"]
    assert plain(verdict).startswith("the state is kept from call to call")
    assert verdict.explanations[0].left < 1e-6


# --- padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_lengths_that_were_ignored_are_named(kind: Any) -> None:
    """Padding that is not zero: outputs of valid steps are right, the last states are not."""
    layer = kind(3, 5, batch_first=True)
    x = torch.randn(3, 8, 3)
    output, final = layer(x)
    names = ("h_n", "c_n") if isinstance(final, tuple) else ("h_n",)
    states = final if isinstance(final, tuple) else (final,)
    recorded = {"output": output.detach()} | {
        name: value.detach() for name, value in zip(names, states, strict=True)
    }
    verdict = rs.compare(recorded, layer, x, lengths=[8, 5, 3])
    assert not verdict
    assert [str(cause) for cause in verdict.causes] == ["padding not_masked"]


@pytest.mark.parametrize("filling", [0.0, 7.0, torch.nan])
@pytest.mark.parametrize("called", [True, False])
def test_numbers_on_padding_are_not_compared_and_told(called: bool, filling: float) -> None:
    layer, x, lengths = nn.LSTM(3, 5), torch.randn(6, 3, 3), [6, 4, 2]

    def mine(x: Tensor, initial: Any = None, lengths: Any = None) -> Tensor:
        output = layer(x, initial)[0].detach().clone()
        for row, length in enumerate(lengths):
            output[length:, row] = filling
        return output

    verdict = rs.compare(mine if called else mine(x, None, lengths), layer, x, lengths=lengths)
    assert verdict
    assert ("on padding your output is not zero, and is not compared" in plain(verdict)) == (
        filling != 0
    )


def test_final_states_alone_that_differ_are_said_so() -> None:
    layer = nn.GRU(3, 5)
    x = torch.randn(6, 2, 3)
    output, h_n = layer(x)
    wrong = h_n.detach() + 0.01 * torch.randn(1, 2, 5)
    verdict = rs.compare({"output": output.detach(), "h_n": wrong}, layer, x)
    assert not verdict
    assert verdict.explanations == ()
    assert "The output agrees; h_n does not" in plain(verdict)


# --- several at once, within the time -------------------------------------------------------------


def test_a_port_that_starts_from_zeros_has_its_other_mistakes_found() -> None:
    def mine(x: Any, initial: Any, weights: Any) -> Any:
        w = {name: np.asarray(value) for name, value in weights.items()}
        hidden = w["weight_hh_l0"].shape[1]
        h = c = np.zeros((x.shape[1], hidden), dtype=np.float32)
        outputs = []
        for x_t in np.asarray(x):
            a = x_t @ w["weight_ih_l0"].T + w["bias_ih_l0"] + h @ w["weight_hh_l0"].T
            i, f, o, g = np.split(a, 4, axis=1)
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            h = np.tanh(c) / (1 + np.exp(-o))
            outputs.append(h)
        return np.stack(outputs), (h[None], c[None])

    verdict = rs.compare(mine, nn.LSTM(4, 6))
    assert {str(cause) for cause in verdict.causes} == {
        "gate_order ifog of all",
        "bias_missing of b_hh",
        "initial_ignored all",
    }


def test_a_mistake_that_the_given_data_do_not_show_is_told_apart() -> None:
    layer, x = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)
    other = nn.LSTM(3, 4, batch_first=True)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        other.bias_hh_l0.zero_()
    verdict = rs.compare(lambda x, initial=None: other(x)[0], layer, x)
    assert {cause.name for cause in verdict.causes} == {"bias_missing", "initial_ignored"}
    assert "h_0 and c_0 not used: shown by drawn inputs, not by these data" in plain(verdict)
    assert "h_0 and c_0 not used" not in verdict.cannot_show


def test_what_one_step_does_not_show_is_said_in_few_words() -> None:
    layer = nn.LSTM(3, 4)
    verdict = rs.compare(layer, layer, torch.randn(1, 2, 3))
    assert verdict
    assert len(verdict.cannot_show) > 40  # all of them
    assert "gate order i, f, o, g of W_hh" in verdict.cannot_show
    text = plain(verdict)
    assert "anything about W_hh, the forget gate, the initial states (they were zero), the " in text
    assert "the carried state (one step was given)" in text
    assert "gate order" not in text
    assert len(str(verdict).splitlines()) < 12


def test_weights_of_zero_show_nothing_of_them() -> None:
    layer = nn.GRU(3, 4)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    verdict = rs.compare(layer, layer, torch.randn(5, 2, 3))
    assert len(verdict.cannot_show) > 40
    assert "anything about W_ih and W_hh, the order of the rows, b_ih and b_hh" in plain(verdict)
    assert len(str(verdict).splitlines()) < 12


def test_what_the_data_do_not_show_is_not_called_right() -> None:
    layer, other = nn.LSTM(3, 4), nn.LSTM(3, 4)
    other.load_state_dict(layer.state_dict())
    nn.init.zeros_(other.bias_hh_l0)
    verdict = rs.compare(lambda x, initial=None: other(x)[0], layer, torch.randn(1, 2, 3))
    assert "bias_missing" in [cause.name for cause in verdict.causes]
    assert "the activations" in verdict.right
    unseen = {"W_ih and W_hh (not transposed)", "the order of the rows", "the order of time"}
    assert not unseen & set(verdict.right)


def test_what_cannot_be_told_apart_is_listed() -> None:
    layer, other, x = nn.LSTM(3, 4), nn.LSTM(3, 4), torch.randn(4, 2, 3)
    nn.init.zeros_(layer.bias_hh_l0)
    other.load_state_dict(layer.state_dict())
    nn.init.zeros_(other.bias_ih_l0)
    verdict = rs.compare(other(x)[0].detach(), layer, x)
    none, one, alike = verdict.explanations
    assert [each.causes[0].tensors for each in (none, one, alike)] == ["b", "b_ih", "b_hh"]
    assert (
        "These data cannot tell it from any of these: - b_ih is missing - b_hh in place of b_ih "
        "assumed"
    ) in plain(verdict)
    two = replace(verdict, explanations=(one, alike))
    assert "These data cannot tell it from this: b_hh in place of b_ih." in plain(two)


def test_sentences_end_once_and_name_x_as_it_is_written() -> None:
    class Moved(nn.LSTM):
        def forward(self, x: Tensor, initial: Any = None) -> Any:  # type: ignore[override]
            output, final = super().forward(x, initial)
            return output + 0.1, final

    layer, other = nn.LSTM(3, 4), Moved(3, 4)
    other.load_state_dict(layer.state_dict())
    nn.init.uniform_(other.weight_hh_l0)
    assert "(was it ever loaded?). Fed" in plain(rs.compare(other, layer, effort=0))
    verdict = rs.compare(lambda x, h=None: layer(x, h)[0] + x.sum(0).sum(), layer, effort=0)
    assert "Another x at time=5 changes the output at time=0 already" in plain(verdict)


# --- a search that ends -------------------------------------------------------------------------


def test_a_search_that_was_cut_says_how_to_search_further() -> None:
    layer = nn.GRU(3, 4)
    other = nn.GRU(3, 4)
    verdict = rs.compare(lambda x, h=None: other(x, h)[0], layer, effort=0)
    assert not verdict.finished
    assert "effort=1 searches further" in plain(verdict)


@pytest.mark.parametrize("effort", [-1, float("nan"), "6", None, True], ids=str)
def test_an_effort_that_is_no_number_is_refused(effort: Any) -> None:
    layer = nn.GRU(3, 4)
    with pytest.raises(ValueError, match=r"effort must be .* 0 or more; got"):
        rs.compare(layer, layer, effort=effort)


def test_a_candidate_that_ends_the_program_does_not_end_it() -> None:
    def ends(x: Any) -> Any:
        raise SystemExit("usage: mine.py FILE")

    with pytest.raises(rs.CandidateError, match="SystemExit"):
        rs.compare(ends, nn.GRU(3, 4))


# --- where there is no difference ---------------------------------------------------------------


def test_another_shape_is_said_so() -> None:
    layer = nn.LSTM(3, 4, bidirectional=True, batch_first=True)
    verdict = rs.compare(lambda x, initial=None: layer(x, initial)[0][..., :4], layer)
    assert verdict.causes
    text = plain(verdict)
    assert text.startswith("differs: output has shape (3, 6, 4), that of nn.LSTM (3, 6, 8)")
    assert "inf" not in text
    assert "nothing no number" in text


@pytest.mark.parametrize("lengths", [None, [6, 2]])
def test_not_a_number_is_said_so(lengths: Any) -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(6, 2, 3)
    output = layer(x)[0].detach().clone()
    output[3:, 1] = torch.nan
    output[5, 0, 2] = torch.inf
    text = plain(rs.compare(output, layer, x, lengths=lengths, effort=0.2))
    if lengths is None:
        assert text.startswith("differs: output is NaN at time 3, batch 1, unit 0, that of nn.LSTM")
    else:
        assert text.startswith("differs: output is inf at time 5, batch 0, unit 2, that of nn.LSTM")
    assert "differs by" not in text


# --- where nothing explains it --------------------------------------------------------------------


@pytest.mark.parametrize("layer", [nn.GRU(3, 4, batch_first=True), nn.LSTM(3, 4)], ids=str)
def test_a_loop_that_ends_a_step_early_is_told(layer: Any) -> None:
    steps = 1 if layer.batch_first else 0

    def early(x: Tensor, initial: Any = None) -> Tensor:
        output = layer(x, initial)[0].detach().clone()
        output.select(steps, -1).zero_()
        return output

    verdict = rs.compare(early, layer)
    assert [cause.name for cause in verdict.causes] == ["steps_missing"]
    assert "the loop leaves out time 5: the output is zero there" in plain(verdict)


def test_an_lstm_without_a_forget_gate_is_named() -> None:
    layer = nn.LSTM(3, 4)

    def first_lstm(x: Any, initial: Any, weights: Any) -> Any:  # as in 1997
        h, c = (state[0] for state in initial)
        outputs = []
        for x_t in x:
            a = x_t @ weights["weight_ih_l0"].T + h @ weights["weight_hh_l0"].T
            i, _, g, o = (a + weights["bias_ih_l0"] + weights["bias_hh_l0"]).chunk(4, -1)
            c = c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs)

    verdict = rs.compare(first_lstm, layer)
    assert [str(cause) for cause in verdict.causes] == ["gate_unused f"]
    assert "the forget gate is not used" in plain(verdict)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(("own", "other"), [("LSTM", "GRU"), ("GRU", "RNN"), ("RNN", "LSTM")])
def test_a_layer_of_another_kind_is_told(own: str, other: str, inside: bool) -> None:
    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = getattr(nn, own)(3, 4)

        def forward(self, x: Tensor) -> Any:
            return self.rnn(x)[0]

    candidate = Mine() if inside else getattr(nn, own)(3, 4)
    verdict = rs.compare(candidate, getattr(nn, other)(3, 4), effort=0.2)
    assert not verdict
    assert not verdict.causes
    who = "candidate's rnn" if inside else "candidate"
    assert f"The {who} is nn.{own}, the reference nn.{other}." in plain(verdict)


def test_a_first_step_from_zeros_shows_nothing_of_the_forget_gate() -> None:
    layer, other = nn.LSTM(3, 4), nn.LSTM(3, 4)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        other.weight_ih_l0[4:8] *= -2 - torch.rand(4, 3)
    verdict = rs.compare(lambda x, initial=None: other(x, initial)[0], layer, effort=0.2)
    assert not verdict.causes
    assert "are right, but for those of f, which scales what comes of a state" in plain(verdict)


def test_a_state_made_smaller_after_each_step_is_no_lower_precision() -> None:
    """The first step agrees then."""
    layer = nn.LSTM(3, 4)

    def mine(x: Any, initial: Any = None) -> Any:
        given = initial or (torch.zeros(1, x.shape[1], 4),) * 2
        outputs = []
        for x_t in x:
            output, (h, c) = layer(x_t[None], given)
            given = (0.9 * h, c)
            outputs.append(output[0])
        return torch.stack(outputs)

    verdict = rs.compare(mine, layer, effort=0.2)
    assert not verdict.causes
    assert "as large as" not in plain(verdict)


def test_what_the_cause_speaks_of_is_not_called_right() -> None:
    layer, other = nn.LSTM(3, 4), nn.LSTM(3, 4)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():  # σ of so much is 1: as if there were no forget gate
        other.weight_ih_l0[4:8] = other.weight_hh_l0[4:8] = 0
        other.bias_ih_l0[4:8] = 100
    verdict = rs.compare(lambda x, initial=None: other(x, initial)[0], layer)
    assert [str(cause) for cause in verdict.causes] == ["gate_unused f"]
    assert "the forget gate" not in verdict.right
    assert "the activations" in verdict.right


def test_what_was_never_tried_is_not_called_right() -> None:
    """A module that is time first raises where it is given initial states for a batch that comes
    first."""
    layer, inner = nn.LSTM(3, 4, batch_first=True), nn.LSTM(3, 4)
    inner.load_state_dict(layer.state_dict())
    verdict = rs.compare(lambda x, initial=None: inner(x, initial), layer)
    assert [cause.name for cause in verdict.causes] == ["axes_exchanged"]
    assert "raised RuntimeError" in plain(verdict)
    assert "the carried state" in verdict.right
    assert not {"the initial states", "the final states"} & set(verdict.right)


# --- initial states by place ----------------------------------------------------------------------


@pytest.mark.parametrize("ignored", [False, True])
def test_initial_states_are_given_by_place_where_no_name_tells(ignored: bool) -> None:
    layer = nn.LSTM(3, 4)

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = layer

        def forward(self, x: Tensor, i: Any = None) -> Any:
            return self.lstm(x, None if ignored else i)

    verdict = rs.compare(Mine(), layer)
    assert bool(verdict) != ignored
    assert [str(cause) for cause in verdict.causes] == ["initial_ignored all"] * ignored
    assert "Mine was given the initial states as 'i', the parameter behind x" in plain(verdict)


@pytest.mark.parametrize("name", ["mask", "other"])
def test_where_no_initial_states_were_given_is_told(name: str) -> None:
    """The parameter behind x is known to be another, or raises when it is given them."""
    layer = nn.LSTM(3, 4)

    def mask(x: Tensor, mask: Any = None) -> Tensor:
        return layer(x)[0] if mask is None else layer(x)[0] * mask

    def other(x: Tensor, other: Any = None) -> Tensor:
        return layer(x)[0] if other is None else layer(x)[0] * other

    verdict = rs.compare({"mask": mask, "other": other}[name], layer)
    assert verdict, str(verdict)
    assert (
        f"no initial states were given to {name}: of its parameters x, {name}=None none"
        in plain(verdict)
    )


# --- lower precision ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True}], ids=str)
def test_autocast_is_named(kind: Any, options: Any) -> None:
    """Which rounds the results of products too, and returns float32."""
    layer = kind(8, 16, **options)

    def f(x: Tensor, initial: Any = None) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x, initial)[0].float()

    verdict = rs.compare(f, layer, effort=0.2)
    assert [str(cause) for cause in verdict.causes] == ["precision bfloat16"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", ["returned", "computed", "recorded"])
def test_an_output_of_lower_precision_is_told_from_products_of_it(
    how: str, dtype: torch.dtype
) -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(6, 3, 3)
    other = nn.LSTM(3, 4)
    other.load_state_dict(layer.state_dict())
    if how == "returned":
        verdict = rs.compare(lambda x, initial=None: layer(x, initial)[0].to(dtype), layer)
    elif how == "computed":
        verdict = rs.compare(other.to(dtype), layer, x)
    else:
        verdict = rs.compare(layer(x)[0].detach().to(dtype), layer, x)
    name = str(dtype).removeprefix("torch.")
    assert [str(cause) for cause in verdict.causes] == [f"precision {name}"]
    text = plain(verdict)
    assert f"your output is {name}" in text
    assert "compute in float32 and return float32" in text
    assert "matmul_precision" not in text
    assert "left over" not in text  # nothing is undone


def test_an_output_too_coarse_to_tell_mistakes_is_said_so() -> None:
    layer, other = nn.LSTM(3, 4), nn.LSTM(3, 4)
    verdict = rs.compare(lambda x, initial=None: other(x, initial)[0].half(), layer, effort=0.2)
    assert not verdict.causes
    assert "Your output is float16" in plain(verdict)
    assert "return float32 to have mistakes searched for" in plain(verdict)


def test_numbers_as_far_as_lower_precision_are_asked_about() -> None:
    """Where nothing tells more: of two layers the steps of the first are not known."""
    layer = nn.GRU(8, 16, 2)

    def f(x: Tensor, initial: Any = None) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return layer(x, initial)[0].float()

    verdict = rs.compare(f, layer, effort=0.2)
    assert not verdict
    named = [str(cause) for cause in verdict.causes] == ["precision bfloat16"]
    asked = "as large as bfloat16's rounding" in plain(verdict)
    assert named or (asked and not verdict.causes)


def test_an_input_that_is_moved_is_no_lower_precision() -> None:
    result = mutations.unexplained(175, effort=0.2)
    assert result.outcome == "right", str(result)
    assert "x moved" in result.name


# --- NaN beside everything else -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "times"),
    [({}, slice(3, None)), ({"bidirectional": True}, slice(None))],
    ids=["the first steps of all rows", "the other rows"],
)
def test_a_mistake_is_found_beside_numbers_that_are_none(options: Any, times: slice) -> None:
    layer = nn.LSTM(3, 4, **options)
    x = torch.randn(8, 4, 3)
    other = nn.LSTM(3, 4, **options)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if name.startswith("bias_hh"):
                parameter.zero_()
    output = other(x)[0].detach().clone()
    output[times, slice(None) if not options else 2] = torch.nan
    verdict = rs.compare(output, layer, x)
    assert {cause.name for cause in verdict.causes} >= {"bias_missing"}
    assert not verdict
    assert verdict.explanations[0].left < 1e-6
    assert "left out of the search" in plain(verdict)


def test_only_the_steps_before_a_nan_are_searched() -> None:
    """What comes after it may be anything."""
    layer, x = nn.LSTM(3, 4), torch.randn(8, 4, 3)
    output = layer(x)[0].detach().clone()
    output[4] = torch.nan
    output[6:] += 0.1
    verdict = rs.compare(output, layer, x)
    assert (verdict.tried, verdict.causes) == (0, ())
    assert "The steps before agree." in plain(verdict)


@pytest.mark.parametrize("rows", [[1], [0, 1, 2]])
def test_nothing_is_searched_for_where_only_nan_differs(rows: list[int]) -> None:
    layer = nn.GRU(3, 4, bidirectional=True)
    x = torch.randn(5, 3, 3)
    output = layer(x)[0].detach().clone()
    output[2, rows, 1] = torch.nan
    verdict = rs.compare(output, layer, x)
    assert not verdict
    assert verdict.causes == ()
    assert verdict.tried == 0
    assert ("The other rows agree." in plain(verdict)) == (len(rows) == 1)
    be = "is" if len(rows) == 1 else "are"
    assert f"{len(rows)} of 120 numbers of output {be} NaN or infinite" in plain(verdict)


# --- too few bits, and numbers that tell nothing --------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_reference_of_few_bits_is_refused(dtype: torch.dtype) -> None:
    layer = nn.GRU(3, 4).to(dtype)
    with pytest.raises(rs.DtypeError, match=r"too coarse .* expected float32 or float64"):
        rs.compare(layer, layer)


def test_an_output_of_few_bits_that_is_wrong_is_no_lower_precision() -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(5, 2, 3)
    other = nn.LSTM(3, 4)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        other.bias_hh_l0.fill_(0.4)
    assert rs.compare(other(x)[0].detach().bfloat16(), layer, x).causes == ()
    scaled = rs.compare((1.1 * layer(x)[0]).detach().half(), layer, x)
    assert [str(cause) for cause in scaled.causes] == ["scaled 1.1"]
    right = rs.compare(layer(x)[0].detach().bfloat16(), layer, x)
    assert [str(cause) for cause in right.causes] == ["precision bfloat16"]


def test_numbers_that_tell_nothing_are_undecided() -> None:
    torch.manual_seed(0)
    layer = nn.RNN(3, 16, bidirectional=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(4)
    x = torch.randn(300, 2, 3)
    assert rs.compare(layer(x)[0].detach(), layer, x)  # each step by itself
    verdict = rs.compare(torch.full((300, 2, 32), 0.37), layer, x, effort=0.2)
    assert not verdict
    assert verdict.causes == ()


# --- options that would be dropped unread ---------------------------------------------------------


@pytest.mark.parametrize("seed", [None, "a", 1.5, True, float("nan"), -1, 2**64], ids=str)
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    layer = nn.GRU(3, 4)
    with pytest.raises(ValueError, match="seed must be a whole number"):
        rs.compare(layer, layer, seed=seed)
    assert rs.compare(layer, layer, seed=np.int64(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{"initial": "foo"}, {"lengths": "foo"}, {"lengths": [3, 2]}])
def test_what_belongs_to_an_x_is_not_dropped_without_one(options: Any) -> None:
    layer = nn.GRU(3, 4)
    with pytest.raises(rs.ShapeError, match="belong to an x; got none"):
        rs.compare(layer, layer, **options)
    assert rs.compare(layer, layer, lengths=True)


@pytest.mark.parametrize("axes", ["foo", 3, ("b", "t", "u")], ids=str)
def test_axes_are_of_recorded_numbers(axes: Any) -> None:
    layer, x = nn.GRU(3, 4), torch.randn(5, 2, 3)
    with pytest.raises(rs.ShapeError, match="axes"):
        rs.compare(layer, layer, x, axes=axes)
    with pytest.raises(rs.ShapeError, match="axes"):
        rs.compare(layer(x)[0], layer, x, axes=axes)


def test_agreement_up_to_where_rounding_has_grown_is_called_so() -> None:
    torch.manual_seed(0)
    layer = nn.RNN(3, 16, 2)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(4)
    x = torch.randn(300, 2, 3)
    output = layer(x)[0].detach()
    verdict = rs.compare(output, layer, x)
    assert verdict
    assert 1 < (verdict.horizon or 0) < 300
    assert not verdict.stepwise
    assert plain(verdict).startswith("agrees as far as it can be compared: differs by at most")
    assert "nothing is compared." in plain(verdict)
    one = nn.RNN(3, 16)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.mul_(12)
    verdict = rs.compare(one(x)[0].detach(), one, x)
    assert verdict.stepwise
    assert plain(verdict).startswith("agrees: differs by at most")
    assert "only single steps are compared." in plain(verdict)
