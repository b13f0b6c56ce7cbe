"""What does rs.record cost beside the plain forward over the same batches?

Run: ``python benchmarks/record.py``, or with ``--only speed|memory|workers|size``. Ratios are
measured in one run, the sides taking turns. README.md beside this file says how to read them.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import rnnscope as rs

UNITS, LAYERS, BATCH, STEPS = 128, 2, 32, 100
SHORT = 20  # steps where many sequences are recorded, of which a shard holds several batches


def layer() -> nn.LSTM:
    """The layer that is recorded."""
    torch.manual_seed(0)
    return nn.LSTM(UNITS, UNITS, num_layers=LAYERS, batch_first=True).eval()


def batch(number: int, steps: int = STEPS) -> Tensor:
    """One batch, drawn from its number."""
    drawn = torch.Generator("cpu").manual_seed(number)
    return torch.randn(BATCH, steps, UNITS, generator=drawn)


def batches(count: int) -> list[Callable[[], Tensor]]:
    """Functions that load a batch each."""
    return [functools.partial(batch, number) for number in range(count)]


def forwards(model: nn.LSTM, parts: list[Tensor]) -> None:
    """The plain side."""
    with torch.no_grad():
        for x in parts:
            model(x)


def recorded(model: nn.LSTM, parts: Any, folder: Path, **options: Any) -> None:
    """The recording side, into a new store."""
    shutil.rmtree(folder, ignore_errors=True)
    rs.record(model, parts, folder, progress=False, **options)


def written(parts: list[Tensor], folder: Path) -> None:
    """As many bytes as all gates have, to files and nothing else: what no recording can save."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    rows = torch.zeros(BATCH * STEPS, LAYERS * UNITS * 6).numpy()
    for number in range(len(parts)):
        rows.tofile(folder / str(number))


CLOCKS = {
    "wall": time.perf_counter,
    "all threads": time.process_time,
    "own thread": time.thread_time,
}


def medians(sides: list[Callable[[], None]], repeats: int, folder: Path) -> list[list[float]]:
    """Seconds of each side by each clock, taking turns; the first round is not counted, nor is
    what it takes to remove what the side before left in the folder."""
    times: list[list[list[float]]] = [[] for _ in sides]
    for turn in range(repeats + 1):
        for k, side in enumerate(sides):
            shutil.rmtree(folder, ignore_errors=True)
            start = [clock() for clock in CLOCKS.values()]
            side()
            if turn:
                stop = [clock() for clock in CLOCKS.values()]
                times[k].append([b - a for a, b in zip(start, stop, strict=True)])
    return [[statistics.median(of) for of in zip(*seconds, strict=True)] for seconds in times]


def speed(folder: Path, count: int, repeats: int) -> None:
    """Recording and tracing over the plain forward."""
    model = layer()
    parts = [batch(number) for number in range(count)]
    one, every = {"names": "f", "compress": False}, {"compress": False}

    def watched() -> None:
        with torch.no_grad():
            for x in parts:
                with rs.watch(model):
                    model(x)

    sides = {
        "plain forward": lambda: forwards(model, parts),
        "watch alone, nothing kept": watched,
        "the bytes of all gates to a file": lambda: written(parts, folder),
        "record all gates, uncompressed": lambda: recorded(model, parts, folder, **every),
        "record f, uncompressed": lambda: recorded(model, parts, folder, **one),
        "record all gates, compressed": lambda: recorded(model, parts, folder),
    }
    times = medians(list(sides.values()), repeats, folder)
    print(f"{count} batches of {BATCH} x {STEPS} steps, LSTM of {LAYERS} layers, {UNITS} units")
    print(f"  {'seconds over those of the forward':<32}{''.join(f'{name:>14}' for name in CLOCKS)}")
    for name, seconds in zip(sides, times, strict=True):
        ratios = "".join(f"{a / b:>14.2f}" for a, b in zip(seconds, times[0], strict=True))
        print(f"  {name:<33}{ratios}")


def size(folder: Path, count: int) -> None:
    """Bytes on disk over those of the numbers."""
    model = layer()
    raw = count * BATCH * STEPS * LAYERS * UNITS * 6 * 4
    for name, options in (("compressed", {}), ("uncompressed", {"compress": False})):
        recorded(model, batches(count), folder, **options)
        disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"  all gates, {name:<14}{disk / 1e6:>8.1f}MB{disk / raw:>8.2f} of {raw / 1e6:.1f}MB")


def memory(folder: Path) -> None:
    """Peak memory beyond the plain forward, each in a process of its own."""
    record = BATCH * SHORT * LAYERS * UNITS * 6 * 4
    shard = 64 * 2**20
    print(
        f"  one batch's record {record / 1e6:.1f}MB, + 2 shards {(record + 2 * shard) / 1e6:.1f}MB"
    )
    for sequences in (1_000, 20_000):
        own, extra = (_peak(folder, sequences, side) for side in ("forward", "record"))
        print(f"  {sequences:>6} sequences: {(extra - own) / 1e6:>8.1f}MB beyond the plain forward")


def _peak(folder: Path, sequences: int, side: str) -> int:
    command = [sys.executable, __file__, "--peak", str(folder), str(sequences), side]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(process.stdout)


def measure_peak(folder: Path, sequences: int, side: str) -> None:
    """Print how far memory rose above what stood before the call."""
    model = layer()
    # what both sides need once is there before
    rs.record(model, [batch(0, 2)], f"{folder}-first", progress=False)
    forwards(model, [batch(0, SHORT)])
    parts = _stream(sequences // BATCH)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew at what is resident now
    before = _status("VmRSS")
    if side == "record":
        recorded(model, parts, folder, compress=False)
    else:
        with torch.no_grad():
            for x in parts:
                model(x)
    print(_status("VmHWM") - before)


def _stream(count: int) -> Iterator[Tensor]:
    return (batch(number, SHORT) for number in range(count))


def _status(name: str) -> int:
    """Bytes, from the kernel's account of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def workers(folder: Path, count: int, repeats: int) -> None:
    """One local worker over two, of one thread each: seconds on the wall, and those that the
    busiest worker was on a processor, which other work on the machine disturbs less."""
    import distributed

    model = layer()
    seconds: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
    for number in (1, 2):
        with (
            distributed.LocalCluster(
                n_workers=number, threads_per_worker=1, dashboard_address=None
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            client.run(torch.set_num_threads, 1)
            for _ in range(repeats + 1):
                shutil.rmtree(folder, ignore_errors=True)
                before, start = client.run(time.process_time), time.perf_counter()
                rs.record(
                    model, batches(count), folder, progress=False, client=client, compress=True
                )
                wall = time.perf_counter() - start
                after = client.run(time.process_time)
                seconds[number].append((wall, max(after[w] - before[w] for w in after)))
    for k, clock in enumerate(("on the wall", "of the busiest worker's processor")):
        first, second = (statistics.median(s[k] for s in times[1:]) for times in seconds.values())
        ratio = f"{first / second:.2f} times"
        print(f"  one worker {first:.2f}s, two workers {second:.2f}s {clock}: {ratio}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batches", type=int, default=24)
    parser.add_argument("--only", choices=("speed", "size", "memory", "workers"))
    parser.add_argument("--folder", help="where the stores are written")
    parser.add_argument("--peak", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.peak:
        measure_peak(Path(chosen.peak[0]), int(chosen.peak[1]), chosen.peak[2])
        sys.exit()
    with tempfile.TemporaryDirectory(dir=chosen.folder) as temporary:
        store = Path(temporary) / "gates"
        questions: dict[str, Callable[[], None]] = {
            "speed": lambda: speed(store, chosen.batches, chosen.repeats),
            "size": lambda: size(store, chosen.batches),
            "memory": lambda: memory(store),
            "workers": lambda: workers(store, 2 * chosen.batches, chosen.repeats),
        }
        for name, question in questions.items():
            if chosen.only in (None, name):
                print(name)
                question()
