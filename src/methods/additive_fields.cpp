// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "methods/additive_fields.h"

#include <nlohmann/json.hpp>

namespace veneer {

OptionTable additive_fields(const std::string& own_bias) {
  return {
      Option::number("scaling", 1.0, "factor on the update, times the matrix's own scale"),
      Option::number("dropout", 0.0, "probability of dropping an element of the update's input", 0.0, 0.9999),
      Option::choice("bias", "none", "which biases of the base are trained", {"none", "all", own_bias}),
      Option::flag("use_dora", false, "train magnitude and direction apart"),
      Option::choice("dora_dropout", "peft",
                     "DoRA with dropout: HF PEFT's semantics, or the cheaper shared base product", {"peft", "shared"})};
}

MethodCall additive_call(const nlohmann::json& matrix, const Options& fields, const std::string& start) {
  return method_call("additive", {{"matrix", matrix},
                                  {"scale", fields.number("scaling")},
                                  {"dropout", fields.number("dropout")},
                                  {"decompose", fields.flag("use_dora")},
                                  {"dora_dropout", fields.text("dora_dropout")},
                                  {"start", start}});
}

}  // namespace veneer
