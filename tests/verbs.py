"""Every verb of the package on small numbers: what each answers, as plain data.

The inputs are made once, on the CPU and in float32, whatever torch's defaults are when a verb runs.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import rnnscope as rs
from rnnscope.cells import GRU_RESET_BEFORE, apply, from_h, from_x

__all__ = ["CPU", "VERBS", "Bench", "plain", "traced"]

CPU = {"device": "cpu", "dtype": torch.float32}


class Bench:
    """Layers and inputs for all verbs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        drawn = torch.Generator("cpu").manual_seed(3)
        self.x = torch.randn(5, 3, 3, generator=drawn, **CPU)
        self.lstm = nn.LSTM(3, 4, num_layers=2, bidirectional=True, **CPU)
        self.gru = nn.GRU(3, 4, **CPU)
        self.rnn = nn.RNN(3, 4, nonlinearity="relu", **CPU)
        self.cell = nn.LSTMCell(3, 4, **CPU)
        self.declared = rs.Recurrent(GRU_RESET_BEFORE, 3, 4, **CPU)
        softsign = rs.Cell("soft", "h", {"h": apply("softsign", from_x("h") + from_h("h"))})
        self.soft = rs.Recurrent(softsign, 3, 4, **CPU)
        layers = (self.lstm, self.gru, self.rnn, self.cell, self.declared, self.soft)
        for layer in layers:
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, -0.5, 0.5, generator=drawn)
        lengths = torch.tensor([5, 3, 2], device="cpu")
        self.packed = pack_padded_sequence(self.x, lengths)
        self.traces = {
            "lstm": rs.trace(self.lstm, self.packed, record="all"),
            "gru": rs.trace(self.gru, self.x),
            "rnn": rs.trace(self.rnn, self.x[:, 0]),
            "cell": rs.trace(self.cell, self.x[0]),
            "declared": rs.trace(self.declared, self.x),
            "soft": rs.trace(self.soft, self.x),
        }
        self.ones = {name: torch.ones_like(tr.h_n.detach()) for name, tr in self.traces.items()}
        self.npz = folder / "weights.npz"
        rs.save(self.gru, self.npz)
        self.file = folder / "trace.safetensors"
        self.traces["lstm"].save(self.file)


def plain(value: Any) -> Any:
    """An answer as numbers and texts that can be compared."""
    if isinstance(value, Tensor):
        return [str(value.dtype), str(value.device), list(value.shape), value.detach().tolist()]
    if isinstance(value, PackedSequence):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    return value if isinstance(value, int | float | bool | None) else str(value)


def traced(tr: rs.Trace) -> Any:
    """A trace's numbers and its text."""
    inputs = [tr.layer_input(k) for k in range(tr.sizes["layer"])]
    parts = dict(tr), inputs, tr.output, tr.h_n, tr.h_0, tr.valid, tr.parameters, tr.final
    last = tr.sel("h", time="last")
    return plain([*parts, last, tr.deviation, tr.tolerance, tr.proof, repr(tr), tr._repr_html_()])


def of_each(verb: Callable[[rs.Trace], Any]) -> Callable[[Bench], Any]:
    """The verb on every trace of the bench."""
    return lambda bench: {name: plain(verb(tr)) for name, tr in bench.traces.items()}


def trace_(bench: Bench) -> Any:
    h_0 = bench.traces["gru"].h_n.detach()
    return [
        traced(rs.trace(bench.lstm, bench.packed, record="all")),
        traced(rs.trace(bench.gru, bench.x, h_0)),
        traced(rs.trace(bench.gru, bench.x, check="thorough")),
        traced(rs.trace(bench.gru, bench.x, check=False, labels="abcde")),
        traced(rs.trace(bench.cell, bench.x[0])),
        traced(rs.trace(bench.declared, bench.packed)),
    ]


def watch_(bench: Bench) -> Any:
    model = nn.Sequential(bench.gru)
    with rs.watch(model) as seen:
        bench.gru(bench.x)[0].sum().backward()
    bench.gru.zero_grad()
    with rs.watch(bench.cell) as steps:
        state = None
        for x in bench.x:
            state = bench.cell(x, state)
    joined = steps.joined("")
    return [traced(seen["0"]), plain(seen["0"].grad), repr(seen), traced(joined), repr(steps)]


def explain_(tr: rs.Trace) -> Any:
    at = {"layer": 0, "direction": "forward", "batch": 0}
    number = tr.explain("h", **at, time="last", unit=1)
    step = tr.explain(**at, time=0, unit=0)
    walk = tr.explain(**at, unit=1)
    found = []
    for each in (number, step, walk):
        found += [str(each), each.latex(), each.markdown(), each.data()]
    return found


def gradients_(bench: Bench) -> Any:
    found = {}
    for name, tr in bench.traces.items():
        loss = tr.h_n.square().sum()
        for g in (tr.gradients(loss), tr.gradients(h_n=bench.ones[name])):
            facts = dict(g), g.parameters, dict(g.direct), g.initial, g.parameters_at(0)
            direct = [g.direct.layer_input(0)]
            address = {"layer": 0, "direction": "forward", "batch": 0, "time": 0, "unit": 1}
            texts = [repr(g), str(g.explain("h", **address))]
            found[f"{name} {len(found)}"] = plain([*facts, direct, g.deviation, *texts])
    return found


def rerun_(tr: rs.Trace) -> Any:
    edits = [
        rs.Edit("h", layer=0, batch=0, time=0, unit=1, to=0.5),
        rs.Edit("x", layer=0, time=0, add=1),
        rs.Edit("h_0", scale=2.0),
    ]
    found = [traced(tr.rerun(edit)) for edit in edits]
    name = next(iter(tr.parameters))
    found.append(traced(tr.rerun(weights={name: tr.parameters[name] * 2})))
    found.append(plain(dict(tr.rerun(edits[0]).difference(tr))))
    return found


def plot_(bench: Bench) -> Any:
    tr, data = bench.traces["lstm"], rs.plot.data
    at = {"layer": 0, "direction": "forward", "batch": 0}
    g = tr.gradients(h_n=bench.ones["lstm"])
    found = [
        data.quantity(tr, "f", **at),
        data.units(tr, "c", **at),
        data.saturation(tr),
        data.gradient_norm(g, batch=0),
        data.flow(tr, **at),
        data.memory(tr, **at),
        data.eigenvalues(tr, layer=0, direction="forward"),
        data.unrolled(bench.traces["gru"], labels="abcde"),
    ]
    rs.plot.quantity(tr, "f", **at)
    return [repr(each) for each in found]


def files_(bench: Bench) -> Any:
    found = {}
    for name in ("w.npz", "w.safetensors", "w.pt", "w.h5", "w.onnx"):
        path = bench.folder / name
        rs.save(bench.gru, path)
        for key, layer in rs.load(path).items():
            found[f"{name} {key}"] = [str(layer), plain(layer.state_dict())]
    return found


def unfuse_(bench: Bench) -> Any:
    found = []
    for layer, args in ((bench.lstm, bench.packed), (bench.gru, bench.x), (bench.soft, bench.x)):
        opened = rs.unfuse(layer) if isinstance(layer, nn.RNNBase) else layer
        found.append([plain(opened(args)), str(opened)])
    return found


def view_(bench: Bench) -> Any:
    tr = bench.traces["lstm"]
    page = tr.view(
        gradients=tr.gradients(h_n=bench.ones["lstm"]),
        labels=[list("abcde"), list("abc"), list("ab")],
    )
    path = bench.folder / "page.html"
    bench.traces["soft"].view(path)
    return [page.html, path.read_text(encoding="utf-8"), str(page)]


def compare_(bench: Bench) -> Any:
    wrong = copy.deepcopy(bench.gru)
    with torch.no_grad():
        wrong.weight_hh_l0[:4] *= 2
    return [
        re_timed(str(rs.compare(bench.gru, bench.gru, bench.x))),
        rs.compare(wrong, bench.gru, bench.x, effort=0).agrees,
        str(rs.compare(bench.gru, bench.gru, bench.x, gradients=True).gradients),
    ]


def record_(bench: Bench) -> Any:
    folder = Path(tempfile.mkdtemp(dir=bench.folder))
    store = rs.record(
        bench.lstm,
        [bench.packed],
        folder / "gates",
        labels=lambda batch: [*"abcde"],
        progress=False,
    )
    ds = rs.open_record(folder / "gates")[""]
    top = rs.top(ds, "c", unit=1, layer=1, direction="reverse", k=3)
    opened = [rs.sequence(ds, 1).to_dict(), rs.statistics(ds, correlations=True).to_dict()]
    shown = [str(top), top.to_html(), str(store).replace(str(folder), "")]
    return [str(opened), *shown]


def saved_(bench: Bench) -> Any:
    found = []
    for record in (
        bench.traces["gru"].memory(),
        bench.traces["gru"].gradients(h_n=bench.ones["gru"]),
    ):
        record.save(bench.folder / "saved.record")
        read = rs.load_record(bench.folder / "saved.record")
        found.append([plain(dict(read)), plain(read.groups), str(read)])
    return found


def re_timed(text: str) -> str:
    """A verdict's text without what depends on a clock."""
    return "\n".join(line for line in text.splitlines() if " s" not in line)


VERBS: dict[str, Callable[[Bench], Any]] = {
    "trace": trace_,
    "watch": watch_,
    "explain": of_each(explain_),
    "shapes": of_each(lambda tr: [str(tr.shapes()), tr.shapes().markdown(), tr.shapes().data()]),
    "gradients": gradients_,
    "jacobian": of_each(lambda tr: tr.jacobian("h", "h", layer=0, direction="forward", time=0)),
    "step_jacobian": of_each(
        lambda tr: tr.step_jacobian(0, layer=0, direction="forward", batch=0).matrix
    ),
    "flow": of_each(lambda tr: tr.flow(layer=0, direction="forward")),
    "memory": lambda bench: [
        plain([dict(m), m.initial])
        for m in (bench.traces[name].memory() for name in ("lstm", "gru", "declared"))
    ],
    "rerun": of_each(rerun_),
    "unfuse": unfuse_,
    "save and load_trace": lambda bench: [
        bench.traces["lstm"].save(bench.folder / "again.safetensors"),
        traced(rs.load_trace(bench.folder / "again.safetensors")),
        traced(rs.load_trace(bench.file)),
    ],
    "save and load": files_,
    "save and load_record": saved_,
    "record": record_,
    "view": view_,
    "plot": plot_,
    "to_pandas": lambda bench: [bench.traces["lstm"].to_pandas().to_csv()],
    "to_xarray": lambda bench: [str(bench.traces["lstm"].to_xarray().to_dict())],
    "compare": compare_,
}
