# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
#
# The packages that every build needs. A missing one is named with the Debian/Ubuntu package that has it.
macro(veneer_find name package)
  find_package(${name} ${ARGN} QUIET)
  if(NOT ${name}_FOUND)
    message(FATAL_ERROR "Veneer needs ${name}: install it, on Debian or Ubuntu with\n  apt-get install ${package}")
  endif()
endmacro()

veneer_find(nlohmann_json nlohmann-json3-dev 3.10)
veneer_find(spdlog libspdlog-dev)

if(VENEER_PYTHON)
  # Before the torch lookup, so that torch and the module belong to one interpreter.
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
endif()
find_package(VeneerTorch 2.9 REQUIRED)
message(STATUS "Torch ${VeneerTorch_VERSION} in ${VeneerTorch_LIBRARY_DIR}")

# Without it at::parallel_for, a template in torch's headers, is a plain loop. Torch's wheels bring an OpenMP library of
# the same name as the compiler's, so that a process has one.
find_package(OpenMP REQUIRED COMPONENTS CXX)
add_library(veneer_openmp INTERFACE)
target_compile_options(veneer_openmp INTERFACE ${OpenMP_CXX_FLAGS})
target_link_options(veneer_openmp INTERFACE ${OpenMP_CXX_FLAGS}) # by name: the compiler's own path must not win

# spdlog without its shared library, nor fmt's: the wheel must not need system libraries.
add_library(veneer_spdlog INTERFACE)
target_compile_definitions(veneer_spdlog INTERFACE $<TARGET_PROPERTY:spdlog::spdlog_header_only,INTERFACE_COMPILE_DEFINITIONS>
                                                   FMT_HEADER_ONLY=1)
target_include_directories(veneer_spdlog SYSTEM INTERFACE
                           $<TARGET_PROPERTY:spdlog::spdlog_header_only,INTERFACE_INCLUDE_DIRECTORIES>)
