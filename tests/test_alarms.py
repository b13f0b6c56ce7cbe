"""False alarms and missed faults: a right layer never raises, however its weights are made, and a
wrong number in what it returned always does.

The judge is torch: whatever its kernels return is right by definition, and a number that the test
itself changed is wrong.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from judges import lacks_kernel
from test_files_real import published
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import rnnscope as rs
from rnnscope._layers.adopt import Adopted
from rnnscope._layers.structure import Returned

CHUNK = 50
"""Draws per test."""
QUICK, ALL = 300, 3_000
FAULT = 1e-4
FAULTS_QUICK, FAULTS = 60, 400

CELLS = ("rnn_tanh", "rnn_relu", "gru", "lstm", "lstm_proj")
WEIGHTS = ("constant", "positive", "uniform", "sparse", "rank one", "powers of two", "normal")
INPUTS = ("normal", "normal", "ones", "positive", "zeros", "large", "tiny")
PRECISIONS = ("float32", "float32", "float32", "float64", "float64", "bfloat16", "autocast")
MODES = {"grad": torch.enable_grad, "no grad": torch.no_grad, "inference": torch.inference_mode}


@dataclass(frozen=True)
class Drawn:
    """One layer and one call of it."""

    seed: int
    cell: str
    weights: str
    scale: float
    inputs: str
    precision: str
    mode: str
    threads: int
    sizes: tuple[int, int]  # input, hidden
    layers: int
    bidirectional: bool
    bias: bool
    training: bool
    batch: int
    steps: int
    form: str  # "batched", "batch_first", "packed", "unbatched"
    initial: bool

    @classmethod
    def of(cls, seed: int) -> Drawn:
        """Everything at random; work per draw is about the same, so a long call has few units."""
        choose = random.Random(seed)
        scale = choose.choice((1.0, 1.0, 1.0, 12.0, 10.0 ** choose.uniform(-30, 8)))
        # steps × sequences × weights is bounded: 1 in 100 draws may be large
        work, largest = (2e8, (2_000, 20_000)) if seed % 100 == 99 else (3e6, (400, 400))
        # equal weights round most alike in large layers: half of the draws are such
        least = choose.choice((1, 40))
        hidden = round(math.exp(choose.uniform(math.log(least), math.log(largest[0]))))
        inputs = choose.choice((1, 2, 3, 7, 16, 40))
        steps = round(math.exp(choose.uniform(0, math.log(largest[1]))))
        layers = choose.choice((1, 1, 1, 2, 3))
        batch = choose.choice((1, 2, 3, 8))
        gates = 4 * hidden * (hidden + inputs) * layers
        steps = max(1, min(steps, round(work / gates / batch)))
        return cls(
            seed,
            choose.choice(CELLS),
            choose.choice(WEIGHTS),
            scale,
            choose.choice(INPUTS),
            choose.choice(PRECISIONS),
            choose.choice(list(MODES)),
            choose.choice((1, 1, 1, 1, 1, 1, 1, 2)),
            (inputs, hidden),
            layers,
            choose.random() < 0.3,
            choose.random() < 0.8,
            choose.random() < 0.3,
            batch,
            steps,
            choose.choice(("batched", "batched", "batch_first", "packed", "unbatched")),
            choose.random() < 0.3,
        )

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.precision == "autocast" else getattr(torch, self.precision)

    def filled(self, shape: torch.Size) -> Tensor:
        """A weight of this kind, in float64."""
        normal = torch.randn(shape, dtype=torch.float64)
        spread = 1 / math.sqrt(shape[-1]) if len(shape) == 2 else 0.25
        match self.weights:
            case "constant":
                number = random.Random(self.seed).choice((0.001, 0.01, 0.1 * spread, spread))
                return torch.full(shape, number, dtype=torch.float64)
            case "positive":
                return torch.rand(shape, dtype=torch.float64)
            case "uniform":
                return (2 * torch.rand(shape, dtype=torch.float64) - 1) * spread
            case "sparse":
                return normal * (torch.rand(shape) < 0.1)
            case "rank one":
                rows = torch.randn(shape[0], dtype=torch.float64)
                return spread * (rows if len(shape) == 1 else torch.outer(rows, normal[0]))
            case "powers of two":
                return normal.sign() * 2.0 ** torch.randint(-8, 1, shape)
            case _:
                return normal * spread

    def layer(self) -> nn.RNN | nn.GRU | nn.LSTM:
        inputs, hidden = self.sizes
        kinds = {"rnn_tanh": nn.RNN, "rnn_relu": nn.RNN, "gru": nn.GRU}
        options: dict[str, Any] = {}
        if self.cell.startswith("rnn"):
            options["nonlinearity"] = self.cell[4:]
        if self.cell == "lstm_proj" and hidden > 1:
            options["proj_size"] = hidden // 2
        layer = kinds.get(self.cell, nn.LSTM)(
            inputs,
            hidden,
            num_layers=self.layers,
            bidirectional=self.bidirectional,
            bias=self.bias,
            batch_first=self.form == "batch_first",
            dropout=0.2 if self.layers > 1 else 0.0,
            **options,
        )
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(self.filled(parameter.shape) * self.scale)
        return layer.to(self.dtype).train(self.training)

    def input(self) -> Any:
        shape = (self.steps, self.batch, self.sizes[0])
        made = {
            "normal": lambda: torch.randn(shape),
            "ones": lambda: torch.ones(shape),
            "positive": lambda: torch.rand(shape),
            "zeros": lambda: torch.zeros(shape),
            "large": lambda: torch.randn(shape) * 1e6,
            "tiny": lambda: torch.randn(shape) * 1e-25,
        }
        x = made[self.inputs]().to(self.dtype)
        match self.form:
            case "batch_first":
                return x.transpose(0, 1).contiguous()
            case "unbatched":
                return x[:, 0]
            case "packed":
                lengths = torch.randint(1, self.steps + 1, (self.batch,))
                return pack_padded_sequence(x, lengths, enforce_sorted=False)
            case _:
                return x

    def states(self, layer: nn.RNN | nn.GRU | nn.LSTM) -> Any:
        """Initial states, or None."""
        if not self.initial:
            return None
        rows = self.layers * (2 if self.bidirectional else 1)
        batch = () if self.form == "unbatched" else (self.batch,)
        h_0 = torch.randn(rows, *batch, layer.proj_size or self.sizes[1]).to(self.dtype)
        c_0 = torch.randn(rows, *batch, self.sizes[1]).to(self.dtype)
        return (h_0, c_0) if isinstance(layer, nn.LSTM) else h_0

    def trace(self, **options: Any) -> rs.Trace:
        lowered = contextlib.nullcontext()
        if self.precision == "autocast":
            lowered = torch.autocast("cpu", torch.bfloat16)
        with torch.random.fork_rng(devices=[]), threads(self.threads), lowered:
            torch.manual_seed(self.seed)
            layer, x = self.layer(), self.input()
            states = self.states(layer)
            with MODES[self.mode]():
                return rs.trace(layer, x, states, **options)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ── right layers ─────────────────────────────────────────────────────────────────────────────


def chunks(start: int, stop: int) -> list[range]:
    return [range(first, min(first + CHUNK, stop)) for first in range(start, stop, CHUNK)]


def never_raise(seeds: range) -> None:
    alarms = []
    for seed in seeds:
        drawn = Drawn.of(seed)
        try:
            tr = drawn.trace()
        except rs.VerificationError as error:
            alarms.append(f"{drawn}\n    {error}")
            continue
        except RuntimeError as error:
            if lacks_kernel(error):
                continue
            raise
        for proof in tr.proofs.values():
            assert proof.ratio <= 1
            assert proof.deviation <= proof.tolerance
    assert not alarms, "\n".join(alarms)


@pytest.mark.parametrize("seeds", chunks(0, QUICK), ids=str)
def test_right_layers_never_raise(seeds: range) -> None:
    never_raise(seeds)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", chunks(QUICK, ALL), ids=str)
def test_more_right_layers_never_raise(seeds: range) -> None:
    never_raise(seeds)


def constant(layer: nn.RNN | nn.GRU | nn.LSTM, number: float) -> Any:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(number)
    return layer


@pytest.mark.parametrize("check", [True, "thorough"])
@pytest.mark.parametrize(
    ("make", "number", "dtype"),
    [
        (lambda: nn.RNN(64, 64, nonlinearity="relu"), 1e-3, torch.float32),
        (lambda: nn.RNN(64, 150, nonlinearity="relu"), 1e-3, torch.float32),
        (lambda: nn.RNN(3, 100), 1e-3, torch.float32),
        (lambda: nn.GRU(3, 700), 1e-3 / 7, torch.float64),
        (lambda: nn.LSTM(64, 200), 5e-4, torch.float64),
        (lambda: nn.LSTM(3, 200, proj_size=100), 1e-3, torch.float32),
    ],
    ids=["relu", "large relu", "tanh", "gru", "lstm", "projected"],
)
def test_equal_weights_round_alike(
    make: Any, number: float, dtype: torch.dtype, check: bool | str
) -> None:
    """All terms of a sum round in the same direction: further than independent roundings would,
    and less far than n of them can."""
    layer = constant(make(), number).to(dtype)
    for x in (torch.ones(20, 5, layer.input_size), torch.rand(20, 5, layer.input_size)):
        with torch.no_grad():
            tr = rs.trace(layer, x.to(dtype), check=check)
        assert not tr.unverified
        assert tr.deviation is not None
        assert tr.tolerance is not None
        # gates are near one half, states of whatever size
        largest = max(1.0, float(tr["h"].abs().max()))
        assert tr.deviation <= tr.tolerance < torch.finfo(dtype).eps * layer.hidden_size * largest


@pytest.mark.parametrize("scale", [1e-30, 1e-22, 1e-15, 1e15, 1e22, 1e30])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_squares_beyond_what_the_type_can_hold(cell: str, scale: float, dtype: torch.dtype) -> None:
    """In the norms of weights and of inputs."""
    scale = scale if dtype == torch.float32 else scale**6
    kinds: dict[str, Any] = {"rnn_tanh": nn.RNN, "rnn_relu": nn.RNN, "gru": nn.GRU}
    options: dict[str, Any] = {"nonlinearity": cell[4:]} if cell.startswith("rnn") else {}
    options |= {"proj_size": 3} if cell == "lstm_proj" else {}
    layer = kinds.get(cell, nn.LSTM)(4, 8, dtype=dtype, **options)
    x = torch.randn(6, 2, 4, dtype=dtype)
    plain = rs.trace(layer, x * scale)
    assert plain.tolerance is not None
    if scale < 1:  # as h_1 = tanh(b) says nothing of x
        small = rs.trace(layer, x * 0)
        assert plain.tolerance <= 2 * small.tolerance
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(scale)
    tr = rs.trace(layer, x)
    if scale < 1 and cell.startswith("rnn"):  # their states are as small as their weights
        assert tr.tolerance is not None
        assert tr.tolerance < 1e-4 * scale


CHAOTIC: dict[str, dict[str, Any]] = {
    "plain": {"num_layers": 2},
    "bidirectional": {"num_layers": 2, "bidirectional": True},
    "batch first": {"num_layers": 2, "batch_first": True},
    "training": {"num_layers": 3, "dropout": 0.3},
}


@pytest.mark.parametrize(
    ("options", "mode", "count"),
    [(options, mode, 1) for options in CHAOTIC for mode in MODES]
    + [(options, "grad", 2) for options in CHAOTIC],
)
def test_chaotic_stacks_run_again_to_the_last_bit(options: str, mode: str, count: int) -> None:
    """A last bit that is rounded otherwise in a layer below is another number 200 steps later."""
    torch.manual_seed(0)
    for batch in (1, 3):
        layer = nn.LSTM(8, 64, **CHAOTIC[options])
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.mul_(12)
        x = torch.randn(batch, 200, 8) if layer.batch_first else torch.randn(200, batch, 8)
        with threads(count), MODES[mode]():
            tr = rs.trace(layer, x)
        # what the layer below returned as its last states is where its second run ended
        assert all(proof.loose < proof.places / 2 for proof in tr.proofs.values())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cell", CELLS)
def test_packed_sequences_of_one_length_with_dropout(cell: str, mode: str) -> None:
    """Kernels may run them padded, and draw dropout's masks in that shape."""
    kinds: dict[str, Any] = {"rnn_tanh": nn.RNN, "rnn_relu": nn.RNN, "gru": nn.GRU}
    options = {"proj_size": 5} if cell == "lstm_proj" else {}
    layer = kinds.get(cell, nn.LSTM)(3, 16, num_layers=3, dropout=0.3, **options)
    packed = pack_padded_sequence(torch.randn(6, 2, 3), torch.tensor([6, 6]))
    with MODES[mode]():
        tr = rs.trace(layer, packed)
    proof = tr.proofs["h"]
    assert (proof.every_step, proof.loose) == (True, 0)
    assert proof.ratio <= 1


def test_what_cannot_run_again_to_the_last_bit_is_not_called_equal() -> None:
    """An input with gaps is copied without them, and the kernel of such an input rounds otherwise;
    in a chaotic stack nothing can be told of the layer above."""
    torch.manual_seed(0)
    layer = nn.RNN(3, 64, num_layers=2, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(12)
        for x in torch.randn(10, 300, 2, 3, dtype=torch.float64):
            proof = rs.trace(layer, x[:, 0]).proofs["h"]
            assert proof.ratio <= 1
            if proof.loose:
                break
    assert proof.loose > 250


# ── wrong ones ───────────────────────────────────────────────────────────────────────────────


def plant(monkeypatch: pytest.MonkeyPatch, what: str, size: float, place: int) -> None:
    """Change one number of what a layer returned, before it is opened."""
    right = Adopted.returned

    def wrong(self: Adopted, *args: Any) -> Returned:
        found = right(self, *args)
        if what == "h":
            return replace(found, h=changed(found.h, size, place))
        name = what[0]
        final = {**found.final, name: changed(found.final[name], size, place)}
        return replace(found, final=final)

    monkeypatch.setattr(Adopted, "returned", wrong)


def changed(value: Tensor, size: float, place: int) -> Tensor:
    value = value.clone()
    value.view(-1)[place % value.numel()] += size
    return value


def faults(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    missed = []
    for seed in seeds:
        choose = random.Random(seed)
        torch.manual_seed(seed)
        cell = choose.choice(CELLS)
        inputs, hidden = choose.choice((1, 4, 16)), choose.choice((2, 8, 32, 100))
        options: dict[str, Any] = {"nonlinearity": cell[4:]} if cell.startswith("rnn") else {}
        options |= {"proj_size": hidden // 2} if cell == "lstm_proj" else {}
        kinds: dict[str, Any] = {"rnn_tanh": nn.RNN, "rnn_relu": nn.RNN, "gru": nn.GRU}
        layer = kinds.get(cell, nn.LSTM)(
            inputs,
            hidden,
            num_layers=choose.choice((1, 2)),
            bidirectional=choose.random() < 0.3,
            **options,
        )
        steps, batch = choose.choice((1, 10, 50)), choose.choice((1, 3))
        x = torch.randn(steps, batch, inputs)
        rs.trace(layer, x)
        whats = ("h", "h_n", "c_n") if isinstance(layer, nn.LSTM) else ("h", "h_n")
        what = whats[seed % len(whats)]
        with monkeypatch.context() as patch:
            plant(patch, what, choose.choice((-FAULT, FAULT)), choose.randrange(10**9))
            try:
                rs.trace(layer, x)
            except rs.VerificationError:
                continue
        missed.append(f"{seed}: {what} of {layer}, {steps} steps")
    assert not missed, "\n".join(missed)


@pytest.mark.parametrize("seeds", chunks(0, FAULTS_QUICK), ids=str)
def test_faults_are_caught(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    faults(seeds, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", chunks(FAULTS_QUICK, FAULTS), ids=str)
def test_more_faults_are_caught(seeds: range, monkeypatch: pytest.MonkeyPatch) -> None:
    faults(seeds, monkeypatch)


def trained_gru() -> tuple[nn.GRU, Tensor]:
    """The encoder of g2p-en, on 8 words of 20 random letters."""
    stored = np.load(published("g2p-en", "g2p_en/checkpoint20.npz"))
    layer = nn.GRU(256, 256, batch_first=True)
    names = {
        f"{kind}_{part}_l0": f"enc_{kind[0]}_{part}"
        for kind in ("weight", "bias")
        for part in ("ih", "hh")
    }
    layer.load_state_dict({name: torch.from_numpy(stored[key]) for name, key in names.items()})
    return layer, torch.from_numpy(stored["enc_emb"])[torch.randint(3, 29, (8, 20))]


def trained_lstm() -> tuple[nn.LSTM, Tensor]:
    """The recurrent layer of silero-vad, on 60 steps."""
    layers: Any = rs.load(published("silero-vad", "silero_vad/data/silero_vad_16k.safetensors"))
    [layer] = [v for k, v in layers.items() if isinstance(v, nn.LSTM)][:1]
    return layer, torch.randn(60, 2, 128).abs()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layer_of", "what", "size", "least"),
    [
        (trained_gru, "h", 1e-4, 27),
        (trained_gru, "h", 1e-5, 15),
        (trained_lstm, "h", 1e-4, 27),
        (trained_lstm, "h", 1e-5, 10),
        (trained_lstm, "c_n", 1e-3, 27),
        (trained_lstm, "c_n", 1e-4, 20),
    ],
)
def test_faults_in_trained_layers(
    layer_of: Any, what: str, size: float, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 30 places; and at all of them from the size on that the proof tells."""
    in_trained_layers(layer_of, what, (size, least), 30, monkeypatch)


@pytest.mark.parametrize(("layer_of", "what"), [(trained_gru, "h"), (trained_lstm, "c_n")])
def test_some_faults_in_trained_layers(
    layer_of: Any, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_trained_layers(layer_of, what, (1e-3, 3), 3, monkeypatch)


def in_trained_layers(
    layer_of: Any,
    what: str,
    least: tuple[float, int],
    places: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plants errors of a size, of which so many must be caught, and of the proof's own: all."""
    layer, x = layer_of()
    tr = rs.trace(layer, x)
    shows = tr.proofs[what[0]].shows
    assert shows is not None
    assert f"above {shows:.0e} in {what[0]}" in tr.proof
    for planted, expected in (least, (shows, places)):
        caught = 0
        for k in range(places):
            choose = random.Random(k)
            with monkeypatch.context() as patch:
                sign = choose.choice((-1, 1))
                plant(patch, what, sign * planted, choose.randrange(10**9))
                with contextlib.suppress(rs.VerificationError):
                    rs.trace(layer, x)
                    continue
            caught += 1
        assert caught >= expected, (planted, caught)


def test_small_bounds_say_no_more() -> None:
    tr = rs.trace(nn.LSTM(3, 4), torch.randn(5, 2, 3))
    assert "would show" not in tr.proof
    assert tr.proofs["h"].shows is None


@pytest.mark.parametrize(("roundings", "raises"), [(4, False), (4000, True)])
def test_a_second_run_may_end_some_last_bits_beside_the_layer(
    roundings: int, raises: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another kernel adds in another order; what no order of sums explains is still told."""
    torch.manual_seed(0)
    layer, x = nn.GRU(5, 8, num_layers=2), torch.randn(10, 3, 5)
    right = Adopted.replay

    def rounded(self: Adopted, *args: Any, **kwargs: Any) -> Any:
        output, ends = right(self, *args, **kwargs)
        factor = 1 + roundings * torch.finfo(output.dtype).eps
        return output * factor, {name: value * factor for name, value in ends.items()}

    monkeypatch.setattr(Adopted, "replay", rounded)
    if raises:
        with pytest.raises(rs.VerificationError):
            rs.trace(layer, x)
    else:
        rs.trace(layer, x)


def test_h_n_is_held_to_the_last_row_of_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """By 1,000 steps, where a bound that grows with them would let 3e-3 pass; and in layers with
    equal weights, where the bound is wide."""
    for layer in (nn.RNN(3, 4), constant(nn.RNN(3, 200, nonlinearity="relu"), 0.001)):
        with monkeypatch.context() as patch:
            plant(patch, "h_n", 1e-7, 2)
            with pytest.raises(rs.VerificationError, match=r"h_n .* the last .*time=999"):
                rs.trace(layer, torch.ones(1000, 2, 3))
