"""Modules that look recurrent and are none of torch's: what a watch says of them.

Nothing of their arithmetic is known. Names tell: of the class, of parameters, of what forward
takes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

from torch import nn

from rnnscope._layers.adapter import listed

__all__ = ["STATES", "likeness", "unknown_layers"]

CLASS = re.compile(
    r"(LSTM|GRU|RNN(?!T)|Recurren(t|ce)|MGU|GatedUnit|JANET|SRU|LMU|CfC|LTC|RWKV|Mamba|SSM|ESN"
    r"|Reservoir)"
)
CLASS_OF_LAYER = re.compile(CLASS.pattern + r"(Cell|Layer|Block|_?v?\d*|_?[cC]ell|_?[lL]ayer)*$")
PART = re.compile(r"([cC]ell|[lL]ayer|[bB]lock)s?$")
PARAMETER = re.compile(
    r"(^|[._])((weight|w|u|kernel|bias|b)?_?(hh|h2h|hid2hid)|recurrent_(kernel|weights?|bias))"
    r"(_l\d+(_reverse)?)?([._]|$)",
    re.IGNORECASE,
)
GATE = r"_?([ifgocrznh])(\.weight)?$"
STATES = frozenset(
    (
        *("hx", "hs", "h0", "h_0", "hidden", "hiddens", "hidden_state", "h_prev", "prev_h"),
        *("prev_hidden", "prev_state", "prev_states", "previous_state", "state", "states"),
        *("state_init", "init_state", "init_states", "initial_state", "initial_states"),
        *("init_hidden", "hidden_init", "mem", "membrane", "carry", "rnn_state", "lstm_state"),
        *("h", "H", "prev", "previous", "memory", "h_t", "h_tm1", "ht", "h_last"),
        *("cell_state", "recurrent_state", "c0", "c_0", "c_prev", "last_state"),
    )
)
"""What forward calls a state that it takes."""
TORCH_CELLS = {"Peephole": "LSTM_PEEPHOLE", "LSTM": "LSTM", "GRU": "GRU", "RNN": "RNN_TANH"}


def likeness(module: nn.Module) -> tuple[str, ...]:
    """What about a module looks recurrent: its "class", its "parameters", a "state" that it
    takes; empty where nothing does."""
    kind = type(module)
    if kind.__module__.startswith("torch.") or isinstance(module, nn.ModuleList | nn.ModuleDict):
        return ()
    names = list(_near_parameters(module))
    facts = {
        "class": CLASS.search(kind.__qualname__.rpartition(".")[2]) is not None,
        "parameters": any(PARAMETER.search(name) for name in names) or _gated(names),
        "state": _takes_state(kind.forward),
    }
    return tuple(fact for fact, holds in facts.items() if holds)


def _gated(names: list[str]) -> bool:
    """Whether there are W and U of one gate, as papers write them."""
    letters = {
        letter: {m[1] for n in names if (m := re.match(letter + GATE, n))} for letter in "WU"
    }
    return bool(letters["W"] & letters["U"])


def _near_parameters(module: nn.Module) -> Iterator[str]:
    """The names of a module's parameters and of those of its parts, without theirs."""
    yield from (name for name, _ in module.named_parameters(recurse=False))
    for part, child in module.named_children():
        yield from (f"{part}.{name}" for name, _ in child.named_parameters(recurse=False))


@cache
def _takes_state(forward: Callable[..., Any]) -> bool:
    try:
        names = list(inspect.signature(forward).parameters)[2:]
    except (TypeError, ValueError):
        return False
    return any(name in STATES for name in names)


def unknown_layers(model: nn.Module, named: Mapping[str, nn.Module]) -> dict[str, str]:
    """Modules in a model that look recurrent, by name, with what to write.

    ``named`` are the layers that are opened, or refused for another reason: what holds one of them
    runs it, and what lies in one is part of it. Of modules inside each other the one is told that
    has more than one sign and holds no other but cells and layers.
    """
    signs: dict[str, tuple[nn.Module, tuple[str, ...]]] = {}
    for name, module in model.named_modules():
        likely = likeness(module)
        inside = any(_within(name, layer) for layer in named)
        around = any(_within(layer, name) for layer in named)
        if likely and not inside and (not around or ("parameters" in likely and _own(module))):
            signs[name] = module, likely
    innermost = {n: m for n, (m, _) in signs.items() if not _holds_another(n, signs)}
    strong = {name: m for name, m in innermost.items() if _strong(m, signs[name][1])}
    chosen: dict[str, nn.Module] = {}
    for candidates in (strong, innermost):
        for name, module in candidates.items():
            near = any(_within(name, other) or _within(other, name) for other in chosen)
            bare = signs[name][1] == ("class",) and not any(True for _ in module.parameters())
            if not near and not bare:
                chosen[name] = module
    order = [name for name, _ in model.named_modules() if name in chosen]
    return {name: _reason(chosen[name], signs[name][1]) for name in order}


def _holds_another(name: str, signs: Mapping[str, tuple[nn.Module, tuple[str, ...]]]) -> bool:
    """Whether a module holds another that is more than its cell or one of its layers."""
    outer = _word(signs[name][0])
    return any(
        inner != name
        and _within(inner, name)
        and likely != ("class",)
        and not (PART.search(type(module).__qualname__) and _word(module) == outer is not None)
        for inner, (module, likely) in signs.items()
    )


def _word(module: nn.Module) -> str | None:
    """The word of a class's name that tells what it is, such as LSTM."""
    match = CLASS.search(type(module).__qualname__.rpartition(".")[2])
    return None if match is None else match[0]


def _strong(module: nn.Module, likely: tuple[str, ...]) -> bool:
    named_so = CLASS_OF_LAYER.search(type(module).__qualname__.rpartition(".")[2]) is not None
    return len(likely) > 1 and (named_so or "class" not in likely)


def _own(module: nn.Module) -> bool:
    """Whether recurrent parameters are the module's own, and not those of a part."""
    return any(PARAMETER.search(name) for name, _ in module.named_parameters(recurse=False))


def _within(name: str, outer: str) -> bool:
    return name == outer or not outer or name.startswith(f"{outer}.")


def _reason(module: nn.Module, likely: tuple[str, ...]) -> str:
    kind = type(module)
    signs = {
        "class": "its name",
        "parameters": "the names of its parameters",
        "state": "the state that it takes",
    }
    by = " and ".join(signs[sign] for sign in likely)
    cell = next((c for word, c in TORCH_CELLS.items() if word in kind.__name__), None)
    named = [name for name, _ in module.named_parameters()]
    line = f"cells={{{kind.__name__}: {f'rs.cells.{cell}' if cell else 'my_cell'}}}"
    text = (
        f"{kind.__module__}.{kind.__qualname__} looks recurrent by {by}, and is none of "
        f"torch.nn's, so its equations are not known. If you know them, say which cell it "
        f"computes, as in {line}"
    )
    if named and not any(re.fullmatch(r"weight_ih(_l0)?", name) for name in named):
        text += (
            f"; where its parameters are, says rs.Adapter(cell, parameters="
            f'{{"weight_ih": "...", "weight_hh": "..."}}). It has {listed(module)}'
        )
    return text
