"""From the source of a kernel to machine code, in memory, and calls of it on torch's own
threads."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

__all__ = ["Compiled", "available", "compiled", "has_wide_registers"]


class Compiled:
    """A kernel as machine code. It gets the address of its arguments, an array of whole numbers,
    the first of which counts the pieces of work that have been taken."""

    def __init__(self, engine: Any, name: str) -> None:
        self.engine = engine  # holds the code in memory
        self.address = engine.get_function_address(name)
        self._call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address)

    def __call__(self, arguments: Sequence[int], pieces: int) -> None:
        """Run it on as many threads as torch has here, at most one for each piece of work."""
        table = (ctypes.c_int64 * (len(arguments) + 2))(0, pieces, *arguments)
        threads = min(torch.get_num_threads(), pieces)
        team = _team() if threads > 1 else None
        if team is None:
            self._call(ctypes.addressof(table))
        else:
            team(self.address, ctypes.addressof(table), threads, 0)


@cache
def _team() -> Callable[..., None] | None:
    """Runs a function on the threads that torch itself uses, so that no others wait beside them;
    None where these are not found."""
    folder = Path(torch.__file__).parent / "lib"
    for path in [*folder.glob("libgomp*"), *folder.glob("libomp*"), *folder.glob("libiomp5*")]:
        try:
            team: Any = ctypes.CDLL(str(path)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        team.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        team.restype = None
        found: Callable[..., None] = team
        return found
    return None


@cache
def available() -> bool:
    """Whether the compiler is installed, on a system where it was tried; it is not loaded for
    that."""
    return sys.platform in ("linux", "darwin") and find_spec("llvmlite") is not None


def _llvm() -> Any:
    import llvmlite.binding as llvm  # type: ignore[import-untyped]

    return llvm


@cache
def _target() -> Any:
    llvm = _llvm()
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    # on x86 constants stand near the code, where fewer instructions reach them
    model = "small" if target.name.startswith("x86") else "jitdefault"
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, jit=True, codemodel=model
    )


@cache
def has_wide_registers() -> bool:
    """Whether the processor has the 32 registers of AVX-512, each of one vector."""
    return bool(_llvm().get_host_cpu_features().get("avx512f"))


@cache
def compiled(source: str, name: str) -> Compiled:
    """The machine code of a source, made once in a process."""
    llvm = _llvm()
    module = llvm.parse_assembly(source)
    module.verify()
    machine = _target()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return Compiled(engine, name)
