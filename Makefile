# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
#
# From nothing: `make quickstart`. Everything lands in .venv and build/; a second run does only what changed.
PYTHON ?= python3
VENV ?= .venv
BUILD := build/release

bin := $(VENV)/bin
python := $(bin)/python
cmake := $(bin)/cmake
installed := $(VENV)/.installed
# One ninja everywhere: different versions do not read each other's logs and would build all again.
configure := $(cmake) -DPython_EXECUTABLE=$(abspath $(python)) -DCMAKE_MAKE_PROGRAM=$(abspath $(bin)/ninja) --preset
ctest_path := PATH="$(abspath $(bin)):$$PATH"

# A GPU is often lent for minutes, on a machine that has torch, cmake and ninja but no .venv and no network: the gpu- targets then
# use what is there and install nothing. PREBUILT=1: so are the module and build/gpu/libveneer.so, built elsewhere.
PREBUILT ?=
RESULTS ?= benchmarks/results/
gpu_only := $(if $(filter-out gpu-%,$(MAKECMDGOALS)),,$(MAKECMDGOALS))
ifneq ($(and $(gpu_only),$(if $(wildcard $(python)),,no .venv),$(shell $(PYTHON) -c 'import importlib.util as u; print(u.find_spec("torch") or "")')),)
  python := $(PYTHON)
  cmake := cmake
  configure := $(cmake) -DPython_EXECUTABLE="$$(command -v $(PYTHON))" --preset
  installed :=
endif

.DEFAULT_GOAL := build
.PHONY: quickstart build test bench lint asan gpu-test gpu-kernels gpu-bench gpu-ready gpu-build clean

quickstart: build
	$(python) examples/python/quickstart.py --output build/quickstart

# The library and the Python module; `import veneer` in .venv runs python/veneer as it is.
build: $(BUILD)/build.ninja
	$(cmake) --build $(BUILD) --target veneer _core

# C++ and Python suites; closes with `N passed, M failed`.
test: $(BUILD)/build.ninja
	$(cmake) --build $(BUILD)
	@$(ctest_path) $(python) scripts/run_tests.py $(BUILD) $(PYTEST)

bench: $(BUILD)/build.ninja
	$(cmake) --build $(BUILD)
	$(python) -m veneer bench $(BENCH)

lint: $(BUILD)/build.ninja
	$(python) scripts/lint.py $(BUILD)

# AddressSanitizer and UndefinedBehaviorSanitizer over the C++ suite.
asan: $(VENV)/.installed
	$(configure) asan
	$(cmake) --build build/asan
	$(bin)/ctest --preset asan

# The tests that need a GPU; fails where there is none, so that a pass means that they ran.
gpu-test: gpu-ready
	PYTHONPATH=python $(python) -m pytest -m gpu tests/python/test_gpu*.py $(PYTEST)

# The kernels' own tests, without torch, on a GPU, then under compute-sanitizer with each of TOOLS. The program needs a driver
# and nothing else: with PREBUILT=1 it is the one that a `make test` elsewhere has built, or KERNEL_TESTS.
TOOLS ?= memcheck racecheck synccheck
KERNEL_TESTS ?= $(BUILD)/tests/cuda/veneer_kernel_tests_gpu
gpu-kernels: $(if $(PREBUILT),,$(BUILD)/build.ninja)
	$(if $(PREBUILT),,$(cmake) --build $(BUILD) --target veneer_kernel_tests_gpu)
	$(KERNEL_TESTS) --gtest_brief=1 $(GTEST)
	for tool in $(TOOLS); do compute-sanitizer --tool $$tool --error-exitcode 1 $(KERNEL_TESTS) --gtest_brief=1 $(GTEST) || exit 1; done

# The GPU's target table; RESULTS is a folder, where the file gets the name of the GPU and the date, or a file.
gpu-bench: gpu-ready
	mkdir -p $(dir $(RESULTS))
	PYTHONPATH=python $(python) -m veneer bench --device cuda --json $(RESULTS) $(or $(BENCH),--targets)

gpu-ready: $(if $(PREBUILT),,gpu-build)
	PYTHONPATH=python $(python) -c 'import torch, veneer; raise SystemExit(not torch._C._dispatch_has_kernel_for_dispatch_key("veneer::seeded_dropout", "CUDA") and "built without CUDA")'
	$(python) -c 'import torch; raise SystemExit(not torch.cuda.is_available() and "no CUDA device")'

# The module alone, in a tree of its own. One GPU to compile for: the one that is here, with what only it has (9.0a, not 9.0).
gpu-build: $(installed)
	arch=$${TORCH_CUDA_ARCH_LIST:-$$($(python) -c 'import torch; c = torch.cuda.get_device_capability(); print("%d.%d" % c + "a" * (c >= (9, 0)))')} && \
	  $(configure) gpu -DTORCH_CUDA_ARCH_LIST="$$arch"
	$(cmake) --build build/gpu --target veneer _core

clean:
	rm -rf build python/veneer/_core*.so python/veneer/_build_info.py

$(VENV)/.installed: pyproject.toml constraints.txt
	scripts/system_packages.sh $(PYTHON)
	test -x $(python) || $(PYTHON) -m venv $(VENV)
	$(bin)/pip install -q -c constraints.txt scikit-build-core pybind11 cmake ninja
	$(bin)/pip install -q -c constraints.txt --no-build-isolation -Cwheel.cmake=false -Ceditable.mode=inplace -e '.[test,dev]'
	touch $@

# CMake itself follows changes of CMakeLists.txt and cmake/; this is for the first time and for a new torch.
$(BUILD)/build.ninja: CMakePresets.json $(VENV)/.installed
	scripts/system_packages.sh $(python)
	$(configure) release
