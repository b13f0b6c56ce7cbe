"""Sets of mistakes that are tried by the hundred thousand: each is where it is planted."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from rnnscope._compare.mistakes import CATALOGUE, applied, causes
from rnnscope._compare.mistakes.cause import Cause, compatible
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._compare.model.observed import UNIT, Observation
from rnnscope._compare.model.simulate import Simulator
from rnnscope._compare.model.steps import OpenedPart, opened_parts
from rnnscope._compare.search.choices import Choices
from rnnscope._compare.search.lower_layer import in_two_layers
from rnnscope._compare.search.one_part import PartSearch
from rnnscope._compare.tolerance import allowed
from rnnscope._compare.work import EFFORT, Account, counted
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


def opened(model: Model, together: frozenset[Cause], **options: Any) -> OpenedPart | None:
    """The single steps of a layer with mistakes; None where one does not apply."""
    seen = observed(model, together, inputs_of(model, **options), finals=False)
    return None if seen is None else opened_parts(model, [seen])[0, 0]


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if kind != "one unit"])
@pytest.mark.parametrize("size", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
def test_what_is_planted_is_among_what_fits(kind: str, size: int) -> None:
    model = model_of(kind)
    every = mistakes_of(model)
    parts = PartSearch(every, [], {})
    planted = 0
    for together in some_sets(every, size, 15 - 4 * size, size):
        witness = opened(model, together, steps=2)
        if witness is None or witness.few_units:
            continue  # a limit that few units reach is read off the numbers, not searched
        effects = parts.choices.effects(witness.part)
        biases = [
            c for c in together if c in effects.places and effects.effect[effects.places[c], -1]
        ]
        enumerated = size < 3 or not (together & set(effects.singular) or len(biases) > 2)
        sets = parts.explain(witness, size)
        assert sets or not enumerated
        assert all(len(s) <= size for s in sets)
        if enumerated and sets and len(sets[0]) == size:
            planted += 1
            assert together in sets
    assert planted > 0


def test_what_changes_more_than_weights_or_equations_stands_apart() -> None:
    model = model_of("lstm")
    effects = Choices(mistakes_of(model), [], {}).effects(model.parts[0][0])
    names = {cause.name for cause in effects.singular}
    assert names == {"matrices_exchanged", "first_bias", "never_carried", "unapplied"}
    assert {"gate_order", "bias_missing"} <= {cause.name for cause in effects.weights}
    assert "activation" in {cause.name for cause in effects.equations}


def test_first_steps_that_tell_too_little() -> None:
    """Of an input and states of zeros nearly everything fits: that is no explanation."""
    model = model_of("lstm", bias=False)
    inputs = inputs_of(model, zeros=True)
    nothing = Inputs(torch.zeros_like(inputs.x), inputs.initial, False)
    seen = observed(model, frozenset({Cause("forget_bias", "before")}), nothing, finals=False)
    assert seen is not None
    witness = opened_parts(model, [seen])[0, 0]
    assert PartSearch(mistakes_of(model), [], {}).explain(witness, 3) == [frozenset()]


def test_a_search_without_work_left_tells_nothing() -> None:
    wrong = frozenset({Cause("bias_missing", "", "b_ih"), Cause("update_exchanged")})
    model = model_of("gru")
    witness = opened(model, wrong)
    assert witness is not None
    work = Account(0)
    with counted(work):
        assert PartSearch(mistakes_of(model), [], {}).explain(witness, 2) == []
    assert work.cut


def test_zero_initial_states_show_the_state_s_weights_a_step_later() -> None:
    model = model_of("lstm")
    together = frozenset({Cause("gate_order", "fgoi", "W_hh"), Cause("bias_missing", "", "b_ih")})
    witness = opened(model, together, zeros=True)
    assert witness is not None
    assert PartSearch(mistakes_of(model), [], {}).explain(witness, 2) == [together]


@pytest.mark.parametrize(
    ("kind", "directions", "zeros"),
    [
        ("rnn", 1, False),
        ("rnn", 2, True),
        pytest.param("gru", 1, True, marks=pytest.mark.slow),
        pytest.param("gru", 2, False, marks=pytest.mark.slow),
        pytest.param("lstm", 1, False, marks=pytest.mark.slow),
        pytest.param("lstm", 2, True, marks=pytest.mark.slow),
        pytest.param("projected", 2, False, marks=pytest.mark.slow),
    ],
)
def test_two_mistakes_in_two_layers_are_among_what_fits(
    kind: str, directions: int, zeros: bool
) -> None:
    model = model_of(kind, num_layers=2, bidirectional=directions == 2)
    every = mistakes_of(model)
    parts = PartSearch(every, [], {})
    effects = [parts.choices.effects(row[0]) for row in model.parts]
    first, second = ({*each.places, *each.equations} for each in effects)
    rng = random.Random(f"{kind} {directions}")
    names = (*model.structure.directions, None) if directions == 2 else (None,)
    planted = 0
    for together in some_sets([c for c in every if c in first & second], 2, 10, 5):
        placed = frozenset(
            Cause(c.name, c.choice, c.tensors, rng.choice([0, 0, None]), rng.choice(names))
            for c in sorted(together, key=str)
        )
        seen = observed(model, placed, inputs_of(model, zeros=zeros, steps=3), finals=False)
        if seen is None or planted == 3:
            continue
        planted += 1
        sets = in_two_layers(model, [seen], parts, EFFORT)
        models = [changed for s in sets if (changed := applied(model, tuple(s))) is not None]
        outputs = [each.output for each in Simulator(seen.inputs).run(models) if each is not None]
        assert seen.output is not None
        assert any(torch.allclose(output, seen.output, atol=1e-12) for output in outputs)
    assert planted > 1


def test_layers_with_lengths_or_three_of_them_are_left_to_others() -> None:
    model = model_of("gru", num_layers=3)
    every = mistakes_of(model)
    seen = observed(model, frozenset(), inputs_of(model), finals=False)
    assert seen is not None
    assert in_two_layers(model, [seen], PartSearch(every, [], {}), EFFORT) == []


def test_a_layer_of_one_unit_has_few_mistakes_or_none() -> None:
    together = frozenset({Cause("activation", "h:linear")})
    model = model_of("one unit")
    witness = opened(model, together)
    assert witness is not None
    assert together in PartSearch(mistakes_of(model), [], {}).explain(witness, 3)
