"""Where a candidate's own parameters are what differs from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rnnscope._compare.candidate.checks import ParameterDifference
from rnnscope._compare.confirmed import proved
from rnnscope._compare.evidence import largest
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, few_steps
from rnnscope._compare.model.simulate import Simulator

__all__ = ["OwnWeights"]


@dataclass(frozen=True)
class OwnWeights:
    """The parameters of the same names that differ, and the reference with the candidate's; None
    where there are none."""

    apart: Sequence[ParameterDifference]
    model: Model | None

    @property
    def rounded(self) -> str:
        """The one type to which all of them are rounded; else empty."""
        types = {difference.rounded for difference in self.apart}
        return types.pop() if len(types) == 1 else ""

    def likely(self, shown: Sequence[Observation]) -> bool:
        """Whether with them the reference gives the first row."""
        first = _fresh(
            [few_steps(observation, observation.inputs.steps, 1) for observation in shown]
        )
        return self.model is not None and worst(self.model, first) <= 1

    def cause(self, shown: Sequence[Observation], needed: str) -> tuple[Cause, Words, float] | None:
        """Where they explain everything, that they are rounded or others, and what is left;
        ``needed`` is the type of the reference."""
        if self.model is None or not proved(self.model, _fresh(shown)):
            return None
        remainder = largest(self.model, _fresh(shown))[0]
        names = ", ".join(difference.name for difference in self.apart)
        if self.rounded:
            words = Words(
                f"the weights are rounded to {self.rounded}",
                f"{names} hold{'s' * (len(self.apart) == 1)} the reference's numbers as "
                f"{self.rounded} has them; with the candidate's own in the reference the two "
                f"agree.",
                f"store the weights in {needed}",
            )
            return Cause("precision", self.rounded), words, remainder
        if sum(difference.places for difference in self.apart) * 2 < min(
            difference.count for difference in self.apart
        ):
            return None  # a few numbers of one that is loaded
        few = len(self.apart) <= 2
        sentences = (
            "; ".join(difference.sentence for difference in self.apart)
            if few
            else f"{names} differ"
        )
        words = Words(
            "the weights are not those of the reference",
            f"{sentences}. With the candidate's own in the reference the two agree.",
            "candidate.load_state_dict(reference.state_dict())",
        )
        return Cause("not_loaded"), words, remainder


def _fresh(shown: Sequence[Observation]) -> list[Observation]:
    """With nothing remembered of another model, whose weights have the same tokens."""
    return [replace(o, simulator=Simulator(o.inputs, o.simulator.names)) for o in shown]
