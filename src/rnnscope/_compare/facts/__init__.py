"""What the numbers show before any mistake is searched for.

Enters: the reference as a model, and what the candidate returned.
Leaves: a ``Finding`` that explains everything to rounding, and sentences on what agrees.
"""

from rnnscope._compare.facts.agreement import agreement
from rnnscope._compare.facts.explaining import explaining

__all__ = ["agreement", "explaining"]
