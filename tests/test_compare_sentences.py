"""What a verdict says of what it compared: no more than that, and of the caller's own data."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import rnnscope as rs
from rnnscope._compare.search.search import Search, SearchOutcome
from rnnscope._compare.text import sentence


def plain(verdict: Any) -> str:
    """The text of a verdict in one line."""
    return " ".join(str(verdict).split())


# --- what the sentences say -----------------------------------------------------------------------


def test_numbers_of_six_decimals_agree() -> None:
    """The limit of a run is no narrower than that of a single step."""
    layer = nn.LSTM(5, 6)
    for _ in range(10):
        x = torch.randn(7, 3, 5)
        assert rs.compare({"output": layer(x)[0].detach().numpy().round(6)}, layer, x, effort=0)


@pytest.mark.parametrize("size", [3e-6, 1e-4])
def test_the_difference_that_is_told_is_more_than_is_allowed(size: float) -> None:
    """Of an LSTM whose c is off by little at each step, and of one number that is."""
    layer = nn.LSTM(5, 6)

    def off(x: Any, initial: Any = None) -> Any:
        state, outputs = initial or (torch.zeros(1, x.shape[1], 6),) * 2, []
        for x_t in x:
            output, (h, c) = layer(x_t[None], state)
            state = h, c + size
            outputs.append(output[0])
        return torch.stack(outputs), state

    def one_number(x: Any, initial: Any = None) -> Any:
        output, state = layer(x, initial)
        return output + size * (output == output[1, 1, 1]), state

    for candidate in (off, one_number):
        verdict = rs.compare(candidate, layer, effort=0)
        assert not verdict
        assert verdict.difference > verdict.allowed
        yours, expected = [
            line.split()[-1] for line in str(verdict).splitlines() if line[:10].isspace()
        ][:2]
        assert yours != expected


def test_the_first_place_is_not_on_padding() -> None:
    layer, lengths = nn.LSTM(3, 4, bidirectional=True), torch.tensor([5, 2, 3])
    x = torch.randn(5, 3, 3)
    packed = pack_padded_sequence(x, lengths, enforce_sorted=False)
    right = pad_packed_sequence(layer(packed)[0])[0].detach()
    wrong = layer(x)[0].detach() * (torch.arange(5)[:, None] < lengths)[..., None]
    first = rs.compare({"output": wrong.numpy()}, layer, x, lengths=lengths).first
    assert first is not None
    assert first.direction == "reverse"
    assert first.time is not None
    assert first.time < lengths[first.batch]
    there = (first.time, first.batch, first.unit + 4)
    assert first.expected == pytest.approx(float(right[there]), abs=1e-6)
    assert first.yours == pytest.approx(float(wrong[there]), abs=1e-6)


def test_a_projection_that_is_wrong_is_no_step_that_agrees() -> None:
    layer = nn.LSTM(5, 6, proj_size=3)
    other = nn.LSTM(5, 6, proj_size=3)
    other.load_state_dict(layer.state_dict())
    with torch.no_grad():
        other.weight_hr_l0.mul_(1 + 0.1 * torch.randn(3, 6))
    verdict = rs.compare(lambda x, h=None: other(x, h), layer, effort=0.1)
    assert not verdict.causes
    assert "every single step agrees" not in plain(verdict).lower()
    assert "gives another h" in plain(verdict)


@pytest.mark.parametrize("given", [True, False])
def test_calls_that_agree_are_told_from_those_that_do_not(given: bool) -> None:
    layer = nn.GRU(5, 6)

    class Mine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = layer

        def forward(self, x: Tensor, h: Any = None) -> Any:
            if h is None and not given:
                h = torch.linspace(-1, 1, 6).expand(1, x.shape[1], 6).contiguous()
            elif h is not None and given:
                h = h.flip(-1)
            return self.gru(x, h)

    verdict = rs.compare(Mine(), layer, effort=0.2)
    assert not verdict.causes
    where = "where initial states are given it agrees"
    other = "where no initial states are given it agrees"
    assert (where in plain(verdict).lower()) == (not given)
    assert (other in plain(verdict).lower()) == given
    assert ("h_0 zero" if not given else "h_0 not zero") in verdict.probe


def test_other_initial_states_and_rows_in_another_order_are_asked_about() -> None:
    layer, x = nn.GRU(5, 6), torch.randn(7, 3, 5)
    other = layer(x, torch.ones(1, 3, 6))[0].detach()
    assert "did it start from other initial states" in plain(
        rs.compare(other, layer, x, effort=0.2)
    )
    turned = layer(x)[0].detach()[:, [2, 0, 1]]
    text = plain(rs.compare(turned, layer, x, effort=0.2))
    assert "The rows of your output are those of nn.GRU in the order 2, 0, 1." in text


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_dropout_of_the_reference_is_asked_about(kind: Any) -> None:
    """Where numbers may have been recorded in training mode, and the first layer is not wrong."""
    layer, x = kind(4, 5, 2, dropout=0.2), torch.randn(7, 3, 4)
    training = layer.train()(x)[0].detach()
    asked = "has dropout=0.2 between layers, and is compared without it"
    without = kind(4, 5, 2)
    without.load_state_dict(layer.state_dict())
    verdict = rs.compare(training, layer.eval(), x, effort=0.1)
    assert asked in plain(verdict)
    assert "dropout" not in plain(rs.compare(training, without, x, effort=0.1))
    h = rs.trace(layer, x)["h"] + 0.01  # also in layer 0, which reads x itself
    verdict = rs.compare({"output": training, "h": h}, layer, x, effort=0.1)
    assert verdict.first.layer == 0
    assert asked not in plain(verdict)


def test_what_explains_everything_is_named_though_the_search_had_no_time_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = nn.LSTM(3, 4)
    other = nn.LSTM(3, 4)
    other.load_state_dict(layer.state_dict())
    other.bias_hh_l0.data.zero_()
    searches: list[Any] = []
    run = Search.run

    def first_without_time(self: Any, stages: int | None = None) -> Any:
        if self not in searches:
            searches.append(self)
        if self is searches[0]:
            return SearchOutcome((), 1, None, finished=False)
        return run(self, stages)

    monkeypatch.setattr(Search, "run", first_without_time)
    verdict = rs.compare(lambda x, hx=None: other(x, hx), layer)
    assert searches
    assert "bias_hh_l0 is zero" in plain(verdict)
    assert "left over" in plain(verdict)


def test_what_is_wrong_between_right_steps_is_told() -> None:
    layer = nn.GRU(5, 6, 2, bidirectional=True)

    def rolled(x: Tensor, h: Any = None) -> Any:
        output, final = layer(x, h)
        return output.roll(1, 0), final

    verdict = rs.compare(rolled, layer, effort=0.2)
    assert not verdict.causes
    assert (
        "one step from states that are given agrees. So one step of each is right: what"
        in plain(verdict)
    )
    assert "what differs is what is carried on, what it is given" in plain(verdict)


@pytest.mark.parametrize("steps", [1, 4])
def test_nothing_is_right_of_which_a_part_is_unseen(steps: int) -> None:
    layer = nn.LSTM(3, 4)
    order = rs.compare(lambda x: order_of(layer, x), layer, torch.zeros(steps, 2, 3) + (steps == 1))
    assert [cause.name for cause in order.causes] == ["gate_order"]
    assert "the order of time" not in order.right
    assert ("the cell state" in order.right) == (steps > 1)


def test_nothing_is_right_that_the_mistake_may_be_written_as() -> None:
    """Two gates exchanged after the rows are split are the same as another order of rows."""
    layer = nn.GRU(3, 4)

    def exchanged(x: Tensor, h: Any = None) -> Tensor:
        w_ih, w_hh, b_ih, b_hh = layer.parameters()
        state = torch.zeros(x.shape[1], 4) if h is None else h[0]
        output: list[Tensor] = []
        for x_t in x:
            r, z, n = (x_t @ w_ih.T + b_ih).chunk(3, -1)
            of_r, of_z, of_n = (state @ w_hh.T + b_hh).chunk(3, -1)
            z, r = torch.sigmoid(r + of_r), torch.sigmoid(z + of_z)
            state = (1 - z) * torch.tanh(n + r * of_n) + z * state
            output.append(state)
        return torch.stack(output)

    verdict = rs.compare(exchanged, layer)
    assert [str(cause) for cause in verdict.causes] == ["gate_order zrn of all"]
    assert not {"the reset", "z and 1 - z", "which gate is used"} & set(verdict.right)
    assert "the activations" in verdict.right


def unlisted(layer: nn.Module, x: Tensor) -> Tensor:
    """A GRU with tanh(1.1 a) for tanh(a), in every layer."""
    names = dict(layer.named_parameters())
    for k in range(2):
        w_ih, w_hh, b_ih, b_hh = (
            names[f"{name}_l{k}"].detach()
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state = torch.zeros(x.shape[1], 8, dtype=x.dtype)
        output: list[Tensor] = []
        for x_t in x:
            r, z, n = (x_t @ w_ih.T + b_ih).chunk(3, -1)
            of_r, of_z, of_n = (state @ w_hh.T + b_hh).chunk(3, -1)
            r, z = torch.sigmoid(r + of_r), torch.sigmoid(z + of_z)
            state = (1 - z) * torch.tanh(n + r * of_n + 0.1 * n * of_n) + z * state
            output.append(state)
        x = torch.stack(output)
    return x


def test_few_large_differences_of_a_chaotic_layer_are_no_rounding() -> None:
    torch.manual_seed(37880)
    layer = nn.GRU(3, 8, 2).double()
    for parameter in layer.parameters():
        parameter.data *= 10
    x = torch.randn(60, 3, 3, dtype=torch.float64)
    verdict = rs.compare(lambda x: unlisted(layer, x), layer, x, effort=0.2)
    assert not verdict
    assert not verdict.causes, str(verdict)


def with_gates_exchanged(
    seed: int, layers: int, dtype: torch.dtype, scale: int
) -> tuple[nn.GRU, nn.GRU, Tensor]:
    """A GRU of large weights, under which rounding grows, the same with r and z exchanged, and an
    input of 60 steps."""
    torch.manual_seed(seed)
    layer = nn.GRU(3, 8, layers).to(dtype)
    for parameter in layer.parameters():
        parameter.data *= scale
    wrong = copy.deepcopy(layer)
    for parameter in wrong.parameters():
        r, z, n = parameter.detach().clone().chunk(3)
        parameter.data = torch.cat([z, r, n])
    return layer, wrong, torch.randn(60, 3, 3, dtype=dtype)


@pytest.mark.parametrize("scale", [10, 60])
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_a_mistake_under_which_the_layer_is_chaotic_is_named(
    layers: int, dtype: torch.dtype, seed: int, scale: int
) -> None:
    layer, wrong, x = with_gates_exchanged(seed, layers, dtype, scale)
    verdict = rs.compare(lambda x: wrong(x)[0], layer, x)
    assert [str(cause) for cause in verdict.causes] == ["gate_order zrn of all"], str(verdict)


@pytest.mark.parametrize(
    ("dtype", "seed", "scale"),
    [
        (torch.float32, 0, 20),  # the reference's own rounding is beyond use
        (torch.float32, 2, 20),  # that of the mistake
        (torch.float64, 1, 60),
    ],
)
@pytest.mark.parametrize("late", [lambda y: 1.01 * y, lambda y: -y], ids=["scaled", "negated"])
def test_a_mistake_does_not_explain_late_steps_that_are_wrong_otherwise(
    late: Any, dtype: torch.dtype, seed: int, scale: int
) -> None:
    """Though whole runs are no judge of them: rounding has grown beyond use there."""
    layer, wrong, x = with_gates_exchanged(seed, 1, dtype, scale)

    def candidate(x: Tensor) -> Tensor:
        output = wrong(x)[0]
        return torch.cat([output[:40], late(output[40:])])

    verdict = rs.compare(candidate, layer, x, effort=0.4)
    assert not verdict
    assert not verdict.causes, str(verdict)


@pytest.mark.parametrize(("dtype", "seed"), [(torch.float32, 0), (torch.float64, 1)])
def test_nor_does_a_mistake_around_the_cells(dtype: torch.dtype, seed: int) -> None:
    layer, _, x = with_gates_exchanged(seed, 1, dtype, 60 if seed else 20)
    initial = torch.randn(1, 3, 8, dtype=dtype)

    def candidate(x: Tensor, initial: Any = None) -> Tensor:
        output = layer(x)[0]
        return torch.cat([output[:40], 1.01 * output[40:]])

    verdict = rs.compare(candidate, layer, x, initial, effort=0.4)
    assert not verdict
    assert not verdict.causes, str(verdict)
    verdict = rs.compare(lambda x, initial=None: layer(x)[0], layer, x, initial)
    assert [cause.name for cause in verdict.causes] == ["initial_ignored"], str(verdict)


def test_two_mistakes_in_a_large_layer_of_which_the_output_alone_is_known() -> None:
    layer = nn.LSTM(16, 128, 2)
    wrong = copy.deepcopy(layer)
    wrong.bias_hh_l0.data.zero_()
    wrong.bias_ih_l1.data[128:256] += 1
    x = torch.randn(4, 3, 16)
    verdict = rs.compare(lambda x: wrong(x)[0], layer, x, effort=5)
    assert [str(cause) for cause in verdict.causes] == [
        "bias_missing of b_hh, layer 0",
        "forget_bias before, layer 1",
    ], str(verdict)


def test_no_precision_is_asked_about_that_one_row_or_layer_has_not() -> None:
    layer, x = nn.LSTM(3, 4), torch.randn(7, 3, 3)
    output = layer(x)[0].detach()
    output[:, 1] *= 1 + 0.001 * torch.randn(7, 4)
    assert "rounding" not in plain(rs.compare(output, layer, x, effort=0.1)).split("First")[1]
    both = nn.LSTM(3, 4, 2)

    def half(x: Tensor, hx: Any = None) -> Any:
        return both(0.97 * x, hx)

    text = plain(rs.compare(half, both, effort=0.1))
    assert "precision" not in text


def order_of(layer: nn.LSTM, x: Tensor) -> Tensor:
    """The layer with the rows taken as i, o, g, f."""
    other = nn.LSTM(3, 4)
    blocks = {n: v.chunk(4) for n, v in layer.state_dict().items()}
    other.load_state_dict({n: torch.cat([b[0], b[3], b[2], b[1]]) for n, b in blocks.items()})
    return other(x)[0].detach()


def test_too_few_numbers_are_said_to_be() -> None:
    verdict = rs.compare(torch.full((1, 1, 1), 0.3), nn.LSTM(1, 1), torch.zeros(1, 1, 1))
    assert verdict.few
    assert not verdict.causes
    assert "too few numbers" in plain(verdict)
    assert "No known mistake explains it" not in plain(verdict)


@pytest.mark.parametrize("factor", [1.003, 1.01])
def test_a_factor_is_no_rounding(factor: float) -> None:
    layer = nn.GRU(5, 6)
    verdict = rs.compare(lambda x, h=None: layer(x, h)[0] * factor, layer, effort=0.2)
    assert [str(cause) for cause in verdict.causes] == [f"scaled {factor}"]
    assert "as large as" not in plain(verdict)


def test_random_numbers_of_a_generator_of_its_own_are_no_state_that_is_kept() -> None:
    layer = nn.GRU(5, 6)

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = layer

        def forward(self, x: Tensor, h: Any = None) -> Any:
            noise = torch.from_numpy(np.random.default_rng().normal(size=x.shape)).to(x)
            return self.gru(x + noise, h)

    verdict = rs.compare(Noisy(), layer, effort=0.2)
    assert [cause.name for cause in verdict.causes] == ["random"]


# --- how exactly ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "names", [["weight_hh_l0"], ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0"]]
)
def test_weights_of_few_bits_are_named(names: list[str], dtype: torch.dtype) -> None:
    """Not the products: with the candidate's own weights the two agree."""
    layer, other = nn.GRU(5, 6), nn.GRU(5, 6)
    other.load_state_dict(
        {n: v.to(dtype).float() if n in names else v for n, v in layer.state_dict().items()}
    )
    verdict = rs.compare(other, layer)
    assert [str(cause) for cause in verdict.causes] == [f"precision {str(dtype)[6:]}"]
    assert "the weights are rounded to" in plain(verdict)
    assert "set_float32_matmul_precision" not in plain(verdict)


def test_one_parameter_that_is_another_is_named() -> None:
    layer, other = nn.GRU(5, 6), nn.GRU(5, 6)
    other.load_state_dict(layer.state_dict())
    nn.init.uniform_(other.weight_hh_l0)
    verdict = rs.compare(other, layer)
    assert [str(cause) for cause in verdict.causes] == ["not_loaded"]
    assert "weight_hh_l0 differs from the reference's in 108 of 108" in plain(verdict)


@pytest.mark.parametrize("decimals", [2, 3, 4, 5])
@pytest.mark.parametrize("finals", [True, False])
def test_numbers_of_few_decimals_are_named(decimals: int, finals: bool) -> None:
    layer, x = nn.LSTM(5, 6), torch.randn(7, 3, 5)
    output, (h, c) = layer(x)
    numbers = {"output": output, "h_n": h, "c_n": c} if finals else {"output": output}
    written = {name: value.detach().numpy().round(decimals) for name, value in numbers.items()}
    verdict = rs.compare(written, layer, x)
    assert [str(cause) for cause in verdict.causes] == [f"precision {decimals} decimals"]
    wrong = {**written, "output": written["output"] + np.float32(10.0 ** (1 - decimals))}
    # nor is it lower precision where a constant is added to them
    moved = rs.compare(wrong, layer, x, effort=0.1)
    [cause] = moved.causes
    assert cause.name == "moved"
    assert float(cause.choice) == pytest.approx(10.0 ** (1 - decimals), rel=5e-3)
    assert f"rounding to {decimals} decimals over 7 steps" in str(moved)


# --- where rounding has grown ---------------------------------------------------------------------


def chaotic(kind: str, dtype: torch.dtype) -> nn.Module:
    layer: nn.Module = getattr(nn, kind)(2, 16, bias=False).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(10)
    return layer


@pytest.mark.parametrize("called", [True, False])
@pytest.mark.parametrize(
    ("kind", "dtype", "size"),
    [("LSTM", torch.float64, 1e-6), ("GRU", torch.float32, 1), ("RNN", torch.float32, 1)],
)
def test_final_states_that_are_not_the_outputs_end_do_not_agree(
    kind: str, dtype: torch.dtype, size: float, called: bool
) -> None:
    layer, x = chaotic(kind, dtype), torch.randn(100, 4, 2, dtype=dtype) * size

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, final = layer(x, initial)
        return output, tuple(0 * s - 7 for s in final) if kind == "LSTM" else 0 * final - 7

    output, final = mine(x)
    states = final if kind == "LSTM" else (final,)
    named = {"output": output, **dict(zip(("h_n", "c_n"), states, strict=False))}
    numbers = {name: value.detach() for name, value in named.items()}
    verdict = rs.compare(mine if called else numbers, layer, x, effort=0.1)
    assert not verdict
    assert called or "h_n of the last layer is not what your own output ends with." in plain(
        verdict
    )


def test_final_states_that_are_not_compared_are_named() -> None:
    layer, x = chaotic("LSTM", torch.float64), torch.randn(100, 4, 2, dtype=torch.float64) * 1e-6
    verdict = rs.compare(layer, layer, x)
    assert verdict
    assert verdict.uncompared == ("c_n",)
    assert str(verdict).startswith("agrees as far as it can be compared")
    assert "and c_n not at all." in plain(verdict)


# --- first steps from zeros, and single steps -----------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "gate", "row"), [("GRU", "r", 1), ("LSTM", "f", 6), ("GRU", "r", 2)]
)
def test_a_first_step_from_zeros_shows_no_gate_that_scales_the_state(
    kind: str, gate: str, row: int
) -> None:
    layer = getattr(nn, kind)(3, 5, bias=False)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        other.weight_ih_l0[row] += 1.0
    text = plain(rs.compare(lambda x, h=None: other(x, h), layer, effort=0.1))
    assert (
        f"are right, but for those of {gate}, which scales what comes of a state of zeros" in text
    )
    assert f"and at row {row} of weight_ih_l0." in text


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("given", [True, False])
def test_steps_that_were_not_looked_at_are_not_said_to_agree(kind: str, given: bool) -> None:
    """Of two layers single calls of one step are all that is known."""
    layer = getattr(nn, kind)(3, 5, 2)

    def mine(x: Tensor, initial: Any = None) -> Any:
        outputs = []
        for t, x_t in enumerate(x):
            output, initial = layer(x_t[None], initial)
            if t > 20:
                initial = tuple(0.9 * s for s in initial) if kind == "LSTM" else 0.9 * initial
            outputs.append(output[0])
        return torch.stack(outputs), initial

    verdict = rs.compare(mine, layer, *([torch.randn(30, 4, 3)] if given else []), effort=0.1)
    assert not verdict  # without data too: one of the drawn inputs is long
    assert verdict.steps > 20
    assert "every single step agrees" not in plain(verdict).lower()
    assert "one step from states that are given agrees" in plain(verdict)
    assert "what differs is what is carried on" in plain(verdict)


# --- places are those of the caller's data --------------------------------------------------------


def test_rows_in_another_order_are_those_of_the_data() -> None:
    layer, x = nn.GRU(3, 5, 2, bidirectional=True), torch.randn(10, 4, 3)

    def sorted_rows(x: Tensor, initial: Any = None) -> Any:
        output, final = layer(x, initial)
        return output[:, x[0, :, 0].argsort()], final

    order = ", ".join(map(str, x[0, :, 0].argsort().tolist()))
    assert f"in the order {order}." in plain(rs.compare(sorted_rows, layer, x, effort=0.1))


def test_steps_that_differ_are_those_of_the_data() -> None:
    layer, x = nn.LSTM(3, 5), torch.randn(30, 4, 3)

    def short(x: Tensor, initial: Any = None, lengths: Any = None) -> Any:
        sizes = torch.as_tensor(lengths)
        sizes = torch.where(sizes < len(x), sizes - 1, sizes)
        packed = pack_padded_sequence(x, sizes, enforce_sorted=False)
        output, final = layer(packed, initial)
        return pad_packed_sequence(output, total_length=len(x))[0], final

    text = plain(rs.compare(short, layer, x, lengths=[30, 12, 7, 20], effort=0.1))
    assert "only time 6 of row 2, time 11 of row 1, time 19 of row 3 differ" in text


def test_a_candidate_that_is_wrong_for_one_row_alone_does_not_agree() -> None:
    layer = nn.GRU(3, 5)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, final = layer(x, initial)
        return output * (1.01 if x.shape[1] == 1 else 1), final

    verdict = rs.compare(mine, layer, effort=0.1)
    assert not verdict
    assert "depends on how many rows there are" in plain(verdict)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_few_bits_are_told_from_products_of_few(dtype: torch.dtype) -> None:
    """Also where they cannot be seen, in a function."""
    layer, x = nn.LSTM(3, 5), torch.randn(30, 4, 3)
    other = copy.deepcopy(layer).to(dtype).float()
    verdict = rs.compare(lambda x, h=None: other(x, h), layer, x)
    assert [str(cause) for cause in verdict.causes] == [f"precision {str(dtype)[6:]}"]
    assert "the weights are rounded to" in plain(verdict)
    assert verdict.explanations[0].left <= verdict.allowed


def test_of_an_output_of_few_bits_nothing_is_said_of_the_states() -> None:
    layer = nn.GRU(3, 5)

    def mine(x: Tensor, initial: Any = None) -> Any:
        output, final = layer(x, initial)
        return output.half().float(), final

    text = plain(rs.compare(mine, layer, torch.randn(30, 4, 3)))
    assert "every number of the output has no more than the 11 bits of float16" in text


def test_many_numbers_are_not_too_few() -> None:
    verdict = rs.compare(np.zeros((50, 8, 5), np.float32), nn.LSTM(3, 5), torch.randn(50, 8, 3))
    assert not verdict
    assert not verdict.few


@pytest.mark.parametrize("layers", [1, 2])
def test_numbers_of_a_call_without_a_batch_agree(layers: int) -> None:
    layer, x = nn.GRU(3, 5, layers), torch.randn(7, 3)
    output, final = layer(x)
    assert rs.compare({"output": output.detach(), "h_n": final.detach()}, layer, x)


# --- what drawn inputs tell of the caller's -------------------------------------------------------


def packed(layer: nn.GRU, *, kept: str = "", sort: bool = False, update: bool = False) -> Any:
    """A GRU over the rows that still run, as those of a packed sequence, which fall in length;
    ``kept`` "last" or "zeros": its final states are those of the padded end, or of the rows of the
    last step; ``sort``: it sorts the rows first, and puts them back in the wrong order; ``update``:
    z and 1 - z are exchanged."""

    def mine(x: Tensor, initial: Any, weights: Any, lengths: Tensor) -> Any:
        W, U, b, d = (weights[f"{name}_l0"] for name in PARAMETERS)
        order = lengths.argsort(descending=True, stable=True) if sort else torch.arange(len(x))
        x, lengths = x[order], lengths[order]
        h, output = initial[0][order], torch.zeros(*x.shape[:2], layer.hidden_size)
        for t in range(x.shape[1]):
            n = int((lengths > t).sum())
            a, u = (x[:n, t] @ W.T + b).chunk(3, -1), (h[:n] @ U.T + d).chunk(3, -1)
            r, z = (a[0] + u[0]).sigmoid(), (a[1] + u[1]).sigmoid()
            z = 1 - z if update else z
            new = (1 - z) * (a[2] + r * u[2]).tanh() + z * h[:n]
            h = torch.cat([new, torch.zeros_like(h[n:]) if kept == "zeros" else h[n:]])
            output[:n, t] = new
        return output[order], (output[:, -1] if kept == "last" else h[order])[None]

    return mine


PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@pytest.mark.parametrize("kept", ["last", "zeros"])
def test_a_function_of_sorted_rows_is_called_with_sorted_rows_where_the_callers_are(
    kept: str,
) -> None:
    """With others it would do what it does not do with the caller's data."""
    layer = nn.GRU(4, 6, batch_first=True)
    verdict = rs.compare(
        packed(layer, kept=kept), layer, torch.randn(4, 7, 4), lengths=[7, 5, 4, 2]
    )
    assert [str(cause) for cause in verdict.causes] == ["padding last_at_end"], str(verdict)
    assert "on padding" not in plain(verdict)
    agreeing = rs.compare(packed(layer), layer, torch.randn(4, 7, 4), lengths=[7, 5, 5, 2])
    assert agreeing, str(agreeing)


def test_rows_that_rise_are_searched_with_rows_that_rise() -> None:
    layer = nn.GRU(4, 6, batch_first=True)
    seen: list[list[int]] = []

    def noting(x: Tensor, lengths: Tensor) -> Any:
        seen.append(lengths.tolist())
        return layer(x.sin())[0]

    rs.compare(noting, layer, torch.randn(3, 7, 4), lengths=[2, 5, 7], effort=0.1)
    assert all(sizes == sorted(sizes) for sizes in seen)
    assert any(len(set(sizes)) > 1 and max(sizes) < 7 for sizes in seen)


def test_without_what_it_agrees_holds_with_the_callers_lengths() -> None:
    """Without z what is drawn, of one length each, agrees; the caller's rows are in disorder."""
    layer, x = nn.GRU(4, 6, batch_first=True), torch.randn(5, 7, 4)
    mine = packed(layer, sort=True, update=True)
    verdict = rs.compare(mine, layer, x, lengths=[3, 7, 2, 6, 4], effort=0.1)
    assert not verdict
    assert "It agrees if" not in plain(verdict)


def test_without_what_it_agrees_holds_with_long_and_large_inputs() -> None:
    """What is fed back is rounded: without g too, though little of that shows in few steps."""

    def mine(x: Any, initial: Any, weights: Any) -> Any:
        W, U, b, d = (weights[f"{name}_l0"] for name in PARAMETERS)
        h, c, output = initial[0][0], initial[1][0], []
        for v in x:
            i, f, g, o = (v @ W.T + b + h @ U.T + d).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            output.append(o.sigmoid() * c.tanh())
            h = output[-1].half().float()
        return torch.stack(output)

    verdict = rs.compare(mine, nn.LSTM(4, 6), effort=0.1)
    assert not verdict
    assert [cause.name for cause in verdict.causes] == ["approximate"], str(verdict)
    assert "It agrees if" not in plain(verdict)


def test_final_states_of_few_decimals_that_came_alone_are_named() -> None:
    layer, x = nn.LSTM(4, 7, batch_first=True), torch.randn(3, 9, 4)
    verdict = rs.compare({"h_n": layer(x)[1][0].detach().numpy().round(3)}, layer, x)
    assert [str(cause) for cause in verdict.causes] == ["precision 3 decimals"], str(verdict)


def test_agreement_where_all_numbers_are_zero_is_not_told() -> None:
    """A GRU that starts from zeros gives zeros without n, whatever else is wrong after step 4."""
    layer, port, x = nn.GRU(4, 6), nn.GRU(4, 6), torch.randn(14, 3, 4)

    def mine(x: Tensor, initial: Any, weights: Any) -> Tensor:
        port.load_state_dict(weights)
        output, h = port(x[:4], initial)
        for start in range(4, len(x), 4):  # the step before a chunk runs once more
            more, h = port(x[start - 1 : start + 4], h)
            output = torch.cat([output, more[1:]])
        return output

    verdict = rs.compare(mine, layer, x, effort=0.1)
    assert not verdict
    assert "It agrees if" not in plain(verdict)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the output alone agrees", "The output alone agrees."),
        ("h_n comes back batch first: it is read so", "h_n comes back batch first: it is read so."),
        ("nn.LSTM has dropout", "nn.LSTM has dropout."),
    ],
)
def test_names_of_the_code_keep_their_small_letters(text: str, expected: str) -> None:
    assert sentence(text) == expected
