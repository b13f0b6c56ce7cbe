"""Flax's, Equinox's and Haiku's numbers, cell by cell over the steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from against import (
    BATCH,
    HIDDEN,
    INPUT,
    Floats,
    agree,
    framework,
    in_torch,
    numbers,
    outputs,
    same_again,
    x_and_states,
)

pytestmark = pytest.mark.filterwarnings("ignore")

Flat = dict[str, Floats]


def flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{before}{name}/")
        else:
            found[before + name] = value
    return found


def random_like(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The same tree with random numbers: a framework's biases begin as zeros."""
    return {
        name: random_like(value)
        if isinstance(value, Mapping)
        else numbers(*value.shape, seed=len(name) + sum(map(ord, name)))
        for name, value in tree.items()
    }


def over_time(
    step: Callable[[Any, Floats], tuple[Any, Any]], carry: Any, x: Floats
) -> tuple[Any, Floats]:
    ys = []
    for x_t in x:
        carry, y = step(carry, x_t)
        ys.append(np.asarray(y))
    return carry, np.stack(ys)


def is_lstm(kind: str) -> bool:
    return kind == "lstm"


LINEN = {
    "SimpleCell": "rnn_tanh",
    "GRUCell": "gru",
    "LSTMCell": "lstm",
    "OptimizedLSTMCell": "lstm",
}


@pytest.mark.parametrize(("name", "kind"), LINEN.items())
def test_flax_linen(name: str, kind: str) -> None:
    jax, linen = framework("jax"), framework("flax.linen")
    x, h, c = x_and_states()
    cell = getattr(linen, name)(features=HIDDEN)
    carry = (c[0], h[0]) if is_lstm(kind) else h[0]
    params = random_like(cell.init(jax.random.key(0), carry, x[0])["params"])
    carry, ys = over_time(lambda s, x_t: cell.apply({"params": params}, s, x_t), carry, x)
    last = (carry[1][None], carry[0][None]) if is_lstm(kind) else (carry[None],)
    agree(outputs(in_torch(same_again("flax", flat(params), kind)), x, h, c), (ys, *last))


@pytest.mark.parametrize(("name", "kind"), LINEN.items())
def test_flax_linen_bidirectional(name: str, kind: str) -> None:
    """nn.Bidirectional of nn.RNN: the names of both directions are Flax's own."""
    jax, linen = framework("jax"), framework("flax.linen")
    x, *_ = x_and_states()
    both = linen.Bidirectional(
        linen.RNN(getattr(linen, name)(features=HIDDEN), time_major=True),
        linen.RNN(getattr(linen, name)(features=HIDDEN), time_major=True),
        time_major=True,
    )
    variables = both.init(jax.random.key(0), x)
    params = random_like(variables["params"])
    ys = np.asarray(both.apply({"params": params}, x))
    arrays = flat(params)
    zeros = np.zeros((2, BATCH, HIDDEN), np.float32)
    renamed = {directed(name): array for name, array in arrays.items()}
    module = in_torch(same_again("flax", renamed, kind))
    agree(outputs(module, x, zeros, zeros)[:1], (ys,))


def directed(name: str) -> str:
    """Cells that were made outside nn.RNN keep their own name beside it."""
    first, rest = name.split("/", 1)
    places = {"forward_rnn": "forward_rnn/cell/", "backward_rnn": "backward_rnn/cell/"}
    if first in places:
        return places[first] + rest.removeprefix("cell/")
    return places["forward_rnn" if first.endswith("_0") else "backward_rnn"] + rest


NNX = {
    "SimpleCell": ("flax_nnx", "rnn_tanh"),
    "GRUCell": ("flax_nnx", "gru"),
    "LSTMCell": ("flax_nnx", "lstm"),
    "OptimizedLSTMCell": ("flax_nnx_optimized", "lstm"),
}


@pytest.mark.parametrize(("name", "layout", "kind"), [(n, *how) for n, how in NNX.items()])
def test_flax_nnx(name: str, layout: str, kind: str) -> None:
    nnx = framework("flax.nnx")
    x, h, c = x_and_states()
    cell = getattr(nnx, name)(INPUT, HIDDEN, rngs=nnx.Rngs(0))
    state = nnx.to_pure_dict(nnx.state(cell, nnx.Param))
    params = random_like(state)
    nnx.update(cell, params)
    carry = (c[0], h[0]) if is_lstm(kind) else h[0]
    carry, ys = over_time(cell, carry, x)
    last = (carry[1][None], carry[0][None]) if is_lstm(kind) else (carry[None],)
    agree(outputs(in_torch(same_again(layout, flat(params), kind)), x, h, c), (ys, *last))


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("name", "kind"), [("GRUCell", "gru"), ("LSTMCell", "lstm")])
def test_equinox(name: str, kind: str, use_bias: bool) -> None:
    jax, equinox = framework("jax"), framework("equinox")
    x, h, c = x_and_states()
    cell = getattr(equinox.nn, name)(INPUT, HIDDEN, use_bias=use_bias, key=jax.random.key(0))
    arrays: Flat = {}
    for field in ("weight_ih", "weight_hh", "bias", "bias_n"):
        value = getattr(cell, field, None)
        if value is not None:
            arrays[field] = numbers(*value.shape, seed=len(field))
            cell = equinox.tree_at(lambda c, f=field: getattr(c, f), cell, arrays[field])
    many = jax.vmap(cell)

    def step(carry: Any, x_t: Floats) -> tuple[Any, Any]:
        carry = many(x_t, carry)
        return carry, carry[0] if is_lstm(kind) else carry

    carry, ys = over_time(step, (h[0], c[0]) if is_lstm(kind) else h[0], x)
    last = (carry[0][None], carry[1][None]) if is_lstm(kind) else (carry[None],)
    agree(outputs(in_torch(same_again("equinox", arrays, kind)), x, h, c), (ys, *last))


HAIKU = {"VanillaRNN": "rnn_relu", "GRU": "gru_reset_before", "LSTM": "lstm"}


@pytest.mark.parametrize(("name", "kind"), HAIKU.items())
def test_haiku(name: str, kind: str) -> None:
    jax, haiku = framework("jax"), framework("haiku")
    x, h, c = x_and_states()
    carry = haiku.LSTMState(h[0], c[0]) if is_lstm(kind) else h[0]
    run = haiku.without_apply_rng(
        haiku.transform(lambda x, s: haiku.dynamic_unroll(getattr(haiku, name)(HIDDEN), x, s))
    )
    params = random_like(run.init(jax.random.key(0), x, carry))
    ys, carry = run.apply(params, x, carry)
    last = (carry.hidden[None], carry.cell[None]) if is_lstm(kind) else (carry[None],)
    converted = same_again("haiku", flat(params), kind, exact=not is_lstm(kind))
    agree(outputs(in_torch(converted), x, h, c), (ys, *last))
