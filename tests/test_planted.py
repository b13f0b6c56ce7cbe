"""The judge judged: without mistakes it is torch.nn; each mistake is what its name says."""

from __future__ import annotations

import itertools
import re
from typing import Any

import numpy as np
import planted
import pytest
import torch
from plantable import applicable
from planted import Mistake, Planted, UndefinedError, difference, numbers, same
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

T, H, P = 4, 3, 2
LENGTHS = [2, 4, 3]  # neither all equal nor sorted
KINDS = list(planted.GATES)
SHAPES = list(itertools.product((1, 2), (1, 2)))  # layers, directions


def torch_layer(
    kind: str, layers: int, directions: int, input_size: int = 5, *, bias: bool = True
) -> nn.RNNBase:
    """A layer in float64, whose weights are large enough to show every mistake."""
    torch.manual_seed(layers * 10 + directions)
    options: dict[str, Any] = {
        "num_layers": layers,
        "bidirectional": directions == 2,
        "bias": bias,
        "dtype": torch.float64,
    }
    if kind.startswith("rnn"):
        layer: nn.RNNBase = nn.RNN(input_size, H, nonlinearity=kind.removeprefix("rnn_"), **options)
    elif kind == "gru":
        layer = nn.GRU(input_size, H, **options)
    else:
        proj = {"proj_size": P} if kind == "lstm_projected" else {}
        layer = nn.LSTM(input_size, H, **proj, **options)
    for weight in layer.parameters():
        nn.init.normal_(weight, std=0.7)
    return layer.requires_grad_(False)


def arrays(layer: nn.Module) -> dict[str, np.ndarray]:
    return {name: weight.numpy().copy() for name, weight in layer.state_dict().items()}


def data(layer: nn.RNNBase, kind: str, batch: int, *, seed: int = 7) -> tuple[Any, Any]:
    """x and initial states as arrays."""
    rng = np.random.default_rng(seed)
    parts = layer.num_layers * (1 + layer.bidirectional)
    x = rng.normal(size=(T, batch, layer.input_size))
    h = rng.normal(size=(parts, batch, layer.proj_size or H))
    c = rng.normal(size=(parts, batch, H))
    return x, (h, c) if kind.startswith("lstm") else h


def flat(result: Any) -> list[np.ndarray]:
    output, final = result
    finals = final if isinstance(final, tuple) else (final,)
    return [np.asarray(each) for each in (output, *finals)]


def tensors(initial: Any) -> Any:
    if isinstance(initial, tuple):
        return tuple(map(torch.from_numpy, initial))
    return None if initial is None else torch.from_numpy(initial)


def run_torch(layer: nn.RNNBase, x: Any, initial: Any = None, lengths: Any = None) -> list[Any]:
    given: Any = torch.from_numpy(np.ascontiguousarray(x))
    if lengths is not None:
        given = pack_padded_sequence(given, lengths, enforce_sorted=False)
    output, final = layer(given, tensors(initial))
    if lengths is not None:
        output, _ = pad_packed_sequence(output)
    return flat((output, final))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "directions"), SHAPES)
@pytest.mark.parametrize("bias", [True, False])
def test_without_mistakes_it_is_torch(kind, layers, directions, bias):
    layer = torch_layer(kind, layers, directions, bias=bias)
    x, initial = data(layer, kind, 3)
    judge = Planted(kind, arrays(layer))
    for start, lengths in itertools.product((None, initial), (None, LENGTHS)):
        expected = run_torch(layer, x, start, lengths)
        assert difference(flat(judge(x, start, lengths)), expected) < 1e-12
        turned = Planted(kind, arrays(layer), batch_first=True)
        output, *final = flat(turned(x.swapaxes(0, 1), start, lengths))
        assert difference([output.swapaxes(0, 1), *final], expected) < 1e-12


@pytest.mark.parametrize("kind", KINDS)
def test_it_computes_in_the_dtype_of_the_weights(kind):
    layer = torch_layer(kind, 2, 2)
    x, initial = data(layer, kind, 3)
    expected = run_torch(layer, x, initial)
    weights = {name: weight.astype(np.float32) for name, weight in arrays(layer).items()}
    for mistake in (None, *applicable(kind, 2, 2, 5, H, 3, proj_size=layer.proj_size)):
        judge = Planted(kind, weights, mistakes=[mistake] if mistake else [])
        start = None if mistake and mistake.name == "axes_exchanged" else initial
        found = flat(judge(x, start))
        assert {each.dtype for each in found} == {np.dtype(np.float32)}, mistake
        if mistake is None:
            assert difference(found, [each.astype(np.float32) for each in expected]) < 1e-5


def test_steps_are_the_values_of_every_part():
    layer = torch_layer("lstm", 2, 2)
    x, initial = data(layer, "lstm", 3)
    judge = Planted("lstm", arrays(layer))
    output, (h, c) = judge(x, initial)
    steps = judge.steps
    assert {name: each.shape for name, each in steps.items()} == dict.fromkeys(
        "ifgoch", (2, 2, 3, T, H)
    )
    above = np.concatenate([steps["h"][1, 0], steps["h"][1, 1]], axis=-1)
    np.testing.assert_array_equal(above.swapaxes(0, 1), output)
    np.testing.assert_array_equal(steps["h"][:, 0, :, -1], h[0::2])
    np.testing.assert_array_equal(steps["c"][:, 1, :, 0], c[1::2])
    before = np.concatenate([c[None, 0], steps["c"][0, 0].swapaxes(0, 1)[:-1]])  # shape only
    before[0] = initial[1][0]
    i, f, g, o, new = (steps[k][0, 0].swapaxes(0, 1) for k in "ifgoc")
    np.testing.assert_allclose(new, f * before + i * g, atol=1e-15)
    np.testing.assert_allclose(steps["h"][0, 0].swapaxes(0, 1), o * np.tanh(new), atol=1e-15)


def input_sizes(kind: str, directions: int) -> set[int]:
    """Sizes at which W_ih's blocks are square, W_ih is as W_hh, and the input is as the output."""
    R = P if kind == "lstm_projected" else H
    return {H, R, R * directions}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("layers", "directions"), SHAPES)
def test_every_mistake_changes_a_number(kind, layers, directions):
    """On generic data none is silent: that needs h_0, biases, T > 1, B > 1 and sizes > 1."""
    tried: set[tuple[Mistake, bool]] = set()
    shown: set[tuple[Mistake, bool]] = set()  # on the first sizes that it fits, or on others
    for input_size, batch in itertools.product(
        input_sizes(kind, directions), {3, max(2, layers * directions)}
    ):
        layer = torch_layer(kind, layers, directions, input_size)
        weights = arrays(layer)
        x, initial = data(layer, kind, batch)
        sizes = (layers, directions, input_size, H, batch)
        right = Planted(kind, weights)
        for lengths in (None, LENGTHS) if batch == 3 else (None,):
            expected = {start is None: flat(right(x, start, lengths)) for start in (None, initial)}
            for mistake in applicable(
                kind, *sizes, proj_size=layer.proj_size, lengths=lengths is not None
            ):
                if (mistake, lengths is None) in shown:
                    continue
                tried.add((mistake, lengths is None))
                start = None if mistake.name == "axes_exchanged" else initial
                found = numbers(kind, weights, [mistake], [(x, start, lengths)])
                wrong = difference(found, expected[start is None])
                if wrong > 1e-4:
                    shown.add((mistake, lengths is None))
    assert not tried - shown


# --- mistakes made a second way, with torch.nn itself ---------------------------------------------


def suffix(layer: int, direction: str) -> str:
    return f"_l{layer}" + ("_reverse" if direction == "reverse" else "")


def agree(kind: str, mistakes: list[Mistake], layer: nn.RNNBase, expected: Any, **how: Any) -> None:
    """Planted with the mistakes gives what torch gave another way."""
    x, initial = data(layer, kind, 3)
    start = how.get("initial", initial)
    found = numbers(kind, arrays(layer), mistakes, [(x, start, how.get("lengths"))])
    assert difference(found, expected) < 1e-12
    right = numbers(kind, arrays(layer), [], [(x, start, how.get("lengths"))])
    assert difference(right, expected) > 1e-4


def edited(layer: nn.RNNBase, change: Any) -> nn.RNNBase:
    """The layer with each tensor of the state_dict changed: change(name, array, all)."""
    weights = arrays(layer)
    state = {
        k: torch.from_numpy(np.ascontiguousarray(change(k, v, weights))) for k, v in weights.items()
    }
    layer.load_state_dict(state)
    return layer


def made_by_weights(kind: str, mistake: Mistake, change: Any, *, input_size: int = H) -> None:
    layer = torch_layer(kind, 2, 2, input_size)
    other = edited(torch_layer(kind, 2, 2, input_size), change)
    x, initial = data(layer, kind, 3)
    agree(kind, [mistake], layer, run_torch(other, x, initial))


def test_gate_order_is_a_permuted_state_dict():
    """An LSTM whose rows were saved as i, f, o, g."""

    def change(name, value, _):
        i, f, o, g = np.split(value, 4)
        return np.concatenate([i, f, g, o])

    made_by_weights("lstm", Mistake("gate_order", "ifog", "all"), change)

    # a cycle tells "block j is gate choice[j]" from its inverse: blocks are f, g, i, o
    def one_part(name, value, _):
        if name != "weight_hh_l1_reverse":
            return value
        f, g, i, o = np.split(value, 4)
        return np.concatenate([i, f, g, o])

    made_by_weights("lstm", Mistake("gate_order", "fgio", "W_hh", 1, "reverse"), one_part)

    def biases(name, value, _):
        if "bias" not in name or "_l0" not in name:
            return value
        z, n, r = np.split(value, 3)
        return np.concatenate([r, z, n])

    made_by_weights("gru", Mistake("gate_order", "znr", "b", 0), biases)


def test_interleaved_rows():
    def read(name, value, _):  # row u*G + k of what is there is gate k of unit u
        return np.concatenate([value[k::3] for k in range(3)])

    made_by_weights("gru", Mistake("interleaved", "read", "all"), read)

    def stored(name, value, _):
        if "weight" not in name:
            return value
        new = np.empty_like(value)
        for k in range(4):
            new[k::4] = value[k * H : (k + 1) * H]
        return new

    made_by_weights("lstm", Mistake("interleaved", "stored", "W"), stored)


def test_transposed_and_reshaped_matrices():
    def transposed(name, value, _):
        return (
            value.reshape(4, H, H).transpose(0, 2, 1).reshape(4 * H, H)
            if name == "weight_ih_l0"
            else value
        )

    made_by_weights("lstm", Mistake("transposed", "", "W_ih", 0, "forward"), transposed)

    def reshaped(name, value, _):
        return value.ravel().reshape(-1, 3 * H).T if "weight_ih" in name else value

    made_by_weights("gru", Mistake("reshaped", "", "W_ih"), reshaped, input_size=5)


@pytest.mark.parametrize("kind", KINDS)
def test_biases_and_matrices(kind):
    def only(name, direction, new):
        """One tensor changed, in one direction of all layers (None: both)."""

        def change(key, value, weights):
            here = direction is None or key.endswith("_reverse") == (direction == "reverse")
            return new(value, key, weights) if key.startswith(name) and here else value

        return change

    def twin(value, key, weights):
        return weights[key.replace("ih", "??").replace("hh", "ih").replace("??", "hh")]

    zero, twice = (lambda v, *_: 0 * v), (lambda v, *_: 2 * v)
    for direction in (None, "forward", "reverse"):
        for tensor, key in (("b_ih", "bias_ih"), ("b_hh", "bias_hh")):
            missing = Mistake("bias_missing", "", tensor, None, direction)
            made_by_weights(kind, missing, only(key, direction, zero))
            doubled = Mistake("bias_doubled", "", tensor, None, direction)
            made_by_weights(kind, doubled, only(key, direction, twice))
        repeated = Mistake("bias_twice", "", "b_ih", None, direction)
        made_by_weights(kind, repeated, only("bias_hh", direction, twin))
    if kind == "gru":
        made_by_weights(kind, Mistake("biases_exchanged"), only("bias", None, twin))

        def merged(value, key, weights):
            new, other = value.copy(), weights[key.replace("hh", "ih")]
            new[2 * H :] = 0 if "hh" in key else other[2 * H :] + twin(value, key, weights)[2 * H :]
            return new

        made_by_weights(kind, Mistake("bias_merged"), only("bias", None, merged))

        for choice, end in (("", 3 * H), ("rz", 2 * H)):

            def summed(value, key, weights, end=end):
                return np.concatenate([(value + twin(value, key, weights))[:end], value[end:]])

            made_by_weights(kind, Mistake("bias_summed", choice), only("bias_ih", None, summed))

        def without_n(value, *_):
            return np.concatenate([value[: 2 * H], np.zeros(H)])

        missing = Mistake("bias_missing", "n", "b_hh")
        made_by_weights(kind, missing, only("bias_hh", None, without_n))


def test_layers_and_directions_with_the_weights_of_others():
    def exchanged(name, _, weights):
        other = name.replace("_l0", "_l?").replace("_l1", "_l0").replace("_l?", "_l1")
        return weights[other]

    made_by_weights("lstm", Mistake("layers_exchanged", "0,1"), exchanged, input_size=2 * H)
    made_by_weights(
        "gru",
        Mistake("layers_repeated", "1,0"),
        lambda name, _, weights: weights[name.replace("_l0", "_l1")],
        input_size=2 * H,
    )

    def directions(name, value, weights):
        if "_l1" not in name:
            return value
        reverse = name.endswith("_reverse")
        return weights[name.removesuffix("_reverse") if reverse else name + "_reverse"]

    made_by_weights("gru", Mistake("directions_exchanged", layer=1), directions)
    made_by_weights(
        "rnn_tanh",
        Mistake("directions_repeated", "forward"),
        lambda name, _, weights: weights[name.removesuffix("_reverse")],
    )


def test_forget_bias_before_is_one_added_to_a_bias():
    def change(name, value, _):
        new = value.copy()
        if "bias_hh" in name:
            new[H : 2 * H] += 1
        return new

    made_by_weights("lstm", Mistake("forget_bias", "before"), change)


def test_rnn_with_the_other_function_is_the_other_rnn():
    layer = torch_layer("rnn_tanh", 2, 2)
    x, initial = data(layer, "rnn_tanh", 3)
    expected = run_torch(torch_layer("rnn_relu", 2, 2), x, initial)
    agree("rnn_tanh", [Mistake("activation", "h:relu")], layer, expected)


@pytest.mark.parametrize(
    ("mistake", "change"),
    [
        (Mistake("initial_ignored", "all"), lambda h, c: (0 * h, 0 * c)),
        (Mistake("initial_ignored", "h"), lambda h, c: (0 * h, c)),
        (Mistake("initial_exchanged"), lambda h, c: (c, h)),
        (
            Mistake("initial_reshaped"),
            lambda h, c: tuple(np.stack(list(v.reshape(3, 4, H)), axis=1) for v in (h, c)),
        ),
        (Mistake("initial_first", "part"), lambda h, c: (h[[0, 0, 0, 0]], c[[0, 0, 0, 0]])),
        (Mistake("initial_first", "layer"), lambda h, c: (h[[0, 1, 0, 1]], c[[0, 1, 0, 1]])),
        (Mistake("initial_first", "c"), lambda h, c: (h, c[[0, 0, 0, 0]])),
        (
            Mistake("initial_ignored", "upper"),
            lambda h, c: tuple(np.stack([*v[:2], 0 * v[2], 0 * v[3]]) for v in (h, c)),
        ),
        (
            Mistake("initial_ignored", "forward"),
            lambda h, c: tuple(np.stack([0 * v[0], v[1], 0 * v[2], v[3]]) for v in (h, c)),
        ),
        (
            Mistake("initial_ignored", "reverse"),
            lambda h, c: tuple(np.stack([v[0], 0 * v[1], v[2], 0 * v[3]]) for v in (h, c)),
        ),
        (Mistake("initial_order"), lambda h, c: (h[[0, 2, 1, 3]], c[[0, 2, 1, 3]])),
    ],
    ids=lambda value: str(value) if isinstance(value, Mistake) else "",
)
def test_initial_states(mistake, change):
    layer = torch_layer("lstm", 2, 2)
    x, initial = data(layer, "lstm", 3)
    agree("lstm", [mistake], layer, run_torch(layer, x, change(*initial)))


@pytest.mark.parametrize(
    ("mistake", "change"),
    [
        (Mistake("final_exchanged"), lambda h, c: (c, h)),
        (Mistake("final_exchanged", "h"), lambda h, c: (h, h)),
        (Mistake("final_order", "directions"), lambda h, c: (h[[1, 0, 3, 2]], c[[1, 0, 3, 2]])),
        (Mistake("final_order", "layers"), lambda h, c: (h[[2, 3, 0, 1]], c[[2, 3, 0, 1]])),
        (Mistake("final_order", "by_direction"), lambda h, c: (h[[0, 2, 1, 3]], c[[0, 2, 1, 3]])),
    ],
    ids=lambda value: str(value) if isinstance(value, Mistake) else "",
)
def test_final_states(mistake, change):
    layer = torch_layer("lstm", 2, 2)
    x, initial = data(layer, "lstm", 3)
    output, h, c = run_torch(layer, x, initial)
    agree("lstm", [mistake], layer, [output, *change(h, c)])


def test_rows_and_calls_that_go_on_where_others_ended():
    layer = torch_layer("gru", 2, 1)
    x, h = data(layer, "gru", 3)
    outputs, finals = [], []
    for b in range(3):
        output, h_n = run_torch(layer, x[:, b : b + 1], finals[-1] if b else h[:, :1])
        outputs.append(output)
        finals.append(h_n)
    expected = [np.concatenate(outputs, axis=1), np.concatenate(finals, axis=1)]
    agree("gru", [Mistake("rows_chained")], layer, expected)

    chained = Planted("gru", arrays(layer), mistakes=[Mistake("calls_chained")])
    first, second = flat(chained(x, h)), flat(chained(x, h))
    assert difference(first, run_torch(layer, x, h)) < 1e-12
    assert difference(second, run_torch(layer, x, first[1])) < 1e-12

    joined = run_torch(layer, np.concatenate(list(x.swapaxes(0, 1)))[:, None], h[:, :1])
    output = joined[0].reshape(3, T, H).swapaxes(0, 1)
    agree("gru", [Mistake("rows_joined")], layer, [output, np.tile(joined[1], (1, 3, 1))])


def test_time_and_batch():
    layer = torch_layer("lstm", 2, 2)
    x, initial = data(layer, "lstm", 3)
    output, h, c = run_torch(layer, x.swapaxes(0, 1))
    agree(
        "lstm",
        [Mistake("axes_exchanged")],
        layer,
        [output.swapaxes(0, 1), h, c],
        initial=None,
    )
    output, h, c = run_torch(layer, x[::-1], initial)
    agree("lstm", [Mistake("time_reversed", "turned")], layer, [output, h, c])
    agree("lstm", [Mistake("time_reversed", "kept")], layer, [output[::-1], h, c])
    late = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
    agree("lstm", [Mistake("delayed", "input")], layer, run_torch(layer, late, initial))
    output, h, c = run_torch(layer, x, initial)
    agree("lstm", [Mistake("time_reversed", "output")], layer, [output[::-1], h, c])
    agree("lstm", [Mistake("units_reversed")], layer, [output[..., ::-1], h, c])
    agree("lstm", [Mistake("delayed", "rolled")], layer, [np.roll(output, -1, axis=0), h, c])
    early = np.stack([*output[1:], np.zeros_like(output[0])])
    agree("lstm", [Mistake("delayed", "early")], layer, [early, h, c])
    forward, reverse = np.split(output, 2, axis=-1)
    h_0 = initial[0]
    shifted = np.concatenate(
        [
            np.concatenate([h_0[2][None], forward[:-1]]),
            np.concatenate([reverse[1:], h_0[3][None]]),
        ],
        axis=-1,
    )
    agree("lstm", [Mistake("delayed", "output")], layer, [shifted, h, c])
    ends = np.concatenate([forward[-1], reverse[0]], axis=-1)
    alias = np.broadcast_to(ends, output.shape)
    agree("lstm", [Mistake("outputs_alias")], layer, [alias, h, c])


def test_padding():
    layer = torch_layer("gru", 2, 2)
    x, h = data(layer, "gru", 3)
    valid = (np.arange(T)[:, None] < np.array(LENGTHS))[..., None]

    output, h_n = run_torch(layer, x, h)
    not_masked = [np.where(valid, output, 0), h_n]
    agree("gru", [Mistake("padding", "not_masked")], layer, not_masked, lengths=LENGTHS)

    front, back = np.zeros_like(x), np.zeros((T, 3, 2 * H))
    for b, length in enumerate(LENGTHS):
        front[T - length :, b] = x[:length, b]
    output, h_n = run_torch(layer, front, h)
    for b, length in enumerate(LENGTHS):
        back[:length, b] = output[T - length :, b]
    agree("gru", [Mistake("padding", "front")], layer, [back, h_n], lengths=LENGTHS)

    output, h_n = run_torch(layer, x, h, LENGTHS)
    late = h_n.copy()
    late[2] = output[-1, :, :H]  # the last layer's forward: zeros where a row is short
    agree("gru", [Mistake("padding", "last_at_end")], layer, [output, late], lengths=LENGTHS)
    falling = [1, 2, 0]
    expected = [np.where(valid, output[:, falling], 0), h_n[:, falling]]
    agree("gru", [Mistake("padding", "sorted")], layer, expected, lengths=LENGTHS)


def one_direction(layer: nn.LSTM, above: int, direction: str) -> nn.LSTM:
    """One layer of it in one direction, as a layer of its own, running forward."""
    weights = layer.state_dict()
    names = [n for n in weights if n.endswith(suffix(above, direction))]
    size = weights[f"weight_ih{suffix(above, direction)}"].shape[1]
    alone = nn.LSTM(size, H, dtype=torch.float64).requires_grad_(False)
    alone.load_state_dict({n.split("_l")[0] + "_l0": weights[n] for n in names})
    return alone


@pytest.mark.parametrize(
    "mistakes",
    [
        [],
        [Mistake("reverse_not_turned")],
        [Mistake("reverse_not_turned", layer=1)],
        [Mistake("reverse_forward")],
        [Mistake("reverse_forward", layer=0)],
        [Mistake("reverse_unused")],
        [Mistake("directions_apart")],
        [Mistake("directions_order", "exchanged", layer=0)],
        [Mistake("directions_order", "interleaved")],
        [Mistake("directions_merged", "sum")],
        [Mistake("directions_merged", "mean")],
        [Mistake("reverse_start", layer=1)],
        [Mistake("layer_skipped", "0")],
        [Mistake("layer_skipped", "1")],
        [Mistake("lower_returned")],
        [Mistake("final_handed_up", layer=1)],
        [Mistake("residual")],
        [Mistake("residual", layer=1)],
        [Mistake("final_state", "output_end")],
        [Mistake("residual", layer=0), Mistake("reverse_unused", layer=1)],
        [Mistake("directions_order", "exchanged", layer=0), Mistake("reverse_unused", layer=1)],
        [Mistake("reverse_start", layer=0), Mistake("reverse_forward", layer=0)],
    ],
    ids=lambda mistakes: " ".join(map(str, mistakes)) or "none",
)
def test_directions_and_layers(mistakes):
    """Four LSTMs of one layer and one direction, joined by hand as the mistakes have it."""
    layer = torch_layer("lstm", 2, 2, 2 * H)
    x, (h_0, c_0) = data(layer, "lstm", 3)

    def has(name, choice="", above=None):
        return any(m.name == name and m.choice == choice and m.layer in (None, above)
                   for m in mistakes)  # fmt: skip

    given, outputs, finals = x, [], []
    for above in (0, 1):
        f = one_direction(layer, above, "forward")
        r = one_direction(layer, above, "reverse")
        start = h_0[2 * above, None], c_0[2 * above, None]
        if above == 1 and has("directions_apart"):  # two stacks that never meet
            given_f, given_r = given.copy(), given.copy()
            given_f[..., H:], given_r[..., :H] = 0, 0
        else:
            given_f = given_r = given
        forward, *final_f = run_torch(f, given_f, start)
        start = h_0[2 * above + 1, None], c_0[2 * above + 1, None]
        if has("reverse_start", above=above):
            start = tuple(final_f)
        if has("reverse_forward", above=above):
            reverse, *final_r = run_torch(r, given_r, start)
        else:
            reverse, *final_r = run_torch(r, given_r[::-1], start)
            if not has("reverse_not_turned", above=above):
                reverse = reverse[::-1]
        if has("layer_skipped", str(above)):
            final_f = [h_0[2 * above, None], c_0[2 * above, None]]
            final_r = [h_0[2 * above + 1, None], c_0[2 * above + 1, None]]
        if above == 1 and has("final_state", "output_end"):
            final_r[0] = reverse[-1:]
        finals += [final_f, final_r]
        joined = [forward, reverse]
        heard = [forward, 0 * reverse] if above == 0 and has("reverse_unused", above=1) else joined
        if has("directions_order", "exchanged", above):
            joined, heard = joined[::-1], heard[::-1]
        output, next_given = np.concatenate(joined, -1), np.concatenate(heard, -1)
        if has("directions_order", "interleaved", above):
            columns = [unit + H * d for unit in range(H) for d in (0, 1)]
            output, next_given = output[..., columns], next_given[..., columns]
        if above == 1 and (has("directions_merged", "sum") or has("directions_merged", "mean")):
            output = (forward + reverse) / (1 if has("directions_merged", "sum") else 2)
        if has("residual", above=above):
            output, next_given = output + given, next_given + given
        if above == 0 and has("final_handed_up", above=1):
            both = np.concatenate([final_f[0], final_r[0]], -1)
            next_given = np.broadcast_to(both, output.shape)
        if has("layer_skipped", str(above)):
            output = next_given = given
        outputs.append(output)
        given = next_given
    shown = outputs[0] if has("lower_returned") else outputs[1]
    expected = [shown, *(np.concatenate([each[k] for each in finals]) for k in (0, 1))]
    found = numbers("lstm", arrays(layer), mistakes, [(x, (h_0, c_0), None)])
    assert difference(found, expected) < 1e-12
    if mistakes:
        assert difference(found, run_torch(layer, x, (h_0, c_0))) > 1e-4


# --- mistakes inside the equations, with torch's cells and functions ------------------------------


def gru_by_hand(layer: nn.GRU, x: torch.Tensor, h: torch.Tensor, wrong: str) -> torch.Tensor:
    """The documented equations of one layer, one gate at a time."""
    W, U, b, d = (layer.state_dict()[f"{n}_l0"] for n in
                  ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))  # fmt: skip
    linear, outputs = torch.nn.functional.linear, []
    for x_t in x:
        r = torch.sigmoid(linear(x_t, W[:H], b[:H]) + linear(h, U[:H], d[:H]))
        s = slice(H, 2 * H)
        z = torch.sigmoid(linear(x_t, W[s], b[s]) + linear(h, U[s], d[s]))
        s, from_h = slice(2 * H, None), linear(h, U[2 * H :], d[2 * H :])
        if wrong == "reset_before":
            from_h = linear(r * h, U[s], d[s])
        elif wrong != "no_reset":
            from_h = (z if wrong == "other_gate z:r" else r) * from_h
        n = torch.tanh(linear(x_t, W[s], b[s]) + from_h)
        if wrong == "update unused":
            h = n
        elif wrong == "update both":
            h = z * (n + h)
        elif wrong == "other_gate r:z":
            h = n + r * (h - n)
        else:
            h = z * n + (1 - z) * h if wrong == "update_exchanged" else (1 - z) * n + z * h
        outputs.append(h)
    return torch.stack(outputs)


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "reset_before", "no_reset", "update_exchanged"),
        *("update unused", "update both", "other_gate z:r", "other_gate r:z"),
    ],
)
def test_equations_of_the_gru(wrong):
    layer = torch_layer("gru", 1, 1)
    x, h = data(layer, "gru", 3)
    expected = gru_by_hand(layer, torch.from_numpy(x), torch.from_numpy(h[0]), wrong).numpy()
    mistakes = [Mistake(*wrong.split())] if wrong else []
    found = numbers("gru", arrays(layer), mistakes, [(x, h, None)])
    assert difference(found, [expected, expected[-1:]]) < 1e-12


def lstm_by_hand(
    layer: nn.LSTM, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, wrong: str
) -> list[np.ndarray]:
    """The documented equations of one layer; returned are outputs, h_n and c_n."""
    w = layer.state_dict()
    tanh, sigmoid = torch.tanh, torch.sigmoid
    hard = {
        "sigmoid:hard_sigmoid": torch.nn.functional.hardsigmoid,
        "sigmoid:hard_sigmoid(0.2, 0.5)": lambda a: (0.2 * a + 0.5).clamp(0, 1),
        "sigmoid:tanh": tanh,
    }.get(wrong, sigmoid)
    of_g = {"g:relu": torch.relu, "g:sigmoid": sigmoid, "g:linear": lambda a: a}.get(wrong, tanh)
    of_c = {"h:relu": torch.relu, "h:sigmoid": sigmoid, "h:linear": lambda a: a}.get(wrong, tanh)
    if wrong == "tanh:relu":
        of_g = of_c = torch.relu
    fed, outputs = h, []
    first = h, c
    for t, x_t in enumerate(x):
        if wrong == "never_carried":
            fed, c = first
        b_hh = 0 if wrong == "first_bias" and t == 0 else w["bias_hh_l0"]
        a = x_t @ w["weight_ih_l0"].T + w["bias_ih_l0"] + fed @ w["weight_hh_l0"].T + b_hh
        i, f, g, o = a.chunk(4, dim=-1)
        i, f, g, o = hard(i), hard(f), of_g(g), hard(o)
        f = {"coupled f": 1 - i, "after": f + 1}.get(wrong, f)
        i = {"coupled i": 1 - f}.get(wrong, i)
        i, f, o = (1 if wrong == f"no {k}" else v for k, v in zip("ifo", (i, f, o), strict=True))
        if re.fullmatch("[ifo]:[ifo]", wrong):
            used = {"i": i, "f": f, "o": o}
            i, f, o = (used[wrong[0] if wrong[2] == k else k] for k in "ifo")
        old, c = c, f * c + i * g
        if wrong == "squashed":
            c, of_c = tanh(c), lambda a: a
        m = h = o * of_c(old if wrong == "old_cell" else c)
        if layer.proj_size:
            h = m @ w["weight_hr_l0"].T
        fed = m[:, :P] if wrong == "not_fed_back" else h
        shown = m if wrong == "skipped" else h
        outputs.append(c if wrong == "emitted" else shown)
    return flat((torch.stack(outputs), (shown[None], c[None])))


@pytest.mark.parametrize(
    ("wrong", "mistake"),
    [
        ("", None),
        *(
            (choice, Mistake("activation", choice))
            for choice in (
                *("g:relu", "g:sigmoid", "g:linear", "h:relu", "h:sigmoid", "h:linear"),
                *("tanh:relu", "sigmoid:hard_sigmoid", "sigmoid:hard_sigmoid(0.2, 0.5)"),
                "sigmoid:tanh",
            )
        ),
        ("coupled f", Mistake("coupled", "f")),
        ("coupled i", Mistake("coupled", "i")),
        *((f"no {gate}", Mistake("gate_unused", gate)) for gate in "ifo"),
        *((choice, Mistake("other_gate", choice)) for choice in ("f:i", "i:f", "i:o", "f:o")),
        ("squashed", Mistake("squashed")),
        ("after", Mistake("forget_bias", "after")),
        ("old_cell", Mistake("old_cell")),
        ("emitted", Mistake("emitted", "c")),
        ("never_carried", Mistake("never_carried")),
        ("first_bias", Mistake("first_bias", "all")),
        ("not_fed_back", Mistake("projection", "not_fed_back")),
        ("skipped", Mistake("projection", "skipped")),
    ],
    ids=str,
)
def test_equations_of_the_lstm(wrong, mistake):
    kind = "lstm_projected" if wrong in ("not_fed_back", "skipped") else "lstm"
    layer = torch_layer(kind, 1, 1)
    x, (h, c) = data(layer, kind, 3)
    expected = lstm_by_hand(layer, *(torch.from_numpy(v) for v in (x, h[0], c[0])), wrong)
    found = numbers(kind, arrays(layer), [mistake] if mistake else [], [(x, (h, c), None)])
    assert difference(found, expected) < 1e-12


# --- around it ------------------------------------------------------------------------------------


def test_what_checks_find_without_a_search():
    layer = torch_layer("lstm", 2, 1)
    weights = arrays(layer)
    x, initial = data(layer, "lstm", 3)
    right = Planted("lstm", weights).output(x, initial)

    dropped = Planted("lstm", weights, mistakes=[Mistake("dropout")])
    assert np.abs(dropped.output(x, initial) - dropped.output(x, initial)).max() > 1e-4

    mixed = Planted("lstm", weights, mistakes=[Mistake("batch_dependent")])
    alone = mixed.output(x[:, :1], tuple(v[:, :1] for v in initial))
    assert np.abs(mixed.output(x, initial)[:, :1] - alone).max() > 1e-4

    others = Planted("lstm", weights, mistakes=[Mistake("not_loaded")])
    assert np.abs(others.output(x, initial) - right).max() > 1e-2

    worst = {
        choice: np.abs(Planted("lstm", weights, mistakes=[Mistake("precision", choice)])
                       .output(x, initial) - right).max()
        for choice in ("float16", "bfloat16", "tf32")
    }  # fmt: skip
    assert 1e-5 < worst["float16"] < 5e-3
    assert worst["tf32"] == pytest.approx(worst["float16"], rel=1e-6)  # the same mantissa
    assert worst["float16"] < worst["bfloat16"] < 5e-2


def test_lower_precision_rounds_as_torch_does():
    x = np.random.default_rng(1).normal(size=1000).astype(np.float32)
    given = torch.from_numpy(x)
    for name in ("float16", "bfloat16"):
        expected = given.to(getattr(torch, name)).float().numpy()
        np.testing.assert_array_equal(planted._lowered(x, name), expected)


# --- several, scopes, and what is the same --------------------------------------------------------


def test_a_scope_is_what_it_says():
    """Everywhere is every part; two parts together are both."""
    layer = torch_layer("gru", 2, 2)
    x, h = data(layer, "gru", 3)

    def found(*places):
        mistakes = [Mistake("reset_before", "", "", *place) for place in places]
        return numbers("gru", arrays(layer), mistakes, [(x, h, None)])

    parts = list(itertools.product((0, 1), planted.DIRECTIONS))
    assert difference(found((None, None)), found(*parts)) == 0
    assert difference(found((1, None)), found(*parts[2:])) == 0
    assert difference(found((None, "reverse")), found(parts[1], parts[3])) == 0
    assert difference(found(parts[0]), found(parts[1])) > 1e-4


def test_mistakes_that_are_the_same_on_given_data():
    layer = torch_layer("lstm", 1, 1)
    weights = arrays(layer)
    probes = [(*data(layer, "lstm", 3), None)]
    missing, twice = Mistake("bias_missing", "", "b_hh"), Mistake("bias_twice", "", "b_ih")
    assert not same("lstm", weights, [missing], [twice], probes)
    weights["bias_ih_l0"] *= 0
    weights["bias_hh_l0"] *= 0
    assert same("lstm", weights, [missing], [twice], probes)
    assert same("lstm", weights, [missing], [], probes)
    order = Mistake("gate_order", "ifog", "all")
    assert same("lstm", weights, [order], [Mistake("gate_order", "ifog", "W")], probes)
    assert not same("lstm", weights, [order], [], probes)
    ended = Mistake("time_reversed", "output")
    assert not same("lstm", weights, [ended], [], probes, finals=False)
    assert same("lstm", weights, [ended, ended], [ended, missing], probes)


def test_the_order_given_does_not_matter_between_names():
    layer = torch_layer("lstm", 2, 2, 2 * H)
    x, initial = data(layer, "lstm", 3)
    rng = np.random.default_rng(3)
    every = [m for m in applicable("lstm", 2, 2, 2 * H, H, 3) if m.name != "axes_exchanged"]
    defined = 0
    while defined < 60:
        pair = [every[k] for k in rng.integers(0, len(every), 2)]
        if pair[0].name == pair[1].name:
            continue
        defined += 1
        probes = [(x, initial, None)]
        assert same("lstm", arrays(layer), pair, pair[::-1], probes, 0.0), pair


@pytest.mark.parametrize(
    ("kind", "mistakes", "match"),
    [
        ("gru", [Mistake("old_cell")], "none of gru"),
        ("lstm", [Mistake("bias_doubled", "", "b")], "not in the catalogue"),
        ("lstm", [Mistake("reset_before")], "none of lstm"),
        ("lstm", [Mistake("reverse_start")], "two directions"),
        ("lstm", [Mistake("bias_summed")], "none of lstm"),
        ("lstm", [Mistake("old_cell", layer=2)], "outside the layer"),
        ("lstm_projected", [Mistake("emitted", "c")], "one size"),
        ("lstm", [Mistake("residual")], "cannot be added"),
        ("lstm", [Mistake("axes_exchanged")], "no initial states"),
        (
            "lstm_projected",
            [Mistake("projection", "skipped"), Mistake("delayed", "output")],
            "no m",
        ),
    ],
)
def test_what_means_nothing_is_refused(kind, mistakes, match):
    layer = torch_layer(kind, 1, 1)
    x, initial = data(layer, kind, 3)
    with pytest.raises(UndefinedError, match=match):
        Planted(kind, arrays(layer), mistakes=mistakes)(x, initial)


def test_every_name_applies_somewhere():
    names = {
        mistake.name
        for kind, lengths, (layers, directions) in itertools.product(
            KINDS, (False, True), ((2, 2), (2, 1), (1, 1))
        )
        for size in input_sizes(kind, directions)
        for mistake in applicable(
            kind,
            layers,
            directions,
            size,
            H,
            4,
            proj_size=P if kind == "lstm_projected" else 0,
            lengths=lengths,
            steps=True,
        )
    }
    by_checks = {"not_loaded", "calls_chained", "dropout", "batch_dependent", "precision"}
    assert names == set(planted.ORDER) - by_checks


@pytest.mark.parametrize("kind", ["gru", "lstm", "lstm_projected"])
def test_a_gate_recorded_before_its_function_changes_nothing_else(kind):
    layer = torch_layer(kind, 1, 1)
    x, initial = data(layer, kind, 3)
    right, wrong = (
        Planted(kind, arrays(layer), mistakes=m) for m in ([], [Mistake("unapplied", "all")])
    )
    np.testing.assert_array_equal(right.output(x, initial), wrong.output(x, initial))
    for name in planted.GATES[kind]:
        function = np.tanh if name in "gn" else lambda a: 1 / (1 + np.exp(-a))
        np.testing.assert_allclose(function(wrong.steps[name]), right.steps[name], atol=1e-15)
    for name in right.steps.keys() - set(planted.GATES[kind]):
        np.testing.assert_array_equal(right.steps[name], wrong.steps[name])


def test_gates_recorded_under_each_others_names():
    layer = torch_layer("gru", 2, 2)
    x, initial = data(layer, "gru", 3)
    right, wrong = (
        Planted("gru", arrays(layer), mistakes=m) for m in ([], [Mistake("names_exchanged", "r:z")])
    )
    np.testing.assert_array_equal(right.output(x, initial), wrong.output(x, initial))
    for mine, theirs in ("rz", "zr", "nn", "hh"):
        np.testing.assert_array_equal(wrong.steps[mine], right.steps[theirs])


@pytest.mark.parametrize("kind", KINDS)
def test_several_mistakes_give_numbers_or_are_refused(kind):
    """Random twos and threes: nothing but UndefinedError, whatever meets."""
    rng = np.random.default_rng(len(kind))
    refused = 0
    for (layers, directions), lengths in itertools.product(SHAPES, (None, LENGTHS)):
        R = P if kind == "lstm_projected" else H
        layer = torch_layer(kind, layers, directions, R * directions)
        x, initial = data(layer, kind, 3)
        every = applicable(
            kind, layers, directions, R * directions, H, 3, proj_size=layer.proj_size,
            lengths=lengths is not None, scoped=False,
        )  # fmt: skip
        for size in [2] * 25 + [3] * 25:
            mistakes = [every[k] for k in rng.integers(0, len(every), size)]
            start = None if Mistake("axes_exchanged") in mistakes else initial
            try:
                found = numbers(kind, arrays(layer), mistakes, [(x, start, lengths)])
            except UndefinedError:
                refused += 1
                continue
            assert all(np.isfinite(each).all() for each in found), mistakes
            assert found[0].shape[:2] == (T, 3), mistakes
    assert refused < 40  # of 400
