"""The mistakes of backward passes, one declaration each: what it changes, its words, the line.

An entry that concerns a part gives the slots that it changes in the derived reverse pass (see
``reverse``); one that stands between layers gives what is handed down (see ``whole``).
"""

from __future__ import annotations

from rnnscope._compare.backward.mistakes.entry import BackwardMistake, ReverseSetting
from rnnscope._compare.backward.mistakes.parameters import (
    BETWEEN_LAYERS,
    OF_ALL,
    OF_PARAMETERS,
)
from rnnscope._compare.backward.mistakes.step import WITHIN_A_STEP
from rnnscope._compare.backward.mistakes.through_time import THROUGH_TIME

__all__ = [
    "BETWEEN_LAYERS",
    "CATALOGUE",
    "OF_ALL",
    "BackwardMistake",
    "ReverseSetting",
]

CATALOGUE: dict[str, BackwardMistake] = {
    mistake.name: mistake for mistake in (*THROUGH_TIME, *WITHIN_A_STEP, *OF_PARAMETERS)
}
"""Every mistake by name."""
