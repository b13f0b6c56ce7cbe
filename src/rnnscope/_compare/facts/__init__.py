"""What the numbers show before any mistake is searched for.

Enters: the reference as a model, and what the candidate returned.
Leaves: a ``Finding`` that explains everything to rounding, and sentences on what agrees.
"""

from rnnscope._compare.facts.agreement import (
    agrees_in_part,
    all_equal,
    listed,
    not_reached,
    what_is_plain,
    where_it_agrees,
    wrong_rows,
)
from rnnscope._compare.facts.beside import explained_beside
from rnnscope._compare.facts.complete import explanations_by_facts

__all__ = [
    "agrees_in_part",
    "all_equal",
    "explained_beside",
    "explanations_by_facts",
    "listed",
    "not_reached",
    "what_is_plain",
    "where_it_agrees",
    "wrong_rows",
]
