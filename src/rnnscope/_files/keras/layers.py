"""The layers of a Keras model: the arrays, as its configuration says to read them.

Source: keras/src/layers/rnn/{lstm,gru,simple_rnn,bidirectional}.py, keras/src/activations
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rnnscope._files.cell_marks import with_file_cell
from rnnscope._files.companions import Surroundings, companions
from rnnscope._files.content import FileContent
from rnnscope._files.disk import LargeError, LazyArray
from rnnscope._files.keras.activations import LayerConfig, with_activations
from rnnscope._files.keras.file import layer_configs
from rnnscope._files.stored_layer import AmbiguousError, LoadRequest, StoredLayer, convert_layer
from rnnscope._layouts import layout_named
from rnnscope.errors import DtypeError, FileError, ShapeError

__all__ = ["layers_of_keras"]

_CLASSES = {
    "LSTM": "lstm",
    "GRU": "gru",
    "SimpleRNN": "rnn",
    "CuDNNLSTM": "lstm",
    "CuDNNGRU": "gru",
    "LSTMCell": "lstm",
    "GRUCell": "gru",
    "SimpleRNNCell": "rnn",
}
_CELL_KINDS = {"rnn_tanh": "rnn", "rnn_relu": "rnn", "lstm_projected": "lstm"}
_ARRAY = re.compile(
    r"(?:(?P<layer>.+?)/)?(?:(?P<direction>forward|backward)_layer/)?(?P<part>[^/]+)", re.DOTALL
)
_PARTS = re.compile(r"kernel|recurrent_kernel|bias|[WUb](?:_[ifcozrh])?")
_RECURRENT = re.compile(r".*(?:recurrent_kernel|/U(?:_[ifcozrh])?)")
_KERAS1_KINDS = {"U": "rnn", "U_z": "gru_reset_before", "U_c": "lstm"}


def layers_of_keras(content: FileContent, request: LoadRequest) -> list[StoredLayer]:
    """Each LSTM, GRU, SimpleRNN and Bidirectional of a model. Raises ``FileError`` with the layer
    whose arrays do not fit, and ``RefusedError`` for what no layer can hold."""
    layers: dict[str, dict[str, LazyArray]] = {}
    for name, array in content.arrays.items():
        match = _ARRAY.fullmatch(name)
        if match and _PARTS.fullmatch(match["part"]):
            direction = f"{match['direction']}_layer/" if match["direction"] else ""
            layer = match["layer"] or ""
            layers.setdefault(layer, {})[direction + match["part"]] = array
    content.allowance.check_layers(len(layers))
    configs = _configs(content.config)
    ordered = _ordered(configs)
    stored_layers = [
        _layer(content, name, arrays, configs.get(name) or _by_order(name, ordered), request)
        for name, arrays in layers.items()
        if any(_RECURRENT.fullmatch(f"/{part}") for part in arrays)
    ]
    return _with_companions(content, stored_layers, layers)


def _with_companions(
    content: FileContent, layers: list[StoredLayer], parts: Mapping[str, Mapping[str, LazyArray]]
) -> list[StoredLayer]:
    """The layers, each with what is said of the arrays beside its own. Raises ``FileError``."""
    prefixes = {layer.name: f"{layer.name}/" if layer.name else "" for layer in layers}
    sentences = companions(
        content.arrays,
        [
            Surroundings(
                layer.place,
                prefixes[layer.name],
                {f"{prefixes[layer.name]}{part}": a for part, a in parts[layer.name].items()},
                int(layer.options["hidden_size"]),
                int(layer.options["hidden_size"]) * len(layer.cell.gates),
            )
            for layer in layers
        ],
    )
    return [replace(layer, ignored=sentences[prefixes[layer.name]]) for layer in layers]


def _configs(config: Any) -> dict[str, LayerConfig]:
    configs: dict[str, LayerConfig] = {}
    for name, kind, facts in layer_configs(config):
        if kind == "Bidirectional":
            inner = facts.get("layer")
            inside = _recurrent(inner) if isinstance(inner, dict) else None
            if inside is not None:
                configs[name] = LayerConfig(
                    *inside, merge=str(facts.get("merge_mode")), wrapped=True
                )
        else:
            inside = _recurrent({"class_name": kind, "config": facts})
            if inside is not None and "Cell" not in kind:
                configs.setdefault(name, LayerConfig(*inside))
    return configs


def _recurrent(layer: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """(class, configuration) of a recurrent layer; of its cell, where it is an RNN of a cell."""
    kind, facts = layer.get("class_name"), layer.get("config")
    if not isinstance(facts, dict):
        return None
    if kind == "RNN" and isinstance(cell := facts.get("cell"), dict):
        inside = cell.get("config")
        if cell.get("class_name") in _CLASSES and isinstance(inside, dict):
            return str(cell["class_name"]), {**inside, "go_backwards": facts.get("go_backwards")}
    return (str(kind), facts) if kind in _CLASSES else None


def _class_of(config: Any, name: str) -> str | None:
    """The class of a layer that no class of Keras describes; of its cell, where it has one."""
    for layer, kind, facts in layer_configs(config):
        if layer == name:
            cell = facts.get("cell")
            cell_class = cell.get("class_name") if isinstance(cell, dict) else None
            return (cell_class if isinstance(cell_class, str) else kind).rpartition(">")[2]
    return None


def _ordered(configs: Mapping[str, LayerConfig]) -> dict[str, list[LayerConfig]]:
    """The configurations by the name that Keras 3 first gave to the weights of such layers."""
    kinds = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn"}
    by_kind: dict[str, list[LayerConfig]] = {}
    for config in configs.values():
        kind = "bidirectional" if config.wrapped else kinds.get(config.kind, "")
        by_kind.setdefault(kind, []).append(config)
    return by_kind


def _by_order(name: str, ordered: Mapping[str, list[LayerConfig]]) -> LayerConfig | None:
    """Keras 3 first named weights by class and number, ``gru_1``: the second GRU of the model."""
    match = re.fullmatch(r"(lstm|gru|simple_rnn|bidirectional)(?:_(\d{1,4}))?", name)
    if match is None:
        return None
    same = ordered.get(match[1], [])
    place = int(match[2] or 0)
    return same[place] if place < len(same) else None


def _layer(
    content: FileContent,
    name: str,
    arrays: Mapping[str, LazyArray],
    config: LayerConfig | None,
    request: LoadRequest,
) -> StoredLayer:
    place = f"{content.path}, {name}" if name else f"{content.path}"
    request = with_file_cell(content, name, place, request)
    tensors = {part: array.read() for part, array in arrays.items()}
    for part, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise FileError(f"{place}: {part} holds no floating-point numbers")
    layout, kind = _reading(place, arrays, config, request)
    try:
        layer = convert_layer(content, layout, tensors, kind)
    except LargeError:
        raise
    except (FileError, ShapeError, DtypeError) as error:
        raise FileError(f"{place}: {error}") from error
    cell, assumed = with_activations(content, place, (layer.cell, layout), config, request)
    if config is None and (own_class := _class_of(content.config, name)) is not None:
        assumed.insert(0, f"class {own_class}, which is not Keras's own, is read as {kind}")
    facts = config.facts if config else {}
    units = facts.get("units", facts.get("output_dim"))
    if units is not None and units != layer.options["hidden_size"]:
        raise FileError(
            f"{place}: units={units} in the configuration, "
            f"{layer.options['hidden_size']} in the arrays"
        )
    two = bool(layer.options["bidirectional"])
    if two and config and config.merge not in ("concat", None):
        assumed.append(f"merge_mode={config.merge} is left to you: both directions side by side")
    reverse = bool(facts.get("go_backwards")) and not two
    if reverse:
        assumed.append("go_backwards: outputs stand at their own time, in Keras the last first")
    for option in ("dropout", "recurrent_dropout", "dropout_W", "dropout_U"):
        if facts.get(option):
            assumed.append(f"{option}={facts[option]} of training is left out")
    return StoredLayer(
        name=name,
        place=place,
        layout=layout,
        gates=layout_named(layout).stored(kind).gates,
        cell=cell,
        state=layer.state_dict,
        options=layer.options,
        reverse=reverse,
        batch_first=True,
        assumed=tuple(assumed),
    )


def _reading(
    place: str, arrays: Mapping[str, LazyArray], config: LayerConfig | None, request: LoadRequest
) -> tuple[str, str]:
    """The layout and the kind: by the configuration, else by the shapes."""
    first = next(part for part in arrays if _RECURRENT.fullmatch(f"/{part}"))
    asked = _CELL_KINDS.get(request.cell or "", request.cell)
    if not first.endswith("recurrent_kernel"):
        parts = {part.rpartition("/")[2] for part in arrays}
        kind = next((kind for part, kind in _KERAS1_KINDS.items() if part in parts), "lstm")
        if asked not in (None, kind):
            raise FileError(f"{place}: these are weights of {kind}, not {request.cell}")
        return "keras1", kind
    return _keras2_reading(place, arrays, config, (first, asked))


def _keras2_reading(
    place: str,
    arrays: Mapping[str, LazyArray],
    config: LayerConfig | None,
    request: tuple[str, str | None],
) -> tuple[str, str]:
    """The same of Keras 2 and 3; ``request`` is the first recurrent kernel, and the cell asked."""
    first, asked = request
    before = first.removesuffix("recurrent_kernel")
    shape = arrays[first].shape
    bias = arrays.get(f"{before}bias")
    gates = shape[1] // shape[0] if len(shape) == 2 and shape[0] and shape[1] % shape[0] == 0 else 0
    by_shape = {1: "rnn", 3: "gru", 4: "lstm"}.get(gates)
    kind = _CLASSES[config.kind] if config else by_shape
    if kind is None or kind != by_shape:
        raise FileError(
            f"{place}: {first} of shape {shape} is no recurrent kernel"
            f"{f' of {config.kind}' if config else ''}; expected (units, gates × units). The other "
            f"layers are loaded with ignore='NAME/*', the name of this one"
        )
    # two biases in a row: Keras's own layers have one, or two one below the other
    layout = "keras"
    if (config and config.kind.startswith("CuDNN")) or (
        bias is not None and kind != "rnn" and bias.shape == (2 * shape[1],)
    ):
        layout = "keras_cudnn"
    elif kind == "gru":
        after = config.facts.get("reset_after") if config else None
        if bias is not None:  # the arrays themselves tell
            kind = "gru" if len(bias.shape) == 2 else "gru_reset_before"
        elif after is not None or config is not None:
            kind = "gru" if after else "gru_reset_before"
        elif asked is None:
            raise AmbiguousError(
                f"{place}: a GRU without biases fits both forms, reset_after=True and False",
                [{"cell": "gru"}, {"cell": "gru_reset_before"}],
            )
        else:
            kind = asked
    if asked is not None and asked != kind:
        raise FileError(f"{place}: these are weights of {kind}, not {asked}")
    return layout, kind
