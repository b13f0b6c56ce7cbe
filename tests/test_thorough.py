"""Sets of mistakes that are tried by the hundred thousand: each is where it is planted."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from rnnscope._compare.mistakes import CATALOGUE, applied, causes, changed_part
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.mistakes.compatible import compatible
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._compare.model.observed import UNIT, Observation
from rnnscope._compare.model.runs import RunPart, run_parts
from rnnscope._compare.model.simulate import Simulator
from rnnscope._compare.model.steps import OpenedPart, opened_parts
from rnnscope._compare.search.factored import Thorough
from rnnscope._compare.search.stacked import Stacked
from rnnscope._compare.tolerance import allowed
from rnnscope._compare.work import Account, counted
from rnnscope._layers.adopt import adopt

LAYERS: dict[str, Any] = {
    "one unit": lambda **o: nn.RNN(3, 1, **o),  # which no mistake in the weights concerns
    "rnn": lambda **o: nn.RNN(3, 4, **o),
    "gru": lambda **o: nn.GRU(4, 4, **o),
    "lstm": lambda **o: nn.LSTM(4, 4, **o),
    "projected": lambda **o: nn.LSTM(3, 4, proj_size=2, **o),
    "wide lstm": lambda **o: nn.LSTM(5, 20, **o),
}


def model_of(kind: str, **options: Any) -> Model:
    return Model.of(adopt(LAYERS[kind](**options).double()), torch.float64)


def inputs_of(model: Model, *, zeros: bool = False, steps: int = 4) -> Inputs:
    structure = model.structure
    shape = len(model.parts), len(model.parts[0]), 3
    sizes = {
        name: structure.output_size if name == "h" else structure.hidden_size
        for name in structure.cell.states
    }
    draw = torch.zeros if zeros else torch.randn
    initial = {n: draw(*shape, size, dtype=torch.float64) for n, size in sizes.items()}
    return Inputs(torch.randn(steps, 3, structure.input_size).double(), initial, not zeros)


def observed(
    model: Model, together: frozenset[Cause], inputs: Inputs, *, finals: bool
) -> Observation | None:
    """What a model with mistakes gives; None where one does not apply."""
    wrong = applied(model, tuple(together))
    simulator = Simulator(inputs)
    [outcome] = [None] if wrong is None else Simulator(inputs).run([wrong])
    if outcome is None:
        return None
    unit = UNIT[torch.float64]
    return Observation(
        inputs,
        outcome.output,
        unit,
        outcome.final if finals else {},
        allowed=allowed(model, inputs, unit, simulator=simulator),
        simulator=simulator,
    )


def mistakes_of(model: Model, *, scoped: bool = False) -> list[Cause]:
    return [c for c in causes(model, scoped=scoped) if CATALOGUE[c.name].of_cell]


def some_sets(every: list[Cause], size: int, count: int, seed: int) -> list[frozenset[Cause]]:
    rng = random.Random(seed)
    drawn = (frozenset(rng.sample(every, size)) for _ in range(10000))
    fine = filter(compatible, drawn)
    return [s for s, _ in zip(fine, range(count), strict=False)]


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "one unit"])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("finals", [False, True], ids=["steps", "whole runs"])
def test_what_is_planted_is_among_what_fits(kind: str, size: int, finals: bool) -> None:
    model = model_of(kind)
    every = mistakes_of(model)
    thorough = Thorough(every)
    planted = 0
    for together in some_sets(every, size, 15 - 4 * size, size):
        inputs = inputs_of(model, steps=2)
        seen = observed(model, together, inputs, finals=finals)
        if seen is None:
            continue
        witness: OpenedPart | RunPart
        if finals:
            witness = run_parts(model, [seen], 0, {})[0, 0]
        else:
            witness = opened_parts(model, [seen])[0, 0]
        found = thorough.fitting(witness, size, {})
        if finals and kind.startswith("wide"):  # whole runs of many units take too long
            assert found is None
            continue
        assert found is not None
        part = model.parts[0][0]
        if thorough.covers(part, together):
            planted += 1
            assert together in found
        assert all(changed_part(part, s, {}) is not None and len(s) == size for s in found)
    if not kind.startswith("wide"):  # of which some equations are left to the others
        assert planted > 0


def test_what_changes_more_than_weights_or_equations_is_left_to_others() -> None:
    model = model_of("lstm")
    every = mistakes_of(model)
    thorough = Thorough(every)
    inputs = inputs_of(model)
    seen = observed(model, frozenset(), inputs, finals=False)
    assert seen is not None
    thorough.fitting(opened_parts(model, [seen])[0, 0], 1, {})
    part = model.parts[0][0]
    left = {c.name for c in every if not thorough.covers(part, frozenset({c}))}
    assert left == {"matrices_exchanged", "first_bias", "never_carried", "unapplied"}
    biases = [Cause("bias_missing", "", "b_ih"), Cause("bias_doubled", "", "b_hh")]
    assert thorough.covers(part, frozenset(biases))
    assert not thorough.covers(part, frozenset([*biases, Cause("forget_bias", "before")]))


def test_first_steps_that_tell_too_little() -> None:
    """Of an input and states of zeros nearly everything fits."""
    model = model_of("lstm", bias=False)
    every = mistakes_of(model)
    inputs = inputs_of(model, zeros=True)
    nothing = Inputs(torch.zeros_like(inputs.x), inputs.initial, False)
    seen = observed(model, frozenset(), nothing, finals=False)
    assert seen is not None
    witness = opened_parts(model, [seen])[0, 0]
    assert Thorough(every).fitting(witness, 3, {}) is None


def test_a_search_without_work_left_tells_nothing() -> None:
    model = model_of("gru")
    seen = observed(model, frozenset(), inputs_of(model), finals=False)
    assert seen is not None
    witness = opened_parts(model, [seen])[0, 0]
    work = Account(0)
    with counted(work):
        assert Thorough(mistakes_of(model)).fitting(witness, 2, {}) is None
    assert work.cut


def test_zero_initial_states_show_the_state_s_weights_a_step_later() -> None:
    model = model_of("lstm")
    every = mistakes_of(model)
    together = frozenset({Cause("gate_order", "fgoi", "W_hh"), Cause("bias_missing", "", "b_ih")})
    seen = observed(model, together, inputs_of(model, zeros=True), finals=False)
    assert seen is not None
    witness = opened_parts(model, [seen])[0, 0]
    found = Thorough(every).fitting(witness, 2, {})
    assert found is not None
    parts = [changed_part(witness.part, s, {}) for s in found]
    worst = witness.misfit([part for part in parts if part is not None]).worst
    assert [s for s, ratio in zip(found, worst, strict=True) if ratio <= 1] == [together]


@pytest.mark.parametrize("kind", ["rnn", "gru", "lstm", "projected"])
@pytest.mark.parametrize("zeros", [False, True], ids=["states", "no states"])
def test_what_is_planted_in_two_layers_is_among_what_fits(kind: str, zeros: bool) -> None:
    model = model_of(kind, num_layers=2)
    every = mistakes_of(model)
    thorough = Thorough(every)
    rng = random.Random(7)
    planted = 0
    for together in some_sets(every, 2, 40, 5):
        places = [rng.choice([0, 1, None]) for _ in together]
        placed = frozenset(
            Cause(c.name, c.choice, c.tensors, layer)
            for c, layer in zip(sorted(together, key=str), places, strict=True)
        )
        seen = observed(model, placed, inputs_of(model, zeros=zeros), finals=False)
        if seen is None or set(places) == {1} or planted == 8:
            continue
        known = [thorough.kinds(model.parts[layer][0], {}) for layer in (0, 1)]
        stacked = Stacked.of(thorough, model, seen, {})
        assert stacked is not None
        tried = [{*kinds.places, *kinds.equations} for kinds in known]
        if not all(together <= some for some in tried):
            continue
        equations = sum(c in known[0].equations for c in together)
        planted += 1
        found = [s for some in stacked.fitting(2, equations) for s in some]
        assert placed in found
    assert planted > 2


def test_two_layers_of_two_directions_or_with_lengths_are_left_to_others() -> None:
    model = model_of("gru", num_layers=2, bidirectional=True)
    thorough = Thorough(mistakes_of(model))
    seen = observed(model, frozenset(), inputs_of(model), finals=False)
    assert seen is not None
    assert Stacked.of(thorough, model, seen, {}) is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layers", [1, 2])
def test_a_layer_of_one_unit_has_few_mistakes_or_none(layers: int, bias: bool) -> None:
    model = model_of("one unit", num_layers=layers, bias=bias)
    together = frozenset({Cause("activation", "h:linear", "", 0 if layers > 1 else None)})
    seen = observed(model, together, inputs_of(model), finals=False)
    assert seen is not None
    thorough = Thorough(mistakes_of(model))
    if layers == 1:
        witness = opened_parts(model, [seen])[0, 0]
        sets = [thorough.fitting(witness, size, {}) for size in (1, 2, 3)]
        assert all(found is not None for found in sets)
        assert together in (sets[0] or [])
    else:
        stacked = Stacked.of(thorough, model, seen, {})
        assert stacked is not None
        assert together in [s for some in stacked.fitting(1, 1) for s in some]
        assert all(len(s) == 3 for some in stacked.fitting(3, 0) for s in some)
