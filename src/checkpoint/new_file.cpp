// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/new_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "veneer/check.h"

namespace veneer {

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

void make_folders(const std::string& path) {
  for (size_t end = path.find('/', 1);; end = path.find('/', end + 1)) {
    const std::string folder = path.substr(0, end);
    const bool made = mkdir(folder.c_str(), 0777) == 0 || errno == EEXIST;
    VENEER_CHECK(made, "save", "cannot make the folder ", folder, ": ", std::strerror(errno));
    if (end == std::string::npos) return;
  }
}

NewFile::NewFile(std::string path)
    : path_(std::move(path)), temporary_(path_ + "." + std::to_string(getpid()) + ".tmp") {
  file_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  VENEER_CHECK(file_ >= 0, "save", "cannot write ", temporary_, ": ", std::strerror(errno));
}

NewFile::~NewFile() {
  if (file_ >= 0) close(file_);
  if (!committed_) unlink(temporary_.c_str());
}

void NewFile::write(const void* data, size_t size) {
  const auto* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(file_, bytes, size);
    if (written < 0 && errno == EINTR) continue;
    VENEER_CHECK(written >= 0, "save", "cannot write ", temporary_, ": ", std::strerror(errno));
    bytes += written;
    size -= static_cast<size_t>(written);
  }
}

void NewFile::flush() {
  if (file_ < 0) return;
  const bool synced = fsync(file_) == 0;
  const int problem = errno;
  const bool closed = close(file_) == 0;
  file_ = -1;
  VENEER_CHECK(synced && closed, "save", "cannot write ", temporary_, ": ", std::strerror(synced ? errno : problem));
}

void NewFile::commit() {
  flush();
  VENEER_CHECK(std::rename(temporary_.c_str(), path_.c_str()) == 0, "save", "cannot replace ", path_, ": ",
               std::strerror(errno));
  committed_ = true;
  // The rename itself must survive a crash too. Some file systems cannot sync a folder; the file is whole either way.
  const int folder = open(folder_of(path_).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (folder >= 0) {
    fsync(folder);
    close(folder);
  }
}

}  // namespace veneer
