"""Mistakes in the sums that the parameters' gradients are."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from rnnscope._compare.backward.mistakes.entry import (
    BackwardMistake,
    ReverseSetting,
    of_table,
    where_square,
)
from rnnscope._compare.backward.reverse import Slots
from rnnscope._compare.mistakes.entry import Words

__all__ = ["OF_PARAMETERS"]

H_OF_DW = {
    choice: Words(
        title, f"{text}, so that is what its gradient is summed with.", "dW_hh += da.T @ h_prev"
    )
    for choice, title, text in (
        ("after", "h_t in place of h_(t-1) in dW_hh", "W_hh multiplies h_(t-1) at step t"),
        ("zeros", "dW_hh of the first step leaves out h_0", "the first step reads h_0"),
    )
}

X_OF_DW = {
    choice: Words(
        f"{x} in place of x_t in dW_ih",
        "W_ih multiplies x_t at step t, in the order in which the direction runs.",
        "dW_ih += da[t].T @ x[t]",
    )
    for choice, x in (("earlier", "x_(t-1)"), ("later", "x_(t+1)"))
}

ONE_STEP = {
    choice: Words(
        f"the parameters' gradients are those of the {choice} step alone",
        "a parameter is used at every step, and its gradient is the sum over all of them.",
        "dW += ...   # += at every step, not =",
    )
    for choice in ("first", "last")
}


def _biases(setting: ReverseSetting) -> Iterator[str]:
    if setting.biases:
        yield from ("missing b_ih", "missing b_hh")
        if "r" in setting.cell.equations:
            yield from ("copied b_ih", "copied b_hh")


def _bias(setting: ReverseSetting, choice: str) -> Slots:
    rule, _, name = choice.partition(" b_")
    return {("bias", f"bias_{name}"): "zero" if rule == "missing" else "copied"}


def _bias_words(setting: ReverseSetting, choice: str) -> Words:
    rule, _, name = choice.partition(" ")
    if rule == "missing":
        return Words(
            f"the gradient of {name} is zero",
            "each of the two biases is added at every step; both have a gradient.",
            f"d{name} = da.sum over steps and rows",
        )
    return Words(
        f"the gradient of {name} is that of {'b_hh' if name == 'b_ih' else 'b_ih'}",
        "r multiplies W_hn h + b_hn, and not b_in: their gradients differ by r.",
        "db_hn = (da_n * r).sum(...); db_in = da_n.sum(...)",
    )


SCALES: dict[str, Callable[[ReverseSetting], float]] = {
    "mean over batch": lambda setting: 1 / setting.batch,
    "mean over steps": lambda setting: 1 / setting.steps,
    "mean over both": lambda setting: 1 / (setting.steps * setting.batch),
    "twice": lambda setting: 2.0,
}


def _scales(setting: ReverseSetting) -> Iterator[str]:
    scales = {1.0}
    for name, scale in SCALES.items():
        if scale(setting) not in scales:
            scales.add(scale(setting))
            yield name
    for factor in setting.factors:
        if all(abs(factor - value) > 1e-3 * abs(value) for value in scales):
            yield f"times {factor!r}"


def _scale(setting: ReverseSetting, choice: str) -> Slots:
    named = SCALES.get(choice)
    return {("scale",): named(setting) if named else float(choice.removeprefix("times "))}


def _scale_words(setting: ReverseSetting, choice: str) -> Words:
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


OF_PARAMETERS = (
    of_table("h_of_dw", "h_of_hh", H_OF_DW),
    of_table("x_of_dw", "x_of_ih", X_OF_DW),
    of_table("one_step", "steps", ONE_STEP),
    BackwardMistake("bias", _biases, _bias, _bias_words),
    BackwardMistake(
        "dw_transposed",
        where_square,
        lambda setting, choice: {("weight_hh",): "transposed"},
        lambda setting, choice: Words(
            "the gradient of weight_hh is transposed",
            "row j of W_hh makes unit j of the gate from all units of h.",
            "dW_hh = da.T @ h_prev   # not h_prev.T @ da",
        ),
    ),
    BackwardMistake("scale", _scales, _scale, _scale_words),
    BackwardMistake(
        "clipped",
        lambda setting: map(repr, setting.limits),
        lambda setting, choice: {("clip",): float(choice)},
        lambda setting, choice: Words(
            f"the parameters' gradients are clipped at ±{float(choice):.6g}",
            "larger ones are cut off. On purpose? Then compare before they are clipped.",
            "compare first, clip afterwards",
        ),
    ),
)
"""Mistakes of the sums over steps and rows."""
