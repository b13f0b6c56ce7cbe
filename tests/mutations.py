"""Mistakes planted in NumPy and looked for by `rs.compare`, which an independent oracle judges.

    python tests/mutations.py singles|pairs|triples [--kind lstm --layers 2 --directions 2 ...]
    python tests/mutations.py unexplained --count 1000

A verdict is right if it has explanations, each of at most as many causes as were planted, and each
of them, planted in NumPy, gives the candidate's numbers on the very inputs that it was compared on.
Candidates that are wrong in a way that the catalogue does not have must get none.
"""

from __future__ import annotations

import argparse
import itertools
import random
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from planted import FUNCTIONS, STEPS, Array, Mistake, Planted, UndefinedError, applicable
from torch import nn

import rnnscope as rs

GIVEN = ("call", "call_output", "arrays", "output")  # how a candidate is given to compare
WAYS = (*GIVEN, "steps")  # with all gates and states of every step
WITH_FINALS = ("call", "arrays", "steps")
KINDS = ("rnn_tanh", "rnn_relu", "gru", "lstm", "lstm_projected")
PLACES = tuple(itertools.product((1, 2), (1, 2)))  # layers, directions
FAILURES = ("missed", "wrong", "agreed", "raised")
Numbers = list[list[Array]]
Data = list[tuple[Any, Any, Any]]  # x, initial, lengths


@dataclass(frozen=True)
class Setting:
    """A layer with random weights, none of them zero."""

    kind: str
    layers: int = 1
    directions: int = 1
    input_size: int = 4
    hidden_size: int = 4
    projected: int = 2
    dtype: str = "float64"
    seed: int = 0
    bias: bool = True

    @property
    def proj_size(self) -> int:
        return self.projected if self.kind == "lstm_projected" else 0

    @property
    def width(self) -> int:
        """Of h."""
        return self.proj_size or self.hidden_size

    def layer(self) -> nn.Module:
        options: dict[str, Any] = {
            "num_layers": self.layers,
            "bidirectional": self.directions == 2,
            "bias": self.bias,
        }
        if self.kind.startswith("rnn"):
            options["nonlinearity"] = self.kind.removeprefix("rnn_")
        if self.proj_size:
            options["proj_size"] = self.proj_size
        name = {"r": "RNN", "g": "GRU", "l": "LSTM"}[self.kind[0]]
        layer: nn.Module = getattr(nn, name)(self.input_size, self.hidden_size, **options)
        rng = np.random.default_rng([self.seed, 7])
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(torch.from_numpy(rng.uniform(-0.8, 0.8, tuple(parameter.shape))))
        return layer.to(getattr(torch, self.dtype))

    def weights(self, layer: nn.Module) -> dict[str, Array]:
        return {name: value.numpy().copy() for name, value in layer.state_dict().items()}

    def mistakes(
        self, *, batch: int = 3, lengths: bool = False, scoped: bool = True, steps: bool = False
    ) -> Any:
        return applicable(
            self.kind,
            self.layers,
            self.directions,
            self.input_size,
            self.hidden_size,
            batch,
            bias=self.bias,
            proj_size=self.proj_size,
            lengths=lengths,
            scoped=scoped,
            steps=steps,
        )

    def data(self, steps: int, batch: int, *, initial: bool = True, seed: int = 0) -> Any:
        """x and initial states (or None) as arrays."""
        rng = np.random.default_rng([self.seed, seed, 11])
        x = rng.normal(size=(steps, batch, self.input_size)).astype(self.dtype)
        if not initial:
            return x, None
        sizes = [self.width] + [self.hidden_size] * self.kind.startswith("lstm")
        rows = self.layers * self.directions
        states = [(0.7 * rng.normal(size=(rows, batch, size))).astype(self.dtype) for size in sizes]
        return x, tuple(states) if len(states) > 1 else states[0]


# --- what a candidate gave, and what mistakes would give ------------------------------------------


def expected_shapes(setting: Setting, x: Array) -> dict[str, tuple[int, ...]]:
    rows, batch = setting.layers * setting.directions, x.shape[1]
    return {"h": (rows, batch, setting.width), "c": (rows, batch, setting.hidden_size)}


def recorded(layer: Planted) -> dict[str, Array]:
    """Gates and states of every step of the last call."""
    if any(np.isnan(value).any() for value in layer.steps.values()):
        raise UndefinedError("of a layer that does not run nothing is recorded")
    return layer.steps


def returned(
    setting: Setting, layer: Any, probe: Any, finals: bool, steps: bool = False
) -> list[Array]:
    """The output, all steps if asked for, and the final states whose shapes are those of the
    layer (others are unread)."""
    x, initial, lengths = probe
    output, final = layer(x, initial, lengths)
    if lengths is not None:
        valid = np.arange(len(output))[:, None] < np.asarray(lengths)
        output = np.where(valid[..., None], output, 0)
    found = [output]
    if steps:
        found += recorded(layer).values()
    if finals:
        states = final if isinstance(final, tuple) else (final,)
        shapes = expected_shapes(setting, x)
        for name, state in zip("hc", states, strict=False):
            found.append(state if state.shape == shapes[name] else np.zeros(0))
    return found


def apart(a: Numbers, b: Numbers) -> float:
    """The largest difference, relative to the largest number of its array above 1; a state that
    ``b`` once does not give in a shape that can be read is not compared, as compare says."""
    worst = 0.0
    unread = {k for arrays in b for k, array in enumerate(arrays) if array.size == 0}
    pairs = [zip(one, other, strict=True) for one, other in zip(a, b, strict=True)]
    for k, (one, other) in itertools.chain(*map(enumerate, pairs)):
        if k in unread:
            continue
        if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
            return np.inf
        finite = np.isfinite(other)
        if finite.any():
            size = max(1.0, float(np.abs(other[finite]).max()))
            worst = max(worst, float(np.abs(one[finite] - other[finite]).max()) / size)
    return worst


@dataclass
class Oracle:
    """What sets of mistakes give on the data of a comparison, in float64."""

    setting: Setting
    weights: dict[str, Array]
    data: Data
    given: str

    def __post_init__(self) -> None:
        self.weights = {name: value.astype(np.float64) for name, value in self.weights.items()}

    @property
    def rounding(self) -> float:
        return 1e-9 if self.setting.dtype == "float64" else 1e-5

    def numbers(self, mistakes: Iterable[Mistake]) -> Numbers:
        """Raises UndefinedError where the mistakes mean nothing on these data."""
        layer = Planted(self.setting.kind, self.weights, mistakes=mistakes)
        kept = self.given in WITH_FINALS, self.given == "steps"
        return [returned(self.setting, layer, probe, *kept) for probe in self.data]

    def same(self, mistakes: Iterable[Mistake], numbers: Numbers) -> bool:
        try:
            return apart(self.numbers(mistakes), numbers) <= self.rounding
        except UndefinedError:
            return False

    def shows(self, mistakes: Sequence[Mistake], numbers: Numbers) -> bool:
        """Whether each of the mistakes has an effect beside the others, far above rounding."""
        if apart(self.numbers([]), numbers) <= 100 * self.rounding:
            return False  # one undoes the other
        for one in mistakes:
            others = [m for m in mistakes if m is not one]
            try:
                if apart(self.numbers(others), numbers) <= 100 * self.rounding:
                    return False
            except UndefinedError:
                pass
        return True


def mistakes_of(causes: Iterable[Any]) -> tuple[Mistake, ...]:
    return tuple(Mistake(c.name, c.choice, c.tensors, c.layer, c.direction) for c in causes)


# --- one comparison -------------------------------------------------------------------------------


@dataclass
class Result:
    """How one comparison ended."""

    setting: Setting
    given: str
    planted: tuple[Mistake, ...]
    outcome: str  # explained, missed, wrong, agreed, raised, silent, undefined
    seconds: float = 0.0
    explanations: tuple[tuple[Mistake, ...], ...] = ()
    verdict: Any = None
    detail: str = ""

    def __str__(self) -> str:
        s = self.setting
        where = f"{s.kind} {s.layers}x{s.directions} I={s.input_size} {s.dtype} {self.given}"
        said = [" + ".join(map(str, one)) or "nothing" for one in self.explanations[:3]]
        said += [f"and {len(self.explanations) - 3} more"] if len(self.explanations) > 3 else []
        return (
            f"{self.outcome} {self.seconds:.1f}s [{where}] {' + '.join(map(str, self.planted))}"
            f" -> {' | '.join(said) or 'nothing'} {self.detail}"
        )


@dataclass
class Recording:
    """A candidate that is called, and the inputs that it was called with."""

    layer: Any
    finals: bool
    calls: Data = field(default_factory=list)
    without: Any = None  # what is called where no initial states are given

    def __post_init__(self) -> None:
        self.without = self.without or self.layer

    def function(self) -> Callable[..., Any]:
        """f(x, initial), which remembers every call that ended well."""

        def f(x: Any, initial: Any = None) -> Any:
            x = np.asarray(x).copy()
            if initial is not None:
                states = initial if isinstance(initial, tuple | list) else (initial,)
                states = tuple(np.asarray(state).copy() for state in states)
                initial = states if len(states) > 1 else states[0]
            found = (self.without if initial is None else self.layer)(x, initial)
            self.calls.append((x, initial, None))
            return found if self.finals else found[0]

        return f

    def padded(self) -> Callable[..., Any]:
        """f(x, initial, lengths)."""

        def f(x: Any, initial: Any = None, lengths: Any = None) -> Any:
            x = np.asarray(x).copy()
            lengths = None if lengths is None else np.asarray(lengths).copy()
            if isinstance(initial, tuple | list):
                initial = tuple(np.asarray(state).copy() for state in initial)
            elif initial is not None:
                initial = np.asarray(initial).copy()
            found = self.layer(x, initial, lengths)
            self.calls.append((x, initial, lengths))
            return found if self.finals else found[0]

        return f


def compared(
    setting: Setting,
    layer: nn.Module,
    candidate: Any,
    given: str,
    *,
    data: Any = None,
    lengths: Any = None,
    seconds: float = 60,
    without: Any = None,
) -> tuple[Any, Data, float]:
    """The verdict on a candidate (a Planted), the data on which it was compared, and the time."""
    finals = given in WITH_FINALS
    options: dict[str, Any] = {"seconds": seconds, "progress": False}
    started = time.perf_counter()
    if given.startswith("call"):
        recording = Recording(candidate, finals, without=without)
        function = recording.function() if lengths is None else recording.padded()
        if lengths is not None:
            options["lengths"] = True
        verdict = rs.compare(function, layer, **options)
        return verdict, recording.calls, time.perf_counter() - started
    x, initial = data
    output, final = candidate(x, initial, lengths)
    states = final if isinstance(final, tuple) else (final,)
    arrays: Any = output
    if finals:
        shapes = expected_shapes(setting, x)
        named = {f"{n}_n": s for n, s in zip("hc", states, strict=False) if s.shape == shapes[n]}
        arrays = {"output": output, **named}
    if given == "steps":
        arrays |= recorded(candidate)
    if lengths is not None:
        options["lengths"] = lengths
    started = time.perf_counter()
    verdict = rs.compare(arrays, layer, x, initial, **options)
    return verdict, [(x, initial, lengths)], time.perf_counter() - started


def plant(
    setting: Setting,
    mistakes: Sequence[Mistake],
    given: str,
    *,
    lengths: bool = False,
    initial: bool = True,
    seconds: float = 60,
) -> Result:
    """Plant mistakes, compare, and judge the verdict."""
    mistakes = tuple(mistakes)
    layer = setting.layer()
    weights = setting.weights(layer)
    names = {m.name for m in mistakes}
    rows = setting.layers * setting.directions
    batch = rows if "initial_batch_first" in names else 3
    asked = np.array([4, 6, 3]) if lengths else None
    data = setting.data(6, batch, initial=initial and "axes_exchanged" not in names)
    without = None
    try:
        candidate = Planted(setting.kind, weights, mistakes=mistakes)
        # whether it means anything, and shows, where it was compared: on the data, if these are all
        tried = [(*data, asked)]
        if given.startswith("call"):
            tried += [(*setting.data(4, batch, initial=i, seed=1), asked) for i in (False,)]
            if lengths:
                tried = [(*setting.data(6, 3, initial=i, seed=1), asked) for i in (True, False)]
        before = Oracle(setting, weights, tried, given)
        if "initial_batch_first" in names:  # which means nothing on other numbers of rows
            before.data = tried[:1]
            others = [m for m in mistakes if m.name != "initial_batch_first"]
            without = Planted(setting.kind, weights, mistakes=others)
        numbers = before.numbers(mistakes)
    except UndefinedError:
        return Result(setting, given, mistakes, "undefined")
    if not before.shows(mistakes, numbers):
        return Result(setting, given, mistakes, "silent")
    try:
        verdict, seen, taken = compared(
            setting,
            layer,
            candidate,
            given,
            data=data,
            lengths=asked,
            seconds=seconds,
            without=without,
        )
    except Exception as error:
        return Result(setting, given, mistakes, "raised", detail=f"{type(error).__name__}: {error}")
    return judged(setting, weights, mistakes, given, verdict, seen, taken)


def judged(
    setting: Setting,
    weights: dict[str, Array],
    mistakes: tuple[Mistake, ...],
    given: str,
    verdict: Any,
    seen: Data,
    taken: float,
) -> Result:
    if any(m.name == "initial_batch_first" for m in mistakes):
        rows = setting.layers * setting.directions
        seen = [probe for probe in seen if probe[1] is not None and probe[0].shape[1] == rows]
    oracle = Oracle(setting, weights, seen, given)
    numbers = oracle.numbers(mistakes)
    sets = tuple(mistakes_of(one.causes) for one in verdict.explanations)
    result = Result(setting, given, mistakes, "explained", taken, sets, verdict)
    if verdict.agrees:
        result.outcome = "agreed"
    elif not sets:
        result.outcome = "missed"
    elif any(len(one) > len(mistakes) or not oracle.same(one, numbers) for one in sets):
        result.outcome = "wrong"
    if result.outcome != "explained" and not oracle.shows(mistakes, numbers):
        result.outcome = "silent"
    return result


# --- which are planted together -------------------------------------------------------------------


def overlap(one: Mistake, other: Mistake) -> bool:
    layers = one.layer is None or other.layer is None or one.layer == other.layer
    turned = None in (one.direction, other.direction) or one.direction == other.direction
    return layers and turned


def together(mistakes: Sequence[Mistake]) -> bool:
    """No two of the same name in overlapping places."""
    return not any(
        one.name == other.name and overlap(one, other)
        for one, other in itertools.combinations(mistakes, 2)
    )


def entry(mistake: Mistake) -> tuple[str, str]:
    """What a mistake is, apart from its place, its tensors, and which order or layers."""
    free = mistake.name == "gate_order" or re.search(r"\d", mistake.choice.split("(")[0])
    return mistake.name, "" if free else mistake.choice


def covering(setting: Setting, size: int, seed: int, **options: Any) -> Iterator[Any]:
    """Every entry with every choice of tensors once, every pair of them once: in which place and
    in which order of gates is drawn."""
    rng = random.Random(f"{setting} {size} {seed}")
    groups: dict[Any, list[Mistake]] = {}
    for mistake in setting.mistakes(**options):
        groups.setdefault((*entry(mistake), mistake.tensors), []).append(mistake)
    sets = list(itertools.combinations(groups.values(), size))
    rng.shuffle(sets)
    for group in sets:
        for _ in range(20):
            chosen = tuple(rng.choice(each) for each in group)
            if together(chosen):
                yield chosen
                break


def drawn(setting: Setting, size: int, seed: int, **options: Any) -> Iterator[tuple[Mistake, ...]]:
    """Sets of mistakes at random, without end; singles and pairs in turn, each once."""
    every = setting.mistakes(**options)
    rng = random.Random(f"{setting} {size} {seed}")
    if size == 1:
        rng.shuffle(every)
        yield from ((one,) for one in every)
        return
    if size == 2:
        pairs = list(itertools.combinations(every, 2))
        rng.shuffle(pairs)
        yield from (tuple(rng.sample(pair, 2)) for pair in pairs if together(pair))
        return
    while True:
        chosen = tuple(rng.sample(every, size))
        if together(chosen):
            yield chosen


# --- wrong in a way that no entry describes -------------------------------------------------------

FUNCTIONS["softsign"] = lambda x: x / (1 + np.abs(x))
FUNCTIONS["tanh(1.1x)"] = lambda x: np.tanh(1.1 * x)
FUNCTIONS["hard_tanh"] = lambda x: np.clip(x, -1, 1)
FUNCTIONS["leaky_relu"] = lambda x: np.where(x > 0, x, 0.1 * x)
FUNCTIONS["sigmoid(1.1x)"] = lambda x: 1 / (1 + np.exp(-1.1 * x))
FUNCTIONS["atan"] = lambda x: 0.5 + np.arctan(x) / np.pi
_UNLISTED = {
    "tanh": ("softsign", "tanh(1.1x)", "hard_tanh", "leaky_relu"),
    "relu": ("leaky_relu", "softsign"),
    "sigmoid": ("sigmoid(1.1x)", "atan"),
}


def _stepped(kind: str, name: str, change: Callable[[Any, Any, Any], Any]) -> str:
    """A kind whose step is changed: change(values, x, state before)."""
    step = STEPS[kind]

    def changed(cell: Any, x: Any, state: Any) -> Any:
        return change(step(cell, x, state), x, state)

    STEPS[f"{kind} {name}"] = changed
    return f"{kind} {name}"


def _with(values: Any, h: Array) -> Any:
    found = {**values, "h": h}
    return {**found, "fed": h} if "fed" in values else found


STEPPED: dict[str, Callable[[Any, Any, Any], Any]] = {
    "clipped": lambda v, x, s: _with(v, np.clip(v["h"], -0.15, 0.15)),
    "leaky": lambda v, x, s: _with(v, 0.97 * v["h"] + 0.03 * s["h"]),
    "scaled": lambda v, x, s: _with(v, 1.02 * v["h"]),
    "centred": lambda v, x, s: _with(v, v["h"] - v["h"].mean(-1, keepdims=True)),
    "squared": lambda v, x, s: _with(v, v["h"] + 0.05 * v["h"] ** 2),
}


@dataclass
class Odd:
    """A layer that is wrong in a way of its own; `unit` is the only one concerned, if one is."""

    name: str
    layer: Planted
    way_in: Callable[[Array], Array] = lambda x: x
    start: Callable[[Any], Any] = lambda s: s
    way_out: Callable[[Array], Array] = lambda y: y
    unit: int | None = None

    def __call__(self, x: Any, initial: Any = None, lengths: Any = None) -> Any:
        x = np.asarray(x)
        if initial is not None:
            states = initial if isinstance(initial, tuple) else (initial,)
            states = tuple(self.start(np.asarray(state)) for state in states)
            initial = states if len(states) > 1 else states[0]
        output, final = self.layer(self.way_in(x), initial, lengths)
        return self.way_out(output), final


def odd(setting: Setting, weights: dict[str, Array], rng: np.random.Generator) -> Odd:
    """One at random."""
    makers: dict[str, Callable[..., Odd | None]] = {
        "one number off": _one_off,
        "a bias off": _one_off,
        "a row scaled": _row_scaled,
        "two rows exchanged": _rows_exchanged,
        "two columns exchanged": _columns_exchanged,
        "rank one added": _rank_one,
        "a sign": _sign,
        "a row zero": _row_zero,
        "a function": _function,
        "a step": _step,
        "the way in": _in,
        "the start": _start,
        "the way out": _out,
    }
    while True:
        name = str(rng.choice(list(makers)))
        found = makers[name](setting, weights, rng, name)
        if found is not None:
            return found


def _tensor(weights: dict[str, Array], rng: np.random.Generator, biases: bool) -> str | None:
    wanted = "bias" if biases else "weight"
    names = [name for name in weights if name.startswith(wanted)]
    return str(rng.choice(names)) if names else None


def _changed(
    setting: Setting, weights: dict[str, Array], name: str, key: str, value: Array, unit: Any = None
) -> Odd:
    layer = Planted(setting.kind, {**weights, key: value.astype(weights[key].dtype)})
    known = setting.layers == 1 and setting.directions == 1 and setting.kind != "lstm_projected"
    return Odd(f"{name}: {key}", layer, unit=unit if known else None)


def _one_off(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    key = _tensor(weights, rng, name == "a bias off")
    if key is None:
        return None
    value = weights[key].copy()
    where = tuple(int(rng.integers(n)) for n in value.shape)
    value[where] += 10 ** rng.uniform(-4, -0.5) * rng.choice([-1, 1])
    return _changed(setting, weights, f"{name} {where}", key, value, where[0] % setting.hidden_size)


def _row_scaled(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    key = _tensor(weights, rng, False)
    assert key is not None
    value, row = weights[key].copy(), int(rng.integers(len(weights[key])))
    value[row] *= rng.choice([0.9, 1.01, 1.1, 0.5])
    return _changed(setting, weights, f"{name} {row}", key, value, row % setting.hidden_size)


def _rows_exchanged(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    key, H = _tensor(weights, rng, False), setting.hidden_size
    assert key is not None
    gates = len(weights[key]) // H
    if H < 3 or gates == 0:  # of two units it could be something that is known
        return None
    gate, (a, b) = int(rng.integers(gates)), rng.choice(H, 2, replace=False)
    value = weights[key].copy()
    value[[gate * H + a, gate * H + b]] = value[[gate * H + b, gate * H + a]]
    return _changed(setting, weights, f"{name} {gate * H + a}, {gate * H + b}", key, value)


def _columns_exchanged(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    key = _tensor(weights, rng, False)
    assert key is not None
    width = weights[key].shape[1]
    if width < 2:
        return None
    a, b = rng.choice(width, 2, replace=False)
    value = weights[key].copy()
    value[:, [a, b]] = value[:, [b, a]]
    return _changed(setting, weights, f"{name} {a}, {b}", key, value)


def _rank_one(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    key = _tensor(weights, rng, False)
    assert key is not None
    rows, columns = weights[key].shape
    noise = np.outer(rng.normal(size=rows), rng.normal(size=columns))
    value = weights[key] + 10 ** rng.uniform(-4, -1) * noise
    return _changed(setting, weights, name, key, value)


def _sign(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    key = _tensor(weights, rng, bool(rng.integers(2)))
    if key is None:
        return None
    value = weights[key].copy()
    where = tuple(int(rng.integers(n)) for n in value.shape)
    value[where] *= -1
    return _changed(setting, weights, f"{name} {where}", key, value, where[0] % setting.hidden_size)


def _row_zero(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    key = _tensor(weights, rng, False)
    assert key is not None
    value, row = weights[key].copy(), int(rng.integers(len(weights[key])))
    value[row] = 0
    return _changed(setting, weights, f"{name} {row}", key, value, row % setting.hidden_size)


def _function(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    layer = Planted(setting.kind, weights)
    place = list(layer.cells)[int(rng.integers(len(layer.cells)))]
    functions = layer.cells[place].functions
    quantity = str(rng.choice(list(functions)))
    functions[quantity] = str(rng.choice(_UNLISTED[functions[quantity]]))
    return Odd(f"{quantity} by {functions[quantity]} at {place}", layer)


def _step(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    layer, which = Planted(setting.kind, weights), str(rng.choice(list(STEPPED)))
    if which == "centred" and setting.width < 2:
        return None
    layer.kind = _stepped(setting.kind, which, STEPPED[which])
    return Odd(f"h {which}", layer)


def _in(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    ways: dict[str, Callable[[Array], Array]] = {
        "x scaled by 1.01": lambda x: 1.01 * x,
        "x moved by 0.01": lambda x: x + 0.01,
        "x clipped": lambda x: np.clip(x, -0.4, 0.4),
        "features turned": lambda x: x[..., ::-1],
        "x rounded": lambda x: np.round(x, 1),
    }
    which = str(rng.choice(list(ways)))
    if which == "features turned" and setting.input_size < 2:
        return None
    return Odd(which, Planted(setting.kind, weights), way_in=ways[which])


def _start(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    ways: dict[str, Callable[[Array], Array]] = {
        "states scaled by 0.9": lambda s: 0.9 * s,
        "states negative": lambda s: -s,
        "states clipped": lambda s: np.clip(s, -0.2, 0.2),
        "states rolled": lambda s: np.roll(s, 1, axis=-1),
    }
    which = str(rng.choice(list(ways)))
    if which == "states rolled" and setting.width < 3:
        return None
    return Odd(which, Planted(setting.kind, weights), start=ways[which])


def _out(
    setting: Setting, weights: dict[str, Array], rng: np.random.Generator, name: str
) -> Odd | None:
    width = setting.width * setting.directions
    if width < 3:
        return None
    unit = int(rng.integers(width))

    def alone(change: Callable[[Array], Array]) -> Callable[[Array], Array]:
        def of(y: Array) -> Array:
            y = y.copy()
            y[..., unit] = change(y[..., unit])
            return y

        return of

    ways: dict[str, Callable[[Array], Array]] = {
        "a unit late": alone(lambda y: np.concatenate([0 * y[:1], y[:-1]])),
        "a unit zero": alone(lambda y: 0 * y),
        "a unit negative": alone(lambda y: -y),
        "output scaled by 1.01": lambda y: 1.01 * y,
        "output rounded": lambda y: np.round(y, 2),
        "units rolled": lambda y: np.roll(y, 1, axis=-1),
        "a ripple": lambda y: y + 1e-3 * np.sin(37 * np.arange(y.size)).reshape(y.shape),
    }
    which = str(rng.choice(list(ways)))
    return Odd(f"{which} ({unit})", Planted(setting.kind, weights), way_out=ways[which])


def odd_setting(rng: np.random.Generator) -> tuple[Setting, str, tuple[int, int], bool]:
    """A layer, how the candidate is given, (steps, batch) of arrays, and whether with states."""
    given = str(rng.choice(GIVEN))
    tiny = bool(rng.integers(2))
    if rng.random() < 0.6:
        layers, directions = 1, 1
    else:
        layers, directions = PLACES[int(rng.integers(len(PLACES)))]
    hidden = int(rng.integers(1, 3)) if tiny else int(rng.integers(3, 7))
    kind = str(rng.choice(KINDS if hidden > 1 else KINDS[:-1]))
    setting = Setting(
        kind,
        layers,
        directions,
        int(rng.integers(1, 5)),
        hidden,
        1 if hidden < 3 else 2,
        str(rng.choice(["float64", "float32"])),
        int(rng.integers(10**6)),
        bool(rng.random() < 0.85),
    )
    sizes = (int(rng.integers(1, 3)), 1) if tiny else (int(rng.integers(3, 9)), 3)
    return setting, given, sizes, bool(rng.integers(2))


@dataclass
class OddResult:
    """How a comparison ended whose candidate is wrong in no known way."""

    setting: Setting
    given: str
    name: str
    outcome: str  # right, explained, coincides, agreed, unit (not named), raised, dim
    seconds: float = 0.0
    verdict: Any = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.outcome} {self.seconds:.1f}s [{self.setting} {self.given}] {self.detail}"


def unexplained(seed: int, seconds: float = 60) -> OddResult:
    """One candidate that no entry describes, compared and judged."""
    rng = np.random.default_rng([seed, 3])
    setting, given, sizes, initial = odd_setting(rng)
    layer = setting.layer()
    weights = setting.weights(layer)
    candidate = odd(setting, weights, rng)
    data = setting.data(*sizes, initial=initial)
    finals = given in WITH_FINALS
    tried = [(*data, None)]
    if given.startswith("call"):
        tried = [(*setting.data(4, 3, initial=i, seed=1), None) for i in (True, False)]
    oracle = Oracle(setting, weights, tried, given)
    numbers = [returned(setting, candidate, probe, finals) for probe in tried]
    effect = apart(oracle.numbers([]), numbers)
    least = 1e-6 if setting.dtype == "float64" else 1e-3
    result = OddResult(setting, given, candidate.name, "dim")
    result.detail = f"{candidate.name}, effect {effect:.1e}, data {sizes} {initial}"
    if effect < least:
        return result
    try:
        verdict, seen, result.seconds = compared(
            setting, layer, candidate, given, data=data, seconds=seconds
        )
    except Exception as error:
        result.outcome = "raised"
        result.detail += f" {type(error).__name__}: {error}"
        return result
    result.verdict = verdict
    result.outcome = "right"
    if verdict.agrees:
        result.outcome = "agreed"
    elif verdict.explanations:
        # the same mistake in float64: what agrees by chance in float32 is told apart
        exact = replace(setting, dtype="float64")
        doubles = {name: value.astype(np.float64) for name, value in weights.items()}
        again = np.random.default_rng([seed, 3])
        odd_setting(again)
        candidate = odd(exact, doubles, again)
        oracle = Oracle(exact, doubles, seen, given)
        numbers = [returned(exact, candidate, probe, finals) for probe in seen]
        sets = [mistakes_of(one.causes) for one in verdict.explanations]
        coincides = all(
            not any(m.name == "precision" for m in one) and oracle.same(one, numbers)
            for one in sets
        )
        result.outcome = "coincides" if coincides else "explained"
        said = [" + ".join(map(str, one)) for one in sets]
        result.detail += f" -> {' | '.join(said[:3])}"
    elif candidate.unit is not None and not names_unit(verdict, candidate.unit):
        result.outcome = "unit"
        result.detail += f" unit {candidate.unit} -> {verdict.holds}"
    return result


def names_unit(verdict: Any, unit: int) -> bool:
    return any(f"unit {unit} differs" in sentence for sentence in verdict.holds)


# --- as a script ----------------------------------------------------------------------------------


def _settings(asked: argparse.Namespace) -> list[Setting]:
    kinds = [asked.kind] if asked.kind else list(KINDS)
    places = [
        (layers, directions)
        for layers, directions in PLACES
        if asked.layers in (None, layers) and asked.directions in (None, directions)
    ]
    found = []
    for kind, (layers, directions) in itertools.product(kinds, places):
        setting = Setting(kind, layers, directions, asked.input, dtype=asked.dtype, seed=asked.seed)
        if asked.wide:  # the input as wide as the output, for what needs it
            setting = replace(setting, input_size=setting.width * directions)
        found.append(setting)
    return found


def _known(asked: argparse.Namespace) -> int:
    size = {"singles": 1, "pairs": 2, "triples": 3}[asked.what]
    ways = [asked.given] if asked.given else ["call", "arrays", "output"]
    if asked.arrays:
        ways = ["arrays", "output"]
    sums: Counter[str] = Counter()
    every: list[float] = []
    for setting, given in itertools.product(_settings(asked), ways):
        counts: Counter[str] = Counter()
        times: list[float] = []
        options = {"lengths": asked.padded, "scoped": not asked.everywhere}
        options["steps"] = given == "steps"
        draw = covering if asked.covering else drawn
        for mistakes in draw(setting, size, asked.seed, **options):
            if counts.total() - counts["silent"] - counts["undefined"] >= asked.count:
                break
            result = plant(
                setting,
                mistakes,
                given,
                lengths=asked.padded,
                initial=not asked.zeros,
                seconds=asked.seconds,
            )
            counts[result.outcome] += 1
            if result.seconds:
                times.append(result.seconds)
            if result.outcome in FAILURES:
                print(f"  {result}", flush=True)
        _figures(f"{setting.kind} {setting.layers}x{setting.directions} {given}", counts, times)
        sums += counts
        every += times
    _figures(f"{asked.what} in all", sums, every)
    return sum(sums[name] for name in FAILURES)


def _figures(title: str, counts: Counter[str], times: list[float]) -> None:
    total = sum(counts[name] for name in ("explained", *FAILURES))
    share = counts["explained"] / total if total else 1
    print(
        f"{title}: {total} compared, {counts['explained']} explained ({share:.1%}), "
        f"{counts['missed']} missed, {counts['wrong']} wrong, {counts['agreed']} called right, "
        f"{counts['raised']} raised; {counts['silent']} cannot show, "
        f"{counts['undefined']} mean nothing; "
        f"median {statistics.median(times or [0]):.2f} s, most {max(times, default=0):.2f} s",
        flush=True,
    )


def _unknown(asked: argparse.Namespace) -> int:
    counts: Counter[str] = Counter()
    times: list[float] = []
    seed = asked.seed * 10**6
    while counts.total() - counts["dim"] < asked.count:
        result = unexplained(seed, asked.seconds)
        seed += 1
        counts[result.outcome] += 1
        times += [result.seconds] if result.seconds else []
        if result.outcome not in ("right", "dim"):
            print(f"  seed {seed - 1}: {result}", flush=True)
    print(
        f"unexplained: {counts.total() - counts['dim']} compared, {counts['right']} right, "
        f"{counts['explained']} explained falsely, {counts['agreed']} called right, "
        f"{counts['unit']} whose unit is not named, {counts['coincides']} the same on these data, "
        f"{counts['raised']} raised; "
        f"{counts['dim']} cannot show; median {statistics.median(times):.2f} s, "
        f"most {max(times):.2f} s"
    )
    return sum(counts[name] for name in ("explained", "agreed", "unit", "raised"))


def main() -> int:
    """Print figures; the exit code is 1 where something was not right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("what", choices=["singles", "pairs", "triples", "unexplained"])
    parser.add_argument("--kind", choices=KINDS)
    parser.add_argument("--layers", type=int)
    parser.add_argument("--directions", type=int)
    parser.add_argument("--given", choices=WAYS)
    parser.add_argument("--arrays", action="store_true", help="recorded numbers only")
    parser.add_argument("--everywhere", action="store_true", help="in all layers and directions")
    parser.add_argument("--covering", action="store_true", help="each entry, or pair, once")
    parser.add_argument("--padded", action="store_true", help="with lengths")
    parser.add_argument("--zeros", action="store_true", help="recorded with initial states zero")
    parser.add_argument("--input", type=int, default=4, help="input size")
    parser.add_argument("--wide", action="store_true", help="input as wide as the output")
    parser.add_argument("--dtype", default="float64")
    parser.add_argument("--count", type=int, default=10**6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=60)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    failed = _unknown(asked) if asked.what == "unexplained" else _known(asked)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
