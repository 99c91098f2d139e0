# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
#
# The module _core, and _build_info.py, which can be read before _core is loaded.
if(NOT pybind11_DIR)
  execute_process(COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir OUTPUT_VARIABLE pybind11_DIR
                  OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
endif()
find_package(pybind11 2.13 CONFIG QUIET)
if(NOT pybind11_FOUND)
  message(FATAL_ERROR "Veneer's Python module needs pybind11: ${Python_EXECUTABLE} -m pip install pybind11")
endif()

pybind11_add_module(_core MODULE NO_EXTRAS python/bindings/module.cpp)
target_include_directories(_core PRIVATE src)
target_compile_definitions(_core PRIVATE VENEER_TORCH_VERSION="${VeneerTorch_VERSION}")
target_link_libraries(_core PRIVATE veneer veneer_warnings)

if(VENEER_IN_PLACE)
  set(python_output "${PROJECT_SOURCE_DIR}/python/veneer")
  set(cmake_dir "${PROJECT_BINARY_DIR}/cmake")
else()
  set(python_output "${PROJECT_BINARY_DIR}/python/veneer")
  set(cmake_dir "${VENEER_CMAKE_DIR}")
endif()
# Relative, so that a checkout with what was built in it runs elsewhere too.
file(RELATIVE_PATH to_build "${python_output}" "${PROJECT_BINARY_DIR}")
set_target_properties(_core PROPERTIES LIBRARY_OUTPUT_DIRECTORY "${python_output}" BUILD_RPATH "$ORIGIN/${to_build}"
                                       INSTALL_RPATH "$ORIGIN/lib")
file(CONFIGURE OUTPUT "${python_output}/_build_info.py" CONTENT [[
# Made by CMake.
TORCH_VERSION = "@VeneerTorch_VERSION@"
CMAKE_DIR = "@cmake_dir@"  # relative to this folder, or absolute when built in place
]] @ONLY)
