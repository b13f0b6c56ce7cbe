"""One table of all layouts, in Markdown, generated from the records."""

from __future__ import annotations

from rnnscope._layouts.layout import BIASES, Layout, Stored
from rnnscope._layouts.records import LAYOUTS

__all__ = ["document", "table"]

_INTRODUCTION = """\
# Layouts

How each framework stores a recurrent layer, and so what `rnnscope` does with its arrays. Generated
from the records in `src/rnnscope/_layouts/` by `python -m rnnscope._layouts.table`; a test holds it
current.

Gates have PyTorch's letters: LSTM `i f g o` (others call `g` c, j or z), GRU `r z n` (others call
`n` h, a or o), RNN `h`. `-` is a block that is stored and not used. H is the number of units, I the
size of the input, P that of a projection, k the number of gates. Where a layer has one bias, it is
the sum of PyTorch's two; it comes back as `bias_ih`, with `bias_hh` zero.
An `rnn` is tanh unless the last column says otherwise; a file of arrays does not tell.
Where a framework has no stacks, each layer of one is a layer of its own in the file, and is loaded
as one: Keras's `lstm` and `lstm_1` are two, and so are two nodes of ONNX, `name_l0` and `name_l1`
where `rs.save` wrote a stack, or two layers that only a number before the names of their arrays
tells apart (`name.0`, `name.1` in burn). Names that hold the number themselves, PyTorch's, MXNet's
and rnnscope's, keep a stack together.
A `gru` resets after the product (r multiplies W_hn h + b_hn), a `gru_reset_before` before it.
"""

_BESIDE = """\
## What arrays do not tell

A GRU that resets before the product, an LSTM of coupled gates and an `rnn` of relu can have the
very names and shapes of others. `rs.save` says beside the arrays which cell each layer has, where
other readers pass over it: in a state dict's `_metadata` (.pt, .pth), where PyTorch keeps versions;
in the metadata of .safetensors; in the comment of an .npz; in an attribute of an .h5; in the
attributes of ONNX's nodes. The state dict of an `rs.Recurrent` says it too. `rs.load` follows it;
of files that do not say it, what was taken for granted is in `assumed`: that three blocks of rows
are a GRU, say, where no name says so, or that TensorFlow 1 adds 1 to the forget gate (the number is
in `forget_bias`, too). `print(rs.load(path))` and `rnnscope show` tell it.

## Arrays beside a layer, and other checkpoints

Every array under a layer's name is used, or named in `rs.load(path).ignored` with what it may be
(an initial state, moments of an optimiser, a module around the layer). Where one shows that the
cell computes something else, the file is refused: the scale of a normalisation (`gamma`,
`ln_ih.weight`), a peephole, a second bias (`recurrent_bias`), a mask or scale of a weight, an
adapter, one more vector of the layer's size. What to write then:

- An array that the layer computes without: `rs.load(path, ignore="rnn.gamma")`, or a pattern,
  `"*.gamma"`.
- A cell of your own (a minimal gated unit, a GRU with a decay): `rs.load(path,
  cells={"encoder.rnn": my_cell})`. Arrays are named as `rs.Recurrent` names its own, gates lie in
  the order of the cell; other names by `names=`.
- Other names, W_ih and W_hh side by side in one matrix, a matrix for each gate: the line with
  `layout=rs.Layout(...)` that the error proposes. The order of gates in one matrix is a guess, for
  you to judge.
- `weight_hh_l0_raw` of AWD-LSTM and fastai: nothing; it is read in the place of its copy with
  dropout.
- Weight norm, spectral norm, pruning: the function of `torch.nn.utils` that the error names, before
  the state dict is saved.
- Numbers of several types in one layer: the line that the error names, which writes them in one.
- A whole pickled model, TorchScript, torch.export, `quantize_dynamic`, a checkpoint of TensorFlow:
  the line that the error names, which writes what is read here. Nothing in a file is run.
- A `.ckpt` whose hyperparameters are objects of classes: nothing; its tensors are read, the objects
  are not, and `ignored` names them. In the format before PyTorch 1.6 it is refused, with a line.
- A checkpoint in several files: `rs.load("model.safetensors.index.json")`.

A state dict that holds the reverse direction alone is an `rs.Recurrent(..., reverse=True)`. Layers
whose place in the file is that of an optimiser's moments or of an average (`exp_avg`, `ema`) are
loaded, and `assumed` says it.
"""

_JSON = """\
## Models in JSON

A .nam of Neural Amp Modeler (architecture LSTM), and a .json of RTNeural or of GuitarML
(Automated-GuitarAmpModelling: NeuralPi, Proteus, ...), are whole models. What is in a file says
whose it is, not its ending; a .json that is a state dict of PyTorch and nothing else, as RTNeural
reads it too, is loaded as layout pytorch. A stack in a .nam or of GuitarML is one layer; RTNeural
has no stacks. The numbers are float32, in which the programs compute. Layers of a .nam and of
RTNeural are `batch_first`, as in the programs that train them; of GuitarML the file does not say.

`rs.load(path).beside[name]` holds what the model has around its layer; `assumed` says how it is
used:

| key | what | nam | rtneural | guitarml |
| --- | --- | --- | --- | --- |
| `h_0`, `c_0` | trained initial states, (num_layers, 1, H): `layer(x, (h_0, c_0))` | always | | |
| `head.weight`, `head.bias` | the linear layer after | always | if it is last | `lin` |
| `skip` | the first `skip` inputs are added to what the head gives | | | where it is not 0 |
| `sample_rate` | of the data, in Hz | where the file has it | | |

`rs.save(rs.load(path), other_path)` writes these back as far as the format has them. Around layers
of your own `beside` puts them, under the same keys:
`rs.save({"amp": lstm}, "amp.nam", beside={"amp": {"head.weight": weight, "head.bias": bias}})`.
Not kept: a second bias of an LSTM but in guitarml (it is added to the first), the metadata of a
.nam, RTNeural's layers of other kinds. A head that nam and guitarml need and nobody gave is of
zeros, so that the model is silent; the file says so. Two directions, a projection, several stacks
in one nam or guitarml, and cells that the table does not list for a layout are refused.
"""

_VERIFIED = """\
## Verified against

`tests/frameworks` compares outputs with those of the frameworks themselves, to 1e-6 in float32,
with random biases and initial states, and the arrays written back with the framework's own: Keras
3, tf_keras (the cells of TensorFlow 1, the conversion of cuDNN files), onnxruntime, Flax (linen and
nnx), Equinox, Haiku. Core ML's names are compared with its schema; its layers run on Apple's
machines only. MXNet and burn were not run: their records follow their source. The record of
RTNeural is that of Keras's layers, of which its exporter writes the weights. Keras and onnxruntime
are among `make test`; to run them all:

```
python3 -m venv frameworks
frameworks/bin/pip install -c constraints.txt torch hatchling editables
frameworks/bin/pip install -c constraints.txt -r tests/frameworks/requirements.txt
frameworks/bin/pip install --no-build-isolation --no-deps -e .
frameworks/bin/python -m pytest tests/frameworks
```
"""

_HEAD = ("layout", "cell", "gates", "matrices", "biases", "names", "what is particular")


def document() -> str:
    """The page ``docs/layouts.md``."""
    sources = "\n".join(
        f"- **{layout.name}**, {layout.title}: {_sentence(layout.remark)}{_link(layout.source)}"
        for layout in LAYOUTS.values()
    )
    return (
        f"{_INTRODUCTION}\n{table()}\n\n{_BESIDE}\n{_JSON}\n## Sources\n\n{sources}\n\n{_VERIFIED}"
    )


def table() -> str:
    """One row for each layout and kind of cell."""
    rows = [
        (f"**{layout.name}**", kind, *_describe(layout, kind))
        for layout in LAYOUTS.values()
        for kind in layout.cells
    ]
    lines = [_HEAD, tuple("---" for _ in _HEAD), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _describe(layout: Layout, kind: str) -> tuple[str, ...]:
    stored = layout.stored(kind)
    names = ", ".join(f"`{array.name}`" for array in stored.arrays)
    return (
        f"`{' '.join(stored.gates)}`",
        _matrices(layout, stored),
        _biases(layout, stored),
        names,
        _particular(layout, stored),
    )


def _matrices(layout: Layout, stored: Stored) -> str:
    kernels = [array for array in stored.arrays if array.part.startswith(("W_ih", "W_hh"))]
    by_gate = all("{gate}" in a.name or len(stored.gates_of(a)) == 1 for a in kernels)
    k = "" if by_gate else "k"
    together = any(len(array.parts) == 2 for array in kernels)
    columns = ["I+H"] if together else ["I", "H"]
    shapes = [
        f"({k}H, {width})" if stored.orientation == "rows" else f"({width}, {k}H)"
        for width in columns
    ]
    text = " and ".join(shapes)
    if layout.direction_axis:
        text = text.replace("(", "(directions, ")
    return text + (", numbers of (H, ·)" if stored.orientation == "reshaped" else "")


def _biases(layout: Layout, stored: Stored) -> str:
    merged, apart = stored.holders(BIASES[0]), stored.holders(BIASES[1])
    if not merged:
        return "none"
    both = any(array.parts == BIASES for array in stored.arrays)
    if both:
        shape = "(2, kH)" if stored.biases == "stacked" else "(2kH,)"
        text = (
            f"both in {shape.replace('(', '(directions, ', 1) if layout.direction_axis else shape}"
        )
        text = text.replace(",)", ")") if layout.direction_axis else text
    elif set(apart) == set(merged):
        text = "two"
    elif apart:
        text = f"one, and b_h{apart} apart"
    else:
        text = "one"
    return text + (", always there" if stored.biased else "")


def _particular(layout: Layout, stored: Stored) -> str:
    facts = []
    if stored.update == "takes":
        facts.append("z takes the new state: −W_z, −b_z")
    if stored.forget_bias:
        facts.append(f"adds {stored.forget_bias:g} to f at run time")
    if any(array.part == "peephole" for array in stored.arrays):
        facts.append(f"peepholes {' '.join(stored.holders('peephole'))}")
    if any(array.part == "W_hr" for array in stored.arrays):
        facts.append("projection")
    if stored.nonlinearity_fixed:
        facts.append(f"{stored.nonlinearity} alone")
    elif stored.nonlinearity != "tanh":
        facts.append(f"{stored.nonlinearity} unless told otherwise")
    if stored.gate_names:
        facts.append(
            "gates named " + ", ".join(f"{gate} {name}" for gate, name in stored.gate_names.items())
        )
    return "; ".join(facts)


def _sentence(text: str) -> str:
    return f"{text}. " if text else ""


def _link(source: str) -> str:
    return f"<{source}>" if source.startswith("https://") else f"`{source}`"


if __name__ == "__main__":
    print(document(), end="")
