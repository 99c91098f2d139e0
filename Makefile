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
# One ninja everywhere: different versions do not read each other's logs and would build all again.
configure := $(cmake) -DPython_EXECUTABLE=$(abspath $(python)) -DCMAKE_MAKE_PROGRAM=$(abspath $(bin)/ninja) --preset
ctest_path := PATH="$(abspath $(bin)):$$PATH"

.DEFAULT_GOAL := build
.PHONY: quickstart build test bench lint asan gpu-test gpu-bench clean

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
gpu-test gpu-bench: build
	$(python) -c 'import torch; raise SystemExit(not torch.cuda.is_available() and "no CUDA device")'
	$(python) -c 'import torch, veneer; raise SystemExit(not torch._C._dispatch_has_kernel_for_dispatch_key("veneer::seeded_dropout", "CUDA") and "built without CUDA")'
	$(if $(filter gpu-test,$@),$(python) -m pytest -m gpu $(PYTEST),$(python) -m veneer bench --device cuda $(BENCH))

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
