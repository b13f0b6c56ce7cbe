"""Mistakes in the sums that the parameters' gradients are, and in what layers hand down."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from rnnscope._compare.backward.mistakes.entry import BackwardMistake, ReverseSetting
from rnnscope._compare.backward.reverse import Slots
from rnnscope._compare.mistakes.words import declared

__all__ = ["BETWEEN_LAYERS", "OF_ALL", "OF_PARAMETERS"]

BETWEEN_LAYERS, OF_ALL = "handed_down", "all_scaled"
"""The mistakes that no part has by itself: between layers, and of all gradients together."""


def _biases(setting: ReverseSetting) -> Iterator[str]:
    if setting.biases:
        yield from ("missing b_ih", "missing b_hh")
        if "r" in setting.cell.equations:
            yield from ("copied b_ih", "copied b_hh")


def _bias(setting: ReverseSetting, choice: str) -> Slots:
    rule, _, name = choice.partition(" b_")
    return {("bias", f"bias_{name}"): "zero" if rule == "missing" else "copied"}


def _means(setting: ReverseSetting) -> dict[str, int]:
    """Numbers of which a mean is taken, by what is added."""
    steps, batch = setting.steps, setting.batch
    return {"batch": batch, "steps": steps, "steps × batch": steps * batch}


def _scale_of(setting: ReverseSetting, choice: str) -> float:
    kind, _, number = choice.partition(" ")
    if kind == "mean":
        over = number.removeprefix("over ")
        return 1 / _means(setting)["steps × batch" if over == "both" else over]
    return 2.0 if kind == "twice" else float(number)


def _scales(setting: ReverseSetting) -> Iterator[str]:
    scales = {1.0}
    for name in ("mean over batch", "mean over steps", "mean over both", "twice"):
        if _scale_of(setting, name) not in scales:
            scales.add(_scale_of(setting, name))
            yield name
    for factor in setting.factors:
        if all(abs(factor - value) > 1e-3 * abs(value) for value in scales):
            yield f"times {factor!r}"


def _downs(setting: ReverseSetting) -> Iterator[str]:
    yield "zero"
    if setting.directions > 1:
        yield from ("forward", "reverse")
    if setting.masks:
        yield "unmasked"


def _nothing(setting: ReverseSetting, choice: str) -> Slots:
    """Of what no part has by itself."""
    return {}


def _facts(setting: ReverseSetting, choice: str) -> dict[str, object]:
    number, factor = choice.split(" ")[-1], 0.0
    with contextlib.suppress(ValueError):  # a choice that names none
        factor = float(number)
    means = [name for name, size in _means(setting).items() if abs(factor * size - 1) < 1e-6]
    return {
        "factor": f"{factor:.6g}",
        "mean": f", which is 1 / ({means[0]}): a mean in place of a sum" if means else "",
        "bias": number,
        "other_bias": "b_hh" if number == "b_ih" else "b_ih",
        "missing": "reverse" if choice == "forward" else "forward",
    }


OF_PARAMETERS = declared(
    """
    h_of_dw after
        h_t in place of h_(t-1) in dW_hh
        W_hh multiplies h_(t-1) at step t, so that is what its gradient is summed with.
        dW_hh += da.T @ h_prev
    h_of_dw zeros
        dW_hh of the first step leaves out h_0
        the first step reads h_0, so that is what its gradient is summed with.
        dW_hh += da.T @ h_prev
    x_of_dw earlier
        x_(t-1) in place of x_t in dW_ih
        W_ih multiplies x_t at step t, in the order in which the direction runs.
        dW_ih += da[t].T @ x[t]
    x_of_dw later
        x_(t+1) in place of x_t in dW_ih
        W_ih multiplies x_t at step t, in the order in which the direction runs.
        dW_ih += da[t].T @ x[t]
    one_step first
        the parameters' gradients are those of the first step alone
        a parameter is used at every step, and its gradient is the sum over all of them.
        dW += ...   # += at every step, not =
    one_step last
        the parameters' gradients are those of the last step alone
        a parameter is used at every step, and its gradient is the sum over all of them.
        dW += ...   # += at every step, not =
    bias missing b_ih
        the gradient of b_ih is zero
        each of the two biases is added at every step; both have a gradient.
        db_ih = da.sum over steps and rows
    bias missing b_hh
        the gradient of b_hh is zero
        each of the two biases is added at every step; both have a gradient.
        db_hh = da.sum over steps and rows
    bias *
        the gradient of {bias} is that of {other_bias}
        r multiplies W_hn h + b_hn, and not b_in: their gradients differ by r.
        db_hn = (da_n * r).sum(...); db_in = da_n.sum(...)
    dw_transposed
        the gradient of weight_hh is transposed
        row j of W_hh makes unit j of the gate from all units of h.
        dW_hh = da.T @ h_prev   # not h_prev.T @ da
    scale mean over batch
        the parameters' gradients are a mean over batch
        grad_output is summed over every step and row; the mean stands in the loss, if anywhere.
        dW += da.T @ h_prev   # a sum, divided by nothing
    scale mean over steps
        the parameters' gradients are a mean over steps
        grad_output is summed over every step and row; the mean stands in the loss, if anywhere.
        dW += da.T @ h_prev   # a sum, divided by nothing
    scale mean over both
        the parameters' gradients are a mean over steps and batch
        grad_output is summed over every step and row; the mean stands in the loss, if anywhere.
        dW += da.T @ h_prev   # a sum, divided by nothing
    scale twice
        the parameters' gradients are accumulated twice
        each is two times the sum over steps and rows.
        dW = 0 before every pass, and dW += ... once a step
    scale *
        the parameters' gradients are multiplied by {factor}
        a norm that is clipped, or a learning rate, does that; a gradient is the plain sum.
        dW = dW / {factor}
    clipped
        the parameters' gradients are clipped at ±{factor}
        larger ones are cut off. On purpose? Then compare before they are clipped.
        compare first, clip afterwards
    handed_down unmasked
        dropout's mask is not applied on the way back
        the outputs were multiplied by the mask and 1/(1 - p); so are their gradients.
        dh_below = dx * mask / (1 - p)
    handed_down zero
        nothing is handed down to what the layer read
        the layer's input gets the sum of da @ W_ih, be it x or the layer below.
        dx = da @ W_ih
    handed_down *
        only the {choice} direction hands its gradient down
        both directions read the same input; that of the {missing} one is left out.
        dx = da_forward @ W_ih_forward + da_reverse @ W_ih_reverse
    all_scaled
        all gradients are multiplied by {factor}{mean}
        they are linear in grad_output; the loss, or what reaches the output, has this factor.
        start from grad_output as it is
    """,
    BackwardMistake("h_of_dw", "h_of_hh"),
    BackwardMistake("x_of_dw", "x_of_ih"),
    BackwardMistake("one_step", "steps"),
    BackwardMistake("bias", _bias, _biases),
    BackwardMistake(
        "dw_transposed",
        lambda setting, choice: {("weight_hh",): "transposed"},
        ReverseSetting.where_square,
    ),
    BackwardMistake(
        "scale", lambda setting, choice: {("scale",): _scale_of(setting, choice)}, _scales
    ),
    BackwardMistake(
        "clipped",
        lambda setting, choice: {("clip",): float(choice)},
        lambda setting: map(repr, setting.limits),
    ),
    BackwardMistake(BETWEEN_LAYERS, _nothing, _downs),
    BackwardMistake(OF_ALL, _nothing, lambda setting: ()),
    facts=_facts,
)
"""Mistakes of the sums over steps and rows, of what layers hand down, and of all together."""
