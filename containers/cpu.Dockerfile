# An image that computes on CPUs. The first stage compiles; the second has no compiler and needs none.
#
#     docker build --file containers/cpu.Dockerfile --tag fused-reparam:cpu .
#     docker run --rm fused-reparam:cpu
#
# Where pip finds only PyTorch's builds for GPUs (5 GB), name an index that has those for CPUs, too:
#     --build-arg PIP_EXTRA_INDEX_URL=...

ARG PYTHON=3.12
FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH=2.13.0
ARG PIP_EXTRA_INDEX_URL
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:12.* \
    && rm -rf /var/lib/apt/lists/*
RUN pip install --no-cache-dir "torch==${TORCH}" setuptools==84.2.1
WORKDIR /src
COPY setup.py pyproject.toml MANIFEST.in README.md LICENSE ./
COPY kernels kernels
COPY fused_reparam fused_reparam
# The library, and its extension for this PyTorch and this Python.
RUN FUSED_REPARAM_REQUIRE_NATIVE=1 \
    pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /wheels .

FROM python:${PYTHON}-slim-bookworm
ARG TORCH=2.13.0
ARG PIP_EXTRA_INDEX_URL
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir "torch==${TORCH}" numpy==2.4.6 /wheels/*.whl \
    && useradd --create-home --uid 1000 user
USER 1000
WORKDIR /home/user
ENV FUSED_REPARAM_NO_JIT=1
# The image is not made where the library or its extension can't be loaded, or computes something else.
RUN python -m fused_reparam build && python -m fused_reparam selftest
CMD ["python", "-m", "fused_reparam", "info"]
