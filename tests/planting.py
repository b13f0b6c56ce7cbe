"""One comparison of a layer with planted mistakes, and whether its verdict is right: judged by an
independent oracle in NumPy."""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from plantable import applicable
from planted import ORDER, Array, Mistake, Planted, UndefinedError
from torch import nn

import rnnscope as rs
from rnnscope._compare.mistakes import CATALOGUE

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
    """As they are planted; a limit that was read off the numbers names its state apart."""
    found = [Mistake(c.name, c.choice, c.tensors, c.layer, c.direction) for c in causes]
    return tuple(
        replace(m, choice=f"{m.tensors}:{m.choice}", tensors="")
        if m.name == "clipped" and m.tensors
        else m
        for m in found
    )


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
    effort: float = 10,
    without: Any = None,
) -> tuple[Any, Data, float]:
    """The verdict on a candidate (a Planted), the data on which it was compared, and the time."""
    finals = given in WITH_FINALS
    options: dict[str, Any] = {"effort": effort, "progress": False}
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
    effort: float = 10,
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
            effort=effort,
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
    elif any(m.name not in ORDER for one in sets for m in one):
        result.outcome = "otherwise"  # in words that cannot be planted, as what numbers show
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
        if together(chosen) and not any(CATALOGUE[mistake.name].alone for mistake in chosen):
            yield chosen
