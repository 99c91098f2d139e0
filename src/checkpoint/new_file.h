// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>

namespace veneer {

// Paths are strings, folders are made by mkdir: libtorch exports the std::filesystem of the libstdc++ it was built
// with, and calls meant for ours end up there (remove_all crashed).

// Makes a folder and those above it, as far as they are missing.
void make_folders(const std::string& path);
// The folder of a file: "a/b" for "a/b/c", "." for "c".
std::string folder_of(const std::string& path);

// A file written beside its target and renamed over it once it is whole and on disk: whatever fails, the old file stays
// as it was. Without commit() the new one is removed.
class NewFile {
 public:
  explicit NewFile(std::string path);
  NewFile(const NewFile&) = delete;
  NewFile& operator=(const NewFile&) = delete;
  ~NewFile();

  void write(const void* data, size_t size);
  void flush();   // to disk; nothing can be written after it
  void commit();  // flushes if need be, then takes the target's place

 private:
  std::string path_;
  std::string temporary_;
  int file_ = -1;
  bool committed_ = false;
};

}  // namespace veneer
