// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The safetensors format: 8 bytes header length (little endian), a JSON header, the tensors' bytes. Reading checks the
// whole header before anything else and takes nothing on trust.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

namespace veneer {

class SafetensorsFile {
 public:
  struct Entry {
    at::ScalarType dtype;
    std::vector<int64_t> shape;
    uint64_t begin;  // bytes from the end of the header
    uint64_t end;
  };

  // Maps the file and checks it: header length, JSON, names used once, types, shapes against spans, spans that cover
  // the data exactly. ValueError says what is wrong where.
  explicit SafetensorsFile(const std::string& path);

  const std::map<std::string, Entry>& entries() const { return entries_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  // A CPU tensor over the mapped bytes, without a copy; it keeps the map alive. Writing to it does not reach the file.
  // (Data that is not aligned for its type, or whose booleans must be checked, is copied or read once.)
  at::Tensor tensor(const std::string& name) const;

 private:
  class Map;
  void read_header();
  void read_entry(const std::string& name, const void* json);
  void check_coverage() const;

  std::string path_;
  std::shared_ptr<const Map> map_;
  size_t data_ = 0;  // offset of the first tensor byte in the file
  std::map<std::string, Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

// Writes tensors of any device and strides, in the order and layout of the reference implementation. Written beside the
// target, flushed to disk, then renamed over it.
void write_safetensors(const std::string& path, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace veneer
