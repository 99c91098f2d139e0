// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/safetensors_write.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "checkpoint/dtypes.h"
#include "veneer/check.h"

namespace veneer {
namespace {

size_t type_index(const std::string& name, const at::Tensor& tensor) {
  VENEER_CHECK(tensor.defined() && tensor.layout() == at::kStrided && !tensor.is_meta(), "safetensors", "tensor `",
               name, "` must be dense and have data");
  const auto type = std::find_if(safetensors_types.begin(), safetensors_types.end(),
                                 [&](const SafetensorsType& known) { return known.type == tensor.scalar_type(); });
  VENEER_CHECK(type != safetensors_types.end(), "safetensors", "tensor `", name, "` has type ", tensor.scalar_type(),
               ", which the format does not know");
  return static_cast<size_t>(type - safetensors_types.begin());
}

}  // namespace

void write_safetensors(NewFile& file, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  struct Item {
    size_t type;
    const std::string* name;
    const at::Tensor* tensor;
  };
  std::vector<Item> items;
  for (const auto& [name, tensor] : tensors) {
    VENEER_CHECK(name != "__metadata__", "safetensors", "a tensor cannot be called __metadata__");
    items.push_back({type_index(name, tensor), &name, &tensor});
  }
  // The reference order: large types first, so that all data is aligned; then by name, as the map has them.
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) { return a.type > b.type; });

  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  for (const auto& item : items) {
    const uint64_t end = offset + item.tensor->nbytes();
    header[*item.name] = {{"dtype", safetensors_types[item.type].name},
                          {"shape", item.tensor->sizes().vec()},
                          {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');  // the data starts aligned

  const uint64_t length = text.size();
  file.write(&length, sizeof length);
  file.write(text.data(), text.size());
  for (const auto& item : items) {
    const at::Tensor data = item.tensor->detach().cpu().contiguous();
    file.write(data.const_data_ptr(), data.nbytes());
  }
}

void write_safetensors(const std::string& path, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  NewFile file(path);
  write_safetensors(file, tensors, metadata);
  file.commit();
}

}  // namespace veneer
