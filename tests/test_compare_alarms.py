"""`rs.compare` says that what is right agrees, and gives no cause for what no entry describes."""

from __future__ import annotations

import ast
import warnings
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import pytest
import torch
from planted import Planted
from planting import KINDS, PLACES, Setting
from torch import nn

import rnnscope as rs

STEPS = (5, 100, 2000)


def in_numpy(layer: nn.Module, kind: str) -> Any:
    """The layer's numbers in NumPy, written independently."""
    planted = Planted(kind, {name: v.numpy() for name, v in layer.state_dict().items()})
    return lambda x, initial=None: planted(np.asarray(x), initial)


def wild(kind: str, dtype: str, *, hidden: int = 16, layers: int = 1, directions: int = 1) -> Any:
    """A layer in which a rounding grows to everything: no state is near a fixed point."""
    setting = Setting(kind, layers, directions, 3, hidden, 5, dtype)
    layer = setting.layer()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("weight_hh"):
                if kind.startswith("rnn"):
                    radius = torch.linalg.eigvals(parameter.double()).abs().max()
                    parameter.mul_(3 / radius)
                else:
                    parameter.mul_(12)
    return setting, layer


def slow(*values: Any) -> list[Any]:
    """Parameters that only `make test-all` tries."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def agrees(candidate: Any, layer: nn.Module, x: Any = None, initial: Any = None) -> Any:
    verdict = rs.compare(candidate, layer, x, initial, effort=10, progress=False)
    assert verdict.agrees, str(verdict)
    assert verdict.explanations == ()
    return verdict


# --- the layers themselves, and NumPy -------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_right_on_its_own_probes(kind: str, place: tuple[int, int], dtype: str) -> None:
    layer = Setting(kind, *place, 3, 5, 2, dtype).layer()
    agrees(layer, layer)
    agrees(in_numpy(layer, kind), layer)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_padded_sequences(kind: str, dtype: str) -> None:
    setting = Setting(kind, 2, 2, 3, 5, 2, dtype)
    layer = setting.layer()
    planted = Planted(kind, setting.weights(layer))
    x, initial = setting.data(7, 4)
    lengths = np.array([3, 7, 1, 5])
    output, final = planted(x, initial, lengths)
    states = final if isinstance(final, tuple) else (final,)
    arrays = {"output": output, **dict(zip(("h_n", "c_n"), states, strict=False))}
    assert rs.compare(arrays, layer, x, initial, lengths=lengths)
    assert rs.compare(layer, layer, lengths=True)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", KINDS)
def test_long_sequences_of_ordinary_weights(kind: str, dtype: str, steps: int) -> None:
    setting = Setting(kind, 1, 1, 3, 5, 2, dtype)
    layer = setting.layer()
    if kind == "rnn_relu":
        with torch.no_grad():
            layer.weight_hh_l0.mul_(0.3)  # type: ignore[operator]
    x, initial = setting.data(steps, 2 if steps < 1000 else 1)
    output, final = Planted(kind, setting.weights(layer))(x, initial)
    agrees((output, final), layer, x, initial)
    if steps < 1000:
        agrees(output, layer, x, initial)


@pytest.mark.parametrize("steps", [STEPS[0], *slow(*STEPS[1:])])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["rnn_tanh", "gru", "lstm", "lstm_projected"])
def test_chaotic_weights(kind: str, dtype: str, steps: int) -> None:
    """Free runs of two right implementations come to differ by everything."""
    setting, layer = wild(kind, dtype)
    x, initial = setting.data(steps, 2 if steps < 1000 else 1)
    planted = Planted(kind, setting.weights(layer))
    output, final = planted(x, initial)
    agrees((output, final), layer, x, initial)
    if steps < 1000 or kind == "rnn_tanh":  # the others take long
        agrees(output, layer, x, initial)
        agrees(in_numpy(layer, kind), layer, x, initial)
        agrees(layer, layer, x, initial)


def test_chaos_is_chaos() -> None:
    """Else the test above would say nothing: in float32 the two are far apart after 100 steps."""
    setting, layer = wild("rnn_tanh", "float32")
    x, initial = setting.data(100, 2)
    output, _ = Planted("rnn_tanh", setting.weights(layer))(x, initial)
    with torch.no_grad():
        expected, _ = layer(torch.from_numpy(x), torch.from_numpy(initial))
    assert np.abs(output - expected.numpy()).max() > 0.1


@pytest.mark.parametrize("dtype", ["float32", *slow("float64")])
@pytest.mark.parametrize("kind", ["rnn_tanh", "gru", "lstm"])
def test_chaotic_weights_in_two_layers_and_directions(kind: str, dtype: str) -> None:
    setting, layer = wild(kind, dtype, layers=2, directions=2)
    x, initial = setting.data(100, 2)
    planted = Planted(kind, setting.weights(layer))
    output, final = planted(x, initial)
    # every number depends on the other direction's whole run below: of numbers alone none tells
    for recorded in ((output, final), output, 0 * output + 0.37):
        verdict = rs.compare(recorded, layer, x, initial)
        assert not verdict
        assert verdict.causes == ()
        assert str(verdict).startswith("cannot be decided")
    # what can be called is compared on short inputs too
    agrees(lambda x, initial=None: planted(np.asarray(x), numbers(initial)), layer, x, initial)
    wrong = rs.compare(
        lambda x, initial=None: 0 * layer(x, initial)[0], layer, x, initial, effort=0.05
    )
    assert not wrong


def numbers(initial: Any) -> Any:
    """Initial states as arrays."""
    if isinstance(initial, tuple):
        return tuple(map(np.asarray, initial))
    return None if initial is None else np.asarray(initial)


@pytest.mark.parametrize(
    ("kind", "scale", "sizes", "steps", "seed"),
    [
        ("RNN", 4.0, (1, 4, 2, True), 300, 59),
        ("RNN", 6.0, (3, 8, 2, False), 20, 534),
        ("GRU", 10.0, (1, 2, 1, True), 300, 84),
        ("GRU", 20.0, (3, 2, 1, False), 300, 207),
        ("GRU", 50.0, (3, 4, 2, False), 300, 288),
        ("GRU", 50.0, (5, 2, 3, False), 40, 7),
    ],
)
def test_large_weights(
    kind: str, scale: float, sizes: tuple[int, int, int, bool], steps: int, seed: int
) -> None:
    """Roundings grow in bursts, or are kept for long where gates are saturated."""
    features, hidden, layers, both = sizes
    for k in range(8):
        torch.manual_seed(seed + k)
        layer = getattr(nn, kind)(features, hidden, layers, bidirectional=both)
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(scale)
        verdict = rs.compare(layer, layer, torch.randn(steps, 2, features), effort=0)
        assert verdict or verdict.undecided, f"{k}: {verdict}"


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("growth", ["grows", "overflows"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_exploding_relu(dtype: str, growth: str, layers: int) -> None:
    setting = Setting("rnn_relu", layers, 1, 3, 8, dtype=dtype)
    layer = setting.layer()
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if name.startswith("weight_hh"):
                parameter.abs_()
    x, initial = setting.data(20 if growth == "grows" else 2000, 2)
    planted = Planted("rnn_relu", setting.weights(layer))
    output, final = planted(x, initial)
    assert np.isfinite(output).all() == (growth == "grows")
    assert np.abs(output[:20]).max() > 1e3
    agrees((output, final), layer, x, initial)
    agrees(output, layer, x, initial)
    agrees(layer, layer, x, initial)


# --- implementations of others --------------------------------------------------------------------


def test_the_trained_gru_of_g2p_en() -> None:
    """That package's own NumPy code with the weights that it ships; only its class is taken, since
    importing it needs corpora."""
    package = distribution("g2p-en")
    path = Path(str(package.locate_file("g2p_en/g2p.py")))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of an escape in one of its strings
        tree = ast.parse(path.read_text(encoding="utf-8"))
    (kind,) = (node for node in tree.body if getattr(node, "name", "") == "G2p")
    assert isinstance(kind, ast.ClassDef)
    wanted = ("sigmoid", "grucell", "gru")
    kind.body = [node for node in kind.body if getattr(node, "name", "") in wanted]
    assert len(kind.body) == len(wanted)
    namespace: dict[str, Any] = {"np": np}
    exec(compile(ast.Module([kind], []), str(path), "exec"), namespace)
    own = namespace["G2p"]()
    checkpoint = np.load(str(package.locate_file("g2p_en/checkpoint20.npz")))
    for side in ("enc", "dec"):
        w = [checkpoint[f"{side}_{name}"] for name in ("w_ih", "w_hh", "b_ih", "b_hh")]
        layer = nn.GRU(w[0].shape[1], w[1].shape[1], batch_first=True)
        with torch.no_grad():
            for parameter, value in zip(layer.parameters(), w, strict=True):
                parameter.copy_(torch.from_numpy(value))

        def f(x: Any, initial: Any = None, w: Any = w) -> Any:
            x = np.asarray(x)  # (batch, time, feature)
            return own.gru(
                x, x.shape[1], *w, h0=None if initial is None else np.asarray(initial)[0]
            )

        agrees(f, layer)
        rng = np.random.default_rng(0)
        for steps in (5, 100):
            embedded = checkpoint[f"{side}_emb"][rng.integers(0, 26, (2, steps))]
            agrees(f, layer, embedded)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
def test_onnxruntime(kind: str, directions: int, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    setting = Setting(kind, 1, directions, 3, 5, dtype="float32")
    layer = setting.layer()
    rs.save({"a": layer}, tmp_path / "layer.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "layer.onnx", providers=["CPUExecutionProvider"]
    )
    (given,) = session.get_inputs()

    def theirs(x: Any) -> Any:
        return session.run(None, {given.name: np.asarray(x)})[0]

    agrees(theirs, layer)
    for steps in STEPS:
        x, _ = setting.data(steps, 2, initial=False)
        agrees(theirs(x), layer, x)


# --- wrong in a way that no entry describes -------------------------------------------------------


@pytest.mark.parametrize("seed", [*range(12), *slow(*range(12, 60))])
def test_no_cause_for_what_no_entry_describes(seed: int) -> None:
    result = mutations.unexplained(seed, effort=0.2)
    assert result.outcome in ("right", "dim"), str(result)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [33000006, 33000007])
def test_few_numbers_are_not_fitted_beside_a_mistake(seed: int) -> None:
    """Two to four of them: a share of h that is measured beside a mistake fits anything."""
    result = mutations.unexplained(seed, effort=1)
    assert result.outcome == "right", str(result)


@pytest.mark.parametrize("seed", [737, 1060, 1077])
def test_what_shows_with_few_inputs_is_no_agreement(seed: int) -> None:
    """A unit of relu that is zero most of the time."""
    result = mutations.unexplained(seed, effort=0.2)
    assert "rnn_relu" in str(result)
    assert result.outcome == "right", str(result)


@pytest.mark.parametrize("kind", ["rnn_tanh", "rnn_relu", "gru", "lstm"])
@pytest.mark.parametrize("key", ["weight_ih_l0", "weight_hh_l0", "bias_hh_l0"])
def test_the_unit_of_one_wrong_number_is_named(kind: str, key: str) -> None:
    setting = Setting(kind, hidden_size=6)
    layer = setting.layer()
    weights = setting.weights(layer)
    weights[key].flat[weights[key].size - 3] += 1e-2
    unit = (len(weights[key]) - 1 - (2 // weights[key][0].size)) % 6
    planted = Planted(kind, weights)
    verdict = rs.compare(lambda x, initial=None: planted(x, initial), layer, effort=0.2)
    assert not verdict
    assert verdict.explanations == ()
    assert mutations.names_unit(verdict, unit), verdict.holds
