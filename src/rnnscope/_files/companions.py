"""Arrays that lie beside those of a layer: what each may be, and whether the layer is another
one for it.

A cell with a normalisation, peepholes or a second bias has the very kernels of a plain one beside
arrays of its own. Such a layer is refused; what may lie around a layer is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import islice

from rnnscope._files.disk import LazyArray
from rnnscope.errors import FileError

__all__ = ["Surroundings", "companions"]

_LONGEST = 200  # characters
_MOST = 6  # names in a sentence

_MOMENTS = re.compile(
    r"(?:.*[./])?(?:adam(?:_\d)?|momentum|rmsprop(?:_\d)?|adagrad|adadelta(?:_\d)?|ftrl(?:_\d)?"
    r"|exp_avg(?:_sq)?|max_exp_avg_sq|momentum_buffer)",
)
_AVERAGE = re.compile(r".*[./](?:exponentialmovingaverage|ema|shadow)")
_INITIAL = re.compile(
    r"(?:.*[./_])?(?:init(?:ial)?_?(?:[hc]|[hc]x|state|hidden|cell|memory)(?:_?\w{0,8})"
    r"|(?:[hc]|[hc]x|hidden|cell|state|memory)_?(?:0|init|initial|start)"
    r"|learned_(?:[hc]|state|hidden|cell)\w{0,8})",
)
_OBSERVER = re.compile(r".*(?:activation_post_process|observer).*")
_NORM = re.compile(
    r"(?:.*[./_])?(?:gamma|beta|\w*norm\w*|ln\w{0,4}|bn\w{0,4}|running_(?:mean|var)"
    r"|moving_(?:mean|variance))(?:[./_:\d].*)?",
)
_PEEPHOLE = re.compile(
    r".*peephole.*|(?:.*[./])?(?:w|weight|v|p)_?c_?[ifog]|(?:.*[./])?w_[ifo]_diag"
)
_ADAPTER = re.compile(r".*(?:lora|adapter|delta_weight).*")
_QUANTISED = re.compile(r".*(?:scale|zero_point|quant|absmax|qzeros).*")
_WEIGHT = re.compile(r"(?:bias|peephole|weight|kernel|recurrent|[wbpuv]_|[wbuv]$).*")


@dataclass(frozen=True)
class Surroundings:
    """A layer among the arrays of its file: the prefix of its names, the arrays that it uses, the
    number of its units, and of rows of all its gates."""

    place: str
    prefix: str
    used: Mapping[str, LazyArray]
    units: int
    rows: int

    @cached_property
    def folders(self) -> frozenset[str]:
        """What stands before the last word of the layer's own arrays."""
        return frozenset(map(_folder, self.used))

    def inside(self, name: str) -> str:
        """A name without the layer's, in small letters; of a long one its end."""
        return name[len(self.prefix) :][-_LONGEST:].partition(":")[0].lower()

    def sized(self, array: LazyArray) -> bool:
        """Whether an array has an axis of the layer's units, or of its rows."""
        return not {self.units, self.rows}.isdisjoint(array.shape)


def companions(
    arrays: Mapping[str, LazyArray], layers: Iterable[Surroundings]
) -> dict[str, tuple[str, ...]]:
    """For each layer's prefix, sentences on the arrays under it that the layer does not use.

    Raises ``FileError`` where one of them shows that the cell computes something else.
    """
    layers = list(layers)
    used = frozenset[str]().union(*(layer.used for layer in layers))
    by_prefix = {layer.prefix: layer for layer in layers}
    lengths = sorted({len(prefix) for prefix in by_prefix}, reverse=True)
    unused: dict[str, dict[str, LazyArray]] = {prefix: {} for prefix in by_prefix}
    for name, array in arrays.items():
        prefix = next((name[:k] for k in lengths if name[:k] in by_prefix), None)
        if prefix is not None and name not in used:
            unused[prefix][name] = array
    return {
        prefix: tuple(_sentences(by_prefix[prefix], strangers))
        for prefix, strangers in unused.items()
    }


def _folder(name: str) -> str:
    return name[: max(name.rfind(mark) for mark in "./") + 1]


def _sentences(layer: Surroundings, strangers: Mapping[str, LazyArray]) -> Iterator[str]:
    reasons = {
        name: reason
        for name, array in strangers.items()
        if (reason := _reason_to_refuse(layer, name, array)) is not None
    }
    if reasons:
        name, reason = next(iter(reasons.items()))
        more = f", and so are {len(reasons) - 1} more" if len(reasons) > 1 else ""
        raise FileError(
            f"{layer.place}: {name} lies beside {', '.join(sorted(layer.used)[:_MOST])}, and "
            f"no reading of these takes it in: {reason}{more}. If the layer computes without: "
            f"rnnscope.load(path, ignore={_patterns(list(reasons), layer.used)!r}); if it does "
            f"not, say what each array is (names={{'weight_ih_l0': ..., ...}}, "
            f"layout=rnnscope.Layout(...)), or give the cell: cells={{{_layer(layer.prefix)!r}: "
            f"cell}}"
        )
    by_meaning: dict[str, list[str]] = {}
    for name, array in strangers.items():
        meaning = _meaning(layer, name, array)
        if meaning is not None:
            by_meaning.setdefault(meaning, []).append(name)
    for meaning, names in islice(by_meaning.items(), _MOST):
        more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
        yield f"{', '.join(names[:_MOST])}{more}: {meaning}"
    remaining = [name for names in list(by_meaning.values())[_MOST:] for name in names]
    if remaining:
        yield f"{', '.join(remaining[:_MOST])} and more, {len(remaining)} in all: of other modules"


def _layer(prefix: str) -> str:
    return prefix.strip("./:")


def _patterns(names: list[str], used: Iterable[str]) -> str | list[str]:
    """The names, or, where they are many, patterns that fit them and nothing that is used."""
    if len(names) > _MOST:
        ends = dict.fromkeys(f"*{name[len(_folder(name)) - 1 :]}" for name in names)
        if not any(fnmatchcase(own, end) for own in used for end in ends):
            names = list(ends)
    return names[0] if len(names) == 1 else names


def _reason_to_refuse(layer: Surroundings, name: str, array: LazyArray) -> str | None:
    """What an array is of which the cell computes something else; None where it need not."""
    inside = layer.inside(name)
    if any(form.fullmatch(inside) for form in (_MOMENTS, _AVERAGE, _INITIAL, _OBSERVER)):
        return None
    direct = _folder(name) in layer.folders
    if not array.floating and not ("mask" in inside or _QUANTISED.fullmatch(inside)):
        return None
    derived = next((own for own in layer.used if name.startswith(own) and name != own), None)
    if _ADAPTER.fullmatch(inside):
        return "it may be an adapter (LoRA), a part that is added to a weight"
    if derived is not None and (direct or _QUANTISED.fullmatch(inside)):
        return f"{derived} may be scaled, masked or otherwise computed with it"
    if not layer.sized(array):
        return None
    if _PEEPHOLE.fullmatch(inside):
        return (
            "it may be a peephole, through which a gate sees the cell state (cell "
            "'lstm_peephole', whose layout has an Array(..., 'peephole'))"
        )
    if "mask" in inside:
        shapes = {weight.shape for weight in layer.used.values()}
        return "it may be a mask of weights" if array.shape in shapes else None
    certain = direct or bool(layer.prefix) or layer.rows in array.shape
    if _NORM.fullmatch(inside) and certain:
        return "it may be the scale or shift of a normalisation, which no cell here has"
    if direct and array.floating:
        last = name[max(len(_folder(name)), len(layer.prefix)) :].lower()
        if re.match(r"(?:recurrent_|hidden_)?bias", last):
            return "it may be a second bias"
        if _WEIGHT.fullmatch(last):
            return "it may be one more weight of the cell"
        of_cell = len(array.shape) == 1 or array.shape[0] == array.shape[-1]
        if layer.prefix.endswith((".", "/")) and of_cell:
            return "it has the size of the layer's units, and may be a parameter of its cell"
    return None


def _meaning(layer: Surroundings, name: str, array: LazyArray) -> str | None:
    inside = layer.inside(name)
    if _MOMENTS.fullmatch(inside):
        return "moments of an optimiser"
    if _AVERAGE.fullmatch(inside):
        return "an average of a weight over the training"
    if not array.floating:
        return None
    if _INITIAL.fullmatch(inside):
        return "it may be a trained initial state, which a layer takes in its call"
    if _OBSERVER.fullmatch(inside):
        return "an observer of quantisation, which computes nothing"
    folder = _folder(name)
    if folder in layer.folders:
        return "no part of the layer as it is read here"
    outermost = re.match(r"[./]*[^./]*", name[len(layer.prefix) :])
    module = layer.prefix + (outermost[0] if outermost else "")
    return f"of {module}, which may lie around the layer, or inside its cell"
