# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
#
# Some compilers link libstdc++.a by themselves (a toolchain beside the system's, made so that its programs run anywhere).
# libtorch needs the shared one, so a process would have two: streams of one with the other's locales print nothing, or
# crash, at the first number in an error message. Where the compiler does so, the shared library is linked before.
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND NOT APPLE AND NOT DEFINED VENEER_SHARED_STANDARD_LIBRARY)
  set(_veneer_source "${CMAKE_BINARY_DIR}/CMakeFiles/veneer_stream.cpp")
  file(WRITE "${_veneer_source}" "#include <iostream>\nint main() { std::cout << 1.0; }\n")
  # What a program needs to run is in it by name.
  function(veneer_needs_shared result)
    try_compile(compiled "${CMAKE_BINARY_DIR}/CMakeFiles/veneer_stream" "${_veneer_source}" LINK_LIBRARIES ${ARGN}
                COPY_FILE "${_veneer_source}.bin")
    set(found "")
    if(compiled)
      file(STRINGS "${_veneer_source}.bin" found REGEX "libstdc[+][+]\\.so" LIMIT_COUNT 1)
    endif()
    set(${result} "${found}" PARENT_SCOPE)
  endfunction()

  set(_veneer_library "")
  veneer_needs_shared(_veneer_found)
  if(NOT _veneer_found)
    find_file(VENEER_LIBSTDCXX libstdc++.so.6 PATHS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE} /lib/${CMAKE_LIBRARY_ARCHITECTURE}
              /usr/lib/x86_64-linux-gnu /usr/lib/aarch64-linux-gnu /usr/lib64 /usr/lib NO_CMAKE_FIND_ROOT_PATH
              DOC "The shared libstdc++ that libtorch runs with")
    if(VENEER_LIBSTDCXX)
      veneer_needs_shared(_veneer_found "${VENEER_LIBSTDCXX}")
    endif()
    if(NOT _veneer_found)
      message(FATAL_ERROR "${CMAKE_CXX_COMPILER} links libstdc++ statically, and libtorch needs the shared one: a process "
                          "would have both, and crash. Set -DVENEER_LIBSTDCXX=.../libstdc++.so.6, or use another compiler.")
    endif()
    message(STATUS "The compiler links libstdc++ statically; linking ${VENEER_LIBSTDCXX}, as libtorch does")
    set(_veneer_library "${VENEER_LIBSTDCXX}")
  endif()
  set(VENEER_SHARED_STANDARD_LIBRARY "${_veneer_library}" CACHE INTERNAL "libstdc++.so.6, where it must be named")
endif()
link_libraries(${VENEER_SHARED_STANDARD_LIBRARY})
