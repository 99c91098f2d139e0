// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "checkpoint/dtypes.h"
#include "veneer/check.h"
#include "veneer/safetensors.h"

namespace veneer {
namespace {

using nlohmann::json;

static_assert(std::endian::native == std::endian::little, "safetensors are little endian; this reader does not swap");

constexpr size_t length_bytes = 8;
constexpr uint64_t longest_header = 100'000'000;  // the reference implementation's limit

// {"name": {"dtype": ..., "shape": [...], "data_offsets": [...]}}: nothing lies deeper.
constexpr int deepest = 3;

// The header as JSON. nlohmann's parser takes the last of several equal keys and any depth; a file that needs either is
// refused, without being built in memory.
json parse_header(const std::string& path, const char* begin, const char* end) {
  std::vector<std::set<std::string>> keys;
  std::string repeated;
  bool deep = false;
  const auto watch = [&](int depth, json::parse_event_t event, json& value) {
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      repeated = value.get<std::string>();
    }
    const bool opens = event == json::parse_event_t::object_start || event == json::parse_event_t::array_start;
    if (opens && depth >= deepest) deep = true;
    return !deep;
  };
  json header;
  std::string problem;
  try {
    header = json::parse(begin, end, watch);
  } catch (const json::exception& error) {
    problem = error.what();
  }
  VENEER_CHECK(problem.empty(), "safetensors", path, ": the header is not JSON: ", problem);
  VENEER_CHECK(repeated.empty(), "safetensors", path, ": the name `", repeated, "` is used twice");
  VENEER_CHECK(!deep, "safetensors", path, ": the header is nested deeper than the format allows");
  VENEER_CHECK(header.is_object(), "safetensors", path, ": the header must be a JSON object, got ", header.type_name());
  return header;
}

}  // namespace

// A private map: pages are shared with the page cache until a tensor is written to, which copies the page.
class SafetensorsFile::Map {
 public:
  explicit Map(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    VENEER_CHECK(file >= 0, "safetensors", "cannot open ", path, ": ", std::strerror(errno));
    struct stat status {};
    const bool known = fstat(file, &status) == 0 && S_ISREG(status.st_mode);
    size_ = known ? static_cast<size_t>(status.st_size) : 0;
    void* mapped = size_ > 0 ? mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0) : nullptr;
    const int problem = errno;
    close(file);
    VENEER_CHECK(known, "safetensors", path, " is not a regular file");
    VENEER_CHECK(mapped != MAP_FAILED, "safetensors", "cannot map ", path, ": ", std::strerror(problem));
    data_ = static_cast<char*>(mapped);
  }
  Map(const Map&) = delete;
  Map& operator=(const Map&) = delete;
  ~Map() {
    if (data_ != nullptr) munmap(data_, size_);
  }

  char* data() const { return data_; }
  size_t size() const { return size_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

SafetensorsFile::SafetensorsFile(const std::string& path) : path_(path), map_(std::make_shared<Map>(path)) {
  read_header();
  check_coverage();
}

void SafetensorsFile::read_header() {
  const size_t size = map_->size();
  VENEER_CHECK(size >= length_bytes, "safetensors", path_, ": expected at least ", length_bytes, " bytes, got ", size);
  uint64_t length = 0;
  std::memcpy(&length, map_->data(), length_bytes);
  VENEER_CHECK(length <= longest_header, "safetensors", path_, ": the header's length must be at most ", longest_header,
               ", got ", length, "; is this a safetensors file?");
  VENEER_CHECK(length <= size - length_bytes, "safetensors", path_, ": the header has ", length, " bytes, but only ",
               size - length_bytes, " follow; the file is cut off");
  data_ = length_bytes + length;
  const char* begin = map_->data() + length_bytes;
  VENEER_CHECK(length > 0 && *begin == '{', "safetensors", path_, ": the header must start with `{`");

  const json header = parse_header(path_, begin, begin + length);
  for (const auto& [name, value] : header.items()) {
    if (name != "__metadata__") {
      read_entry(name, &value);
      continue;
    }
    VENEER_CHECK(value.is_object(), "safetensors", path_, ": __metadata__ must be an object of strings");
    for (const auto& [key, text] : value.items()) {
      VENEER_CHECK(text.is_string(), "safetensors", path_, ": __metadata__ `", key, "` must be a string, got ",
                   text.dump());
      metadata_[key] = text.get<std::string>();
    }
  }
}

void SafetensorsFile::read_entry(const std::string& name, const void* opaque) {
  const json& value = *static_cast<const json*>(opaque);
  const auto where = [&] { return path_ + ": tensor `" + name + "`: "; };
  const bool complete = value.is_object() && value.size() == 3 && value.contains("dtype") && value.contains("shape") &&
                        value.contains("data_offsets");
  VENEER_CHECK(complete, "safetensors", where(), "expected an object with dtype, shape and data_offsets, got ",
               value.dump());

  const json& dtype = value["dtype"];
  const auto type = std::find_if(safetensors_types.begin(), safetensors_types.end(), [&](const SafetensorsType& known) {
    return dtype.is_string() && dtype.get_ref<const std::string&>() == known.name;
  });
  if (type == safetensors_types.end()) {
    std::vector<std::string> known;
    for (const auto& one : safetensors_types) known.emplace_back(one.name);
    VENEER_CHECK(false, "safetensors", where(), "dtype must be one of: ", join(known), "; got ", dtype.dump());
  }

  Entry entry{type->type, {}, 0, 0};
  const auto whole = [](const json& number) { return number.is_number_unsigned(); };
  const json& shape = value["shape"];
  VENEER_CHECK(shape.is_array() && shape.size() <= 64 && std::all_of(shape.begin(), shape.end(), whole), "safetensors",
               where(), "shape must be a list of sizes, got ", shape.dump());
  uint64_t bytes = c10::elementSize(type->type);
  bool fits = true;
  bool empty = false;
  for (const auto& item : shape) {
    const auto dimension = item.get<uint64_t>();
    fits = fits && dimension <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    entry.shape.push_back(static_cast<int64_t>(dimension));
    empty = empty || dimension == 0;
    // A zero after a product that is too large still names no element, but torch's strides would overflow.
    fits = fits && (dimension == 0 || !__builtin_mul_overflow(bytes, dimension, &bytes));
  }
  fits = fits && bytes <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  VENEER_CHECK(fits, "safetensors", where(), "shape ", shape.dump(), " overflows");
  if (empty) bytes = 0;

  const json& offsets = value["data_offsets"];
  VENEER_CHECK(offsets.is_array() && offsets.size() == 2 && whole(offsets[0]) && whole(offsets[1]), "safetensors",
               where(), "data_offsets must be two offsets, got ", offsets.dump());
  entry.begin = offsets[0].get<uint64_t>();
  entry.end = offsets[1].get<uint64_t>();
  const uint64_t available = map_->size() - data_;
  VENEER_CHECK(entry.begin <= entry.end && entry.end <= available, "safetensors", where(), "data_offsets ",
               offsets.dump(), " must rise and lie within the data's ", available, " bytes");
  VENEER_CHECK(entry.end - entry.begin == bytes, "safetensors", where(), "shape ", shape.dump(), " of ", type->name,
               " takes ", bytes, " bytes, but data_offsets ", offsets.dump(), " span ", entry.end - entry.begin);
  entries_.emplace(name, std::move(entry));
}

// Tensors lie end to end: bytes that belong to none or to two would be hidden or shared data.
void SafetensorsFile::check_coverage() const {
  std::vector<std::pair<uint64_t, uint64_t>> spans;
  for (const auto& [name, entry] : entries_) spans.emplace_back(entry.begin, entry.end);
  std::sort(spans.begin(), spans.end());
  uint64_t covered = 0;
  for (const auto& [begin, end] : spans) {
    VENEER_CHECK(begin == covered, "safetensors", path_, ": tensors ", begin < covered ? "overlap" : "leave a gap",
                 " at byte ", std::min(begin, covered), " of the data");
    covered = end;
  }
  VENEER_CHECK(covered == map_->size() - data_, "safetensors", path_, ": the tensors take ", covered, " bytes, but ",
               map_->size() - data_, " follow the header");
}

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    std::vector<std::string> known;
    for (const auto& [key, entry] : entries_) known.push_back(key);
    VENEER_CHECK(false, "safetensors", path_, " has no tensor `", name, "`", suggestion(name, known));
  }
  const Entry& entry = found->second;
  const auto options = at::dtype(entry.dtype);
  if (entry.begin == entry.end) return at::empty(entry.shape, options);
  char* data = map_->data() + data_ + entry.begin;
  if (entry.dtype == at::kBool) {
    const bool valid =
        std::all_of(data, data + (entry.end - entry.begin), [](char byte) { return byte == 0 || byte == 1; });
    VENEER_CHECK(valid, "safetensors", path_, ": tensor `", name, "` has booleans other than 0 and 1");
  }
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(entry.dtype) != 0) {
    at::Tensor copy = at::empty(entry.shape, options);
    std::memcpy(copy.mutable_data_ptr(), data, entry.end - entry.begin);
    return copy;
  }
  return at::from_blob(
      data, entry.shape, [map = map_](void*) {}, options);
}

}  // namespace veneer
