"""The Triton kernels, executed without a GPU.

Triton compiles them for an NVIDIA GPU, and what a GPU would get is executed here on the CPU:

- `fake_gpu`, `fakecuda.c`: a CUDA driver without a GPU, to which Triton's own launcher hands each
  launch's kernel, grid and bytes of parameters;
- `module` reads a kernel's PTX, NVIDIA's virtual machine code; `emitter`, `arithmetic`, `bits` and
  `moves` translate it to numpy; `execution`, `accesses`, `memory` and `warps` run it, one array
  element a thread; `floating`, `approximate` and `integers` do the arithmetic;
- `contraction` looks for sums whose bits depend on the thread;
- `case`, `kernel_cases` and `stream_cases` say what is executed, and what is right;
- `server` does it, in a process of its own, and `client` asks it from a test.
"""
