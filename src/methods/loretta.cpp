// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// LoRETTA (arXiv 2402.11417): tensor trains as the two factors of a low-rank update (rep), or as the projections of a
// bottleneck adapter (adp).
#include <nlohmann/json.hpp>

#include "core/activation.h"
#include "methods/adapter_fields.h"

namespace veneer {
namespace {

using nlohmann::json;

json train(const Options& fields, const char* shape) {
  return {{"name", "tensor_train"}, {"rank", fields.integer("tensor_rank")}, {"shape", fields.value(shape)}};
}

const OptionTable table{
    Option::choice("mode", "rep", "update of weights, or adapter layers", {"rep", "adp"}),
    Option::integer("tensor_rank", 5, "rank between the cores", 1),
    Option::integer("r", 8, "rep: rank of the update", 1),
    Option::number("lora_alpha", 16, "rep: the update is scaled by lora_alpha / r", 1e-30),
    Option::integer("bottleneck_size", 64, "adp: the inner size", 1),
    Option::any("placement", "null", "adp: where; none: after attention and feed-forward", "str | None"),
    Option::choice("non_linearity", "relu", "adp: between the projections", activations()),
    Option::number("scaling", 1.0, "adp: factor on the adapter's output"),
    Option::number("dropout", 0.0, "probability of dropping an element of the input", 0.0, 0.9999),
    Option::any("down_shape", "[]", "modes of the first train; none: near 8 each", "list[int]"),
    Option::any("up_shape", "[]", "modes of the second train", "list[int]"),
    Option::integer("hidden_size", 0, "adp: d where neither the model's config nor the module tells it; 0: found", 0)};

const RegisterConfig config{
    {"LORETTA",
     "LorettaConfig",
     "Tensor trains as the factors of a low-rank update or the projections of an adapter: LoRETTA (arXiv 2402.11417)",
     table,
     "{}",
     [](const Options& fields, const Site&) {
       const json down = train(fields, "down_shape"), up = train(fields, "up_shape");
       if (fields.text("mode") == "adp") {
         return method_call("bottleneck", {{"size", fields.integer("bottleneck_size")},
                                           {"activation", fields.text("non_linearity")},
                                           {"down", down},
                                           {"up", up},
                                           {"scale", fields.number("scaling")},
                                           {"dropout", fields.number("dropout")}});
       }
       const double rank = static_cast<double>(fields.integer("r"));
       return method_call("additive",
                          {{"matrix", {{"name", "product"}, {"factors", {up, down}}, {"sizes", {fields.integer("r")}}}},
                           {"scale", fields.number("lora_alpha") / rank},
                           {"dropout", fields.number("dropout")}});
     },
     {},
     [](json& fields) {
       refuse_others("LorettaConfig", table, fields, "mode",
                     {{"r", {"rep"}},
                      {"lora_alpha", {"rep"}},
                      {"bottleneck_size", {"adp"}},
                      {"non_linearity", {"adp"}},
                      {"scaling", {"adp"}},
                      {"hidden_size", {"adp"}}});
       default_placement("LorettaConfig", fields, fields.at("mode") == "adp", "houlsby");
     }}};

}  // namespace
}  // namespace veneer
