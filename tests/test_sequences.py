"""Lengths, directions and padding: judged by what torch packs and pads, and by nn.LSTM itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from rnnscope._layers import sequences

LENGTHS = [[4, 4, 4], [1, 4, 2], [3, 1, 1], [5], [2, 3, 3, 1, 3]]
DIRECTIONS = ("forward", "reverse")

lengths_of = pytest.mark.parametrize("lengths", LENGTHS, ids=str)
reverse_of = pytest.mark.parametrize("reverse", [False, True], ids=DIRECTIONS)


def packed_of(values: Tensor, lengths: list[int], enforce_sorted: bool = False) -> PackedSequence:
    return pack_padded_sequence(values, torch.tensor(lengths), enforce_sorted=enforce_sorted)


def values_of(lengths: list[int], units: int = 3) -> Tensor:
    """(time, batch, unit), no number twice, and none of them zero."""
    count = max(lengths) * len(lengths) * units
    return torch.arange(1.0, count + 1).view(max(lengths), len(lengths), units)


def run(lengths: list[int], reverse: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """States (time, batch, unit) of one direction of an nn.LSTM on packed input, its h_0 and h_n
    (batch, unit), and x."""
    torch.manual_seed(0)
    layer = nn.LSTM(2, 3, bidirectional=True).double()
    x = torch.randn(max(lengths), len(lengths), 2, dtype=torch.float64)
    h_0, c_0 = torch.randn(2, 2, len(lengths), 3, dtype=torch.float64)
    output, (h_n, _) = layer(packed_of(x, lengths), (h_0, c_0))
    states = pad_packed_sequence(output)[0][..., 3 * reverse : 3 * reverse + 3]
    return states.detach(), h_0[int(reverse)], h_n[int(reverse)].detach(), x


@lengths_of
def test_valid_steps_are_those_that_torch_packs(lengths: list[int]) -> None:
    ones = torch.ones(max(lengths), len(lengths))
    judge = pad_packed_sequence(packed_of(ones, lengths))[0].bool()
    steps = max(lengths)
    assert torch.equal(sequences.valid_steps(torch.tensor(lengths), steps), judge)
    assert torch.equal(
        sequences.valid_steps(torch.tensor(lengths), steps, batch_first=True), judge.T
    )


@lengths_of
def test_without_padding_is_what_torch_pads(lengths: list[int]) -> None:
    values = values_of(lengths)
    judge = pad_packed_sequence(packed_of(values, lengths))[0]
    valid = sequences.valid_steps(torch.tensor(lengths), max(lengths))
    assert torch.equal(sequences.without_padding(values, valid), judge)
    assert sequences.without_padding(values, None) is values
    values[~valid] = torch.nan
    assert torch.equal(sequences.without_padding(values, valid), judge)


@lengths_of
@reverse_of
def test_the_last_step_holds_h_n(lengths: list[int], reverse: bool) -> None:
    states, _, h_n, _ = run(lengths, reverse)
    steps = sequences.last_steps(torch.tensor(lengths), reverse)
    assert torch.equal(states[sequences.at_steps(steps)], h_n)
    assert [sequences.last_steps(length, reverse) for length in lengths] == steps.tolist()


@lengths_of
@reverse_of
def test_the_first_step_starts_from_h_0(lengths: list[int], reverse: bool) -> None:
    """What a layer returns for its first step does not depend on any other step of x."""
    states, *_ = run(lengths, reverse)
    torch.manual_seed(0)
    layer = nn.LSTM(2, 3, bidirectional=True).double()
    x = torch.randn(max(lengths), len(lengths), 2, dtype=torch.float64)
    h_0, c_0 = torch.randn(2, 2, len(lengths), 3, dtype=torch.float64)
    first = sequences.at_steps(sequences.first_steps(torch.tensor(lengths), reverse))
    alone, _ = layer(x[first].unsqueeze(0), (h_0, c_0))
    half = alone[0, :, 3 * reverse : 3 * reverse + 3]
    torch.testing.assert_close(states[first], half, rtol=0, atol=1e-12)


@lengths_of
@reverse_of
def test_the_state_before_each_step(lengths: list[int], reverse: bool) -> None:
    """Sequence by sequence without padding, where nothing but the order is to be known."""
    states, h_0, h_n, _ = run(lengths, reverse)
    tensor = torch.tensor(lengths)
    before = sequences.states_before(states, h_0, tensor, reverse)
    frame = torch.full((len(states) + 2, *states.shape[1:]), torch.nan, dtype=states.dtype)
    valid = sequences.valid_steps(tensor, len(states))
    sequences.frame_states(frame, states, h_0, valid, reverse)
    framed = sequences.framed_before(frame, reverse)
    for row, length in enumerate(lengths):
        order = range(length)[::-1] if reverse else range(length)
        chain = [h_0[row], *(states[t, row] for t in order)]
        assert torch.equal(chain[-1], h_n[row])
        assert list(sequences.running_order(range(length), reverse)) == list(order)
        for state, t in zip(chain, order, strict=False):
            assert torch.equal(before[t, row], state)
            assert torch.equal(framed[t, row], state)
            entered = sequences.state_before(states, h_0, tensor, t, reverse)
            assert torch.equal(entered[row], state)
        for t in range(length, len(states)):  # not begun, or ended
            waiting = sequences.state_before(states, h_0, tensor, t, reverse)
            assert torch.equal(waiting[row], h_0[row] if reverse else h_n[row])


@lengths_of
@reverse_of
def test_full_sequences_need_no_lengths(lengths: list[int], reverse: bool) -> None:
    states, initial = values_of(lengths), torch.zeros(len(lengths), 3)
    full = torch.full((len(lengths),), max(lengths))
    before = sequences.states_before(states, initial, full, reverse)
    assert torch.equal(sequences.shifted(states, initial, reverse), before)
    frame = torch.empty(len(states) + 2, *states.shape[1:])
    sequences.frame_states(frame, states, initial, None, reverse)
    assert torch.equal(sequences.framed_before(frame, reverse), before)


@lengths_of
@reverse_of
def test_what_ran_until_a_step_is_what_autograd_reaches(lengths: list[int], reverse: bool) -> None:
    """The states at chosen steps depend on x at the steps that ran until then, and on no other."""
    torch.manual_seed(1)
    layer = nn.RNN(2, 3, bidirectional=True).double()
    x = torch.randn(max(lengths), len(lengths), 2, dtype=torch.float64, requires_grad=True)
    output = pad_packed_sequence(layer(packed_of(x, lengths))[0])[0]
    ends = torch.tensor([length // 2 for length in lengths])
    output[sequences.at_steps(ends)][:, 3 * reverse : 3 * reverse + 3].sum().backward()
    assert x.grad is not None
    reached = (x.grad != 0).any(-1)
    steps = max(lengths)
    assert torch.equal(sequences.ran_until(ends, torch.tensor(lengths), steps, reverse), reached)


@lengths_of
def test_padding_keeps_the_state(lengths: list[int]) -> None:
    """Step by step with torch's own cell: what is left at the end is h_n of the packed call."""
    torch.manual_seed(2)
    layer = nn.GRU(2, 3).double()
    cell = nn.GRUCell(2, 3).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    x = torch.randn(max(lengths), len(lengths), 2, dtype=torch.float64)
    h_n = layer(packed_of(x, lengths))[1][0]
    valid = sequences.valid_steps(torch.tensor(lengths), max(lengths))
    h = torch.zeros(len(lengths), 3, dtype=torch.float64)
    for t in range(max(lengths)):
        h = sequences.keep_on_padding(cell(x[t], h), h, valid[t])
    torch.testing.assert_close(h, h_n, rtol=0, atol=1e-12)


@lengths_of
@pytest.mark.parametrize("enforce_sorted", [False, True])
def test_packing_is_torchs(lengths: list[int], enforce_sorted: bool) -> None:
    if enforce_sorted:
        lengths = sorted(lengths, reverse=True)
    values = values_of(lengths)
    judge = packed_of(values, lengths, enforce_sorted)
    assert torch.equal(sequences.pack(values, judge), judge.data)
    unpacked, known_lengths = pad_packed_sequence(judge)
    assert torch.equal(sequences.unpack(judge.data, judge), unpacked)
    padded, unequal = sequences.padded(judge)
    assert torch.equal(padded, unpacked)
    if len(set(lengths)) == 1:
        assert unequal is None
    else:
        assert unequal is not None
        assert torch.equal(unequal, known_lengths)


@lengths_of
def test_the_order_of_the_packed_data_is_by_length(lengths: list[int]) -> None:
    """nn.LSTM gives h_n in the caller's order; its fused call, in that of the packed data."""
    torch.manual_seed(3)
    layer = nn.RNN(2, 3).double()
    x = torch.randn(max(lengths), len(lengths), 2, dtype=torch.float64)
    packed = packed_of(x, lengths)
    h_n = layer(packed)[1]
    zeros = torch.zeros(1, len(lengths), 3, dtype=torch.float64)
    options = (True, 1, 0.0, True, False)
    _, fused = torch._VF.rnn_tanh(
        packed.data, packed.batch_sizes, zeros, layer._flat_weights, *options
    )
    assert torch.equal(sequences.caller_order(fused, packed), h_n)
    assert torch.equal(sequences.packed_order(h_n, packed), fused)
    ordered = sequences.packed_order(torch.tensor(lengths).unsqueeze(0), packed)[0].tolist()
    assert ordered == sorted(lengths, reverse=True)


@reverse_of
def test_turned_twice_is_the_same(reverse: bool) -> None:
    values = values_of([3, 3])
    turned = sequences.turned(values, reverse)
    order = list(sequences.running_order(range(3), reverse))
    assert torch.equal(turned, values[order])
    assert torch.equal(sequences.turned(turned, reverse), values)
