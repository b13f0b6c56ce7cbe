"""tr.shapes(): every printed line of code is run again here, by the test's own reading of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from configurations import SOME, Configuration, build, name_of
from goldens import assert_golden
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

import rnnscope as rs
from rnnscope.errors import VerificationError

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")

CASES: dict[str, Any] = {
    "stacked": (lambda: nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True), (3, 6, 4)),
    "time_first": (lambda: nn.GRU(4, 5), (6, 3, 4)),
    "unbatched": (lambda: nn.RNN(4, 5, num_layers=3), (6, 4)),
    "square": (lambda: nn.RNN(4, 5, bidirectional=True, batch_first=True), (2, 2, 4)),
    "deep": (lambda: nn.GRU(2, 2, num_layers=7, bidirectional=True), (3, 2, 2)),
    "cell": (lambda: nn.LSTMCell(4, 5), (3, 4)),
    "cell_unbatched": (lambda: nn.GRUCell(4, 5), (4,)),
    "packed": (lambda: nn.LSTM(4, 5, bidirectional=True, proj_size=2, batch_first=True), [3, 6, 1]),
}


def traced(name: str, **options: Any) -> rs.Trace:
    layer, size = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = layer()
        if isinstance(size, tuple):
            return rs.trace(module, torch.randn(size), **options)
        sequences = [torch.randn(length, 4) for length in size]
        return rs.trace(module, pack_sequence(sequences, enforce_sorted=False), **options)


def names_of(tr: rs.Trace) -> dict[str, Any]:
    """What a reader has in hand after the call that the text shows."""
    names = {"tr": tr, "torch": torch, "output": tr.output, "h_n": tr.h_n}
    if "c" in tr.cell.states:
        names["c_n"] = tr.c_n
    return names


def equations(text: str) -> Iterator[tuple[str, str]]:
    """The two sides of every printed equation, read from the text alone."""
    body = text.split("\nTraps")[0].replace("\n        = ", "   = ")
    for line in body.splitlines()[1:]:
        if "   = " in line and not line.startswith("x "):
            left, right = line.split("   = ")
            yield left.strip().split("   ")[0], right.strip()


def padded(value: Tensor | PackedSequence) -> Tensor:
    return pad_packed_sequence(value)[0] if isinstance(value, PackedSequence) else value


def assert_text_is_true(tr: rs.Trace, atol: float) -> int:
    text = str(tr.shapes())
    names = names_of(tr)
    unpack = re.search(r"^ +(padded, lengths = .*)$", text, re.MULTILINE)
    if unpack:
        exec(unpack[1], names)
    found = list(equations(text))
    for left, right in found:
        values = padded(eval(left, names)), padded(eval(right, names))
        # c of the record is computed, so it may differ by rounding; all else is a copy
        torch.testing.assert_close(*values, rtol=0, atol=atol, equal_nan=True)
    for wrong, size, right in re.findall(r"wrong  (.+?)   +(.+)\n +right  (.+)", text):
        one, other = eval(wrong, names), eval(right, names)
        if size.startswith("off by"):
            gap = float((one.detach().double() - other.detach().double()).abs().max())
            assert float(size.split()[-1]) == pytest.approx(gap, rel=0.06)
        else:
            assert size == f"shape {tuple(one.shape)}, not {tuple(other.shape)}"
    return len(found)


@pytest.mark.parametrize("configuration", SOME, ids=name_of)
def test_every_line_is_true_when_a_reader_runs_it(configuration: Configuration) -> None:
    case = build(configuration)
    tr = rs.trace(case.layer, *case.args, **case.kwargs)
    count = assert_text_is_true(tr, atol=1e-12 if configuration.dtype is torch.float64 else 1e-5)
    assert f"{count} equalities" in str(tr.shapes())


@pytest.mark.parametrize("name", CASES)
def test_golden_text(name: str) -> None:
    tr = traced(name)
    assert_text_is_true(tr, atol=1e-6)
    assert_golden(f"shapes_{name}.txt", _without_sizes_of_errors(str(tr.shapes())))


@pytest.mark.parametrize("name", ["stacked", "packed"])
def test_golden_markdown(name: str) -> None:
    text = _without_sizes_of_errors(traced(name).shapes()._repr_markdown_())
    assert_golden(f"shapes_{name}_markdown.txt", text)


def _without_sizes_of_errors(text: str) -> str:
    """The numbers of torch's generator are not ours to fix; that they are right is tested above."""
    text = re.sub(r"off by \d[\d.e+-]*", "off by ...", text)
    return re.sub(r"\((exact|largest difference \S+)\)", "(...)", text)


def test_rows_are_the_layers_and_directions_that_torch_documents() -> None:
    tr = traced("stacked")
    rows = tr.h_n.view(2, 2, 3, 5)  # torch: h_n.view(num_layers, num_directions, batch, hidden)
    said = tr.shapes().sections[1].statements
    assert [s.code for s in said] == ["h_n[0]", "h_n[1]", "h_n[2]", "h_n[3]"]
    for s, (layer, direction) in zip(
        said, [(0, "forward"), (0, "reverse"), (1, "forward"), (1, "reverse")], strict=True
    ):
        assert s.says.startswith(f"layer {layer}, {direction}")
        assert ("not in output" in s.says) == (layer == 0)
        assert torch.equal(eval(s.code, names_of(tr)), rows[layer, int(direction == "reverse")])


@pytest.mark.parametrize("name", ["stacked", "packed", "unbatched", "deep"])
def test_rows_are_split_as_torch_documents_it(name: str) -> None:
    """The judge is torch's own way, layer by layer: a layer of one direction, run alone."""
    tr = traced(name)
    layers, directions = tr.structure.num_layers, len(tr.structure.directions)
    (section,) = [s for s in tr.shapes().sections if s.title.startswith("h_n.view")]
    first = "num_layers, num_directions, " + ("batch, " if tr.call.batched else "") + "hidden"
    assert section.title.startswith(f"h_n.view({first})")
    viewed = eval(section.statements[0].code, names_of(tr))
    assert viewed.shape == (layers, directions, *tr.h_n.shape[1:])
    for k in range(layers):
        for d in range(directions):
            assert torch.equal(viewed[k, d], tr.h_n[k * directions + d])


def test_the_reverse_direction_is_not_the_second_half() -> None:
    module = nn.LSTM(4, 5, 2, bidirectional=True, batch_first=True)
    x = torch.randn(3, 6, 4)
    tr = rs.trace(module, x)
    (trap,) = [trap for trap in tr.shapes().traps if "second half" in trap.why]
    state = {
        name.replace("_reverse", ""): value
        for name, value in module.state_dict().items()
        if name.endswith("l0_reverse")
    }
    alone = nn.LSTM(4, 5, batch_first=True)  # the reverse direction of layer 0 reads x backwards
    alone.load_state_dict(state)
    h_n = alone(x.flip(1))[1][0]
    torch.testing.assert_close(eval(trap.right, names_of(tr))[0], h_n[0])
    assert not torch.allclose(eval(trap.wrong, names_of(tr))[0], h_n[0], atol=0.01)


PARAMETERS: dict[str, Any] = {
    **{f"{name}": layer for name, (layer, _) in CASES.items()},
    "without_bias": lambda: nn.GRU(4, 5, 3, bias=False),
    "projected": lambda: nn.LSTM(4, 5, 3, proj_size=2, bidirectional=True),
    "peepholes": lambda: rs.Recurrent(rs.cells.LSTM_PEEPHOLE, 4, 5),
    "coupled": lambda: rs.Recurrent(rs.cells.LSTM_COUPLED, 4, 5),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_counted(name: str) -> None:
    """The judge is the module's own ``parameters()``."""
    module = PARAMETERS[name]()
    x = torch.randn(2, module.input_size)
    tr = rs.trace(module, x if isinstance(module, nn.RNNCellBase) else x.expand(3, 2, -1))
    section = tr.shapes().sections[-1]
    total = sum(p.numel() for p in module.parameters())
    assert section.title.startswith(f"Parameters: {total:,} numbers. ")
    assert int(section.statements[-1].equals) == total
    reverse = sum(p.numel() for n, p in module.named_parameters() if n.endswith("_l0_reverse"))
    forward = sum(p.numel() for n, p in module.named_parameters() if re.search(r"(_l0|[ih]h)$", n))
    for statement in section.statements[:1]:
        assert eval(statement.code) == int(statement.equals) == forward == (reverse or forward)


def test_parameters_in_words() -> None:
    text = str(rs.trace(nn.LSTM(4, 5, proj_size=2), torch.randn(3, 2, 4)).shapes())
    words = "4 gates × hidden × (input + projected + 2 biases) + projected × hidden"
    assert f"Parameters: 170 numbers. Each layer: {words}" in text
    text = str(rs.trace(nn.RNN(4, 5, 2, bias=False), torch.randn(3, 2, 4)).shapes())
    assert "Parameters: 95 numbers. Each layer: hidden × (input + hidden)" in text


class OneBias(nn.Module):
    """A class that is not torch's, with one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.W, self.U = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(4, 4))
        self.b = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h, states = x.new_zeros(x.shape[1], 4) if h is None else h, []
        for x_t in x:
            h = torch.tanh(x_t @ self.W.T + h @ self.U.T + self.b)
            states.append(h)
        return torch.stack(states), h


def test_parameters_of_another_class_are_told_as_such() -> None:
    named = {"weight_ih": "W", "weight_hh": "U", "bias_ih": "b"}
    cells = {OneBias: rs.Adapter(rs.cells.RNN_TANH, parameters=named)}
    module = OneBias()
    assert sum(p.numel() for p in module.parameters()) == 32
    said = str(rs.trace(module, torch.randn(5, 2, 3), cells=cells).shapes())
    assert "Parameters: 36 numbers by PyTorch's names. Each layer: hidden × (input" in said


def test_last_of_each_packed_sequence_is_told() -> None:
    text = str(traced("packed").shapes())
    for line in ("sequence 0: 3 steps, last time=2", "sequence 2: 1 step, last time=0"):
        assert line in text
    assert "padded[[0, 2], -1] is padding, zeros" in text


def test_many_sequences_are_told_by_their_rule() -> None:
    lengths = list(range(1, 30))
    packed = pack_sequence([torch.randn(n, 2) for n in lengths], enforce_sorted=False)
    text = str(rs.trace(nn.GRU(2, 3), packed).shapes())
    assert "sequence 7" in text
    assert "sequence 8" not in text
    assert "padded[lengths - 1, torch.arange(29)]" in text
    assert "28 sequences are shorter than 29" in text


def wrong_codes(tr: rs.Trace) -> list[str]:
    return [trap.wrong for trap in tr.shapes().traps]


def test_traps_are_those_of_the_call() -> None:
    assert wrong_codes(traced("unbatched")) == []
    assert wrong_codes(traced("cell")) == []
    assert wrong_codes(traced("time_first")) == ["output[:, -1]"]
    assert wrong_codes(traced("stacked")) == [
        "output[:, -1, 5:]",
        "h_n[-1]",
        "h_n[2:]",
        "h_n[0]",
        "h_n.view(3, -1)",
    ]
    assert wrong_codes(traced("square"))[-1] == "h_n.transpose(0, 1)"  # batch = directions = 2
    one = rs.trace(nn.GRU(4, 5, bidirectional=True, batch_first=True), torch.randn(1, 1, 4))
    assert wrong_codes(one) == ["h_n[-1]", "h_n[0]"]  # one step and one sequence: little to mix
    alone = rs.trace(nn.GRU(4, 5, batch_first=True), torch.randn(1, 1, 4))
    assert wrong_codes(alone) == []


def test_a_transposed_h_0_is_what_torch_accepts() -> None:
    """The trap as the text tells it: torch raises nothing, and the numbers are others."""
    layer = nn.RNN(4, 5, bidirectional=True, batch_first=True)
    x = torch.randn(2, 3, 4)
    h_n = rs.trace(layer, x).h_n
    right, _ = layer(x, h_n)
    wrong, _ = layer(x, h_n.transpose(0, 1).contiguous())
    assert not torch.equal(right, wrong)


def test_view_puts_those_sequences_into_row_0() -> None:
    tr = traced("stacked")
    trap, h_n = tr.shapes().traps[-1], tr.h_n.detach()
    assert "row 0 holds sequences 0, 1 and 2." in trap.why
    row = tr.h_n.view(3, -1)[0]
    assert torch.equal(row[:15].view(3, 5), tr.h_n[0])
    assert trap.error == pytest.approx(
        float((h_n.view(3, -1) - h_n.transpose(0, 1).reshape(3, -1)).abs().max())
    )


def test_what_is_about_some_words() -> None:
    said = traced("stacked").shapes()
    parameters = said.about("PARAMETERS")
    assert [s.title[:11] for s in parameters.sections] == ["Parameters:"]
    assert parameters.traps == ()
    assert str(parameters).endswith("Checked on what nn.LSTM returned: 3 equalities (exact).")
    view = said.about("view")
    assert [s.title[:8] for s in view.sections] == ["h_n.view"]
    assert [t.wrong for t in view.traps] == ["h_n.view(3, -1)"]
    trap = said.about("second half")
    assert trap.sections == ()
    assert trap.checked == "Checked on what nn.LSTM returned: 1 trap."
    assert "| `h_n[2:]` |" in trap.markdown()
    assert "wrong  h_n[2:]" in str(trap)
    assert said.about("h_n").data()["traps"]


@pytest.mark.parametrize("words", ["nothing", "", " "])
def test_words_that_are_nowhere_are_refused(words: str) -> None:
    with pytest.raises(rs.AddressError, match="titles begin with 'output', 'h_n'"):
        traced("stacked").shapes().about(words)


def test_output_changed_in_place_is_noticed() -> None:
    tr = traced("stacked")
    with torch.no_grad():
        tr.output[0, -1, 0] += 0.5
    with pytest.raises(VerificationError, match=r"output\[:, :, :5\] .* differs by 0.5"):
        tr.shapes()


@pytest.mark.parametrize("name", ["stacked", "packed", "unbatched", "cell"])
def test_without_running_the_layer(name: str) -> None:
    tr = traced(name, check=False)
    assert_text_is_true(tr, atol=0)
    assert "by the equations alone" in tr.shapes().checked
    assert "did not run: " in tr.shapes().checked


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("layer", [nn.LSTM(3, 4, 2), nn.RNN(3, 4, 2, nonlinearity="relu")])
def test_nan_and_inf_are_data(layer: nn.Module, value: float) -> None:
    x = torch.randn(5, 2, 3)
    x[2, 0, 1] = value
    assert "equalities" in rs.trace(layer, x).shapes().checked


@pytest.mark.parametrize("layer", [nn.LSTM(3, 4, 2, bidirectional=True), nn.GRU(3, 4, 2)])
def test_half_precision(layer: nn.Module) -> None:
    tr = rs.trace(layer.bfloat16(), torch.randn(5, 2, 3).bfloat16())
    assert tr.shapes().difference < 0.02  # a unit in the last place of bfloat16, below 1: 0.004


def test_data_is_plain_and_prints_as_json() -> None:
    data = traced("packed").shapes().data()
    assert json.loads(json.dumps(data)) == data
    assert data["sections"][1]["statements"][0]["code"] == "h_n[0]"
