# `make` alone lists the targets. All of them run what is in .venv, if there is one.
VENV := .venv
PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PATH

# torch is installed first, in a build for the machine at hand, and brings these itself.
WITH_TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-, \
	cublas cuda-cupti cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse \
	cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)
LOCKED := requirements.txt requirements-suites.txt requirements-launchers.txt

.PHONY: help setup format check test test-long test-all lock audit check-lock docs bench

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Make .venv with all requirements, and let git run the checks before each commit.
	python3 -m venv $(VENV)
	pip install -r requirements-dev.txt
	pre-commit install

format: ## Format the code and fix what ruff can fix.
	ruff check --fix .
	ruff format .

check: ## Do what CI does, in .venv.
	.ci/run

test: ## Run the fast tests.
	pytest -n auto -m "not slow"

test-long: ## Run the long tests, which CI leaves out: learning, fuzzing, memory.
	pytest -n auto -m long

test-all: ## Run all tests.
	pytest -n auto -m ""

lock: ## Write requirements.lock anew; `make lock UPGRADE=--upgrade` takes the newest releases.
	uv pip compile --quiet $(UPGRADE) --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		$(addprefix --no-emit-package ,$(WITH_TORCH)) --output-file requirements.lock $(LOCKED)

audit: ## Look up the releases in requirements.lock among known vulnerabilities; needs a network.
	uvx pip-audit --requirement requirements.lock --require-hashes --disable-pip --strict

check-lock: ## Check that requirements.lock fits the requirements: that every package has a hash.
	uv pip install --quiet --dry-run --require-hashes --no-deps --requirement requirements.lock

docs: ## Build the documentation site; a broken link is an error.
	mkdocs build --strict

bench: ## Time updates, policy calls and the replay; minutes, on a quiet machine.
	python -m benchmarks.update
	python -m benchmarks.act
	python -m benchmarks.replay
