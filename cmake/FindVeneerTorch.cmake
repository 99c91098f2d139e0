# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
#
# Finds LibTorch without torch's own TorchConfig.cmake: for a CUDA build of torch that file stops with an error on a
# machine without the CUDA toolkit, although nothing of the toolkit is needed to build for the CPU.
#
# Looked at, in this order: Torch_DIR or Torch_ROOT (also from the environment), CMAKE_PREFIX_PATH (an unpacked libtorch
# archive), VeneerTorch_HINTS (from an installed veneer: the torch it was built with), the torch package of
# Python_EXECUTABLE, or of the first python3 found.
#
# Result: VeneerTorch_FOUND, VeneerTorch_VERSION, VeneerTorch_LIBRARY_DIR, VeneerTorch_CUDA (major version of the CUDA
# runtime that torch was built with, empty for a CPU build), and the target veneer::torch.

set(_veneer_version_header torch/csrc/api/include/torch/version.h)

if(NOT VeneerTorch_INCLUDE_DIR)
  # A Torch_ROOT is <torch>, a Torch_DIR <torch>/share/cmake/Torch, and torch.utils.cmake_prefix_path <torch>/share/cmake.
  set(_veneer_hints)
  foreach(_veneer_hint IN LISTS Torch_ROOT Torch_DIR CMAKE_PREFIX_PATH)
    list(APPEND _veneer_hints "${_veneer_hint}" "${_veneer_hint}/../.." "${_veneer_hint}/../../..")
  endforeach()
  foreach(_veneer_hint IN ITEMS "$ENV{Torch_ROOT}" "$ENV{Torch_DIR}/../../..")
    list(APPEND _veneer_hints "${_veneer_hint}")
  endforeach()
  find_path(VeneerTorch_INCLUDE_DIR ${_veneer_version_header} HINTS ${_veneer_hints} PATH_SUFFIXES include
            NO_CMAKE_SYSTEM_PATH NO_SYSTEM_ENVIRONMENT_PATH)
  find_path(VeneerTorch_INCLUDE_DIR ${_veneer_version_header} PATHS ${VeneerTorch_HINTS} PATH_SUFFIXES include
            NO_DEFAULT_PATH)
  if(NOT VeneerTorch_INCLUDE_DIR)
    if(NOT Python_EXECUTABLE)
      find_package(Python QUIET COMPONENTS Interpreter)
    endif()
    # Without importing torch, which takes seconds. The second try, isolated, sees the environment's own torch from
    # inside pip's build isolation, so that `pip install .` builds for the torch that is installed.
    foreach(_veneer_flag IN ITEMS -B -I)
      if(Python_EXECUTABLE AND NOT VeneerTorch_INCLUDE_DIR)
        execute_process(
          COMMAND "${Python_EXECUTABLE}" ${_veneer_flag} -c
                  "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
          OUTPUT_VARIABLE _veneer_package OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
        if(_veneer_package)
          find_path(VeneerTorch_INCLUDE_DIR ${_veneer_version_header} PATHS "${_veneer_package}/include" NO_DEFAULT_PATH)
        endif()
      endif()
    endforeach()
  endif()
endif()

if(VeneerTorch_INCLUDE_DIR)
  get_filename_component(VeneerTorch_LIBRARY_DIR "${VeneerTorch_INCLUDE_DIR}/../lib" ABSOLUTE)

  # The numbers moved between headers over torch's releases.
  set(VeneerTorch_VERSION)
  foreach(_veneer_header IN ITEMS torch/headeronly/version.h ${_veneer_version_header})
    if(NOT VeneerTorch_VERSION AND EXISTS "${VeneerTorch_INCLUDE_DIR}/${_veneer_header}")
      # An upgrade of torch in place must configure again.
      set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${VeneerTorch_INCLUDE_DIR}/${_veneer_header}")
      file(STRINGS "${VeneerTorch_INCLUDE_DIR}/${_veneer_header}" _veneer_lines
           REGEX "define TORCH_VERSION_(MAJOR|MINOR|PATCH) +[0-9]+")
      list(TRANSFORM _veneer_lines REPLACE ".* " "")
      list(JOIN _veneer_lines "." VeneerTorch_VERSION)
    endif()
  endforeach()

  # The CUDA major version is in the name of the runtime that c10_cuda asks for.
  set(VeneerTorch_CUDA)
  if(EXISTS "${VeneerTorch_LIBRARY_DIR}/libc10_cuda.so")
    file(STRINGS "${VeneerTorch_LIBRARY_DIR}/libc10_cuda.so" _veneer_runtime REGEX "^libcudart\\.so\\.[0-9]+" LIMIT_COUNT 1)
    string(REGEX MATCH "[0-9]+$" VeneerTorch_CUDA "${_veneer_runtime}")
  endif()
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  VeneerTorch
  REQUIRED_VARS VeneerTorch_INCLUDE_DIR VeneerTorch_LIBRARY_DIR
  VERSION_VAR VeneerTorch_VERSION
  REASON_FAILURE_MESSAGE
    "install torch for the Python found (${Python_EXECUTABLE}), or give -DPython_EXECUTABLE=..., or -DTorch_ROOT=... of an unpacked libtorch")
mark_as_advanced(VeneerTorch_INCLUDE_DIR)

if(VeneerTorch_FOUND AND NOT TARGET veneer::torch)
  # _GLIBCXX_USE_CXX11_ABI as torch has it, or std::string would not link: read off its symbols.
  file(STRINGS "${VeneerTorch_LIBRARY_DIR}/libc10.so" _veneer_cxx11 REGEX "NSt7__cxx11" LIMIT_COUNT 1)
  set(_veneer_abi 0)
  if(_veneer_cxx11)
    set(_veneer_abi 1)
  endif()

  add_library(veneer::torch INTERFACE IMPORTED)
  set_target_properties(
    veneer::torch
    PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${VeneerTorch_INCLUDE_DIR};${VeneerTorch_INCLUDE_DIR}/torch/csrc/api/include"
               INTERFACE_COMPILE_DEFINITIONS "_GLIBCXX_USE_CXX11_ABI=${_veneer_abi}")
  foreach(_veneer_name IN ITEMS torch torch_cpu c10 torch_cuda c10_cuda)
    set(_veneer_file "${VeneerTorch_LIBRARY_DIR}/lib${_veneer_name}.so")
    if(EXISTS "${_veneer_file}")
      add_library(veneer::${_veneer_name}_library SHARED IMPORTED)
      set_target_properties(veneer::${_veneer_name}_library PROPERTIES IMPORTED_LOCATION "${_veneer_file}")
      set_property(TARGET veneer::torch APPEND PROPERTY INTERFACE_LINK_LIBRARIES veneer::${_veneer_name}_library)
    endif()
  endforeach()
endif()
