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
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from planted import FUNCTIONS, ORDER, STEPS, Array, Planted
from planting import (
    FAILURES,
    GIVEN,
    KINDS,
    PLACES,
    WAYS,
    WITH_FINALS,
    Oracle,
    Setting,
    apart,
    compared,
    covering,
    drawn,
    mistakes_of,
    plant,
    returned,
)

# --- wrong in a way that no entry describes -------------------------------------------------------

FUNCTIONS["tanh(1.1x)"] = lambda x: np.tanh(1.1 * x)
FUNCTIONS["x / sqrt(1 + x²)"] = lambda x: x / np.sqrt(1 + x * x)
FUNCTIONS["leaky_relu"] = lambda x: np.where(x > 0, x, 0.1 * x)
FUNCTIONS["sigmoid(1.1x)"] = lambda x: 1 / (1 + np.exp(-1.1 * x))
FUNCTIONS["atan"] = lambda x: 0.5 + np.arctan(x) / np.pi
APPROXIMATE = ("softsign", "hard_tanh", "x rounded")
"""What is named as an approximation where it stands everywhere."""
READ_OFF = {
    "output scaled": "scaled",
    "x scaled": "scaled",
    "x moved": "moved",
    "states scaled": "scaled",
    "states negative": "scaled",
    "features turned": "read",
    "a unit zero": "units_missing",
}
"""What is read off the numbers, with the cause that says so."""
_UNLISTED = {
    "tanh": ("tanh(1.1x)", "x / sqrt(1 + x²)", "leaky_relu"),
    "relu": ("leaky_relu", "x / sqrt(1 + x²)"),
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
    "clipped": lambda v, x, s: _with(v, np.clip(v["h"], -0.15, 0.12)),
    "leaky": lambda v, x, s: _with(v, 0.97 * v["h"] + 0.02 * s["h"]),
    "scaled": lambda v, x, s: _with(v, 1.02 * v["h"] + 0.01),
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
        "output cut to steps": lambda y: np.floor(y * 50) / 50,
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
    outcome: str  # right, explained, near, coincides, agreed, unit (not named), raised, dim
    seconds: float = 0.0
    verdict: Any = None
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.outcome} {self.seconds:.1f}s [{self.setting} {self.given}] {self.detail}"


def unexplained(seed: int, effort: float = 10) -> OddResult:
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
            setting, layer, candidate, given, data=data, effort=effort
        )
    except Exception as error:
        result.outcome = "raised"
        result.detail += f" {type(error).__name__}: {error}"
        return result
    result.verdict = verdict
    result.outcome = "right"
    said = {cause.name for cause in verdict.causes}
    if verdict.agrees:
        result.outcome = "agreed"
    elif said == {"approximate"} and any(name in candidate.name for name in APPROXIMATE):
        result.outcome = "right"  # no mistake, but what it is
    elif [said] == [{read} for name, read in READ_OFF.items() if name in candidate.name]:
        result.outcome = "right"
    elif verdict.near is not None and any(c.name in ORDER for c in verdict.near.causes):
        result.outcome = "near"
        result.detail += f" -> {' + '.join(map(str, verdict.near.causes))}"
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
            all(m.name in ORDER for m in one) and oracle.same(one, numbers) for one in sets
        )
        result.outcome = "coincides" if coincides else "explained"
        if any(m.name not in ORDER for one in sets for m in one):
            # what was read off the numbers is no chance where other data say the same
            fresh = exact.data(9, 4, initial=True, seed=5)
            again_said, *_ = compared(
                exact, exact.layer(), candidate, given, data=fresh, effort=effort
            )
            if {*map(str, again_said.causes)} == {*map(str, verdict.causes)}:
                result.outcome = "right"
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
                effort=asked.effort,
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
        f"{counts['raised']} raised; {counts['otherwise']} told otherwise, "
        f"{counts['silent']} cannot show, "
        f"{counts['undefined']} mean nothing; "
        f"median {statistics.median(times or [0]):.2f} s, most {max(times, default=0):.2f} s",
        flush=True,
    )


def _unknown(asked: argparse.Namespace) -> int:
    counts: Counter[str] = Counter()
    times: list[float] = []
    seed = asked.seed * 10**6
    while counts.total() - counts["dim"] < asked.count:
        result = unexplained(seed, asked.effort)
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
    parser.add_argument("--effort", type=float, default=10)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    failed = _unknown(asked) if asked.what == "unexplained" else _known(asked)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
