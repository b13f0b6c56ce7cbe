"""compare: a candidate against a reference layer; what differs first, and why."""

from __future__ import annotations

import copy
import math
import sys
import time as clock
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rnnscope.adopt import Adopted, adopt
from rnnscope.compare.candidate import Candidate
from rnnscope.compare.catalogue import CATALOGUE, Words, causes
from rnnscope.compare.cause import Cause
from rnnscope.compare.checks import compare_parameters, run_checks
from rnnscope.compare.located import first_difference, what_holds
from rnnscope.compare.model import Inputs, Model
from rnnscope.compare.observed import (
    MISSING,
    UNIT,
    Observation,
    allowed,
    distance,
    misfits,
    predicted,
)
from rnnscope.compare.parts import opened_parts
from rnnscope.compare.precision import lower_precision
from rnnscope.compare.probes import Probe, confirming, searching, tiny_layer
from rnnscope.compare.recorded import Recorded
from rnnscope.compare.search import LARGE, Found, Search, either
from rnnscope.compare.simulate import Simulator
from rnnscope.compare.verdict import Explanation, Verdict
from rnnscope.errors import CandidateError, DtypeError, RnnscopeError, ShapeError

__all__ = ["assert_agrees", "compare"]

EVIDENCE = 6.0
"""Decimal digits by which the agreement of an explanation must exceed what chance would give."""


def compare(
    candidate: Any,
    reference: nn.Module,
    x: Any = None,
    initial: Any = None,
    *,
    lengths: Any = None,
    builder: bool | None = None,
    axes: str | None = None,
    seed: int = 0,
    seconds: float = 6.0,
    progress: bool | None = None,
) -> Verdict:
    """Whether a candidate computes what a recurrent layer computes; if not, where it differs
    first and which mistakes explain it to rounding.

    ``candidate`` is a module or function called as the reference is; ``f(x, initial, weights)``,
    given the state dict; a ``builder`` that takes a layer and returns one of these; or numbers
    recorded elsewhere: an array of the output, a mapping of ``output``, ``h_n``, ``c_n`` and
    quantities by name, or the path of a ``.npz`` or ``.npy`` file, with the ``x`` that gave them.
    ``reference`` is a layer of ``torch.nn`` or an ``rnnscope.Recurrent``.

    Without ``x``, inputs are drawn (``seed``) that tell mistakes apart. ``x`` is as the reference
    takes it, ``initial`` too; with ``lengths`` (batch), x is padded. ``axes`` tells those of a
    recorded output, as in "btu" for (batch, time, unit). The search ends after about ``seconds``.
    Neither model is changed: copies are called.

    >>> import torch, rnnscope as rs
    >>> lstm = torch.nn.LSTM(3, 4, bias=False)
    >>> def mine(x, initial, weights):
    ...     h, c = (state[0] for state in initial) if initial else torch.zeros(2, x.shape[1], 4)
    ...     outputs = []
    ...     for x_t in x:
    ...         a = x_t @ weights["weight_ih_l0"].T + h @ weights["weight_hh_l0"].T
    ...         i, f, o, g = a.chunk(4, -1)
    ...         c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    ...         h = o.sigmoid() * c.tanh()
    ...         outputs.append(h)
    ...     return torch.stack(outputs)
    >>> verdict = rs.compare(mine, lstm)
    >>> verdict.agrees, str(verdict.causes[0])
    (False, 'gate_order ifog of all')

    Raises ``NotRecurrentError`` and ``RefusedError`` for a reference that cannot be read,
    ``ShapeError`` and ``DtypeError`` for numbers that fit under no reading, ``CandidateError``
    where the candidate raises, ``FileError`` for a file that cannot be read.
    """
    adopted = adopt(reference)
    if adopted.single_step:
        raise ShapeError(
            f"{adopted.kind} makes one step; expected a layer that runs over time, such as "
            f"nn.LSTM, with the same weights"
        )
    inputs = None if x is None else _inputs(adopted, x, initial, lengths)
    if _is_recorded(candidate):
        if inputs is None:
            raise ShapeError(
                "recorded numbers need the x that gave them: compare(numbers, layer, x)"
            )
        subject: _Subject = _OfArrays(candidate, adopted, inputs, axes, seed)
    else:
        padded = inputs.lengths is not None if inputs is not None else lengths is True
        subject = _OfCalls(candidate, reference, adopted, inputs, builder, seed, padded)
    return _Comparison(subject, seconds, _teller(progress)).verdict()


def assert_agrees(candidate: Any, reference: nn.Module, *args: Any, **options: Any) -> None:
    """Raise ``AssertionError`` with the verdict's text unless ``compare`` finds agreement; takes
    what ``compare`` takes.

    >>> import torch, rnnscope as rs
    >>> gru = torch.nn.GRU(3, 4)
    >>> rs.assert_agrees(gru, gru)
    """
    __tracebackhide__ = True
    verdict = compare(candidate, reference, *args, **options)
    if not verdict:
        raise AssertionError(str(verdict))


# what is given -------------------------------------------------------------------------------


def _is_recorded(candidate: Any) -> bool:
    if isinstance(candidate, Tensor | np.ndarray | Mapping | str | Path):
        return True
    return isinstance(candidate, tuple | list) and not callable(candidate)


def _as_tensor(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple | list) and not isinstance(value, PackedSequence):
        return type(value)(_as_tensor(each, dtype) for each in value)
    if isinstance(value, PackedSequence) or value is None:
        return value
    try:
        tensor = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
    except (TypeError, ValueError) as error:
        raise DtypeError(f"x must be a tensor or an array of numbers; got {error}") from error
    return tensor.detach().to("cpu", dtype) if tensor.is_floating_point() else tensor


def _inputs(adopted: Adopted, x: Any, initial: Any, lengths: Any) -> Inputs:
    dtype = adopted.weights(fresh=True)[0][0].ih.dtype
    if isinstance(x, list):
        x = np.asarray(x)
    call = adopted.call((_as_tensor(x, dtype), _as_tensor(initial, dtype)), {})
    for name, value in {"x": call.x, **{f"{k}_0": v for k, v in call.initial.items()}}.items():
        if not bool(torch.isfinite(value).all()):
            raise ShapeError(
                f"{name} holds NaN or infinite numbers, with which nothing can be compared; "
                f"expected finite numbers. Leave these rows out."
            )
    found = Inputs(call.x.double(), _double(call.initial), call.given, call.lengths)
    if lengths is None:
        return found
    sizes = torch.as_tensor(lengths)
    if sizes.shape != (found.batch,) or sizes.is_floating_point() or sizes.is_complex():
        raise ShapeError(
            f"lengths must be {found.batch} whole numbers, one a row; got {tuple(sizes.shape)}"
        )
    if not bool(((sizes >= 1) & (sizes <= found.steps)).all()):
        raise ShapeError(
            f"lengths must lie between 1 and {found.steps}, the steps of x; got {sizes.tolist()}"
        )
    valid = (torch.arange(found.steps)[:, None] < sizes).unsqueeze(-1)
    return replace(found, x=torch.where(valid, found.x, 0.0), lengths=sizes.long())


def _double(states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() for name, value in states.items()}


def _teller(progress: bool | None) -> Callable[[str], None] | None:
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return None
    started = clock.monotonic()

    def tell(text: str) -> None:
        if clock.monotonic() - started > 2:
            print(f"rnnscope compare: {text} ...", file=sys.stderr)

    return tell


# what is compared ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Subject:
    """What a comparison needs to know of a candidate: the model that it should be, what it
    returned where mistakes are searched, and where the verdict looks (``shown`` first)."""

    def model(self) -> Model:
        raise NotImplementedError

    def shown(self) -> list[Observation]:
        raise NotImplementedError

    def searched(self) -> list[Observation]:
        raise NotImplementedError


def _unit(*dtypes: torch.dtype) -> float:
    return max(UNIT.get(dtype, UNIT[torch.float32]) for dtype in dtypes)


def _observation(
    label: str,
    model: Model,
    inputs: Inputs,
    unit: float,
    output: Tensor | None,
    final: Mapping[str, Tensor],
    quantities: Mapping[str, Tensor] | None = None,
) -> Observation:
    simulator = Simulator(inputs)
    tolerance = allowed(model, inputs, unit, simulator=simulator)
    return Observation(
        label,
        inputs,
        None if output is None else output.double(),
        unit,
        _double(final),
        _double(quantities or {}),
        tolerance,
        simulator,
    )


class _OfArrays(_Subject):
    """Numbers that were recorded elsewhere."""

    given = True
    sliced = True
    keeps_state = False

    def __init__(self, value: Any, adopted: Adopted, inputs: Inputs, axes: str | None, seed: int):
        self.adopted, self.inputs = adopted, inputs
        recorded = Recorded.of(value, adopted.structure, inputs, axes)
        self.notes = list(recorded.notes)
        self.name = "the numbers"
        dtype = adopted.weights(fresh=True)[0][0].ih.dtype
        self.dtypes = (dtype, recorded.dtype)
        self.base = Model.of(adopted, torch.float64)
        self.recorded = recorded
        self.observation = _observation(
            "data",
            self.base,
            inputs,
            _unit(*self.dtypes),
            recorded.output,
            recorded.final,
            recorded.quantities,
        )
        self.probe = _described(adopted, inputs, self.base, None)
        self.findings: list[str] = []
        self.raised = False

    def model(self) -> Model:
        return self.base

    def shown(self) -> list[Observation]:
        return [self.observation]

    def searched(self) -> list[Observation]:
        return [_slice(self.observation, self.adopted)]

    def direct(self) -> list[tuple[Cause, Words]]:
        return []

    def other_weights(self) -> tuple[list[str], Model | None]:
        """Numbers have no parameters."""
        return [], None


def _slice(observation: Observation, adopted: Adopted) -> Observation:
    """The first steps and rows, where later ones do not reach back; everything where they do."""
    inputs = observation.inputs
    rows = inputs.batch if inputs.batch <= 16 else 8
    steps = inputs.steps
    if len(adopted.directions) == 1 and not adopted.reverse and steps > 8:
        steps = 6
    return few_steps(observation, steps, rows)


def few_steps(observation: Observation, steps: int, rows: int) -> Observation:
    """The first steps and rows of what was observed; all of it where rows are padded."""
    inputs = observation.inputs
    steps, rows = min(steps, inputs.steps), min(rows, inputs.batch)
    if (rows, steps) == (inputs.batch, inputs.steps) or inputs.lengths is not None:
        return observation
    cut = {name: value[:, :, :rows] for name, value in inputs.initial.items()}
    whole = steps == inputs.steps
    return replace(
        observation,
        inputs=(fewer := replace(inputs, x=inputs.x[:steps, :rows], initial=cut)),
        simulator=Simulator(fewer),
        output=None if observation.output is None else observation.output[:steps, :rows],
        final={k: v[:, :, :rows] for k, v in observation.final.items()} if whole else {},
        quantities={
            name: value[:, :, :rows, :steps] for name, value in observation.quantities.items()
        },
        allowed={
            name: value[:steps, :rows] if name == "output" else value[:, :, :rows]
            for name, value in observation.allowed.items()
        },
    )


class _OfCalls(_Subject):
    """A candidate that can be called."""

    sliced = False

    def __init__(
        self,
        candidate: Any,
        reference: nn.Module,
        adopted: Adopted,
        inputs: Inputs | None,
        builder: bool | None,
        seed: int,
        padded: bool,
    ):
        self.given = inputs is not None
        self.seed, self.padded = seed, padded
        self.candidate = candidate
        self.notes: list[str] = []
        self.findings: list[str] = []
        self.raised = False
        self.reference = reference
        self.adopted = adopted
        made = Candidate.of(candidate, adopted.structure, builder=builder)
        self.builder = made.is_builder
        free = made.is_builder or made.takes_weights
        self.name = made.name
        self.dtype = adopted.weights(fresh=True)[0][0].ih.dtype
        self.inputs = inputs
        self.layer = reference
        if free and inputs is None:
            self.layer = tiny_layer(adopted.structure, seed).to(self.dtype)
            self.adopted = adopt(self.layer)
            try:
                self._callable = self._made()
                self._answer(
                    Probe("first", searching(self.structure, seed, False, False)[0].inputs)
                )
            except RnnscopeError:
                # it may be made for one size: then the layer itself is what it is tried on
                self.layer, self.adopted = reference, adopted
        self._callable = self._made()
        self.base = Model.of(self.adopted, torch.float64)
        self.dtypes: tuple[torch.dtype, ...] = (self.dtype,)
        self._shown: list[Observation] | None = None

    @property
    def keeps_state(self) -> bool:
        """Whether what one call leaves behind may reach the next: a function has no fresh copy."""
        return self._callable.module is None

    @property
    def structure(self) -> Any:
        return self.adopted.structure

    def _made(self) -> Candidate:
        made = Candidate.of(self.candidate, self.structure, builder=self.builder)
        return made.build(self.layer) if made.is_builder else made

    def _answer(self, probe: Probe) -> Any:
        # a fresh copy each time: what one call leaves behind does not reach the next
        if self._callable.module is not None:
            self._callable = self._made()
        weights = self.layer.state_dict() if self._callable.takes_weights else None
        packed = probe.inputs.lengths is not None
        return self._callable.call(probe.inputs.to(self.dtype), weights, packed=packed)

    def _observe(self, probe: Probe) -> Observation:
        answer = self._answer(probe)
        for note in answer.notes:
            if note not in self.notes:
                self.notes.append(note)
        if answer.dtype not in self.dtypes:
            self.dtypes = (*self.dtypes, answer.dtype)
        inputs = probe.inputs.to(self.dtype).to(torch.float64)
        unit = _unit(self.dtype, *([answer.dtype] if answer.dtype in UNIT else []))
        return _observation(probe.label, self.base, inputs, unit, answer.output, answer.final)

    def _observed(self, probes: Sequence[Probe]) -> list[Observation]:
        """What is returned for each probe; those at which the candidate raises are left out and
        told, unless it raises at all."""
        found: list[Observation] = []
        errors: list[tuple[Probe, RnnscopeError]] = []
        for probe in probes:
            try:
                found.append(self._observe(probe))
            except (CandidateError, ShapeError) as error:
                errors.append((probe, error))
        if errors and not found:
            raise errors[0][1]
        if errors and not any(note.startswith("with ") for note in self.notes):
            probe, raised = errors[0]
            x = tuple(probe.inputs.x.shape)
            what = "initial states" if probe.inputs.given else "zero initial states"
            self.notes.append(
                f"with {what} and x of (time, batch, feature) {x}: {raised}; left out"
            )
            self.raised = True
        return found

    def model(self) -> Model:
        return self.base

    def shown(self) -> list[Observation]:
        if self._shown is None:
            if self.inputs is not None:
                probes = [Probe("data", self.inputs)]
            else:
                initial = self._callable.takes_initial
                probes = confirming(self.structure, self.seed, initial, self.padded)
            self._shown = self._observed(probes)
            self.probe = _described(
                self.adopted, probes[0].inputs, self.base, None if self.given else self.seed
            )
        return self._shown

    def searched(self) -> list[Observation]:
        initial = self._callable.takes_initial
        probes = searching(self.structure, self.seed, initial, self.padded)
        try:
            found = self._observed(probes)
        except RnnscopeError:
            found = []
        if self.given:
            found += [_slice(one, self.adopted) for one in self.shown()]
        return found

    def direct(self) -> list[tuple[Cause, Words]]:
        """What calls alone tell, without a catalogue."""
        found: list[tuple[Cause, Words]] = []
        first = self.shown()[0].inputs
        weights = self.layer.state_dict() if self._callable.takes_weights else None
        made = self._made()

        def call(inputs: Inputs) -> Any:
            return made.call(inputs.to(self.dtype), weights, packed=inputs.lengths is not None)

        checks = run_checks(made, call, first, 64 * _unit(self.dtype))
        if checks.repeats is not None:
            name = "dropout" if checks.repeats.name == "random" else "calls_chained"
            found.append((Cause(name), Words(*_said(checks.repeats.sentence, name))))
        if checks.depends_on_batch is not None:
            self.findings.append(checks.depends_on_batch.sentence)
        if checks.causal is not None:
            self.findings.append(checks.causal.sentence)
        if self.layer is not self.reference and self._ignores_weights(first):
            words = Words(
                "the weights are never used",
                "the numbers stay the same with other weights.",
                "use the weights that are given",
            )
            found.append((Cause("not_loaded"), words))
        return found

    def _ignores_weights(self, inputs: Inputs) -> bool:
        """Whether a candidate that is given weights gives the same with others."""
        mine = self._made().call(inputs.to(self.dtype), self.layer.state_dict())
        layer = tiny_layer(self.structure, self.seed + 1).to(self.dtype)
        made = Candidate.of(self.candidate, self.structure, builder=self.builder)
        made = made.build(layer) if made.is_builder else made
        weights = layer.state_dict() if made.takes_weights else None
        return bool(torch.equal(mine.output, made.call(inputs.to(self.dtype), weights).output))

    def other_weights(self) -> tuple[list[str], Model | None]:
        """What a candidate's own parameters of the same names say, and the model with them."""
        module = self._made().module
        if module is None:
            return [], None
        apart = [each for each in compare_parameters(module, self.layer) if each.differs]
        held = dict(module.named_buffers()) | dict(module.named_parameters())
        layer = copy.deepcopy(self.layer)
        with torch.no_grad():
            for each in apart:
                own = layer.get_parameter(each.name.rpartition(".")[2])
                own.copy_(held[each.name].to(own.dtype))
        sentences = [f"{each.sentence}." for each in apart]
        return sentences, Model.of(adopt(layer), torch.float64) if apart else None


TITLES = {
    "dropout": ("random numbers are drawn at each call", "candidate.eval()"),
    "calls_chained": ("the state is kept from call to call", "start every call from its own h_0"),
}


def _said(sentence: str, name: str) -> tuple[str, str, str]:
    title, repair = TITLES[name]
    return title, sentence, repair


def _described(adopted: Adopted, inputs: Inputs, model: Model, seed: int | None) -> str:
    structure = adopted.structure
    sizes = f"time {inputs.steps}, batch {inputs.batch}, input {structure.input_size}, hidden "
    sizes += str(structure.hidden_size)
    if structure.num_layers > 1:
        sizes += f", {structure.num_layers} layers"
    if len(structure.directions) > 1:
        sizes += ", bidirectional"
    zero = [f"{n}_0" for n, v in inputs.initial.items() if not bool(v.any())]
    facts = []
    if zero:
        facts.append(f"{', '.join(zero)} zero")
    else:
        facts.append(f"{', '.join(f'{n}_0' for n in inputs.initial)} not zero")
    biases = [t for row in model.parts for p in row for t in (p.weights.b_ih, p.weights.b_hh)]
    if any(t is None for t in biases):
        facts.append("no biases")
    else:
        some = any(bool(t.any()) for t in biases if t is not None)
        facts.append("biases not zero" if some else "biases zero")
    if inputs.lengths is not None:
        facts.append(f"lengths {', '.join(map(str, inputs.lengths.tolist()))}")
    start = "" if seed is None else f"seed {seed}: "
    return f"{start}{sizes}; {', '.join(facts)}"


# the comparison ------------------------------------------------------------------------------


class _Comparison:
    def __init__(self, subject: Any, seconds: float, tell: Callable[[str], None] | None):
        self.subject, self.seconds, self.tell = subject, seconds, tell
        self.model: Model = subject.model()

    def verdict(self) -> Verdict:
        shown = self.subject.shown()
        simulators = [one.simulator for one in shown]
        ratio = (
            float(misfits(shown, [self.model], simulators).worst[0]) if _compared(shown) else 0.0
        )
        step = self._steps(shown)
        base = self._facts(shown)
        direct = self.subject.direct()
        if max(ratio, step) <= 1 and not direct and not self.subject.raised:
            return replace(
                base, agrees=True, worst=max(ratio, step), cannot_show=self._silent(shown)
            )
        return self._differing(base, shown, simulators, max(ratio, step), direct)

    def _steps(self, shown: Sequence[Observation]) -> float:
        """The worst single step, where steps can be opened."""
        worst = 0.0
        for part in opened_parts(self.model, shown).values():
            worst = max(worst, float(part.misfit([part.part]).worst[0]))
        return worst

    def _facts(self, shown: Sequence[Observation]) -> Verdict:
        first = shown[0]
        difference, tolerance = _largest(self.model, shown)
        lower = [str(d).removeprefix("torch.") for d in self.subject.dtypes]
        dtype = lower[0] if len(set(lower)) == 1 else f"{lower[0]} (the candidate's: {lower[-1]})"
        horizon = None
        if first.output is not None:
            beyond = ~torch.isfinite(first.allowed["output"]).flatten(1).any(1)
            beyond = ~torch.isfinite(first.allowed["output"]).flatten(1).all(1)
            if bool(beyond.any()):
                horizon = int(beyond.nonzero()[0])
        return Verdict(
            agrees=False,
            difference=difference,
            allowed=tolerance,
            worst=0.0,
            dtype=dtype,
            kind=self.model.structure.kind,
            notes=tuple(self.subject.notes),
            probe=self.subject.probe,
            steps=first.inputs.steps,
            horizon=horizon,
            given=self.subject.given,
        )

    def _silent(self, shown: Sequence[Observation]) -> tuple[str, ...]:
        """Mistakes that would change nothing in what was compared."""
        padded = any(one.inputs.lengths is not None for one in shown)
        every = [c for c in causes(self.model, False) if padded or c.name != "padding"]
        models = [
            (c, m) for c in every if (m := CATALOGUE[c.name].apply(self.model, c)) is not None
        ]
        quiet = models
        fits: set[Cause] = set()
        large = self.model.parts[0][0].weights.hh.numel() > LARGE
        for steps, rows in ((3, 2), (12, 4) if large else (10**9, 10**9)):
            for one in shown:
                quiet = self._quiet(few_steps(one, steps, rows), quiet, fits)
        titles = [CATALOGUE[c.name].words(c, self.model).brief for c, _ in quiet if c in fits]
        return tuple(dict.fromkeys(titles))

    def _quiet(
        self, one: Observation, models: list[tuple[Cause, Model]], fits: set[Cause]
    ) -> list[tuple[Cause, Model]]:
        """Those of the models that give the reference's own numbers; ``fits`` gathers those that
        give any."""
        simulator = one.simulator
        [exact] = simulator.run([self.model])
        assert exact is not None, "the reference fits its own inputs"
        wanted = predicted(exact)
        quiet: list[tuple[Cause, Model]] = []
        for (cause, model), outcome in zip(
            models, simulator.run([m for _, m in models]), strict=True
        ):
            if outcome is None:
                quiet.append((cause, model))
                continue
            fits.add(cause)
            values = predicted(outcome)
            if all(
                (value := values.get(name)) is not None
                and value.shape == wanted[name].shape
                and not bool((distance(value, wanted[name]) > one.allowed[name]).any())
                for name in one.targets()
            ):
                quiet.append((cause, model))
        return quiet

    def _differing(
        self,
        base: Verdict,
        shown: Sequence[Observation],
        simulators: Sequence[Simulator],
        ratio: float,
        direct: list[tuple[Cause, Words]],
    ) -> Verdict:
        first = first_difference(self.model, shown)
        base = replace(base, worst=ratio, first=first)
        if direct:
            found = Explanation(
                tuple(c for c, _ in direct), tuple(w for _, w in direct), math.nan, ()
            )
            if direct[0][0].name == "dropout" or self.subject.keeps_state or ratio <= 1:
                return replace(base, explanations=(found,), holds=tuple(self.subject.findings))
        lower = lower_precision(self.model, shown) if ratio > 1 else None
        if lower is not None:
            cause, words, left = lower
            return replace(base, explanations=(Explanation((cause,), (words,), left, ()),))
        searched = self.subject.searched()
        search = Search(self.model, searched, self.seconds, self.tell)
        result = search.run()
        sets = self._confirmed(result, searched, shown)
        base = replace(base, tried=result.tried, finished=result.finished)
        if not sets:
            if direct:
                return replace(base, explanations=(found,))
            if ratio <= 1:
                told = "It agrees wherever it could be called; see the note for where it raised."
                return replace(base, holds=(told,))
            told, model = self.subject.other_weights()
            if model is not None and len(told) > 1:
                fresh = [replace(o, simulator=Simulator(o.inputs)) for o in shown]
                if float(misfits(fresh, [model], [o.simulator for o in fresh]).worst[0]) <= 1:
                    names = ", ".join(sentence.partition(" ")[0] for sentence in told)
                    words = Words(
                        "the weights are not those of the reference",
                        f"{names} differ from the reference's; with the candidate's own in the "
                        f"reference the two agree.",
                        "candidate.load_state_dict(reference.state_dict())",
                    )
                    rest = _largest(model, fresh)[0]
                    cause = Cause("not_loaded")
                    return replace(base, explanations=(Explanation((cause,), (words,), rest, ()),))
            holds = (*told, *what_holds(self.model, [*searched, *shown]))
            return replace(base, holds=(*holds, *self.subject.findings))
        explanations = tuple(self._explanation(search, s, shown) for s in sets)
        return replace(
            base,
            explanations=explanations,
            nearest=self._nearest(result, search, shown),
            right=self._right(search, sets, shown),
            cannot_show=self._silent(shown) if self.subject.given else (),
        )

    def _confirmed(
        self, result: Found, searched: Sequence[Observation], shown: Sequence[Observation]
    ) -> list[tuple[Cause, ...]]:
        """The explanations that hold on all data, by so much that chance is excluded."""
        order = {name: k for k, name in enumerate(CATALOGUE)}
        found: list[tuple[Cause, ...]] = []
        for s in result.sets:
            model = self.model
            together = tuple(sorted(s, key=lambda c: (order[c.name], str(c))))
            for cause in together:
                model = CATALOGUE[cause.name].apply(model, cause) or model
            mine = [
                replace(
                    one,
                    allowed=either(
                        one, allowed(model, one.inputs, one.unit, simulator=one.simulator)
                    ),
                )
                for one in shown
            ]
            if float(misfits(mine, [model], [o.simulator for o in mine]).worst[0]) > 1:
                continue
            # a slice of what is shown counts once
            data = [*([] if self.subject.sliced else searched), *mine]
            if _evidence(data) - math.log10(max(1, result.tried)) < EVIDENCE:
                continue
            found.append(together)
        return sorted(found, key=lambda t: (_spread(t), [str(c) for c in t]))

    def _left(self, model: Model | None, shown: Sequence[Observation]) -> float:
        return math.inf if model is None else _largest(model, shown)[0]

    def _explanation(
        self, search: Search, together: tuple[Cause, ...], shown: Sequence[Observation]
    ) -> Explanation:
        words = tuple(CATALOGUE[c.name].words(c, self.model) for c in together)
        alone = tuple(self._left(search.of(frozenset({c})), shown) for c in together)
        left = self._left(search.of(frozenset(together)), shown)
        return Explanation(together, words, left, alone)

    def _nearest(
        self, result: Found, search: Search, shown: Sequence[Observation]
    ) -> tuple[tuple[Cause, ...], tuple[Words, ...], float] | None:
        if result.nearest is None:
            return None
        together = tuple(sorted(result.nearest[0], key=str))
        words = tuple(CATALOGUE[c.name].words(c, self.model) for c in together)
        left = self._left(search.of(result.nearest[0]), shown)
        return (together, words, left) if math.isfinite(left) and left < 1e29 else None

    def _right(
        self, search: Search, sets: Sequence[tuple[Cause, ...]], shown: Sequence[Observation]
    ) -> tuple[str, ...]:
        """What the data show to be right: families of mistakes none of which is in play, each of
        which would have shown."""
        data = [few_steps(one, 4, 4) for one in shown] if self.subject.given else None
        blamed = {CATALOGUE[c.name].family for s in sets for c in s}
        seen: dict[str, bool] = {}
        for cause in search.every:
            if cause != cause.everywhere():
                continue
            family = CATALOGUE[cause.name].family
            seen[family] = seen.get(family, False) or search.shows(cause, data)
        return tuple(f for f, shows in seen.items() if shows and f not in blamed)


def _spread(together: tuple[Cause, ...]) -> int:
    """Explanations that name fewer places come first."""
    return sum((c.layer is not None) + (c.direction is not None) for c in together)


def _compared(shown: Sequence[Observation]) -> bool:
    return any(one.count for one in shown)


def _largest(model: Model, shown: Sequence[Observation]) -> tuple[float, float]:
    """The largest difference, before rounding takes over, and what is allowed there."""
    best = (0.0, 0.0)
    least = 0.0
    for one in shown:
        [outcome] = one.simulator.run([model])
        values = {} if outcome is None else predicted(outcome)
        for name, seen in one.targets().items():
            value = values.get(name)
            tolerance = one.allowed[name]
            if value is None or value.shape != seen.shape:
                return math.inf, float(tolerance[torch.isfinite(tolerance)].max())
            away = distance(value, seen)
            inside = torch.isfinite(tolerance).expand_as(away)
            if name == "output" and one.valid is not None:
                inside = inside & one.valid
            away = torch.where(inside, away, 0.0)
            within = tolerance.expand_as(away)
            least = max(least, float(torch.where(inside, within, 0.0).max()))
            k = int(away.argmax())
            if float(away.flatten()[k]) > best[0]:
                best = (float(away.flatten()[k]), float(within.flatten()[k]))
    if best[0] >= MISSING:  # a number against none
        return math.inf, best[1]
    return best if best[1] else (best[0], least)


def _evidence(observations: Sequence[Observation]) -> float:
    """Decimal digits of agreement: for every number, how much smaller than their spread the
    tolerance is."""
    total = 0.0
    for one in observations:
        for name, seen in one.targets().items():
            if name == "h_n" and one.output is not None:
                if seen.shape[0] == 1:
                    continue  # the last numbers of the output once more
                seen = seen[:-1]
            finite = seen[torch.isfinite(seen)]
            if finite.numel() == 0:
                continue
            spread = float(finite.std()) if finite.numel() > 1 else float(finite.abs().max())
            tolerance = one.allowed[name][: len(seen)].expand_as(seen)
            usable = torch.isfinite(tolerance) & torch.isfinite(seen)
            if name == "output" and one.valid is not None:
                usable = usable & one.valid
            if spread > 0 and bool(usable.any()):
                total += float((spread / tolerance[usable]).log10().clamp_min(0).sum())
    return total
