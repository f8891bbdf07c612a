# make demo    train the example VAE with and without the fused op, side by side
# make examples   run every example at its full settings and draw its picture in docs
# make distributed   train a VAE by 1, 2 and 4 processes, and show that they do the same
# make test    run the tests
# make test-consumers   run other packages' own tests and steps, as they are and with an integration in place
# make sanitize   run the tests of the native library under AddressSanitizer and UBSan
# make lint    check format, lint, types and which way imports run
# make setup   only what the others need
# make bench   time every op and whole training steps against PyTorch on the CPU, and draw the results
# make results   measure all that README and docs show into bench/results, and rewrite their figures
# make pages   rewrite README's and docs' figures from the results in bench/results
# make wheel   build the wheel for an index into dist, of the architecture and of the system that are here
# make test-install   install it, and the sources in every other way, into fresh environments, and see what serves
# make docs    build the documentation site into out/site; a broken link is an error
# make gpu-report   test and measure on a GPU with the PyTorch that $(PYTHON) has; no set-up
#
# The others set up what they need in $(VENV); a second run skips that. To use another interpreter or
# PyTorch: make test PYTHON=python3.12 TORCH=torch==2.14.1 VENV=.venv-2.14

PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# Where the consumers' own environment is; and the folder with one of each suite's sources, which are cloned
# if there is none.
CONSUMERS_VENV ?= out/consumers/venv
CONSUMERS ?=
# Where results go; those to be kept and shown go to bench/results.
BENCH ?= out/bench

BIN := $(VENV)/bin
# One stamp for each PyTorch and Python: asking for another sets up again.
STAMP := $(VENV)/.ready-$(subst /,-,$(PYTHON))-$(TORCH)
LINT := $(VENV)/.lint-ready
DOCS := $(VENV)/.docs-ready
WHEEL := $(VENV)/.wheel-ready
CONSUMERS_STAMP := $(CONSUMERS_VENV)/.ready

.PHONY: demo examples distributed test test-consumers sanitize lint bench results pages docs wheel \
	test-install gpu-report setup clean

setup: $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/vae_digits.py

examples: $(STAMP)
	$(BIN)/python examples/vae_digits.py --out docs/vae_digits.png
	$(BIN)/python examples/discrete_vae.py --out docs/discrete_vae.png
	$(BIN)/python examples/bayes_regression.py --out docs/bayes_regression.png
	$(BIN)/python examples/gradient_estimators.py --out docs/gradient_estimators.png

distributed: $(STAMP)
	rm -rf out/distributed
	for processes in 1 2 4; do \
		$(BIN)/python -m torch.distributed.run --standalone --nproc-per-node $$processes \
			examples/vae_distributed.py --checkpoints out/distributed/$$processes \
			--out out/distributed/runs.jsonl || exit 1; \
	done
	$(BIN)/python examples/vae_distributed.py --table out/distributed/runs.jsonl

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# No part of test: it takes packages, sources and minutes. It rewrites docs/consumers.md.
test-consumers: $(CONSUMERS_STAMP)
	$(CONSUMERS_VENV)/bin/python -m tests.consumers $(if $(CONSUMERS),--sources $(CONSUMERS))

# The library and its extension are compiled anew, with checks of every access to memory and of undefined
# behaviour; the first fault ends the process. PyTorch itself is not compiled so, and its memory left at
# the end is no fault. Little is optimized: that takes a compiler most of its time.
SANITIZERS := -O1 -g1 -fsanitize=address,undefined -fno-sanitize=vptr -fno-sanitize-recover=undefined
# What runs with each instruction set, and what chooses among them itself or never enters a kernel.
SANITIZED := $(addprefix tests/ops/test_,fuzz.py elementwise.py elementwise_extremes.py gumbel_softmax.py)
SANITIZED_ONCE := $(addprefix tests/backends/cpu/test_,sanitizers.py gaussian.py extremes.py kernel_variants.py \
	noise.py bit_patterns.py ops.py arguments.py extension.py memory.py) \
	$(addprefix tests/ops/test_,saved_tensor_hooks.py hostile_keys.py huge_numbers.py) \
	tests/public/test_many_samples.py
SANITIZED_TESTS = $(BIN)/python -m pytest -q -n 2 -m "not slow" -k "not triton and not reference"
LIBASAN = $(shell $(CXX) -print-file-name=libasan.so)

# The runtime must come first in a process, also in the one that builds, since that loads what it has
# built; but not in the compilers that it starts.
sanitize: $(STAMP)
	@test -e "$(LIBASAN)" || { echo "make sanitize: $(CXX) has no libasan; g++ comes with it" >&2; exit 1; }
	set -e; \
	export LD_PRELOAD="$(LIBASAN) $$($(CXX) -print-file-name=libstdc++.so)"; \
	export FUSED_REPARAM_CXXFLAGS="$(SANITIZERS)" FUSED_REPARAM_CACHE="$(CURDIR)/out/sanitize"; \
	export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096; \
	export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 OMP_NUM_THREADS=1 FUZZ_CALLS=1000; \
	CXX="env -u LD_PRELOAD $(CXX)" $(BIN)/python -m fused_reparam build; \
	$(SANITIZED_TESTS) $(SANITIZED) $(SANITIZED_ONCE); \
	for isa in avx2 portable; do FUSED_REPARAM_ISA=$$isa $(SANITIZED_TESTS) $(SANITIZED); done

lint: $(STAMP) $(LINT)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# A variant that fails its check costs the others nothing, but is not forgotten.
bench: $(STAMP)
	status=0; \
	$(BIN)/python -m bench --op gaussian_latent,training_step --out $(BENCH) || status=$$?; \
	$(BIN)/python -m bench --op others --out $(BENCH) || status=$$?; \
	$(BIN)/python -m bench plots $(BENCH)/* || status=$$?; \
	exit $$status

# One thread comes first: the pictures are drawn at the end of bench.
results: $(STAMP)
	status=0; \
	$(BIN)/python -m bench --threads 1 --out bench/results || status=$$?; \
	$(MAKE) bench BENCH=bench/results || status=$$?; \
	$(BIN)/python -m bench pages || status=$$?; \
	exit $$status

pages: $(STAMP)
	$(BIN)/python -m bench pages

docs: $(STAMP) $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# As [tool.cibuildwheel] in pyproject.toml has it, but that the image with an old system is missing.
wheel: $(STAMP) $(WHEEL)
	rm -rf out/wheel dist/*.whl
	FUSED_REPARAM_REQUIRE_NATIVE=1 FUSED_REPARAM_NO_EXTENSION=1 \
		$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir out/wheel .
	PATH="$(abspath $(BIN)):$$PATH" \
		$(BIN)/auditwheel repair --exclude libtorch_cpu.so --wheel-dir dist out/wheel/*.whl

# No part of test: each of the environments takes PyTorch, and minutes.
test-install: wheel
	$(BIN)/python -m tests.packaging --torch "$(TORCH)" --wheel dist/*.whl

gpu-report:
	$(PYTHON) -m bench gpu-report

# torch first, so that the native library is compiled by the install rather than at first use.
$(STAMP): pyproject.toml setup.py fused_reparam/backends/cpu/build.py $(wildcard kernels/*/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24" "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet "$(TORCH)" numpy
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[test]"
	rm -f $(VENV)/.ready-*
	touch "$@"

# torch first, and the others without what they ask for, so that none brings another torch.
$(CONSUMERS_STAMP): tests/consumers/requirements.txt
	test -x $(CONSUMERS_VENV)/bin/python || $(PYTHON) -m venv $(CONSUMERS_VENV)
	$(CONSUMERS_VENV)/bin/python -m pip install --quiet --upgrade "pip>=24" "setuptools>=77" wheel
	$(CONSUMERS_VENV)/bin/python -m pip install --quiet "$(TORCH)" numpy
	$(CONSUMERS_VENV)/bin/python -m pip install --quiet --no-deps --requirement $<
	$(CONSUMERS_VENV)/bin/python -m pip install --quiet --no-build-isolation --no-deps --editable .
	touch "$@"

# The tools of an extra alone: to install the package once more would compile the library once more.
$(LINT): EXTRA := lint
$(DOCS): EXTRA := docs
$(WHEEL): EXTRA := wheel
$(LINT) $(DOCS) $(WHEEL): pyproject.toml $(STAMP)
	$(BIN)/python -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	print(*project["optional-dependencies"]["$(EXTRA)"], sep="\n")' >"$@.txt"
	$(BIN)/python -m pip install --quiet --requirement "$@.txt"
	touch "$@"

clean:
	rm -rf $(VENV) build dist out *.egg-info fused_reparam/*.so
