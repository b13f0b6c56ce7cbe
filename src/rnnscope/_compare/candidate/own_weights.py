"""Where a candidate's own parameters are what differs from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rnnscope._compare.candidate.tensors import short
from rnnscope._compare.confirmed import proved
from rnnscope._compare.evidence import largest
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Model
from rnnscope._compare.model.observed import Observation, few_steps
from rnnscope._record.difference import absolute_difference

__all__ = ["OwnWeights", "ParameterDifference", "compare_parameters", "named_tensors"]


@dataclass(frozen=True)
class ParameterDifference:
    """A parameter that candidate and reference both have: ``name`` as the candidate calls it,
    ``largest`` the largest difference, ``places`` how many of ``count`` numbers differ;
    ``rounded`` the type of which they are the reference's numbers, ``holds`` what it holds instead
    of its own, each or empty."""

    name: str
    largest: float
    places: int
    count: int
    rounded: str = ""
    holds: str = ""

    @property
    def differs(self) -> bool:
        """Whether any number does."""
        return self.places > 0

    @property
    def sentence(self) -> str:
        """What is said of one that differs."""
        if self.holds:
            return f"{self.name} holds {self.holds}"
        if self.rounded:
            return f"{self.name} holds the reference's numbers rounded to {self.rounded}"
        how = f"{self.places} of {self.count} numbers, by up to {self.largest:.2g}"
        if self.places == self.count and self.count > 1:
            how += " (was it ever loaded?)"
        return f"{self.name} differs from the reference's in {how}"


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name."""
    return dict(module.named_buffers()) | dict(module.named_parameters())


def compare_parameters(module: nn.Module, layer: nn.Module) -> list[ParameterDifference]:
    """The parameters of the same name and shape in both, in the layer's order.

    A name may stand behind those of the modules around it (``encoder.lstm.weight_ih_l0``), if it
    does so once. Numbers are compared in the candidate's precision.

    >>> lstm = nn.LSTM(2, 3)
    >>> [each.differs for each in compare_parameters(lstm, lstm)]
    [False, False, False, False]
    """
    tensors = named_tensors(module)
    differences = []
    for name, parameter in layer.named_parameters():
        ends = [path for path in tensors if path == name or path.endswith(f".{name}")]
        chosen = name if name in ends else ends[0] if len(ends) == 1 else None
        if chosen is None or tensors[chosen].shape != parameter.shape:
            continue
        numbers = tensors[chosen].detach().cpu()
        if numbers.is_meta or parameter.is_meta or not numbers.is_floating_point():
            continue
        right = parameter.detach().cpu()
        apart = absolute_difference(numbers.double(), right.to(numbers.dtype).double())
        largest = float(apart.max()) if apart.numel() else 0.0
        rounded = next((short(low) for low in LOWER if _is_rounded(numbers, right, low)), "")
        places, count = int((apart > 0).sum()), apart.numel()
        instead = _instead(numbers, name, layer) if places else ""
        differences.append(ParameterDifference(chosen, largest, places, count, rounded, instead))
    return differences


def _instead(value: Tensor, name: str, layer: nn.Module) -> str:
    """What stands in place of a parameter, if that is zeros or another one; else empty."""
    if not bool(value.any()):
        return "zeros"
    for another, parameter in layer.named_parameters():
        same = another != name and parameter.shape == value.shape and value.numel() > 1
        if same and torch.equal(value, parameter.detach().cpu().to(value.dtype)):
            return f"{another}'s numbers"
    return ""


LOWER = (torch.float32, torch.float16, torch.bfloat16)


def _is_rounded(value: Tensor, right: Tensor, dtype: torch.dtype) -> bool:
    """Whether these are the numbers of ``right`` as ``dtype`` holds them."""
    finer = torch.finfo(dtype).eps > torch.finfo(right.dtype).eps
    return finer and torch.equal(value.double(), right.to(dtype).double())


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
        first = [few_steps(observation, observation.inputs.steps, 1) for observation in shown]
        return self.model is not None and worst(self.model, first) <= 1

    def cause(self, shown: Sequence[Observation], needed: str) -> tuple[Cause, Words, float] | None:
        """Where they explain everything, that they are rounded or others, and what is left;
        ``needed`` is the type of the reference."""
        if self.model is None or not proved(self.model, shown):
            return None
        remainder = largest(self.model, shown)[0]
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
