# Everything runs in .venv, which the first command sets up from the lock (about 3 minutes, 4 GB).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
FOR_GPU := $(VENV)/.gpu

# `make chaos` and `make test-all`: rounds in which something is killed. Workers: tests at a time, each up to 8 GB.
ROUNDS ?= 50
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=10
# One real run: the whole chain, small, with vLLM and DeepSpeed.
REAL_RUN := tests/integration/test_chain.py

# Python keeps what it compiled, also in images that forbid it: else each process would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-cluster test-all unit chaos lint setup setup-gpu clean

demo: $(READY)          ## the whole chain on the tiny world, then its table
	$(BIN)/python jobs/distill.py

# Side by side: the real run waits for starts of processes, and many unit tests wait too.
test: lint              ## what a newcomer waits for: lint, unit, and one real run
	$(PYTEST) tests/unit $(REAL_RUN)

test-cluster: $(READY)  ## all else that is proven in minutes: engines, training, faults, a cluster on this machine
	$(PYTEST) -m "not long" --ignore $(REAL_RUN) tests/integration

test-all: lint          ## everything, and what takes long by its nature; `tests/README.md` says what
	RAY_DISTIL_CHAOS_ROUNDS=$(ROUNDS) $(PYTEST) tests/unit tests/integration

unit: $(READY)          ## seconds, no engine
	$(PYTEST) tests/unit

chaos: $(READY)         ## runs that are killed at random moments, each compared with an undisturbed one
	RAY_DISTIL_CHAOS_ROUNDS=$(ROUNDS) $(BIN)/python -m pytest -s tests/integration/test_chaos.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(READY)

# A new environment. "===" takes 2.13.0 alone: pip would prefer a local 2.13.0+cpu. The mark keeps the CPU packages out.
setup-gpu:              ## .venv for NVIDIA GPUs
	$(PYTHON) -m venv --clear $(VENV)
	touch $(FOR_GPU)
	$(BIN)/pip install -q -e ".[gpu,dev]" torch===2.13.0
	$(BIN)/python -c "import torch; torch.version.cuda or exit(f'torch {torch.__version__} is no build for NVIDIA GPUs; see what pip config list adds to the index')"
	touch $(READY)

# torch's CPU build comes first: the lock pins 2.13.0, and where an index offers only the CUDA build under that
# number, the CPU build is taken from PyTorch's own index. pip would compile on one core, for as long as it installs;
# some packages hold files that are no Python, at which compileall ends with 1.
$(READY): requirements-cpu.lock pyproject.toml
	@test ! -e $(FOR_GPU) || { echo "$(VENV) is a GPU environment: run make setup-gpu, or make clean for one for CPUs"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --no-deps --no-compile torch==2.13.0+cpu 2>/dev/null \
	  || $(BIN)/pip install -qq --no-deps --no-compile torch==2.13.0+cpu --index-url https://download.pytorch.org/whl/cpu
	$(BIN)/pip install -qq --no-deps --no-compile -r requirements-cpu.lock
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	$(BIN)/pip install -qq --no-deps --no-build-isolation -e .
	touch $(READY)

clean:
	rm -rf $(VENV) runs
