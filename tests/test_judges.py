"""The judges themselves are judged: by torch.nn, by each other, and by the equations."""

from __future__ import annotations

import itertools
import math
import operator
from dataclasses import astuple, replace
from typing import Any

import pytest
import torch
from configurations import (
    ALL,
    BATCH,
    DROPOUT,
    LENGTHS,
    SOME,
    TIME,
    Case,
    Configuration,
    build,
    name_of,
)
from judges import by_cells, by_export, gates_from_export, replayed_masks
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

# States are of order 1 and pass through at most 3 layers × 5 steps, each a sum of some 20 products:
# in float64 (unit 1.1e-16) that is some 1e-15, in float32 (6e-8) some 1e-6, up to
# 5e-6 where relu reaches 15. A wrong gate, mask, direction or state is off by 1e-2 and more.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 3e-5}

# torch says so once in a process, of any float32 call with proj_size
pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

DENSE_EVAL = [c for c in SOME if c.call != "packed" and not c.training]
DROPPING = [
    Configuration(cell, 3, bidirectional, True, batch_first, initial, call, True, dtype)
    for cell in ("rnn_tanh", "gru", "lstm", "lstm_proj")
    for bidirectional, batch_first, initial in ((False, False, True), (True, True, False))
    for call in ("batched", "unbatched", "packed")
    for dtype in (torch.float64, torch.float32)
]


def deviation(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    assert one.isfinite().all()
    assert other.isfinite().all()
    return float((one.double() - other.double()).abs().max())


def by_torch(case: Case) -> tuple[dict[str, Tensor], Tensor]:
    """What the layer returns, in the judges' layout, and the random state before the call."""
    before = torch.get_rng_state()
    output, last = case.layer(*case.args, **case.kwargs)
    if isinstance(output, PackedSequence):
        output, _ = pad_packed_sequence(output, batch_first=True, total_length=TIME)
    elif output.dim() == 2:
        output = output.unsqueeze(0)
    elif not case.layer.batch_first:
        output = output.transpose(0, 1)
    states = last if isinstance(last, tuple) else (last,)
    rows = case.layer.num_layers * (2 if case.layer.bidirectional else 1)
    named = zip(("h_n", "c_n"), states, strict=False)
    returned = {name: state.reshape(rows, len(output), -1) for name, state in named}
    return {name: value.detach() for name, value in ({"output": output} | returned).items()}, before


def masks_of(case: Case, before: Tensor) -> list[Tensor] | None:
    if not case.layer.training:
        return None
    return replayed_masks(
        case.layer, before, batch=len(case.padded_x), time=TIME, lengths=case.lengths
    )


def judged(case: Case, **options: Any) -> dict[str, Tensor]:
    return by_cells(case.layer, case.padded_x, case.initial, case.lengths, **options)


# ── the list of configurations ───────────────────────────────────────────────────────────────


def test_all_is_the_whole_product() -> None:
    assert len(ALL) == len({name_of(c) for c in ALL}) == 5 * 2**7 * 3


def test_some_covers_every_combination_of_three_values() -> None:
    every, some = [[astuple(c) for c in configurations] for configurations in (ALL, SOME)]
    for places in itertools.combinations(range(len(every[0])), 3):
        chosen = operator.itemgetter(*places)
        assert set(map(chosen, every)) == set(map(chosen, some))
    assert len(SOME) < 70


def test_building_draws_nothing_and_repeats() -> None:
    configuration = Configuration("gru", 3, True, call="packed", initial=True, training=True)
    before = torch.get_rng_state()
    one, two, other = build(configuration, 1), build(configuration, 1), build(configuration, 2)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.padded_x, two.padded_x)
    assert not torch.equal(one.padded_x, other.padded_x)
    for name, weight in one.layer.state_dict().items():
        assert torch.equal(weight, two.layer.state_dict()[name])
        assert weight.count_nonzero() == weight.numel()


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_states_are_of_order_one(configuration: Configuration) -> None:
    found = judged(build(replace(configuration, training=False, dtype=torch.float64)))
    for layer in found["h"]:
        assert 0.03 < layer[layer != 0].abs().median() < 2
    assert found["h"].abs().max() < 30  # the largest are those of three layers of relu


# ── the loop over cells ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_cells_agree_with_torch(configuration: Configuration) -> None:
    case = build(configuration)
    returned, before = by_torch(case)
    found = judged(case, masks=masks_of(case, before))
    assert found["output"].dtype == configuration.dtype
    for name, value in returned.items():
        assert deviation(found[name], value) < TOLERANCE[configuration.dtype], name


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_quantities_satisfy_the_equations(configuration: Configuration) -> None:
    """Redone on whole tensors, from the states of the cells: this binds each gate to its name."""
    case = build(replace(configuration, dtype=torch.float64))
    found = judged(case)
    lengths = case.lengths or [TIME] * len(case.padded_x)
    h_0 = case.initial[0] if isinstance(case.initial, tuple) else case.initial
    c_0 = case.initial[1] if isinstance(case.initial, tuple) else None

    def before(name: str, first: Tensor | None) -> Tensor:
        """The state from which each step starts."""
        states = found[name]
        layers, ways = states.shape[:2]
        first = torch.zeros_like(states[:, :, :, 0]) if first is None else first
        first = first.reshape(layers, ways, *first.shape[-2:])
        previous = torch.zeros_like(states)
        for sequence, length in enumerate(lengths):
            row = states[:, :, sequence]
            previous[:, 0, sequence, 0] = first[:, 0, sequence]
            previous[:, 0, sequence, 1:length] = row[:, 0, : length - 1]
            if ways == 2:
                previous[:, 1, sequence, length - 1] = first[:, 1, sequence]
                previous[:, 1, sequence, : length - 1] = row[:, 1, 1:length]
        return previous

    valid = torch.zeros(len(lengths), TIME, 1, dtype=torch.float64)
    for sequence, length in enumerate(lengths):
        valid[sequence, :length] = 1
    if configuration.cell == "gru":
        expected = {"h": (1 - found["z"]) * found["n"] + found["z"] * before("h", h_0)}
        expected["n_pre"] = found["n_from_x"] + found["r"] * found["n_from_h"]
    elif configuration.cell.startswith("lstm"):
        expected = {"c": found["f"] * before("c", c_0) + found["i"] * found["g"]}
        squashed = found["o"] * found["c"].tanh()
        expected["m" if "m" in found else "h"] = squashed
    else:
        activation = torch.tanh if configuration.cell == "rnn_tanh" else torch.relu
        expected = {"h": activation(found["h_pre"]) * valid}
        expected["h_pre"] = found["h_from_x"] + found["h_from_h"]
    for gate in set("rzifo") & set(found):
        expected[gate] = torch.sigmoid(found[f"{gate}_pre"]) * valid
        expected[f"{gate}_pre"] = found[f"{gate}_from_x"] + found[f"{gate}_from_h"]
    for gate in set("ng") & set(found):
        expected[gate] = torch.tanh(found[f"{gate}_pre"])
    weights = dict(case.layer.named_parameters())
    if "m" in found:
        expected["h"] = torch.stack(
            [
                torch.stack(
                    [
                        m @ weights[f"weight_hr_l{index}{'_reverse' * way}"].T
                        for way, m in enumerate(row)
                    ]
                )
                for index, row in enumerate(found["m"])
            ]
        ).detach()
    # one sum in another order, over values of order 1
    for name, value in expected.items():
        assert deviation(found[name], value) < 1e-13, name


NAMES = {
    "rnn_tanh": ("h", ""),
    "rnn_relu": ("h", ""),
    "gru": ("rzn", "h"),
    "lstm": ("ifgo", "ch"),
    "lstm_proj": ("ifgo", "cmh"),
}


@pytest.mark.parametrize("cell", NAMES)
def test_names_and_padding(cell: str) -> None:
    configuration = Configuration(cell, 3, True, call="packed", initial=True)
    case = build(configuration)
    found = judged(case)
    gates, states = NAMES[cell]
    parts = {f"{gate}{end}" for gate in gates for end in ("", "_pre", "_from_x", "_from_h")}
    returned = {"output", "h_n"} | ({"c_n"} if "lstm" in cell else set())
    assert set(found) == parts | set(states) | returned
    for name in parts | set(states):
        assert found[name].shape[:4] == (3, 2, BATCH, TIME), name
        for sequence, length in enumerate(LENGTHS):
            assert not found[name][:, :, sequence, length:].any(), name
            if cell != "rnn_relu":
                assert found[name][:, :, sequence, :length].all(), name
    # the values on padding reach nothing
    for sequence, length in enumerate(LENGTHS):
        case.padded_x[sequence, length:] = math.nan
    again = judged(case)
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_a_more_precise_judge_of_a_less_precise_layer() -> None:
    case = build(Configuration("lstm", 3, True, dtype=torch.float32))
    returned, _ = by_torch(case)
    found = judged(case, dtype=torch.float64)
    assert found["output"].dtype == torch.float64
    assert 1e-9 < deviation(found["output"], returned["output"]) < TOLERANCE[torch.float32]


# ── the exported graph ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("configuration", DENSE_EVAL, ids=name_of)
def test_export_agrees_with_cells(configuration: Configuration) -> None:
    case = build(configuration)
    found, exported = judged(case), gates_from_export(case.layer, *case.args, *case.kwargs.values())
    gates = set(NAMES[configuration.cell][0])
    assert set(exported) == gates | {f"{g}_pre" for g in gates} | ({"c"} & set(found))
    for name, value in exported.items():
        assert value.dtype == configuration.dtype
        assert deviation(found[name], value) < TOLERANCE[configuration.dtype], name


def test_export_returns_what_the_layer_returns() -> None:
    case = build(Configuration("gru", 1, True, batch_first=True))
    exported = by_export(case.layer, *case.args)
    output, h_n = case.layer(*case.args)
    assert deviation(exported["returned"][0], output.detach()) < 1e-15
    assert deviation(exported["returned"][1], h_n.detach()) < 1e-15
    assert (len(exported["sigmoid"]), len(exported["tanh"])) == (2 * 2 * TIME, 2 * TIME)
    assert exported["relu"] == []


# ── dropout in training ──────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("configuration", DROPPING, ids=name_of)
def test_replayed_masks_are_those_of_the_layer(configuration: Configuration) -> None:
    case = build(configuration)
    returned, before = by_torch(case)
    after = torch.get_rng_state()
    torch.rand(1)  # another state than the one at which the replay ends
    now = torch.get_rng_state()
    masks = masks_of(case, before)
    assert masks is not None
    assert len(masks) == 2
    assert torch.equal(now, torch.get_rng_state())
    tolerance = TOLERANCE[configuration.dtype]
    found = judged(case, masks=masks)
    for name, value in returned.items():
        assert deviation(found[name], value) < tolerance, name
    # the judgement can fail: no mask, the masks swapped, the next call's masks
    for wrong in (None, masks[::-1], masks_of(case, after)):
        assert deviation(judged(case, masks=wrong)["output"], returned["output"]) > 1e-2


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_masks_of_a_packed_call_with_equal_lengths(cell: str, dtype: torch.dtype) -> None:
    """A float32 LSTM takes such a call for a dense one, in oneDNN; its masks stay the same."""
    case = build(Configuration(cell, 3, True, call="packed", training=True, dtype=dtype))
    packed = pack_padded_sequence(case.padded_x.transpose(0, 1), [TIME] * BATCH)
    case = case._replace(args=(packed,), lengths=[TIME] * BATCH)
    returned, before = by_torch(case)
    found = judged(case, masks=masks_of(case, before))
    for name, value in returned.items():
        assert deviation(found[name], value) < TOLERANCE[dtype], name


def test_masks_are_scaled_and_zero_on_padding() -> None:
    case = build(Configuration("lstm", 3, True, call="packed", training=True))
    masks = masks_of(case, torch.get_rng_state())
    assert masks is not None
    for mask in masks:
        for sequence, length in enumerate(LENGTHS):
            assert not mask[sequence, length:].any()
            kept = mask[sequence, :length]
            assert ((kept == 0) | ((kept * (1 - DROPOUT) - 1).abs() < 1e-15)).all()
            assert kept.any()


def test_no_masks_in_eval() -> None:
    layer = build(Configuration("gru", 3)).layer
    with pytest.raises(ValueError, match="eval mode draws no masks"):
        replayed_masks(layer, torch.get_rng_state(), batch=BATCH, time=TIME)
