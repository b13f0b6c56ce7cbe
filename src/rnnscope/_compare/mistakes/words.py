"""What is said of mistakes: texts in which the words of each choice stand line by line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from textwrap import dedent
from typing import Any, TypeVar

__all__ = ["LINES", "Words", "choices_of", "declared", "of_choice"]

Kind = TypeVar("Kind", bound=Any)


@dataclass(frozen=True)
class Words:
    """``title`` names the mistake, ``sentence`` says what differs, ``repair`` is the line to
    write; ``brief`` names it where no sentence follows."""

    title: str
    sentence: str
    repair: str = ""
    short: str = ""

    @property
    def brief(self) -> str:
        """The title, with the choice where the title alone does not tell it."""
        return self.short or self.title

    def filled(self, facts: Mapping[str, object]) -> Words:
        """The same with facts in the place of their names in braces."""
        texts = (self.title, self.sentence, self.repair, self.short)
        return Words(*(text.format_map({**LINES, **facts}) for text in texts))


OTHERS = "*"
"""Stands for every choice that has no words of its own."""

LINES = {
    "CELL": "c = f * c + i * g; h = o * tanh(c)",
    "BLEND": "h = (1 - z) * n + z * h",
    "RESET": "n = tanh(x @ W_in.T + b_in + r * (h @ W_hn.T + b_hn))",
}
"""Right lines of the cells of torch, by their names in words."""


def declared(
    text: str, *mistakes: Kind, facts: Callable[..., Mapping[str, object]] | None = None
) -> tuple[Kind, ...]:
    """Mistakes with their words and the ``facts`` that these name in braces. Below the name of each
    and its choice stand, indented, the title, the sentence, the line to write, and where there is
    one the short name."""
    said: dict[str, dict[str, list[str]]] = {}
    for line in dedent(text).strip().splitlines():
        if not line.startswith(" "):
            name, _, choice = line.partition(" ")
            said.setdefault(name, {})[choice] = lines = []
        else:  # what goes on in the line below has its indent in the middle
            lines.append(re.sub(" {4,}", " ", line.strip()))
    return tuple(
        replace(
            mistake,
            said={choice: Words(*lines) for choice, lines in said.get(mistake.name, {}).items()},
            facts=mistake.facts or facts,
        )
        for mistake in mistakes
    )


def of_choice(said: Mapping[str, Words], choice: str) -> Words:
    """The words of a choice, or of all that have none of their own."""
    return said.get(choice) or said.get(OTHERS) or said[""]


def choices_of(said: Mapping[str, Words]) -> list[str]:
    """The choices that have words of their own; one, without a name, where there are none."""
    return [choice for choice in said or [""] if choice != OTHERS]
