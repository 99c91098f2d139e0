# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
#
# Run at build time: writes OUTPUT, a source that defines veneer::build_id() and veneer::version().
# The id is the hash of the files named in the list file SOURCES, with their paths relative to ROOT.
file(STRINGS "${SOURCES}" sources)
set(all)
foreach(source IN LISTS sources)
  file(RELATIVE_PATH name "${ROOT}" "${source}")
  file(SHA256 "${source}" hash)
  string(APPEND all "${name} ${hash}\n")
endforeach()
string(SHA256 id "${all}")
string(SUBSTRING "${id}" 0 16 id)
# No header of ours: this file is compiled again after every edit and must cost nothing.
file(WRITE "${OUTPUT}" "// Made by cmake/BuildId.cmake.
namespace veneer {
const char* build_id();
const char* version();
const char* build_id() { return \"${id}\"; }
const char* version() { return \"${VERSION}\"; }
}  // namespace veneer
")
