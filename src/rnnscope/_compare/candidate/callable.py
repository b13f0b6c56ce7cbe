"""A candidate that can be called, to be compared."""

from __future__ import annotations

import contextlib
import copy
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rnnscope._compare.candidate.call import Candidate
from rnnscope._compare.candidate.checks import CallFinding, Checks
from rnnscope._compare.candidate.inputs import (
    confirming,
    drawn_inputs,
    further,
    searching,
    tiny_layer,
)
from rnnscope._compare.candidate.own_weights import (
    ParameterDifference,
    compare_parameters,
    named_tensors,
)
from rnnscope._compare.candidate.quantised import (
    dequantised,
    dynamically_quantised,
    quantised_alike,
)
from rnnscope._compare.candidate.recorded import Recorded
from rnnscope._compare.candidate.returned import Answer
from rnnscope._compare.candidate.subject import Subject, Told, dtype_of, rounding, turned
from rnnscope._compare.facts.sensitivity import (
    Calls,
    Numbers,
    agrees_at_zero,
    another,
    without_influence,
)
from rnnscope._compare.mistakes import Words
from rnnscope._compare.mistakes.cause import Cause
from rnnscope._compare.model.misfit import worst
from rnnscope._compare.model.model import Inputs, Model
from rnnscope._compare.model.observed import UNIT, Observation
from rnnscope._compare.tolerance import allowed
from rnnscope._layers.adopt import adopt
from rnnscope._layers.structure import Structure
from rnnscope.errors import CandidateError, RnnscopeError, ShapeError

__all__ = ["OfCalls"]

_NUMBER = re.compile(r"\b\d+\b")


class OfCalls(Subject):
    """A candidate that can be called; ``layer`` is what it is called with the weights of: the
    reference, or a small one."""

    sliced = False

    def __init__(
        self,
        candidate: Any,
        reference: nn.Module,
        inputs: Inputs | None,
        builder: bool | None,
        seed: int,
        padded: bool,
        small: bool = True,
    ):
        super().__init__()
        self._candidate, self.seed, self._padded = candidate, seed, padded
        self._inputs, self.given = inputs, inputs is not None
        self._reference = self.layer = reference
        self.adopted = adopt(reference)
        self._dtype = dtype_of(self.adopted)
        made = Candidate.of(candidate, self._structure, builder=builder)
        self._builder = made.is_builder
        self._by_place, self._by_sequence = True, False
        self._tiny = small and inputs is None and (made.is_builder or made.takes_weights)
        if self._tiny:
            self.layer = tiny_layer(self._structure, seed).to(self._dtype)
            self.adopted = adopt(self.layer)
            try:
                self._callable = self.made()
                self._answer(searching(self._structure, seed, False, False)[0])
            except RnnscopeError:
                # it may be made for one size: then the layer itself is what it is tried on
                self.layer, self.adopted, self._tiny = reference, adopt(reference), False
        self._callable = self.made()
        self.keeps_state = self._callable.module is None  # a function has no fresh copy
        self.model = Model.of(self.adopted, torch.float64)
        self.dtypes = (self._dtype,)
        self._settle_batch()
        self._settle_place()
        self._exchanged, self._batch_first = self._order_of_axes()
        self._shown: list[Observation] = []

    @property
    def _structure(self) -> Structure:
        return self.adopted.structure

    # calls ------------------------------------------------------------------------------------

    def made(self, layer: nn.Module | None = None) -> Candidate:
        """A candidate of which nothing was called yet, for another layer where one is given."""
        layer = self.layer if layer is None else layer
        made = Candidate.of(self._candidate, self._structure, builder=self._builder)
        made = made.build(layer) if made.is_builder else made
        made.by_sequence = self._by_sequence
        if made.signature.guessed and not self._by_place:
            made.forget_guess()
        return made

    @property
    def takes_initial(self) -> bool:
        """Whether initial states can be given."""
        return self._callable.signature.takes_initial

    def _called(self, made: Candidate, inputs: Inputs, layer: nn.Module | None = None) -> Answer:
        layer = self.layer if layer is None else layer
        weights = layer.state_dict() if made.takes_weights else None
        return made.call(inputs.to(self._dtype), weights, packed=inputs.lengths is not None)

    def _answer(self, inputs: Inputs) -> Answer:
        # a fresh copy each time: what one call leaves behind does not reach the next
        if self._callable.module is not None:
            self._callable = self.made()
        return self._called(self._callable, inputs)

    def _settle_batch(self) -> None:
        """Whether a candidate that takes no batch of one sequence takes the sequence that the
        caller gave without a batch; then it is given one at a time."""
        inputs = self._inputs
        if inputs is None or not inputs.single:
            return
        try:
            self._answer(inputs)
        except (CandidateError, ShapeError) as error:
            self._by_sequence, self._callable.by_sequence = True, True
            try:
                self._answer(inputs)
            except RnnscopeError as second:
                x = tuple(inputs.x.squeeze(1).shape)
                text = f"{error}. And without a batch, x {x}: {second}"
                raise type(error)(text) from error.__cause__
            name = self._callable.name
            self.notes.append(
                f"{name} was given one sequence at a time, x (time, feature): it takes no batch"
            )

    def _settle_place(self) -> None:
        """Whether the parameter whose place alone says so takes initial states; and a note on it,
        or on there being none."""
        made = self._callable
        name, guessed = made.name, made.signature.guessed
        generator = torch.Generator("cpu").manual_seed(self.seed)
        states, zeros = (
            drawn_inputs(self._structure, 4, 3, with_states, generator)
            for with_states in (True, False)
        )
        # what takes no inputs of this size at all says nothing of its parameter
        if guessed and (self._taken(states) or not self._taken(zeros)):
            self.notes.append(
                f"{name} was given the initial states as {guessed!r}, the parameter behind x; no "
                f"name tells what it takes"
            )
            return
        if guessed:
            self._by_place = False
            self._callable = self.made()
        spare = ", ".join(f"{parameter}=None" for parameter in self._callable.signature.spare)
        if spare and not self.takes_initial:
            self.notes.append(
                f"no initial states were given to {name}: of its parameters x, {spare} none is "
                f"known to take them; call it initial or hx if one does"
            )

    def _taken(self, inputs: Inputs) -> bool:
        with contextlib.suppress(RnnscopeError):
            self._answer(inputs)
            return True
        return False

    def _order_of_axes(self) -> tuple[bool, frozenset[str]]:
        """Whether time and batch of the output are exchanged, and which states come back batch
        first: where two of the sizes are the same its shape does not tell, so an input does of
        which none are."""
        structure = self._structure
        steps, batch = [n for n in (4, 3, 5) if n != self.rows][:2]
        generator = torch.Generator("cpu").manual_seed(self.seed)
        probe = drawn_inputs(structure, steps, batch, False, generator)
        try:
            answer = self._answer(probe)
        except RnnscopeError:
            return False, frozenset()  # it may take no other input than the caller's
        return answer.exchanged, frozenset(answer.batch_first)

    def _observe(self, inputs: Inputs) -> Observation:
        answer = self._answer(inputs)
        final = self._in_order(answer, inputs)
        self._exchanged |= answer.exchanged
        self._batch_first |= answer.batch_first.keys()
        beside = Recorded.beside_the_output(answer.others, self._structure, inputs)
        self.unread = self.unread or [*answer.unread, *beside.unread]
        self.untried |= {"the final states"} if self.unread else set()
        observation = self._beside(self.model, inputs, answer, final, beside.quantities)
        is_callers = not self.given or inputs is self._inputs
        padding = self.on_padding(observation.output, inputs) if is_callers else []
        self._note((*answer.notes, *beside.notes, *padding), inputs)
        if answer.dtype not in self.dtypes:
            self.dtypes = (*self.dtypes, answer.dtype)
        return observation

    def _in_order(self, answer: Answer, inputs: Inputs) -> dict[str, Tensor]:
        """The final states of an answer, those that come back batch first put in order."""
        final = dict(answer.final)
        if inputs.batch == self.rows:
            final |= {name: turned(final[name]) for name in self._batch_first & final.keys()}
        return final

    def _beside(
        self,
        model: Model,
        inputs: Inputs,
        answer: Answer,
        final: Mapping[str, Tensor],
        quantities: Mapping[str, Tensor],
    ) -> Observation:
        """An answer with what rounding allows a model."""
        output = answer.output
        if self._exchanged and inputs.steps == inputs.batch:
            output = output.transpose(0, 1)
        dtypes = [answer.dtype] if answer.dtype in UNIT else []
        unit = rounding(self._dtype, *dtypes, on_gpu=answer.on_gpu)
        rounded = inputs.to(self._dtype).to(torch.float64)
        return self.observation(model, rounded, unit, output, final, quantities)

    def _note(self, notes: Sequence[str], inputs: Inputs) -> None:
        """Each once, though sizes differ; none of sizes that are not the caller's, who gave x."""
        forms = {_NUMBER.sub("", note) for note in self.notes}
        for note in notes:
            form = _NUMBER.sub("", note)
            if form not in forms and (form == note or not self.given or inputs is self._inputs):
                self.notes.append(note)
                forms.add(form)

    def _observed(self, probes: Sequence[Inputs]) -> list[Observation]:
        """What is returned for each probe; those at which the candidate raises are left out and
        told, unless it raises at all."""
        observations: list[Observation] = []
        errors: list[tuple[Inputs, RnnscopeError]] = []
        for inputs in probes:
            try:
                observations.append(self._observe(inputs))
            except (CandidateError, ShapeError) as error:
                errors.append((inputs, error))
        if errors and not observations:
            raise errors[0][1]
        if any(inputs.given for inputs, _ in errors):
            self.untried.add("the initial states")
        if errors and not self.raised:
            inputs, raised = errors[0]
            states = "initial states" if inputs.given else "zero initial states"
            x = tuple(inputs.x.shape)
            self.notes.append(
                f"with {states} and x of (time, batch, feature) {x}: {raised}; left out"
            )
            self.raised = True
        return observations

    # what a comparison asks -------------------------------------------------------------------

    def shown(self) -> list[Observation]:
        """The caller's own x, or drawn inputs."""
        if not self._shown:
            drawn = (self._structure, self.seed, self.takes_initial, self._padded)
            given = self._inputs
            self._shown = self._observed(confirming(*drawn) if given is None else [given])
        return self._shown

    def _short_inputs(self) -> list[Inputs]:
        ends = None if self._inputs is None else self._inputs.lengths
        return searching(self._structure, self.seed, self.takes_initial, self._padded, ends)

    def searched(self) -> list[Observation]:
        """Short drawn inputs, and some of the caller's own."""
        observations: list[Observation] = []
        with contextlib.suppress(RnnscopeError):
            observations = self._observed(self._short_inputs())
        if self.given:
            observations += [self.some_of(observation) for observation in self.shown()]
        return observations

    def others(self) -> list[Observation]:
        """Those of the search and further ones, where the inputs are not the caller's choice."""
        if self.given:
            return []
        larger = further(self._structure, self.seed, self.takes_initial)
        observations: list[Observation] = []
        for inputs in (*self._short_inputs(), *larger):
            with contextlib.suppress(RnnscopeError):  # it may take no other sizes
                observations.append(self._observe(inputs))
        return observations

    def read(self) -> list[Told]:
        """Axes that were exchanged to read what came back: the reference returns them otherwise."""
        kind, causes = self._structure.kind, []
        if self._exchanged:
            has, needs = ("time", "batch") if self._structure.batch_first else ("batch", "time")
            words = Words(
                "the axes of the output are exchanged",
                f"it comes back {has} first; {kind} returns {needs} first here.",
                "output.swapaxes(0, 1)",
            )
            causes.append((Cause("output_axes"), words))
        return [*causes, *self.batch_first(self._batch_first)]

    def direct(self) -> list[Told]:
        """What two calls, one row alone or other weights tell."""
        inputs = self.shown()[0].inputs
        repeated = self._repeats(inputs)
        if repeated is not None and repeated.name == "kept" and self._draws(inputs):
            repeated = CallFinding(
                "random",
                "fresh copies of it give other numbers for the same input: it draws them, by a "
                "generator of its own",
            )
        causes = [] if repeated is None else [_of_repeats(repeated)]
        if self._tiny and self._ignores_weights(inputs):
            words = Words(
                "the weights are never used",
                "the numbers stay the same with other weights.",
                "use the weights that are given",
            )
            causes.append((Cause("not_loaded"), words))
        return causes

    def _repeats(self, inputs: Inputs) -> CallFinding | None:
        """Whether two calls with the same input differ; where they do not, on what else an output
        depends is told."""
        made = self.made()
        tolerance = 64 * max(torch.finfo(dtype).eps / 2 for dtype in self.dtypes)

        def checks(arguments: Inputs) -> Checks | None:
            with contextlib.suppress(Exception):  # where it cannot be called nothing is compared
                return Checks(made, partial(self._called, made), arguments, tolerance)
            return None

        first = checks(inputs)
        repeated = None if first is None else first.repeats()
        if first is not None and repeated is None and not self._exchanged:
            self.findings += [f.sentence for f in first.dependences(self._grown(inputs))]
        bare = [observation.inputs for observation in self.shown() if not observation.inputs.given]
        if repeated is not None or not inputs.given or not bare:
            return repeated
        # what is kept may be used only where no initial states are given
        second = checks(bare[0])
        return None if second is None else second.repeats()

    def _draws(self, inputs: Inputs) -> bool:
        """Whether fresh copies of a module differ, which keep nothing."""
        if self.keeps_state:
            return False
        first, second = (self._called(self.made(), inputs).output for _ in range(2))
        return not torch.equal(first, second)

    def _grown(self, inputs: Inputs) -> Tensor:
        """(time): what rounding allows the output of the reference, of which no step is padding."""
        if inputs.lengths is None:
            tolerance = self.shown()[0].allowed
        else:
            whole = replace(inputs, lengths=None)
            tolerance = allowed(self.model, whole, rounding(self._dtype), keep=True)
        return tolerance["output"].amax((1, 2))

    def _ignores_weights(self, inputs: Inputs) -> bool:
        """Whether a candidate that is given weights gives the same with others."""
        second_layer = tiny_layer(self._structure, self.seed + 1).to(self._dtype)
        answers = (
            self._called(self.made(layer), inputs, layer) for layer in (self.layer, second_layer)
        )
        first, second = ({"output": answer.output, **answer.final} for answer in answers)
        # numbers of 0 alone tell nothing of what made them
        return any(bool(value.any()) for value in first.values()) and all(
            name in second and torch.equal(value, second[name]) for name, value in first.items()
        )

    def at_own_size(self) -> OfCalls | None:
        """With the reference itself, where a small layer stood in for it."""
        if not self._tiny:
            return None
        return OfCalls(
            self._candidate, self._reference, None, self._builder, self.seed, self._padded, False
        )

    def _telling_inputs(self) -> Inputs:
        """Of all inputs those that tell most in few steps."""
        all_inputs = [observation.inputs for observation in (*self.searched(), *self.shown())]
        return max(all_inputs, key=_telling)

    def _differing_first(self) -> tuple[list[Inputs], list[Inputs]]:
        """The inputs for which it differs, those that tell most first, and those for which it does
        not."""
        observations = (*self.searched(), *self.shown(), *self.others())
        differs = [worst(self.model, [call]) > 1 for call in observations]
        calls = list(zip(observations, differs, strict=True))
        differing = [call.inputs for call, differ in calls if differ]
        return sorted(differing, key=_telling, reverse=True), [
            call.inputs for call, differ in calls if not differ
        ]

    def without_influence(self) -> list[str]:
        """What changes nothing, as calls tell in which one thing is another."""
        inputs = self._telling_inputs()
        layer, made = self.layer, self.made()

        def numbers(answer: Answer) -> Numbers:
            return (answer.output, *answer.final.values())

        def with_layer(name: str) -> Callable[[Inputs], Numbers]:
            changed = copy.deepcopy(layer)
            _change(changed.get_parameter(name))
            return lambda inputs: numbers(self._called(self.made(changed), inputs, changed))

        def with_module(name: str) -> Callable[[Inputs], Numbers]:
            candidate = self.made()
            assert candidate.module is not None, "it has this parameter"
            _change(candidate.module.get_parameter(name))
            return lambda inputs: numbers(self._called(candidate, inputs))

        parameters = {}
        if made.takes_weights or self._builder:
            parameters = {name: with_layer(name) for name, _ in layer.named_parameters()}
        elif made.module is not None and made.is_copy:
            shapes = {parameter.shape for parameter in layer.parameters()}
            named = made.module.named_parameters()
            parameters = {name: with_module(name) for name, p in named if p.shape in shapes}
        calls = Calls(lambda inputs: numbers(self._called(self.made(), inputs)), parameters)
        return without_influence(calls, self.model, inputs)

    def agrees_at_zero(self) -> list[str]:
        """Without which parameters it agrees, where these can be given to it; else whether it does
        without x; with all inputs."""
        differing, alike = self._differing_first()
        if not differing:
            return []
        made = self.made()
        module = made.module
        names = [] if module is None else compare_parameters(module, self.layer)
        parameters = dict(self.layer.named_parameters())
        if made.takes_weights or self._builder or (made.is_copy and len(names) == len(parameters)):
            calls = ([partial(self._called_with, i) for i in part] for part in (differing, alike))
            return agrees_at_zero(self.layer, *calls)
        every = (*differing, *alike)
        nothing = (replace(inputs, x=torch.zeros_like(inputs.x)) for inputs in every)
        try:
            agrees = all(worst(self.model, [self._observe(inputs)]) <= 1 for inputs in nothing)
        except RnnscopeError:
            return []
        return ["it agrees if x is zero: look at how you use it"] * agrees

    def _called_with(self, inputs: Inputs, layer: nn.Module, model: Model) -> Observation:
        """What it returns with the weights of another layer, beside a model of that."""
        made = self.made(layer)
        if made.module is not None and not self._builder:
            tensors = named_tensors(made.module)
            pairs = zip(compare_parameters(made.module, layer), layer.parameters(), strict=True)
            with torch.no_grad():
                for pair, parameter in pairs:
                    tensors[pair.name].copy_(parameter)
        answer = self._called(made, inputs, layer)
        return self._beside(model, inputs, answer, self._in_order(answer, inputs), {})

    def quantised_by_torch(self) -> tuple[str, float, Subject | None] | None:
        """As torch's own modules tell it."""
        module = self.made().module
        quantised = None if module is None else dynamically_quantised(module)
        alike = None if quantised is None else quantised_alike(self.layer, quantised)
        if quantised is None or alike is None:
            return None
        exact, right = (dequantised(each, self.layer) for each in (quantised, alike))
        if exact is None or right is None:
            return None
        bits = "float16" if getattr(quantised, "dtype", None) == torch.float16 else "8 bits"
        made, inputs = Candidate.of(alike, self._structure), self._telling_inputs()
        output, mine = self._called(made, inputs).output, self._answer(inputs).output
        apart = float((output - mine).abs().max()) if output.shape == mine.shape else math.inf
        pairs = zip(exact.parameters(), right.parameters(), strict=True)
        if all(torch.equal(value, of_right) for value, of_right in pairs):
            return bits, apart, None
        given, padded, small = self._inputs, self._padded, self._tiny
        return bits, apart, OfCalls(exact, self.layer, given, None, self.seed, padded, small)

    def other_kind(self) -> tuple[str, bool]:
        """As the types of torch's own modules tell it."""
        module, kind = self.made().module, self._structure.kind
        if module is None or self._structure.declared:
            return "", False
        module_kind = _kind_of(module)
        if module_kind:
            if module_kind == kind:
                module_kind, kind = (_with_sizes(kind, layer) for layer in (module, self.layer))
            sentence = f"the candidate is {module_kind}, the reference {kind}."
            return sentence if module_kind != kind else "", True
        kinds = {inner: name for name, m in module.named_modules() if (inner := _kind_of(m))}
        if len(kinds) != 1 or kind in kinds:
            return "", False
        [(inner_kind, name)] = kinds.items()
        return f"the candidate's {name} is {inner_kind}, the reference {kind}.", False

    def other_weights(self) -> tuple[list[ParameterDifference], Model | None]:
        """Parameters of the same names and shapes that differ."""
        module = self.made().module
        if module is None:
            return [], None
        apart = [d for d in compare_parameters(module, self.layer) if d.differs]
        tensors, layer = named_tensors(module), copy.deepcopy(self.layer)
        with torch.no_grad():
            for difference in apart:
                parameter = layer.get_parameter(difference.name.rpartition(".")[2])
                parameter.copy_(tensors[difference.name])
        if not apart:
            return [], None
        model = Model.of(adopt(layer), torch.float64)
        return apart, model.with_each_part(lambda part: part.marked("the candidate's own"))


def _telling(inputs: Inputs) -> tuple[bool, bool, bool]:
    """How much inputs tell in few steps."""
    return inputs.lengths is None, inputs.given, 2 < inputs.steps <= 6


def _change(parameter: nn.Parameter) -> None:
    with torch.no_grad():
        parameter.copy_(another(parameter))


def _of_repeats(finding: CallFinding) -> Told:
    """Two calls with the same input that differ."""
    if finding.name == "kept":
        title, repair = "the state is kept from call to call", "h = initial   # in every call"
        return Cause("calls_chained"), Words(title, f"{finding.sentence}.", repair)
    title = "random numbers are drawn at each call"
    is_dropout = finding.name == "dropout"
    repair, choice = ("candidate.eval()", finding.name) if is_dropout else ("", "")
    return Cause("random", choice), Words(title, f"{finding.sentence}.", repair)


def _with_sizes(kind: str, layer: nn.Module) -> str:
    """As ``nn.LSTM(5, 7, num_layers=2)``: the sizes of a layer of torch, not how it lays axes."""
    structure = adopt(layer).structure
    sizes = [f"{structure.input_size}", f"{structure.hidden_size}"]
    sizes += [f"num_layers={structure.num_layers}"] if structure.num_layers > 1 else []
    sizes += ["bidirectional=True"] if structure.bidirectional else []
    sizes += [f"proj_size={structure.output_size}"] if structure.cell.projected else []
    return f"{kind}({', '.join(sizes)})"


def _kind_of(module: nn.Module) -> str:
    """The kind of a layer of torch, or of the cell that makes one step of it; empty for all else,
    as for a class made from one, whose forward may be its own."""
    kinds: dict[str, tuple[type, ...]] = {
        "nn.LSTM": (nn.LSTM, nn.LSTMCell),
        "nn.GRU": (nn.GRU, nn.GRUCell),
        "nn.RNN": (nn.RNN, nn.RNNCell),
    }
    return next((kind for kind, types in kinds.items() if type(module) in types), "")
