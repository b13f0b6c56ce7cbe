"""The mistakes of backward passes, one declaration each: what it changes, its words, the line.

An entry that concerns a part gives the slots that it changes in the derived reverse pass (see
``reverse``); one that stands between layers gives what is handed down (see ``whole``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from rnnscope._compare.backward.reverse import Slots
from rnnscope._compare.mistakes.entry import Words
from rnnscope.cells import Cell
from rnnscope.cells.algebra import (
    Apply,
    Expr,
    FromH,
    Previous,
    Product,
    Quantity,
    Sum,
    leaves,
    nodes,
)

__all__ = ["BETWEEN_LAYERS", "CATALOGUE", "OF_ALL", "BackwardMistake", "Setting", "all_choices"]

LONG = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 25, 30, 32, 35, 40, 50, 64, 100, 128)
"""After how many steps a backward pass is truncated, as people write it."""


@dataclass(frozen=True)
class Setting:
    """What a mistake depends on: the cell, the sizes of the call, and numbers that were measured.

    ``square``: h has as many units as a gate; ``biases``: the layer has them; ``masks``: dropout's
    masks are known; ``limits`` at which what came back is clipped, ``factors`` that it may hold.
    """

    cell: Cell
    steps: int
    batch: int
    square: bool
    biases: bool
    directions: int
    layers: int
    masks: bool
    kind: str
    limits: tuple[float, ...] = ()
    factors: tuple[float, ...] = field(default=())


@dataclass(frozen=True)
class BackwardMistake:
    """One mistake: its choices in a setting, the slots that a choice changes, and its words.
    Between layers ``down`` says what is handed down, and slots are empty. ``exactly`` tells readers
    of the page what the words leave open."""

    name: str
    choices: Callable[[Setting], Iterator[str]]
    slots: Callable[[Setting, str], Slots]
    words: Callable[[Setting, str], Words]
    exactly: str
    down: bool = False


def all_choices(setting: Setting, down: bool = False) -> Iterator[tuple[BackwardMistake, str]]:
    """Every mistake with every choice that a setting has, of parts or between layers."""
    for mistake in CATALOGUE.values():
        if mistake.down == down:
            yield from ((mistake, choice) for choice in mistake.choices(setting))


def _only(*choices: str) -> Callable[[Setting], Iterator[str]]:
    return lambda setting: iter(choices)


def _outer(expr: Expr) -> Iterator[Expr]:
    """The leaves of an equation, without those to which a matrix is applied."""
    match expr:
        case Sum(left, right, _) | Product(left, right):
            yield from _outer(left)
            yield from _outer(right)
        case Apply(_, argument):
            yield from _outer(argument)
        case _:
            yield expr


def _uses(cell: Cell, wanted: type[Expr]) -> Iterator[tuple[str, Expr]]:
    """(equation, leaf) of every occurrence of a kind of leaf, each once."""
    for name, equation in cell.equations.items():
        yield from dict.fromkeys((name, e) for e in leaves(equation) if isinstance(e, wanted))


# through time ------------------------------------------------------------------------------------


def _states(setting: Setting) -> Iterator[str]:
    cell = setting.cell
    yield from cell.states
    direct = any(Previous("h") in _outer(equation) for equation in cell.equations.values())
    if direct and cell.gates_from_h and not _composite(cell):
        yield from ("W_hh", "direct h")


def _composite(cell: Cell) -> bool:
    return any(isinstance(e, FromH) and e.of != Previous("h") for _, e in _uses(cell, FromH))


def _through_state(setting: Setting, choice: str) -> Slots:
    state = choice.removeprefix("direct ")
    slots: dict[tuple[object, ...], object] = {}
    if choice in ("h", "W_hh"):
        slots[("hh",)] = "cut"
    if choice != "W_hh":
        for name, leaf in _uses(setting.cell, Previous):
            if leaf == Previous(state):
                slots[("edge", name, leaf)] = "cut"
    return slots


def _state_words(setting: Setting, choice: str) -> Words:
    if choice == "W_hh":
        return Words(
            "no gradient through W_hh to h_(t-1)",
            f"the gates of {setting.kind} read h_(t-1), so their gradients go back to it.",
            "dh_prev = dh_prev + da @ W_hh",
        )
    if choice == "direct h":
        return Words(
            "no gradient straight from h_t to h_(t-1)",
            f"h_t of {setting.kind} holds a share of h_(t-1), so dL/dh_t goes back to it too.",
            "dh_prev = dh_prev + dh * z",
        )
    back = "dh_prev = da @ W_hh" if choice == "h" else f"d{choice}_prev = d{choice} * f"
    more = " + dh * z" if choice == "h" and "z" in setting.cell.equations else ""
    return Words(
        f"no gradient through {choice}_(t-1)",
        f"{choice} is carried from step to step, and its gradient goes back the same way; here no "
        f"step hands it to the one before.",
        back + more,
    )


def _truncations(setting: Setting) -> Iterator[str]:
    for k in LONG:
        if k < setting.steps:
            yield from (f"every {k}", f"last {k}")


def _truncated(setting: Setting, choice: str) -> Slots:
    kind, _, count = choice.partition(" ")
    return {("truncated",): (kind, int(count))}


def _truncated_words(setting: Setting, choice: str) -> Words:
    kind, _, count = choice.partition(" ")
    steps = f"{count} step{'s' * (count != '1')}"
    what = f"cut after every {steps}" if kind == "every" else f"stopped after the last {steps}"
    return Words(
        f"truncated: the gradient is {what}",
        "it goes back through every step to the initial state.",
        "for t in reversed(range(T)):   # and no detach() of the state between steps",
    )


def _transposed(setting: Setting) -> Iterator[str]:
    if setting.square and setting.cell.gates_from_h:
        yield ""


def _direct_words(setting: Setting, choice: str) -> Words:
    said = {
        "0": ("the direct part of dL/dh_t is missing", "only what later steps hand back is used"),
        "2": ("the direct part of dL/dh_t is counted twice", "it is added two times"),
        "last": ("only the last step gets dL/doutput", "what reaches the other steps is left out"),
    }
    title, text = said[choice]
    return Words(
        title,
        f"{text}; every h_t is returned and gets the loss's own gradient once, beside what step "
        f"t+1 hands back.",
        "dh = dh_next + grad_output[t]",
    )


def _finals(setting: Setting) -> Iterator[str]:
    yield from setting.cell.states
    if len(setting.cell.states) > 1:
        yield "all"


def _chosen_states(setting: Setting, choice: str) -> tuple[str, ...]:
    return setting.cell.states if choice == "all" else (choice,)


def _final_words(setting: Setting, choice: str) -> Words:
    names = _chosen_states(setting, choice)
    what = " and ".join(f"{name}_n" for name in names)
    return Words(
        f"the gradient of {what} is not used",
        f"what reaches {what} straight from the loss is where the pass starts.",
        "; ".join(f"d{name}_next = grad_{name}_n" for name in names),
    )


# within a step -----------------------------------------------------------------------------------

SLOPE_RULES = ("missing", "at_argument", "of_output", "value")


def _places(cell: Cell) -> dict[str, list[tuple[str, str, str]]]:
    """Where there is a function: (equation, "outer" or "inner", function) by the name of a choice,
    for single ones and for all of one name."""
    single: dict[str, list[tuple[str, str, str]]] = {}
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for name, equation in cell.equations.items():
        for node in nodes(equation):
            if isinstance(node, Apply):
                depth = "outer" if node is equation else "inner"
                argument = node.argument
                inner = argument.name if isinstance(argument, Quantity) else name
                choice = name if depth == "outer" else f"{node.name}({inner})"
                single[choice] = [(name, depth, node.name)]
                groups.setdefault(node.name, []).append((name, depth, node.name))
    several = {f"every {name}": places for name, places in groups.items() if len(places) > 1}
    if len(groups) > 1:
        several["every function"] = [place for places in groups.values() for place in places]
    return single | several


def _slopes(setting: Setting) -> Iterator[str]:
    for choice, places in _places(setting.cell).items():
        functions = {function for _, _, function in places}
        for rule in SLOPE_RULES:
            if rule == "value" and functions != {"sigmoid"}:
                continue
            if functions == {"relu"} and rule != "missing":
                continue
            yield f"{rule} {choice}"


def _slope(setting: Setting, choice: str) -> Slots:
    rule, _, where = choice.partition(" ")
    return {("slope", name, depth): rule for name, depth, _ in _places(setting.cell)[where]}


def _slope_words(setting: Setting, choice: str) -> Words:
    rule, _, where = choice.partition(" ")
    functions = {function for _, _, function in _places(setting.cell)[where]}
    rights = {"tanh": "(1 - y * y)", "sigmoid": "y * (1 - y)", "relu": "(a > 0)"}
    if len(functions) == 1:
        f = functions.pop()
        right, told = rights.get(f, "f'(a)"), f"with y = {f}(a) it is {rights.get(f, 'its slope')}"
    else:
        f, right = "f", "slope"
        told = "; ".join(f"of y = {f}(a) it is {rights[f]}" for f in sorted(functions & {*rights}))
    place = where if where.startswith("every") or "(" in where else f"the {f} of {where}"
    title, wrong = {
        "missing": (f"the derivative of {place} is missing", "the gradient passes as it is"),
        "at_argument": (
            f"the derivative of {place} is taken at the pre-activation",
            "it takes the function's value y, and is given its argument a",
        ),
        "of_output": (
            f"the derivative of {place} is taken of the output",
            "it is computed of y as if y were the argument: the function is applied twice",
        ),
        "value": (f"the derivative of {place} is the function itself", "σ' = σ(a) is used"),
    }[rule]
    y = "" if where.startswith("every") else f"   # y = {where}"
    return Words(title, f"{wrong}; {told}.", f"da = dy * {right}{y}")


def _named(leaf: Expr) -> str:
    if isinstance(leaf, Previous):
        return f"{leaf.name}_(t-1)"
    if isinstance(leaf, FromH):
        return f"W_h{leaf.gate} h"
    return leaf.name if isinstance(leaf, Quantity) else ""


def _factored(cell: Cell) -> dict[str, tuple[str, Expr]]:
    """Leaves that an equation multiplies with something, by the name of a choice."""
    total: dict[str, tuple[str, Expr]] = {}
    for name, equation in cell.equations.items():
        every = list(_outer(equation))
        for node in nodes(equation):
            if isinstance(node, Product):
                for leaf in _outer(node):
                    if _named(leaf) and every.count(leaf) == 1:
                        total.setdefault(f"{name} to {_named(leaf)}", (name, leaf))
    return total


def _factors(setting: Setting) -> Iterator[str]:
    yield from _factored(setting.cell)


def _bare(setting: Setting, choice: str) -> Slots:
    return {("edge", *_factored(setting.cell)[choice]): "bare"}


def _factor_words(setting: Setting, choice: str) -> Words:
    name, leaf = _factored(setting.cell)[choice]
    return Words(
        f"a factor is missing from {name} to {_named(leaf)}",
        f"in the equation of {name}, {_named(leaf)} stands beside a factor, by which its gradient "
        f"is multiplied.",
        _line(setting.cell, name, leaf),
    )


LINES = {
    ("c", "c_(t-1)"): "dc_prev = dc * f",
    ("c", "f"): "df = dc * c_prev",
    ("c", "i"): "di = dc * g",
    ("c", "g"): "dg = dc * i",
    ("h", "o"): "do = dh * tanh(c)",
    ("h", "c"): "dc = dc_next + dh * o * (1 - tanh(c)**2)",
    ("m", "o"): "do = dm * tanh(c)",
    ("m", "c"): "dc = dc_next + dm * o * (1 - tanh(c)**2)",
    ("n", "r"): "dr = dn * (1 - n**2) * (W_hn h + b_hn)",
    ("n", "W_hn h"): "da_hn = dn * (1 - n**2) * r   # of W_hn, b_hn and h_(t-1)",
    ("h", "n"): "dn = dh * (1 - z)",
    ("h", "z"): "dz = dh * (h_prev - n)",
    ("h", "h_(t-1)"): "dh_prev = dh * z + da @ W_hh",
}
"""The right line of an equation and what it uses, in the cells of torch."""


def _line(cell: Cell, name: str, leaf: Expr) -> str:
    used = _named(leaf)
    return LINES.get((name, used), f"d{used} = d{name} * (the derivative of {name} by {used})")


def _ways(setting: Setting) -> Iterator[str]:
    for name, equation in setting.cell.equations.items():
        for leaf in dict.fromkeys(_outer(equation)):
            if isinstance(leaf, Quantity):
                yield f"{name} to {leaf.name}"


def _way(rule: str) -> Callable[[Setting, str], Slots]:
    def slots(setting: Setting, choice: str) -> Slots:
        name, _, leaf = choice.partition(" to ")
        return {("edge", name, Quantity(leaf)): rule}

    return slots


def _way_words(setting: Setting, choice: str) -> Words:
    name, _, leaf = choice.partition(" to ")
    return Words(
        f"no gradient goes from {name} to {leaf}",
        f"{name} is computed from {leaf}, so the gradient of {name} goes on to it.",
        _line(setting.cell, name, Quantity(leaf)),
    )


def _sign_words(setting: Setting, choice: str) -> Words:
    name, _, leaf = choice.partition(" to ")
    return Words(
        f"the gradient from {name} to {leaf} has the wrong sign",
        f"{leaf} enters the equation of {name} with the other sign.",
        _line(setting.cell, name, Quantity(leaf)),
    )


# the parameters ----------------------------------------------------------------------------------


def _h_words(setting: Setting, choice: str) -> Words:
    title, text = {
        "after": ("h_t in place of h_(t-1) in dW_hh", "W_hh multiplies h_(t-1) at step t"),
        "zeros": ("dW_hh of the first step leaves out h_0", "the first step reads h_0"),
    }[choice]
    return Words(
        title, f"{text}, so that is what its gradient is summed with.", "dW_hh += da.T @ h_prev"
    )


def _x_words(setting: Setting, choice: str) -> Words:
    which = {"earlier": "x_(t-1)", "later": "x_(t+1)"}[choice]
    return Words(
        f"{which} in place of x_t in dW_ih",
        "W_ih multiplies x_t at step t, in the order in which the direction runs.",
        "dW_ih += da[t].T @ x[t]",
    )


def _step_words(setting: Setting, choice: str) -> Words:
    return Words(
        f"the parameters' gradients are those of the {choice} step alone",
        "a parameter is used at every step, and its gradient is the sum over all of them.",
        "dW += ...   # += at every step, not =",
    )


def _biases(setting: Setting) -> Iterator[str]:
    if setting.biases:
        yield from ("missing b_ih", "missing b_hh")
        if "r" in setting.cell.equations:
            yield from ("copied b_ih", "copied b_hh")


def _bias(setting: Setting, choice: str) -> Slots:
    rule, _, name = choice.partition(" b_")
    return {("bias", f"bias_{name}"): "zero" if rule == "missing" else "copied"}


def _bias_words(setting: Setting, choice: str) -> Words:
    rule, _, name = choice.partition(" ")
    other = "b_hh" if name == "b_ih" else "b_ih"
    if rule == "missing":
        return Words(
            f"the gradient of {name} is zero",
            "each of the two biases is added at every step; both have a gradient.",
            f"d{name} = da.sum over steps and rows",
        )
    return Words(
        f"the gradient of {name} is that of {other}",
        "r multiplies W_hn h + b_hn, and not b_in: their gradients differ by r.",
        "db_hn = (da_n * r).sum(...); db_in = da_n.sum(...)",
    )


def _weight_words(setting: Setting, choice: str) -> Words:
    return Words(
        "the gradient of weight_hh is transposed",
        "row j of W_hh makes unit j of the gate from all units of h.",
        "dW_hh = da.T @ h_prev   # not h_prev.T @ da",
    )


SCALES: dict[str, Callable[[Setting], float]] = {
    "mean over batch": lambda setting: 1 / setting.batch,
    "mean over steps": lambda setting: 1 / setting.steps,
    "mean over both": lambda setting: 1 / (setting.steps * setting.batch),
    "twice": lambda setting: 2.0,
}


def _scales(setting: Setting) -> Iterator[str]:
    seen = {1.0}
    for name, scale in SCALES.items():
        if scale(setting) not in seen:
            seen.add(scale(setting))
            yield name
    for factor in setting.factors:
        if all(abs(factor - value) > 1e-3 * abs(value) for value in seen):
            yield f"times {factor!r}"


def _scale(setting: Setting, choice: str) -> Slots:
    if choice.startswith("times "):
        return {("scale",): float(choice.removeprefix("times "))}
    return {("scale",): SCALES[choice](setting)}


def _scale_words(setting: Setting, choice: str) -> Words:
    if choice == "twice":
        return Words(
            "the parameters' gradients are accumulated twice",
            "each is two times the sum over steps and rows.",
            "dW = 0 before every pass, and dW += ... once a step",
        )
    if choice.startswith("times "):
        factor = float(choice.removeprefix("times "))
        return Words(
            f"the parameters' gradients are multiplied by {factor:.6g}",
            "a norm that is clipped, or a learning rate, does that; a gradient is the plain sum.",
            f"dW = dW / {factor:.6g}",
        )
    over = choice.removeprefix("mean over ").replace("both", "steps and batch")
    return Words(
        f"the parameters' gradients are a mean over {over}",
        "grad_output is summed over every step and row; the mean stands in the loss, if anywhere.",
        "dW += da.T @ h_prev   # a sum, divided by nothing",
    )


def _limits(setting: Setting) -> Iterator[str]:
    yield from map(repr, setting.limits)


def _limit_words(setting: Setting, choice: str) -> Words:
    return Words(
        f"the parameters' gradients are clipped at ±{float(choice):.6g}",
        "larger ones are cut off. On purpose? Then compare before they are clipped.",
        "compare first, clip afterwards",
    )


def _initial_words(setting: Setting, choice: str) -> Words:
    names = " and ".join(f"{name}_0" for name in _chosen_states(setting, choice))
    return Words(
        f"the gradient of {names} is zero",
        "it is what the first step hands back.",
        f"return {names}'s gradient: what is carried after the loop",
    )


# between layers ----------------------------------------------------------------------------------


def _downs(setting: Setting) -> Iterator[str]:
    yield "zero"
    if setting.directions > 1:
        yield from ("forward", "reverse")
    if setting.masks:
        yield "unmasked"


def _down_words(setting: Setting, choice: str) -> Words:
    if choice == "unmasked":
        return Words(
            "dropout's mask is not applied on the way back",
            "the outputs were multiplied by the mask and 1/(1 - p); so are their gradients.",
            "dh_below = dx * mask / (1 - p)",
        )
    if choice == "zero":
        return Words(
            "nothing is handed down to what the layer read",
            "the layer's input gets the sum of da @ W_ih, be it x or the layer below.",
            "dx = da @ W_ih",
        )
    other = "reverse" if choice == "forward" else "forward"
    return Words(
        f"only the {choice} direction hands its gradient down",
        f"both directions read the same input; that of the {other} one is left out.",
        "dx = da_forward @ W_ih_forward + da_reverse @ W_ih_reverse",
    )


BETWEEN_LAYERS, OF_ALL = "handed_down", "all_scaled"
"""The mistakes that no part has by itself: between layers, and of all gradients together."""


def _all_words(setting: Setting, choice: str) -> Words:
    factor = float(choice)
    sizes = {
        "batch": setting.batch,
        "steps": setting.steps,
        "steps × batch": setting.steps * setting.batch,
    }
    means = [name for name, size in sizes.items() if abs(factor * size - 1) < 1e-6]
    mean = f", which is 1 / ({means[0]}): a mean in place of a sum" if means else ""
    return Words(
        f"all gradients are multiplied by {factor:.6g}{mean}",
        "they are linear in grad_output; the loss, or what reaches the output, has this factor.",
        "start from grad_output as it is",
    )


CATALOGUE: dict[str, BackwardMistake] = {
    mistake.name: mistake
    for mistake in (
        BackwardMistake(
            "through_state",
            _states,
            _through_state,
            _state_words,
            "h: by W_hh and straight; W_hh, direct h: one of the two ways of a GRU.",
        ),
        BackwardMistake(
            "truncated",
            _truncations,
            _truncated,
            _truncated_words,
            "every k: nothing crosses a multiple of k steps from the start of the run; last k: the "
            "steps before the last k get nothing at all.",
        ),
        BackwardMistake(
            "w_hh_transposed",
            _transposed,
            lambda setting, choice: {("hh",): "transposed"},
            lambda setting, choice: Words(
                "W_hh is transposed on the way back",
                "forward h_(t-1) is multiplied by the transpose of W_hh, backward by W_hh itself.",
                "dh_prev = da @ W_hh   # not da @ W_hh.T",
            ),
            "The block of every gate by itself, as far as it is square.",
        ),
        BackwardMistake(
            "direct_part",
            _only("0", "2", "last"),
            lambda s, choice: {("direct",): choice if choice == "last" else float(choice)},
            _direct_words,
            "Of a lower layer, what the layer above hands down.",
        ),
        BackwardMistake(
            "final_ignored",
            _finals,
            lambda s, choice: {("final", n): "cut" for n in _chosen_states(s, choice)},
            _final_words,
            "What reaches h_n or c_n straight from the loss.",
        ),
        BackwardMistake(
            "slope",
            _slopes,
            _slope,
            _slope_words,
            "missing: 1; at_argument: y (1 - y), 1 - y² with a in place of y; of_output: f'(y); "
            "value: f(a).",
        ),
        BackwardMistake(
            "factor",
            _factors,
            _bare,
            _factor_words,
            "All that stands between an equation and what it uses, but for its outer function.",
        ),
        BackwardMistake(
            "way_missing",
            _ways,
            _way("cut"),
            _way_words,
            "r: the reset path; z: the update path.",
        ),
        BackwardMistake("sign", _ways, _way("negated"), _sign_words, "Of one way within a step."),
        BackwardMistake(
            "h_of_dw",
            _only("after", "zeros"),
            lambda setting, choice: {("h_of_hh",): choice},
            _h_words,
            "zeros: in place of h_0.",
        ),
        BackwardMistake(
            "x_of_dw",
            _only("earlier", "later"),
            lambda setting, choice: {("x_of_ih",): choice},
            _x_words,
            "Zeros where there is no such step.",
        ),
        BackwardMistake(
            "one_step",
            _only("first", "last"),
            lambda setting, choice: {("steps",): choice},
            _step_words,
            "Of weights and biases, in the order in which the direction runs.",
        ),
        BackwardMistake("bias", _biases, _bias, _bias_words, "copied: of a GRU."),
        BackwardMistake(
            "dw_transposed",
            _transposed,
            lambda setting, choice: {("weight", "weight_hh"): "transposed"},
            _weight_words,
            "The block of every gate by itself, as far as it is square.",
        ),
        BackwardMistake(
            "scale",
            _scales,
            _scale,
            _scale_words,
            "Of weights and biases; another factor is measured.",
        ),
        BackwardMistake(
            "clipped",
            _limits,
            lambda setting, choice: {("clip",): float(choice)},
            _limit_words,
            "Of weights and biases, each number by itself; the limit is measured.",
        ),
        BackwardMistake(
            "initial_zero",
            _finals,
            lambda s, choice: {("initial", n): "zero" for n in _chosen_states(s, choice)},
            _initial_words,
            "The gradient of h_0 or c_0.",
        ),
        BackwardMistake(
            BETWEEN_LAYERS,
            _downs,
            lambda setting, choice: {},
            _down_words,
            "At one layer or at each; of the lowest it is the gradient of x.",
            down=True,
        ),
        BackwardMistake(
            OF_ALL,
            lambda setting: iter(()),
            lambda setting, choice: {},
            _all_words,
            "One factor, of x and the states too; it is measured.",
        ),
    )
}
"""Every mistake by name."""
