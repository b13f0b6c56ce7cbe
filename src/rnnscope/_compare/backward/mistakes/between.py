"""Mistakes between layers, and of all gradients together."""

from __future__ import annotations

from collections.abc import Iterator

from rnnscope._compare.backward.mistakes.entry import BackwardMistake, ReverseSetting
from rnnscope._compare.mistakes.entry import Words

__all__ = ["BETWEEN", "BETWEEN_LAYERS", "OF_ALL"]


def _downs(setting: ReverseSetting) -> Iterator[str]:
    yield "zero"
    if setting.directions > 1:
        yield from ("forward", "reverse")
    if setting.masks:
        yield "unmasked"


def _down_words(setting: ReverseSetting, choice: str) -> Words:
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
    missing_direction = "reverse" if choice == "forward" else "forward"
    return Words(
        f"only the {choice} direction hands its gradient down",
        f"both directions read the same input; that of the {missing_direction} one is left out.",
        "dx = da_forward @ W_ih_forward + da_reverse @ W_ih_reverse",
    )


BETWEEN_LAYERS, OF_ALL = "handed_down", "all_scaled"
"""The mistakes that no part has by itself: between layers, and of all gradients together."""


def _all_words(setting: ReverseSetting, choice: str) -> Words:
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


BETWEEN = (
    BackwardMistake(BETWEEN_LAYERS, _downs, lambda setting, choice: {}, _down_words),
    BackwardMistake(OF_ALL, lambda setting: iter(()), lambda setting, choice: {}, _all_words),
)
"""What layers hand down, and one factor on everything."""
