"""The Triton backend on CPU tensors through the whole way to an NVIDIA GPU, but for the GPU.

Triton's compiler, its specialization of arguments and its C launcher run as they would. They find a
`libcuda.so.1` (fakecuda.c) whose `cuLaunchKernelEx` hands the kernel's parameters, byte for byte,
to a function here. Of the package nothing is replaced but what asks for a CUDA device.

A process that has made a `Machine` compiles no more kernels that a GPU could run: it leaves out
ptxas, which takes most of the time. So it must have a cache of compiled kernels of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
WRITTEN_FOR = "3.9."  # Triton: how it finds its driver, calls a launcher and keeps what it compiled


def missing() -> str | None:
    """Why there can be no machine here, or None."""
    try:
        import triton
    except ImportError:
        return "triton is not installed"
    if not triton.__version__.startswith(WRITTEN_FOR):
        return f"Triton {triton.__version__}: the driver without a GPU is for {WRITTEN_FOR}x"
    if shutil.which("gcc") is None:
        return "there is no gcc, which builds the driver without a GPU"
    return None


def build_library(folder: Path) -> Path:
    """A libcuda.so.1 in this folder."""
    import triton

    include = Path(triton.__file__).parent / "backends" / "nvidia" / "include"
    path = folder / "libcuda.so.1"
    command = ["gcc", "-O1", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", f"-I{include}"]
    subprocess.run([*command, str(HERE / "fakecuda.c"), "-o", str(path)], check=True)
    return path


class Launch(NamedTuple):
    """One launch as the driver sees it. kernel: parsed; parameters: the bytes of each."""

    kernel: Any
    grid: int
    block: int
    shared: int
    parameters: list[bytes]


_CALLBACK = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint,
    ctypes.POINTER(ctypes.c_void_p),
)  # fmt: skip


class Machine:
    """Installs itself in Triton and in the package.

    execute(launch, tensors): called for each launch, with the tensors it was given;
    parse(text): a kernel with `parameter_sizes` from its PTX; architecture: such as 90.
    """

    def __init__(
        self, library: Path, architecture: int, execute: Callable, parse: Callable
    ) -> None:
        self.execute, self.parse = execute, parse
        self.tensors: Any = ()
        self.launches = 0
        self._functions: dict[int, Any] = {}  # handle of a loaded kernel -> what Triton compiled
        self._parsed: dict[str, Any] = {}  # by PTX
        self._compared: dict[Any, Any] = {}  # variant and alignment; the variant is kept alive
        self._record: list[Launch] | None = None
        self._error: BaseException | None = None
        self._install_driver(library, architecture)
        self._install_backend()

    def forget(self) -> None:
        """Parse every kernel anew, as after a change of `parse`."""
        self._parsed.clear()

    def _install_driver(self, path: Path, architecture: int) -> None:
        import triton

        os.environ["TRITON_LIBCUDA_PATH"] = triton.knobs.nvidia.libcuda_path = str(path.parent)
        # Later look-ups by its soname find the library that is loaded here.
        self._library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self._callback = _CALLBACK(self._launched)  # kept alive
        self._library.fake_set(self._callback, architecture)
        from triton.backends.nvidia.compiler import CUDABackend
        from triton.backends.nvidia.driver import CudaDriver
        from triton.compiler import CompiledKernel

        driver = CudaDriver()
        driver.get_current_device = lambda: 0
        driver.set_current_device = lambda index: None
        driver.get_device_capability = lambda device=0: (architecture // 10, architecture % 10)
        driver.get_current_stream = lambda index: 0
        triton.runtime.driver.set_active(driver)
        CUDABackend.make_cubin = lambda *_: b"no machine code"
        load = CompiledKernel._init_handles

        def load_and_note(kernel):
            load(kernel)
            self._functions[kernel.function] = kernel

        CompiledKernel._init_handles = load_and_note

    def _install_backend(self) -> None:
        import fused_reparam.backends.triton as backend
        from fused_reparam.backends.triton import elementwise, gaussian, launch, rng_torch, softmax
        from fused_reparam.backends.triton.kernels import approx

        assert not launch.INTERPRETED, "TRITON_INTERPRET must not be set"

        def math_form(device, vector):
            return (approx.CUDA64 if vector == 2 else approx.PTX).value

        for module in (launch, gaussian, elementwise, softmax, rng_torch):
            module.math_form = math_form
        backend.unavailable_reason = lambda device: None
        real = launch.Variant.launch
        machine = self

        def run(variant, pointers, scalars):
            variant.direct = True
            before, machine.tensors = machine.tensors, pointers
            try:
                with _cpu_as_current_device():
                    machine._compare_launches(variant, pointers, scalars)
                    real(variant, pointers, scalars)
            finally:
                machine.tensors = before
            machine.raise_pending()

        launch.Variant.launch = run

    def _compare_launches(self, variant, pointers, scalars) -> None:
        """Once for each compiled kernel: Triton's own launch and the package's direct one pass the
        same grid and the same bytes.
        """
        from fused_reparam.backends.triton import launch

        addresses = [None if p is None else p.data_ptr() for p in pointers]
        case = id(variant), launch._facts(pointers, addresses)
        if case in self._compared:
            return
        self._compared[case] = variant
        self._record = []
        try:
            variant._launch_by_triton(pointers, scalars)
            variant._launch(pointers, scalars)  # it goes Triton's way, the first time
            variant._launch(pointers, scalars)
            direct = any(variant.handles.values())
        finally:
            made, self._record = self._record, None
        self.raise_pending()
        assert direct, "every launch goes through Triton's slow path"
        assert len(made) == 3, f"three launches, and the driver saw {len(made)}"
        for other in made[1:]:
            assert other == made[0], f"Triton launches {made[0]}, and the package {other}"

    def raise_pending(self) -> None:
        """An exception can't pass through the launcher, which is C."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _launched(self, function, grid, block, shared, parameters) -> None:
        try:
            text = self._functions[function].asm["ptx"]
            if text not in self._parsed:
                self._parsed[text] = self.parse(text)
            kernel = self._parsed[text]
            values = [
                ctypes.string_at(parameters[i], size)
                for i, size in enumerate(kernel.parameter_sizes)
            ]
            made = Launch(kernel, grid, block, shared, values)
            self.launches += 1
            if self._record is None:
                self.execute(made, [t for t in self.tensors if t is not None])
            else:
                self._record.append(made)
        except BaseException as error:
            self._error = self._error or error


@contextlib.contextmanager
def _cpu_as_current_device():
    """The current CUDA device is that of CPU tensors, whose index is None."""
    from torch import cuda

    kept = cuda.current_device, cuda.is_current_stream_capturing
    cuda.current_device, cuda.is_current_stream_capturing = lambda: None, lambda: False
    try:
        yield
    finally:
        cuda.current_device, cuda.is_current_stream_capturing = kept
