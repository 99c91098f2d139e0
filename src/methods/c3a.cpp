// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// C3A (arXiv 2407.19342): block-circular convolution as the update. Fields, starts and keys are HF PEFT's.
#include <nlohmann/json.hpp>

#include "veneer/check.h"
#include "veneer/config.h"

namespace veneer {
namespace {

const RegisterConfig config{
    {"C3A",
     "C3AConfig",
     "Block-circular convolution as the update: C3A (arXiv 2407.19342)",
     {Option::integer("block_size", 256, "b, the size of a block; it must divide d_in and d_out", 1),
      Option::by_module("block_size_pattern", "block_size",
                        "block sizes by module: {regular expression of the path or its end: b}", "dict[str, int]"),
      Option::any("init_weights", "true",
                  "true: zero, the base model exactly; false or \"xavier_uniform\" (HF PEFT's default), \"gaussian\", "
                  "\"kaiming_uniform\": random",
                  "bool | str"),
      Option::choice("bias", "none", "which biases of the base are trained", {"none", "all", "c3a_only"})},
     "{}",
     [](const Options& fields, const Site& site) {
       const nlohmann::json& start = fields.value("init_weights");
       const bool zero = start == true;
       const nlohmann::json initial = start.is_boolean() ? nlohmann::json("xavier_uniform") : start;
       const nlohmann::json size =
           pattern_value(fields.value("block_size_pattern"), site.path, fields.integer("block_size"));
       return method_call("additive",
                          {{"matrix", {{"name", "block_circulant"}, {"block_size", size}, {"initial", initial}}},
                           {"start", zero ? "zero" : "random"}});
     }}};

}  // namespace
}  // namespace veneer
