"""compare, of gradients: wrong backward passes are named, right ones agree, and nothing is made up.

What is wrong is planted in NumPy (planted_backward); right gradients are judged by autograd too.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted_backward import GATES, choices_of
from planting_backward import (
    CONFIGURATIONS,
    Case,
    Mistake,
    drawn_mistakes,
    hides,
    is_named,
    placed,
    places,
    spoils,
)

from rnnscope._compare.backward.mistakes import CATALOGUE

KINDS = list(GATES)


def autograd(case: Case) -> dict[str, np.ndarray]:
    """The gradients of the layer of torch itself."""
    x, *states = (torch.from_numpy(a).requires_grad_() for a in (case.x, case.h_0, case.c_0))
    lstm = case.kind.startswith("lstm")
    output, final = case.layer(x, tuple(states) if lstm else states[0])
    pairs = [(output, case.d_out)]
    pairs += list(zip(final, (case.d_h, case.d_c), strict=True)) if lstm else [(final, case.d_h)]
    loss = sum((value * torch.from_numpy(d)).sum() for value, d in pairs)
    parameters = dict(case.layer.named_parameters())
    wanted = {"x": x, "h_0": states[0]} | ({"c_0": states[1]} if lstm else {}) | parameters
    gradients = torch.autograd.grad(loss, list(wanted.values()))
    return {name: g.numpy() for name, g in zip(wanted, gradients, strict=True)}


@pytest.mark.parametrize(("kind", "layers", "directions"), CONFIGURATIONS)
def test_the_planted_pass_without_mistakes_is_autograds(
    kind: str, layers: int, directions: tuple[str, ...]
) -> None:
    case = Case.drawn(kind, layers, directions, seed=3)
    planted = case.gradients()
    for name, expected in autograd(case).items():
        np.testing.assert_allclose(planted[name], expected, rtol=1e-9, atol=1e-12, err_msg=name)


# --- right ones -----------------------------------------------------------------------------------


def right(count: int, seed: int) -> list[str]:
    """The verdicts on right gradients that are no agreement; 1 to 200 steps, both precisions."""
    rng = np.random.default_rng(seed)
    alarms = []
    for k in range(count):
        kind, layers, directions = CONFIGURATIONS[rng.integers(len(CONFIGURATIONS))]
        steps = int(rng.integers(1, 12)) if k % 3 else int(rng.integers(12, 201))
        case = Case.drawn(kind, layers, directions, seed + k, steps, int(rng.integers(1, 5)))
        case = case.rounded()
        if k % 2:
            gradients = case.gradients(dtype=np.float32)
        else:
            gradients = autograd(case) if k % 4 else case.gradients()
        verdict = case.compared(gradients)
        if not verdict:
            alarms.append(f"{kind} {layers} {directions} {steps}: {verdict}")
    return alarms


def test_right_gradients_agree() -> None:
    assert right(3, seed=1) == []


@pytest.mark.slow
def test_five_hundred_right_gradients_agree() -> None:
    assert right(500, seed=1000) == []


# --- one mistake ----------------------------------------------------------------------------------


def single(case: Case, name: str, choice: str, rng: np.random.Generator) -> str:
    """What is wrong with the verdict on one mistake; empty where it is named."""
    where = list(places(case, name))
    mistake = Mistake(name, choice, *where[rng.integers(len(where))])
    mistake = placed(case, mistake, [mistake])
    verdict = case.compared(case.gradients([mistake]))
    return "" if is_named([mistake], verdict) else f"{mistake}: {verdict}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_mistake_is_named(kind: str) -> None:
    """One of each kind of layer; all of them below."""
    k = KINDS.index(kind)
    rng = np.random.default_rng(k)
    layers, directions = ((1, ("forward",)), (2, ("forward", "reverse")))[k % 2]
    case = Case.drawn(kind, layers, directions, seed=5)
    choices = choices_of(kind, 6, len(directions))
    assert single(case, *choices[rng.integers(len(choices))], rng) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "layers", "directions"), CONFIGURATIONS)
def test_every_mistake_is_named(kind: str, layers: int, directions: tuple[str, ...]) -> None:
    rng = np.random.default_rng(layers)
    case = Case.drawn(kind, layers, directions, seed=5)
    wrong = [single(case, *choice, rng) for choice in choices_of(kind, 6, len(directions))]
    assert [text for text in wrong if text] == []


def test_every_declared_mistake_is_planted() -> None:
    planted = {name for kind in KINDS for name, _ in choices_of(kind, 6, 2)}
    assert set(CATALOGUE) - planted == {"all_scaled"}  # which has a test of its own


def test_in_float32_a_mistake_is_named_too() -> None:
    case = Case.drawn("lstm", 1, ("forward",), seed=2).rounded()
    mistake = Mistake("way_missing", "h to c")
    verdict = case.compared(case.gradients([mistake], dtype=np.float32))
    assert is_named([mistake], verdict), str(verdict)


# --- two mistakes ---------------------------------------------------------------------------------


def pairs(count: int, seed: int) -> tuple[int, list[str]]:
    """How many pairs were planted, and those that were not named."""
    rng = np.random.default_rng(seed)
    planted, missed = 0, []
    for k in range(count):
        for kind, layers, directions in CONFIGURATIONS:
            case = Case.drawn(kind, layers, directions, seed + k)
            mistakes = drawn_mistakes(case, 2, rng)
            if hides(case, mistakes):
                continue
            planted += 1
            verdict = case.compared(case.gradients(mistakes))
            if not is_named(mistakes, verdict):
                missed.append(f"{kind} {layers} {directions} {mistakes}: {verdict}")
    return planted, missed


def test_two_mistakes_are_named() -> None:
    case = Case.drawn("gru", 1, ("forward",), seed=7)
    mistakes = [Mistake("factor", "n to W_hn h"), Mistake("bias", "missing b_ih")]
    verdict = case.compared(case.gradients(mistakes))
    assert is_named(mistakes, verdict), str(verdict)


@pytest.mark.slow
def test_most_pairs_are_named() -> None:
    planted, missed = pairs(8, seed=200)
    assert planted > 100
    assert len(missed) <= 0.05 * planted, "\n\n".join(missed)


# --- what is not listed ---------------------------------------------------------------------------


def unlisted(count: int, seed: int) -> list[str]:
    """Causes that were named of gradients that are wrong in another way."""
    rng = np.random.default_rng(seed)
    named = []
    for k in range(count):
        kind, layers, directions = CONFIGURATIONS[k % len(CONFIGURATIONS)]
        case = Case.drawn(kind, layers, directions, seed + k)
        wrong, exact = case.gradients((), spoils(rng)), case.gradients()
        if all(np.allclose(wrong[n], exact[n], rtol=1e-9, atol=1e-12) for n in exact):
            continue  # a unit of relu that is off: nothing is wrong
        verdict = case.compared(wrong)
        if verdict or verdict.causes:
            named.append(f"{kind} {layers} {directions}: {verdict}")
    return named


def test_what_is_not_listed_is_not_named() -> None:
    assert unlisted(2, seed=40) == []


@pytest.mark.slow
def test_of_three_hundred_that_are_not_listed_none_is_named() -> None:
    assert unlisted(300, seed=3000) == []


# --- sizes and shares -----------------------------------------------------------------------------


def test_one_factor_on_all_gradients_is_a_mean_in_place_of_a_sum() -> None:
    case = Case.drawn("gru", 2, ("forward",), seed=1)
    scaled = {name: value / 18 for name, value in case.gradients().items()}
    verdict = case.compared(scaled)
    assert [cause.name for cause in verdict.causes] == ["all_scaled"]
    assert "a mean in place of a sum" in " ".join(str(verdict).split())


def test_of_the_gradient_of_x_alone_a_mistake_is_named() -> None:
    case = Case.drawn("lstm", 1, ("forward",), seed=4)
    mistake = Mistake("through_state", "c")
    verdict = case.compared({"x": case.gradients([mistake])["x"]})
    assert is_named([mistake], verdict), str(verdict)
