"""Thousands of damaged files: each gives an error of ours or a correct load, never a crash.

    python tests/fuzz_files.py [MUTATIONS] [SEED]

A worker reads the files one after the other with its memory limited (RLIMIT_AS), and says what
came of each; one that is silent for 2 seconds, or dies, has failed. Seeds repeat exactly.
"""

from __future__ import annotations

import io
import json
import random
import resource
import select
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

ENDINGS = (".pt", "old.pt", ".safetensors", ".npz", "packed.npz", ".h5", ".keras", ".onnx")
SECONDS = 2.0
ROOM = 2**28  # bytes beyond those that the worker has at its start
HEADERS = (0, 1, 2, 4, 8, 64, 255, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)


def valid_files(folder: Path) -> list[Path]:
    """A small file of each kind."""
    import h5py

    from rnnscope._files import save

    torch.manual_seed(0)
    layers = {"enc": nn.LSTM(3, 4, bidirectional=True), "dec": nn.GRU(4, 3)}
    plain = {f"{name}.{k}": v for name, m in layers.items() for k, v in m.state_dict().items()}
    names = [f"m{ending}" for ending in ENDINGS]
    for name in ("m.pt", "m.safetensors", "m.npz", "m.onnx"):
        save(layers, folder / name)
    torch.save(plain, folder / "mold.pt", _use_new_zipfile_serialization=False)
    np.savez_compressed(folder / "mpacked.npz", **{k: v.numpy() for k, v in plain.items()})
    save(layers, folder / "m.h5", layout="keras")
    with h5py.File(folder / "m.h5", "a") as file:  # chunks and a configuration, too
        packed = np.zeros((20, 7), np.float32)
        file.create_dataset("other", data=packed, chunks=(8, 4), compression="gzip", shuffle=True)
        lstm = {"class_name": "LSTM", "config": {"name": "a", "units": 4}}
        config = {"class_name": "Model", "config": {"layers": [lstm]}}
        file.attrs["model_config"] = json.dumps(config)
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        inside = file.create_group("layers/gru/cell/vars")
        for k, shape in enumerate(((3, 12), (4, 12), (2, 12))):
            inside[str(k)] = np.ones(shape, np.float32)
        file.create_group("layers/gru/vars").attrs["name"] = "g"
    gru = {"class_name": "GRU", "config": {"name": "g", "units": 4, "reset_after": True}}
    with zipfile.ZipFile(folder / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "S", "config": {"l": [gru]}}))
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        archive.writestr("model.weights.h5", weights.getvalue())
    return [folder / name for name in names]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The bytes cut short, with bits flipped, or with a number that some size may be replaced."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if not changed:
            break
        kind = rng.random()
        # sizes and names stand at the beginning and at the end, numbers between
        near = rng.randrange(min(len(changed), 2048))
        at = rng.choice((rng.randrange(len(changed)), near, len(changed) - 1 - near))
        if kind < 0.15:
            del changed[at:]
        elif kind < 0.6:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind < 0.85:
            width = rng.choice((1, 2, 4, 8))
            value = rng.choice(HEADERS) % 256**width
            changed[at : at + width] = value.to_bytes(width, "little")
        elif kind < 0.93:
            del changed[at : at + rng.randrange(1, 64)]
        else:
            start = rng.randrange(len(changed))
            changed[at:at] = changed[start : start + rng.randrange(1, 64)]
    return bytes(changed)


def work() -> None:
    """Read paths from stdin, load each, print one line on what came of it."""
    import rnnscope as rs
    from rnnscope._files import load

    torch.set_num_threads(1)
    for line in sys.stdin.readline().split("\t"):  # the whole files first: imports, first calls
        load(line.strip())
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM, size + ROOM))
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            layers = load(line.strip())
            for name, layer in layers.items():
                assert isinstance(name, str)
                assert sum(p.numel() for p in layer.parameters()) < 10_000_000
            print("loaded", flush=True)
        except rs.RnnscopeError as error:
            said = str(error)
            print("refused" if line.strip() in said else f"unnamed: {said!r}", flush=True)
        except MemoryError:
            print("memory", flush=True)
        except BaseException as error:
            print(f"raised {type(error).__name__}: {str(error)[:200]!r}", flush=True)


class Worker:
    """The process that reads."""

    def __init__(self, whole: list[Path]) -> None:
        self.process: Any = subprocess.Popen(
            [sys.executable, __file__, "--work"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.process.stdin.write("\t".join(map(str, whole)) + "\n")
        self.process.stdin.flush()
        assert self.answer(120) == "ready"

    def answer(self, seconds: float) -> str:
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            self.process.kill()
            return "silent"
        return self.process.stdout.readline().strip() or f"died {self.process.wait()}"

    def load(self, path: Path) -> str:
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        return self.answer(SECONDS)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def fuzz(mutations: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """(what came of them, what failed) of so many mutations."""
    whole = valid_files(folder)
    data = [path.read_bytes() for path in whole]
    worker = Worker(whole)
    came: Counter[str] = Counter()
    failed: list[str] = []
    for k in range(mutations):
        rng = random.Random(f"{seed}.{k}")
        which = k % len(whole)
        target = folder / f"mutated{whole[which].suffix}"
        target.write_bytes(mutated(data[which], rng))
        answer = worker.load(target)
        word = answer.split(" ")[0].rstrip(":")
        came[f"{whole[which].name} {word}"] += 1
        if word not in ("loaded", "refused"):
            failed.append(f"mutation {seed}.{k} of {whole[which].name}: {answer}")
            target.rename(folder / f"failed_{seed}_{k}{target.suffix}")
            if word in ("died", "silent"):
                worker.close()
                worker = Worker(whole)
    worker.close()
    return came, failed


def main() -> None:
    words = [int(word) for word in sys.argv[1:]]
    count, seed = (words + [10_000, 0][len(words) :])[:2]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        came, failed = fuzz(count, seed, Path(folder))
    for key in sorted(came):
        print(f"{came[key]:6} {key}")
    print("\n".join(failed) or "none failed")
    print(f"{count} mutations in {time.monotonic() - start:.0f} s")
    sys.exit(bool(failed))


if __name__ == "__main__":
    work() if "--work" in sys.argv else main()
