// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// LoRTA (arXiv 2410.04060): the updates of all attention projections as slices of one tensor.
#include <nlohmann/json.hpp>

#include "methods/additive_fields.h"
#include "veneer/check.h"

namespace veneer {
namespace {

const RegisterConfig config{
    {"LORTA", "LortaConfig", "Attention updates as slices of one shared tensor: LoRTA (arXiv 2410.04060)",
     OptionTable{Option::integer("r", 4, "number of components", 1),
                 Option::number("lora_alpha", 8, "the update is scaled by lora_alpha / r", 1e-30),
                 Option::integer("num_attention_heads", 0, "heads of the model; 0: from the model's config", 0),
                 Option::choice("orientation", "heads",
                                "heads along the output of query, key and value, or as in the authors' code",
                                {"heads", "reference"})} +
         additive_fields("lorta_only"),
     "{}", [](const Options& fields, const Site&) {
       VENEER_CHECK(fields.integer("num_attention_heads") > 0, "LortaConfig",
                    "num_attention_heads is not known from the model's config; give it");
       return additive_call({{"name", "cp"},
                             {"rank", fields.integer("r")},
                             {"alpha", fields.number("lora_alpha")},
                             {"heads", fields.integer("num_attention_heads")},
                             {"orientation", fields.text("orientation")}},
                            fields);
     }}};

}  // namespace
}  // namespace veneer
