# An image that computes on NVIDIA GPUs, and on the CPU as well.
#
#     docker build --file containers/cuda.Dockerfile --tag fused-reparam:cuda .
#     docker run --rm --gpus all fused-reparam:cuda python -m fused_reparam selftest
#
# The driver is the host's; CUDA's libraries and Triton come with PyTorch. The compiler stays: Triton starts one
# for its own part of the first launch on a GPU.

ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm
ARG TORCH=2.13.0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.* \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "torch==${TORCH}" numpy==2.4.6 setuptools==84.2.1
WORKDIR /src
COPY setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY kernels kernels
COPY fused_reparam fused_reparam
RUN FUSED_REPARAM_REQUIRE_NATIVE=1 \
    pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /wheels . \
    && pip install --no-cache-dir /wheels/*.whl \
    && useradd --create-home --uid 1000 user
USER 1000
WORKDIR /home/user
ENV FUSED_REPARAM_NO_JIT=1
# No GPU is needed to make the image: this checks what computes on its CPU.
RUN python -m fused_reparam build && python -m fused_reparam selftest
CMD ["python", "-m", "fused_reparam", "info"]
