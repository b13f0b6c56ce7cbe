"""How programs for audio effects store their layers, in files of JSON."""

from __future__ import annotations

from rnnscope._layouts.layout import Array, Layout, Stored

__all__ = ["GUITARML", "NAM", "RTNEURAL"]

NAM = Layout(
    "nam",
    title="Neural Amp Modeler: architecture LSTM of a .nam",
    cells={
        "lstm": Stored("ifgo", (Array("weight", "W_ih W_hh"), Array("bias", "b_ih")), biased=True),
    },
    layer="layers/{number}/",
    source="https://github.com/sdatkinson/neural-amp-modeler/blob/main/nam/models/recurrent.py",
    remark=(
        "one flat list of weights: for each layer weight, bias, h_0 and c_0, then the head; the "
        "file has no names, these are rnnscope's"
    ),
)

_WEIGHTS = (Array("weights/0", "W_ih"), Array("weights/1", "W_hh"))

RTNEURAL = Layout(
    "rtneural",
    title="RTNeural: layers gru and lstm of a .json",
    cells={
        "gru": Stored(
            "zrn",
            (*_WEIGHTS, Array("weights/2", "b_ih b_hh")),
            orientation="columns",
            biases="stacked",
            biased=True,
        ),
        "lstm": Stored(
            "ifgo", (*_WEIGHTS, Array("weights/2", "b_ih")), orientation="columns", biased=True
        ),
    },
    layer="layers/{number}/",
    source="https://github.com/jatinchowdhury18/RTNeural/blob/main/RTNeural/model_loader.h",
    remark=(
        "as Keras stores them; GRU resets after the product; gates are sigmoid and tanh, whatever "
        "activation the file names"
    ),
)

_REC = (
    Array("rec.weight_ih_l{layer}{direction}", "W_ih"),
    Array("rec.weight_hh_l{layer}{direction}", "W_hh"),
    Array("rec.bias_ih_l{layer}{direction}", "b_ih"),
    Array("rec.bias_hh_l{layer}{direction}", "b_hh"),
)

GUITARML = Layout(
    "guitarml",
    title="GuitarML, Automated-GuitarAmpModelling: state_dict of a .json",
    cells={
        "rnn": Stored("h", _REC, biased=True, nonlinearity_fixed=True),
        "gru": Stored("rzn", _REC, biased=True),
        "lstm": Stored("ifgo", _REC, biased=True),
    },
    layer="{number}",
    directions=("", "_reverse"),
    source="https://github.com/Alec-Wright/CoreAudioML/blob/main/networks.py",
    remark="PyTorch's own state dict of SimpleRNN, as lists",
)
