"""Arrays beside those of a layer: used, named, or the file is refused with what to write."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

import rnnscope as rs
from rnnscope import cells
from rnnscope._cli.commands import app
from rnnscope._files.summary import summarize

D, H = 3, 5
ENDINGS = [".pt", ".ckpt", ".bin", ".safetensors", ".npz", ".h5"]


def numbers(*shape: int) -> Tensor:
    return torch.randn(shape)


def written(path: Path, arrays: dict[str, Tensor]) -> Path:
    """The arrays in a file of the kind that its ending says."""
    if path.suffix in (".pt", ".ckpt", ".bin"):
        torch.save(arrays, path)
    elif path.suffix == ".safetensors":
        save_file({name: array.contiguous() for name, array in arrays.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **{name: array.numpy() for name, array in arrays.items()})  # type: ignore[arg-type]
    else:
        h5py = pytest.importorskip("h5py", reason="h5py writes the file")
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                file[name] = array.numpy()
    return path


def under(prefix: str, layer: nn.Module) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in layer.state_dict().items()}


def keras_arrays(gates: int) -> dict[str, Tensor]:
    kernels = {"rnn/kernel": (D, gates * H), "rnn/recurrent_kernel": (H, gates * H)}
    return {n: numbers(*shape) for n, shape in (kernels | {"rnn/bias": (gates * H,)}).items()}


CHANGED: dict[str, tuple[dict[str, Tensor], dict[str, Tensor], str]] = {
    "a second bias": (keras_arrays(3), {"rnn/recurrent_bias": numbers(3 * H)}, "second bias"),
    "gamma of a kernel": (
        keras_arrays(4),
        {"rnn/gamma": numbers(2, 4 * H), "rnn/gamma_h": numbers(H), "rnn/beta_h": numbers(H)},
        "normalisation",
    ),
    "norms inside the cell": (
        keras_arrays(4),
        {"rnn/kernel_norm/gamma": numbers(4 * H), "rnn/state_norm/beta": numbers(H)},
        "normalisation",
    ),
    "LayerNorm of torch": (
        under("rnn.", nn.LSTMCell(D, H)),
        under("rnn.ln_ih.", nn.LayerNorm(4 * H)) | under("rnn.ln_ho.", nn.LayerNorm(H)),
        "normalisation",
    ),
    "BatchNorm of torch": (
        under("enc.rnn.", nn.LSTM(D, H)),
        under("enc.rnn.bn_hh.", nn.BatchNorm1d(4 * H)),
        "normalisation",
    ),
    "a scale in Flax": (
        {f"cell/{a}{g}/kernel": numbers(D if a == "i" else H, H) for a in "ih" for g in "ifgo"}
        | {f"cell/h{g}/bias": numbers(H) for g in "ifgo"},
        {"cell/ln_c/scale": numbers(H)},
        "normalisation",
    ),
    "peepholes": (
        under("rnn.", nn.LSTM(D, H)),
        {f"rnn.w_c{gate}": numbers(H) for gate in "ifo"},
        "peephole",
    ),
    "a peephole in TensorFlow": (
        {"rnn/lstm_cell/kernel": numbers(D + H, 4 * H), "rnn/lstm_cell/bias": numbers(4 * H)},
        {"rnn/lstm_cell/w_ci": numbers(H)},
        "peephole",
    ),
    "a mask": (
        under("cell.", nn.GRUCell(D, H)),
        {"cell.mask_hh": numbers(3 * H, H).sign().clamp(0)},
        "mask",
    ),
    "a scale of a weight": (
        under("rnn.", nn.LSTM(D, H)),
        {"rnn.weight_hh_l0_scale": numbers(1), "rnn.weight_ih_l0.zero_point": numbers(1)},
        "scaled",
    ),
    "an adapter": (
        under("rnn.", nn.LSTM(D, H)),
        {"rnn.lora_A": numbers(2, H), "rnn.lora_B": numbers(4 * H, 2)},
        "adapter",
    ),
    "time constants": (under("rnn.", nn.GRU(D, H)), {"rnn.tau": numbers(H)}, "parameter of"),
    "one more matrix": (under("rnn.", nn.GRU(D, H)), {"rnn.alpha": numbers(H, H)}, "parameter of"),
    "one more weight": (under("rnn.", nn.GRU(D, H)), {"rnn.weight_xx": numbers(H, 2)}, "weight of"),
    "a dropped weight's mask": (
        under("rnn.", nn.GRU(D, H)),
        {"rnn.weight_hh_l0_dropmask": numbers(3 * H, H)},
        "masked",
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_changes_the_cell_is_refused_with_the_line_to_write(tmp_path: Path, what: str) -> None:
    arrays, strangers, reason = CHANGED[what]
    for ending in ENDINGS if what in ("a second bias", "an adapter") else [".npz"]:
        path = written(tmp_path / f"m{ending}", {**arrays, **strangers})
        with pytest.raises(rs.FileError, match=reason) as caught:
            rs.load(path)
        message = str(caught.value)
        assert str(path) in message
        assert "lies beside" in message
        line = re.search(r"ignore=(\[.*?\]|'.*?')\)", message)
        assert line is not None
        kept: Any = rs.load(path, ignore=eval(line[1]))
        plain: Any = rs.load(written(tmp_path / f"plain{ending}", arrays))
        assert list(kept) == list(plain)
        (layer,), (expected,) = kept.values(), plain.values()
        x = torch.randn(6, 2, D)
        assert torch.equal(layer(x)[0], expected(x)[0])


BESIDE: dict[str, tuple[dict[str, Tensor], str]] = {
    "initial hidden": ({"rnn._initial_hidden": numbers(1, 1, H)}, "initial state"),
    "h0": ({"rnn.h0": numbers(1, 1, H), "rnn.c_0": numbers(1, 1, H)}, "initial state"),
    "init_state": ({"rnn.init_state": numbers(H)}, "initial state"),
    "an output layer": (under("rnn.fc.", nn.Linear(H, 2)), "of rnn.fc"),
    "an embedding": (under("rnn.embedding.", nn.Embedding(9, D)), "of rnn.embedding"),
    "attention": (under("rnn.attention.", nn.Linear(H, H)), "of rnn.attention"),
    "moments": ({"rnn.weight_hh_l0.exp_avg": numbers(4 * H, H)}, "moments of an optimiser"),
    "observers": ({"rnn.activation_post_process.min_val": numbers(1)}, "observer"),
    "no part": ({"rnn.temperature": numbers(1)}, "no part of the layer"),
}


@pytest.mark.parametrize("what", BESIDE)
def test_what_may_lie_around_a_layer_is_named(tmp_path: Path, what: str) -> None:
    strangers, meaning = BESIDE[what]
    lstm = nn.LSTM(D, H)
    layers = rs.load(written(tmp_path / "m.pt", {**under("rnn.", lstm), **strangers}))
    (sentence,) = layers.ignored["rnn"]
    assert meaning in sentence
    assert all(name in sentence for name in strangers)
    assert f"ignored {sentence}" in str(layers)
    assert torch.equal(layers["rnn"].weight_hh_l0, lstm.weight_hh_l0)  # type: ignore[arg-type]


def test_a_reader_sees_what_was_assumed_and_ignored(tmp_path: Path) -> None:
    arrays = {**under("rnn.", nn.GRU(D, H)), "rnn.h0": numbers(1, 1, H)}
    path = written(tmp_path / "m.pt", arrays)
    text = repr(rs.load(path))
    assert text.splitlines()[0] == "rnn: GRU(3, 5)"
    assert "    assumed batch_first=False" in text
    ignored = "rnn.h0: it may be a trained initial state"
    assert ignored in text
    assert ignored in str(summarize(path))
    assert ignored in CliRunner().invoke(app, ["show", str(path)]).stdout
    done = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "out.npz")])
    assert f"ignored {ignored}" in done.stdout


def test_arrays_of_other_layers_are_not_beside(tmp_path: Path) -> None:
    """A layer inside another's name, other modules, and what is no number."""
    arrays = (
        under("a.", nn.LSTM(D, H)) | under("a.b.", nn.LSTM(H, 4)) | under("c.", nn.Linear(3, H))
    )
    arrays |= {"a.steps": torch.tensor(3), "a.names": torch.ones(H, dtype=torch.int64)}
    layers = rs.load(written(tmp_path / "m.pt", arrays))
    assert list(layers) == ["a", "a.b"]
    assert layers.ignored == {"a": (), "a.b": ()}


@pytest.mark.parametrize("prefix", ["", "enc_"])
def test_names_without_marks_between(tmp_path: Path, prefix: str) -> None:
    """In a flat file, what begins as a weight of the cell is one; what does not may be anything."""
    arrays = under(prefix, nn.GRU(D, H))
    path = written(tmp_path / "m.npz", arrays | {f"{prefix}head_bias": numbers(H)})
    (sentences,) = rs.load(path).ignored.values()
    assert sentences == (f"{prefix}head_bias: no part of the layer as it is read here",)
    path = written(tmp_path / "m.npz", arrays | {f"{prefix}recurrent_bias": numbers(3 * H)})
    with pytest.raises(rs.FileError, match="second bias"):
        rs.load(path)


def test_many_modules_around_a_layer_are_told_shortly(tmp_path: Path) -> None:
    """The weights of a layer at the root of a state dict, among those of a whole model."""
    model = {f"block{k}.{j}.weight": numbers(2, 2) for k in range(30) for j in range(20)}
    layers = rs.load(written(tmp_path / "m.pt", under("", nn.LSTM(D, H)) | model))
    sentences = layers.ignored[""]
    assert len(sentences) == 7
    assert sentences[0].startswith("block0.0.weight, block0.1.weight, ")
    assert sentences[0].endswith(
        "and 14 more: of block0, which may lie around the layer, or inside its cell"
    )
    assert sentences[-1].endswith("480 in all: of other modules")


def test_ignore_takes_patterns_and_knows_its_names(tmp_path: Path) -> None:
    arrays = under("rnn.", nn.LSTM(D, H, 2)) | {
        f"rnn.{place}.{end}": numbers(4 * H)
        for place in ("ln0", "ln1", "ln2", "ln3")
        for end in ("gamma", "beta")
    }
    path = written(tmp_path / "m.pt", arrays)
    with pytest.raises(rs.FileError, match=r"ignore=\['\*.gamma', '\*.beta'\]"):
        rs.load(path)
    assert isinstance(rs.load(path, ignore=["*.gamma", "*.beta"])["rnn"], nn.LSTM)
    words = ["--ignore", "*.gamma", "--ignore", "*.beta"]
    done = CliRunner().invoke(app, ["show", str(path), *words])
    assert "nn.LSTM(3, 5, num_layers=2)" in done.stdout
    done = CliRunner().invoke(app, ["convert", str(path), str(tmp_path / "out.npz"), *words])
    assert done.exit_code == 0
    with pytest.raises(rs.FileError, match=r"no array 'rnn.gama' to ignore; it holds rnn.weight"):
        rs.load(path, ignore="rnn.gama")


def test_what_the_loader_added_is_data(tmp_path: Path) -> None:
    arrays = {"rnn/basic_lstm_cell/kernel": numbers(D + H, 4 * H)}
    arrays["rnn/basic_lstm_cell/bias"] = numbers(4 * H)
    arrays |= {f"{name}/Adam_1": torch.ones_like(array) for name, array in arrays.items()}
    layers = rs.load(written(tmp_path / "m.npz", arrays))
    assert layers.forget_bias == {"rnn": 1.0}
    assert "moments of an optimiser" in layers.ignored["rnn"][0]
    assert rs.load(written(tmp_path / "p.pt", under("", nn.LSTM(D, H)))).forget_bias == {}


# cells that the caller declares ------------------------------------------------------------------

MGU = rs.Cell(
    name="MGU",
    gates="fn",
    equations={
        "f": cells.sigmoid(cells.from_x("f") + cells.from_h("f")),
        "n": cells.tanh(cells.from_x("n") + cells.quantity("f") * cells.from_h("n")),
        "h": (1 - cells.quantity("f")) * cells.previous("h")
        + cells.quantity("f") * cells.quantity("n"),
    },
)


def minimal_gated_unit(arrays: dict[str, Tensor], x: Tensor) -> Tensor:
    """An independent loop: the states of the first layer, forward, at every step."""
    a = {name: array.double().numpy() for name, array in arrays.items()}
    h, states = np.zeros((x.shape[1], H)), []
    for step in x.double().numpy():
        of_x = step @ a["weight_ih"].T + a["bias_ih"]
        of_h = h @ a["weight_hh"].T + a["bias_hh"]
        f = 1 / (1 + np.exp(-of_x[:, :H] - of_h[:, :H]))
        h = (1 - f) * h + f * np.tanh(of_x[:, H:] + f * of_h[:, H:])
        states.append(h)
    return torch.from_numpy(np.stack(states))


@pytest.mark.parametrize("ending", [".pt", ".npz", ".safetensors"])
@pytest.mark.parametrize("end", ["", "_l0"])
def test_a_declared_cell(tmp_path: Path, end: str, ending: str) -> None:
    arrays = {
        "weight_ih": numbers(2 * H, D),
        "weight_hh": numbers(2 * H, H),
        "bias_ih": numbers(2 * H),
        "bias_hh": numbers(2 * H),
    }
    named = {f"enc.mgu.{name}{end}": array for name, array in arrays.items()}
    path = written(tmp_path / f"m{ending}", named | under("dec.", nn.LSTM(D, H)))
    with pytest.raises(rs.FileError, match="cells="):
        rs.load(path)
    layers: Any = rs.load(path, cells={"enc.mgu": MGU})
    assert sorted(layers) == ["dec", "enc.mgu"]
    x = torch.randn(7, 2, D)
    torch.testing.assert_close(
        layers["enc.mgu"](x)[0].double(), minimal_gated_unit(arrays, x), atol=1e-6, rtol=1e-6
    )
    assert rs.trace(layers["enc.mgu"], x)["f"].shape == (1, 1, 2, 7, H)


def test_a_declared_cell_under_names_of_its_own(tmp_path: Path) -> None:
    arrays = {"Wx": numbers(2 * H, D), "Wh": numbers(2 * H, H), "b": numbers(2 * H)}
    path = written(tmp_path / "m.npz", arrays)
    layers: Any = rs.load(
        path,
        cells={"mgu": MGU},
        names={"weight_ih": "Wx", "weight_hh": "Wh", "bias_ih": "b"},
        batch_first=True,
    )
    assert layers["mgu"].batch_first
    assert layers.assumed["mgu"] == ("bias_hh_l0 is zero: the file has none",)
    full = dict(zip(("weight_ih", "weight_hh", "bias_ih"), arrays.values(), strict=True))
    expected = minimal_gated_unit(full | {"bias_hh": torch.zeros(2 * H)}, x := torch.randn(7, 2, D))
    found = layers["mgu"](x.transpose(0, 1))[0].transpose(0, 1)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)


def test_a_stack_of_a_declared_cell_comes_back(tmp_path: Path) -> None:
    layer = rs.Recurrent(MGU, D, H, num_layers=2, bidirectional=True)
    torch.save({"enc": layer.state_dict()}, tmp_path / "m.pt")
    found = rs.load(tmp_path / "m.pt", cells={"enc": MGU})["enc"]
    x = torch.randn(7, 2, D)
    assert torch.equal(found(x)[0], layer(x)[0])


def test_a_declared_cell_that_does_not_fit(tmp_path: Path) -> None:
    path = written(tmp_path / "m.pt", under("dec.", nn.GRU(D, H)))
    with pytest.raises(rs.FileError, match=r"dec: .* for 5 units; cell MGU has the gates f n"):
        rs.load(path, cells={"dec": MGU})
    with pytest.raises(rs.AddressError, match=r"no arrays of a layer 'enc'; it holds dec.weight"):
        rs.load(path, cells={"enc": MGU})
    wrong: Any = MGU
    with pytest.raises(rs.DeclarationError, match=r"cells=\{'encoder.rnn': cell\}"):
        rs.load(path, cells=wrong)
    arrays = under("dec.", nn.GRU(D, H)) | {"dec.gamma": numbers(H)}
    with pytest.raises(rs.FileError, match="normalisation"):
        rs.load(written(tmp_path / "n.pt", arrays), cells={"dec": cells.GRU})


# how many blocks of rows there are ---------------------------------------------------------------


def said(path: Path) -> str:
    (sentences,) = rs.load(path).assumed.values()
    return " ".join(sentences)


def test_what_blocks_of_rows_say_and_what_names_say(tmp_path: Path) -> None:
    def blocks(prefix: str, count: int, end: str = "") -> Path:
        shapes = {"weight_ih": (count * H, D), "weight_hh": (count * H, H)}
        arrays = {f"{prefix}{n}{end}": numbers(*shape) for n, shape in shapes.items()}
        return written(tmp_path / "m.pt", arrays)

    assert "three blocks of rows, which cells of other equations have" in said(blocks("mut.", 3))
    assert "blocks" not in said(blocks("enc.gru.", 3))
    assert "one block of rows is nn.RNN, though its name says lstm" in said(blocks("lstm.", 1))
    assert "blocks" not in said(blocks("lstm.", 4))
    with pytest.raises(rs.FileError, match=r"coupled gates .* cell='lstm_coupled'") as caught:
        rs.load(blocks("lstm.", 3, "_l0"))
    assert "layout='rnnscope'" in str(caught.value)
    layer: Any = rs.load(tmp_path / "m.pt", cell="lstm_coupled", layout="rnnscope")["lstm"]
    assert layer.cell is cells.LSTM_COUPLED
    assert isinstance(rs.load(tmp_path / "m.pt", cell="gru")["lstm"], nn.GRU)
