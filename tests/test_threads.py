"""Other threads, other tasks and interrupts: nothing of theirs is changed, nothing is left."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import itertools
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
import torch
from interrupting import interrupted_at
from judges import replayed_masks
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import rnnscope as rs
from rnnscope._cli.layers import drawn
from rnnscope._layers import attention
from rnnscope._layers.adopt import RECURRENT
from rnnscope._opening import capture, forwards

KINDS: tuple[type[nn.Module], ...] = (*RECURRENT, rs.Recurrent)


# ── random numbers ───────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def drawing_between_the_steps(numbers: list[int]) -> Iterator[None]:
    """Another thread draws a random number whenever rnnscope, the layer or torch's random module
    calls a function in this thread."""
    places = ("/rnnscope/", "/torch/random.py", "/torch/nn/modules/")
    with ThreadPoolExecutor(1) as other:

        def called(frame: FrameType, event: str, _: Any) -> None:
            if any(place in frame.f_code.co_filename for place in places):
                sys.settrace(None)
                numbers.append(int(other.submit(torch.randint, 2**40, ()).result()))
                sys.settrace(called)

        before = sys.gettrace()
        sys.settrace(called)
        try:
            yield
        finally:
            sys.settrace(before)


@pytest.mark.parametrize("how", ["trace", "watch"])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_numbers_of_other_threads_are_as_without(kind: Any, how: str) -> None:
    layer, x = kind(3, 4, num_layers=3, dropout=0.4), torch.randn(5, 2, 3)
    numbers: list[int] = []
    torch.manual_seed(7)
    with drawing_between_the_steps(numbers):
        if how == "trace":
            tr = rs.trace(layer, x)
        else:
            with rs.watch(layer) as seen:
                layer(x)
            tr = seen.trace
    # the same draws from the same seed, with the layer's masks somewhere among them
    torch.manual_seed(7)
    masks: list[Tensor] = []
    for number in numbers:
        state = torch.get_rng_state()
        while int(torch.randint(2**40, ())) != number:
            assert len(masks) < 2, "another thread drew other numbers than without rnnscope"
            torch.set_rng_state(state)
            masks.append(torch.empty(5, 2, 4).bernoulli_(0.6))
            state = torch.get_rng_state()
    assert len(masks) == 2
    for mask, taken in zip(masks, tr._masks[1:], strict=True):
        assert taken is not None
        assert torch.equal(mask.transpose(0, 1) != 0, taken)
    torch.testing.assert_close(tr.output, by_layers(layer, x, masks), rtol=0, atol=1e-6)


def flat(output: Tensor | PackedSequence) -> list[Tensor]:
    return [output] if isinstance(output, Tensor) else [t for t in output if t is not None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("form", ["time", "batch", "packed", "strided"])
def test_the_masks_are_those_of_the_layer(form: str, dtype: torch.dtype) -> None:
    layer = nn.LSTM(
        3, 4, num_layers=3, dropout=0.3, bidirectional=True, batch_first=form == "batch"
    )
    layer.to(dtype)
    x = torch.randn(6, 6, 3, dtype=dtype)
    lengths = [6, 2, 5, 5, 1, 3]
    passed: Any = x.transpose(0, 1) if form == "strided" else x
    if form == "packed":
        passed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    expected, _ = layer(passed)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    tr = rs.trace(layer, passed)
    assert torch.equal(torch.get_rng_state(), after)
    for mine, theirs in zip(flat(tr.output), flat(expected), strict=True):
        assert torch.equal(mine, theirs)
    packed_lengths = lengths if form == "packed" else None
    masks = replayed_masks(layer, before, batch=6, time=6, lengths=packed_lengths)
    for mask, taken in zip(masks, tr._masks[1:], strict=True):
        assert taken is not None
        assert torch.equal(mask != 0, taken)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_the_layer_computes_the_same_bits_while_its_masks_are_taken(
    kind: Any, inference: bool
) -> None:
    for batch_first in (False, True):
        layer = kind(5, 7, num_layers=2, dropout=0.5, batch_first=batch_first)
        x = torch.randn(6, 6, 5)
        with torch.inference_mode(inference):
            torch.manual_seed(1)
            expected = layer(x)[0]
            torch.manual_seed(1)
            assert torch.equal(rs.trace(layer, x).output, expected)


def test_everything_dropped() -> None:
    layer, x = nn.GRU(3, 4, num_layers=2, dropout=1.0), torch.randn(5, 2, 3)
    before = torch.get_rng_state()
    tr = rs.trace(layer, x)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(tr.output, layer(x)[0])
    assert tr._masks[1] is not None
    assert not tr._masks[1].any()


def test_masks_that_a_mode_of_the_caller_hides_are_refused() -> None:
    """In inference mode a dispatch mode is handed the fused call as a whole."""
    layer, x = nn.LSTM(3, 4, num_layers=2, dropout=0.5), torch.randn(5, 2, 3)
    with torch.inference_mode(), PassingMode():
        with pytest.raises(rs.RefusedError, match="no masks that could be seen"):
            rs.trace(layer, x)
        with rs.watch(layer) as seen:
            layer(x)
    assert "no masks that could be seen" in seen.skipped[""]


class Dropped(nn.Module):
    """Drops from a weight, in the forward itself."""

    def forward(self, weight: Tensor) -> Tensor:
        return nn.functional.dropout(weight, 0.5)


def test_weights_that_are_dropped_from_too() -> None:
    layer, x = nn.LSTM(3, 4, num_layers=2, dropout=0.5), torch.randn(5, 2, 3)
    parametrize.register_parametrization(layer, "weight_hh_l0", Dropped())
    tr = rs.trace(layer, x)
    assert tr.deviation is not None
    assert tr.deviation <= tr.tolerance


def test_a_drawn_layer_is_torchs_own() -> None:
    options = {"num_layers": 2, "bidirectional": True}
    numbers: list[int] = []
    torch.manual_seed(5)
    with drawing_between_the_steps(numbers):
        layer = drawn(8, "lstm", 3, 4, **options)
    torch.manual_seed(5)
    assert numbers == [int(torch.randint(2**40, ())) for _ in numbers]
    torch.manual_seed(8)
    expected = nn.LSTM(3, 4, num_layers=2, bidirectional=True)
    for mine, theirs in zip(layer.parameters(), expected.parameters(), strict=True):
        assert torch.equal(mine, theirs)


# ── whose calls a watch records ──────────────────────────────────────────────────────────────


def in_thread(work: Callable[..., Any], *args: Any) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work, *args).result()


def test_calls_of_other_threads_are_counted() -> None:
    model, x = nn.Sequential(nn.Linear(3, 3), nn.GRU(3, 4)), torch.randn(5, 2, 3)
    with rs.watch(model) as seen:
        for _ in range(3):
            in_thread(model, x)
        assert "3 calls came from other threads" in seen.skipped["1"]
        with pytest.raises(rs.AddressError, match="3 calls came from other threads"):
            seen["1"]
        model(x)
    assert len(seen.calls("1")) == 1
    assert "1 call " in repr(seen)
    assert "3 calls came from other threads or asyncio tasks and are not recorded" in repr(seen)


def test_a_thread_that_takes_over_the_context_is_recorded() -> None:
    layer, x = nn.GRU(3, 4), torch.randn(5, 2, 3)
    with rs.watch(layer) as seen:
        in_thread(contextvars.copy_context().run, layer, x)
        asyncio.run(asyncio.to_thread(layer, x))
    assert len(seen.calls("")) == 2
    assert not seen.skipped


def test_threads_that_share_a_watch() -> None:
    cell, threads, steps = nn.GRUCell(3, 4), 4, 30

    def work() -> None:
        h = None
        for _ in range(steps):
            h = cell(torch.randn(2, 3), h)

    with rs.watch(cell) as seen, ThreadPoolExecutor(threads) as pool:
        runs = [contextvars.copy_context().run for _ in range(threads)]
        for done in [pool.submit(run, work) for run in runs]:
            done.result()
    assert len(seen.calls("")) == threads * steps
    joined = seen.segments("")
    assert sum(len(each.calls) for each in joined) == threads * steps
    for each in joined:
        for before, after in itertools.pairwise(each.calls):
            assert torch.equal(before.h_n, after.h_0)


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_recomputation_in_another_thread(reentrant: bool) -> None:
    """As torch's own threads do in the backward pass of a GPU."""
    layer, x = nn.GRU(3, 4), torch.randn(5, 2, 3, requires_grad=True)
    with rs.watch(layer) as seen:
        output, _ = checkpoint(layer, x, use_reentrant=reentrant)
        in_thread(output.sum().backward)
    assert seen.trace.recomputed
    assert not seen.skipped
    grad = seen.trace.grad
    assert grad is not None
    torch.testing.assert_close(grad["x", 0], x.grad.transpose(0, 1))


def test_a_call_that_ends_after_its_watch() -> None:
    left: list[None] = []

    class Leaving(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            if watching:
                left.append(in_thread(watching.pop().__exit__, None, None, None))
            return weight.clone()

    watching: list[Any] = []
    cell = nn.GRUCell(3, 4)
    parametrize.register_parametrization(cell, "weight_hh", Leaving())
    seen = rs.watch(cell)
    seen.__enter__()
    watching.append(seen)
    cell(torch.randn(2, 3))
    assert left
    assert len(seen.calls("")) == 1


def test_tasks_record_their_own_calls() -> None:
    layer = nn.GRU(3, 4)

    async def call(x: Tensor, repeats: int) -> None:
        for _ in range(repeats):
            await asyncio.sleep(0)
            layer(x)

    async def watched(k: int) -> list[rs.Trace]:
        x = torch.full((2, 1, 3), float(k))
        with rs.watch(layer) as seen:
            await asyncio.gather(call(x, k), call(x, 1))  # tasks that begin inside are its own
        return seen.calls("")

    async def every() -> list[list[rs.Trace]]:
        return await asyncio.gather(*map(watched, range(1, 5)))

    for k, traces in enumerate(asyncio.run(every()), start=1):
        assert len(traces) == k + 1
        assert all(bool((tr.call.x == k).all()) for tr in traces)
    assert plain()


@pytest.mark.parametrize("order", ["nested", "overlapping"])
def test_the_last_watch_out_switches_back(order: str) -> None:
    pytest.importorskip("torch._dynamo")
    before = switches(nn.GRU(3, 4))
    x = torch.randn(5, 2, 3)
    layers = nn.GRU(3, 4), nn.GRU(3, 4)
    first, second = map(rs.watch, layers)
    with ThreadPoolExecutor(1) as a, ThreadPoolExecutor(1) as b:
        a.submit(first.__enter__).result()
        b.submit(second.__enter__).result()
        leaving = [(a, first), (b, second)] if order == "overlapping" else [(b, second), (a, first)]
        pool, watch = leaving[0]
        pool.submit(watch.__exit__, None, None, None).result()
        pool, watch = leaving[1]
        assert not plain()
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
        pool.submit(layers[(a, b).index(pool)], x).result()
        pool.submit(watch.__exit__, None, None, None).result()
        assert len(watch.calls("")) == 1
    assert switches(nn.GRU(3, 4)) == before


def test_a_watch_that_is_left_in_another_context() -> None:
    """As a generator's is that another task closes."""
    layer = nn.GRU(3, 4)
    with rs.watch(layer) as outer:
        watch = in_thread(rs.watch(layer).__enter__)
        watch.__exit__(None, None, None)
        layer(torch.randn(5, 2, 3))
    assert len(outer.calls("")) == 1
    assert not watch.calls("")
    assert plain()


def test_an_exit_stack() -> None:
    layer = nn.GRU(3, 4)
    with contextlib.ExitStack() as stack:
        seen = stack.enter_context(rs.watch(layer))
        layer(torch.randn(5, 2, 3))
    assert seen.trace.deviation is not None
    assert plain()


class Read(nn.Module):
    """Tells whether torch's cache of parametrized weights, which all threads share, is on."""

    cached = False

    def forward(self, weight: Tensor) -> Tensor:
        self.cached |= bool(parametrize._cache_enabled)
        return weight.clone()


@pytest.mark.parametrize("how", ["trace", "watch"])
def test_the_cache_of_all_threads_stays_off(how: str) -> None:
    cell, read = nn.GRUCell(3, 4), Read()
    parametrize.register_parametrization(cell, "weight_hh", read)
    if how == "trace":
        rs.trace(cell, torch.randn(2, 3))
    else:
        with rs.watch(cell):
            cell(torch.randn(2, 3))
    assert not read.cached


def test_a_layer_copied_by_another_thread_while_it_is_traced() -> None:
    layer, x = nn.GRU(3, 4), torch.randn(5, 2, 3)
    copies: list[nn.Module] = []

    def copied() -> None:
        copies.append(in_thread(copy.deepcopy, layer))
        copies.append(pickle.loads(in_thread(pickle.dumps, layer)))

    forward = nn.GRU.forward
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(nn.GRU, "forward", lambda *args: (copied(), forward(*args))[1])
        tr = rs.trace(layer, x)
    assert len(copies) == 2
    for each in copies:
        assert torch.equal(each(x)[0], tr.output)


# ── many at once ─────────────────────────────────────────────────────────────────────────────


def by_layers(layer: Any, x: Tensor, masks: list[Tensor]) -> Tensor:
    """The layer's output from torch's own layers of one, with the masks between them."""
    for k in range(layer.num_layers):
        single = type(layer)(x.shape[-1], layer.hidden_size)
        with torch.no_grad():
            for name, parameter in single.named_parameters():
                parameter.copy_(getattr(layer, name.replace("l0", f"l{k}")))
        with torch.no_grad():
            x = single(x)[0]
        if k < layer.num_layers - 1:
            x = x * masks[k] / (1 - layer.dropout)
    return x


def hammered(rounds: int) -> None:
    """Eight threads, of which each traces, watches, calls and draws, ``rounds`` times."""
    shared = nn.LSTM(3, 4, num_layers=2, dropout=0.5)
    tied = parametrizations.spectral_norm(nn.GRUCell(3, 4), "weight_hh")
    start = threading.Barrier(8)
    draws: list[list[int]] = [[] for _ in range(8)]

    def judged(layer: Any, tr: rs.Trace, x: Tensor) -> None:
        masks = [m.transpose(0, 1) for m in tr._masks[1:]]  # type: ignore[union-attr]
        torch.testing.assert_close(tr.output, by_layers(layer, x, masks), rtol=0, atol=1e-5)
        assert tr.deviation is not None
        assert tr.deviation <= tr.tolerance

    def work(k: int) -> None:
        layer = (nn.GRU, nn.LSTM)[k % 2](3, 4, num_layers=2, dropout=0.5)
        model = nn.ModuleDict({"mine": layer, "shared": shared})
        cell = nn.GRUCell(3, 4)
        start.wait()
        for number in range(rounds):
            x = torch.randn(3, 2, 3)
            draws[k].append(int(torch.randint(2**62, ())))
            judged(layer, rs.trace(layer, x), x)
            judged(shared, rs.trace(shared, x), x)
            draws[k].append(int(torch.randint(2**62, ())))
            with rs.watch(model) as seen:
                for call in range(2):
                    model["mine"](x + call)
                model["shared"](x)
                cell(x[0])
            assert len(seen.calls("mine")) == 2
            for call, tr in enumerate(seen.calls("mine")):
                judged(layer, tr, x + call)
            judged(shared, seen["shared"], x)
            assert "mine" not in seen.skipped
            assert rs.trace(tied if number % 2 else cell, x[0]).deviation is not None
            draws[k].append(int(torch.randint(2**62, ())))

    before = switches(shared)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, k) for k in range(8)]:
            done.result()
    numbers = [number for mine in draws for number in mine]
    assert len(set(numbers)) == len(numbers) == 8 * 3 * rounds  # none was drawn again
    assert switches(shared) == before


def test_eight_threads() -> None:
    hammered(3)


@pytest.mark.slow
def test_eight_threads_for_long() -> None:
    hammered(100)


# ── interrupts ───────────────────────────────────────────────────────────────────────────────


def plain() -> bool:
    """Whether the forwards are torch's own."""
    return not any(vars(kind)["forward"] in forwards._originals for kind in KINDS)


def switches(module: nn.Module) -> dict[str, Any]:
    """All that rnnscope may switch while it works, as it is now."""
    dynamo: Any = sys.modules.get("torch._dynamo.eval_frame")
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    names = [name + end for name in hooks for end in ("", "_with_kwargs")]
    autocast = torch.autocast_increment_nesting(), torch.autocast_decrement_nesting()
    return {
        "forward": [vars(kind)["forward"] for kind in KINDS],
        "compile": getattr(dynamo, "_stance", None),
        "observers": (forwards._observers, forwards._context.get(), forwards._stance),
        "attention": (attention.attention(), capture._thread.capture),
        "key": torch._C._dispatch_tls_is_dispatch_key_included(attention._KEY),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu"), autocast),
        "functions": torch._C._is_torch_function_enabled(),
        "modes": torch._C._len_torch_dispatch_stack(),
        "cache": parametrize._cache_enabled,
        "training": [part.training for part in module.modules()],
        "hooks": [list(getattr(part, name)) for part in module.modules() for name in names],
    }


def work_of(name: str) -> tuple[nn.Module, Callable[[], object]]:
    """A module, and what is to be done with it."""
    x = torch.randn(3, 2, 2)
    if name == "watch":
        model = nn.ModuleDict({"a": nn.LSTM(2, 3, 2, dropout=0.5), "b": nn.GRUCell(3, 2)})

        def work() -> None:
            with rs.watch(model):
                model["b"](model["a"](x)[0][0])

        return model, work
    modules: dict[str, tuple[nn.Module, Tensor]] = {
        "layer": (nn.LSTM(2, 3, num_layers=2, dropout=0.5), x),
        "cell": (nn.GRUCell(2, 3), x[0]),
        "declared": (rs.Recurrent(rs.cells.LSTM_PEEPHOLE, 2, 3), x),
    }
    module, given = modules[name]
    return module, lambda: rs.trace(module, given)


@pytest.fixture
def tolerant(monkeypatch: pytest.MonkeyPatch) -> None:
    # a generator that is thrown away while it is closed says so, which is not what is tested
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)


def interrupted(name: str, steps: range, inside: Callable[[], Any]) -> None:
    module, work = work_of(name)
    with inside():
        work()
        before = switches(module)
        reached = 0
        for step in steps:
            if not interrupted_at(step, work):
                break
            reached += 1
            after = switches(module)
            assert after == before, f"an interrupt at step {step} leaves something"
        assert reached > 5


class PassingMode(TorchDispatchMode):
    """Sees every operation, and lets it pass."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def inference() -> Iterator[None]:
    with torch.inference_mode(), torch.autocast("cpu"):
        yield


@contextlib.contextmanager
def mode() -> Iterator[None]:
    with torch.no_grad(), PassingMode(), torch.autocast("cpu"):
        yield


CALLERS = [contextlib.nullcontext, inference, mode]


@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("inside", CALLERS)
@pytest.mark.parametrize("name", ["layer", "cell", "declared", "watch"])
def test_an_interrupt_leaves_nothing(name: str, inside: Callable[[], Any]) -> None:
    interrupted(name, range(0, 100_000, 431), inside)


@pytest.mark.slow
@pytest.mark.usefixtures("tolerant")
@pytest.mark.parametrize("inside", CALLERS)
@pytest.mark.parametrize("name", ["layer", "cell", "declared", "watch"])
def test_an_interrupt_at_any_step_leaves_nothing(name: str, inside: Callable[[], Any]) -> None:
    every = 1 if inside is contextlib.nullcontext else 101
    interrupted(name, range(0, 100_000, every), inside)


@pytest.mark.usefixtures("tolerant")
def test_an_interrupt_while_entering_or_leaving_a_watch() -> None:
    layer = nn.GRU(2, 3)

    def work() -> None:
        with rs.watch(layer):
            pass

    before, step = switches(layer), 0
    while interrupted_at(step, work):
        assert switches(layer) == before, f"an interrupt at step {step} leaves something"
        step += 1
    assert step > 100


def test_an_exception_in_the_layer_leaves_nothing() -> None:
    layer = nn.LSTM(2, 3, num_layers=2, dropout=0.5)
    before = switches(layer)
    with pytest.raises(rs.ShapeError):
        rs.trace(layer, torch.randn(3, 2, 5))
    with rs.watch(layer), pytest.raises(RuntimeError):
        layer(torch.randn(3, 2, 5))
    assert switches(layer) == before
