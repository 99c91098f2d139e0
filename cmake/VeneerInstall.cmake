# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
#
# Headers, library and CMake package. Under a prefix as usual; in a wheel the package's folder is the prefix, so that
# `python -m veneer --cmake-dir` has a folder to print. The build tree is a package too, for an in-place build.
include(CMakePackageConfigHelpers)

# From the library's folder to torch's. In a wheel both are in site-packages, with CUDA's runtime beside them.
if(SKBUILD)
  set_target_properties(veneer PROPERTIES INSTALL_RPATH
                                          "$ORIGIN/../../torch/lib;$ORIGIN/../../nvidia/cu${VeneerTorch_CUDA}/lib")
  install(TARGETS _core DESTINATION .)
  install(FILES "${python_output}/_build_info.py" DESTINATION .)
else()
  # By name: INSTALL_RPATH_USE_LINK_PATH leaves out whatever lies inside the source folder, as .venv does.
  set(runtime_folders ${VeneerTorch_LIBRARY_DIR})
  if(VENEER_CUDA)
    get_filename_component(cudart_folder "${VENEER_CUDART}" REALPATH)
    get_filename_component(cudart_folder "${cudart_folder}" DIRECTORY)
    list(APPEND runtime_folders "${cudart_folder}")
  endif()
  set_target_properties(veneer PROPERTIES INSTALL_RPATH "$ORIGIN;${runtime_folders}")
endif()

install(TARGETS veneer EXPORT veneerTargets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/veneer DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")

string(REGEX MATCH "^[0-9]+\\.[0-9]+" torch_minor "${VeneerTorch_VERSION}")
if(NOT SKBUILD) # a wheel moves
  get_filename_component(torch_hint "${VeneerTorch_INCLUDE_DIR}/.." ABSOLUTE)
endif()
configure_package_config_file(cmake/veneerConfig.cmake.in cmake/veneerConfig.cmake INSTALL_DESTINATION ${VENEER_CMAKE_DIR})
write_basic_package_version_file(cmake/veneerConfigVersion.cmake COMPATIBILITY SameMinorVersion)
configure_file(cmake/FindVeneerTorch.cmake cmake/FindVeneerTorch.cmake COPYONLY)
export(EXPORT veneerTargets NAMESPACE veneer:: FILE cmake/veneerTargets.cmake)
install(EXPORT veneerTargets NAMESPACE veneer:: DESTINATION ${VENEER_CMAKE_DIR})
install(FILES ${PROJECT_BINARY_DIR}/cmake/veneerConfig.cmake ${PROJECT_BINARY_DIR}/cmake/veneerConfigVersion.cmake
              cmake/FindVeneerTorch.cmake DESTINATION ${VENEER_CMAKE_DIR})
