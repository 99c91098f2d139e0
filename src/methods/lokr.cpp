// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// LoKr (LyCORIS, arXiv 2309.14859). Fields, starts and keys are HF PEFT's.
#include <nlohmann/json.hpp>

#include "veneer/check.h"
#include "veneer/config.h"

namespace veneer {
namespace {

const RegisterConfig config{
    {"LOKR",
     "LoKrConfig",
     "Kronecker product of a small and a low-rank factor as the update: LoKr (LyCORIS, arXiv 2309.14859)",
     {Option::integer("r", 8, "rank of the factors that have one", 1),
      Option::number("alpha", 8, "the update is scaled by alpha / r", 1e-30),
      Option::number("rank_dropout", 0.0, "probability of dropping a row of the update in a training call", 0.0,
                     0.9999),
      Option::flag("rank_dropout_scale", false, "divide the rows that are kept by their share"),
      Option::number("module_dropout", 0.0, "probability of leaving out a layer's update in a training call", 0.0,
                     0.9999),
      Option::flag("decompose_both", false, "let the smaller factor be of rank r too"),
      Option::integer("decompose_factor", -1, "wanted size of the smaller factor's sides; -1: near the square root",
                      -1),
      Option::any("init_weights", "true",
                  "true: the smaller factor zero; \"lycoris\": the larger one; false: both random", "bool | str"),
      Option::by_module("rank_pattern", "r", "ranks by module: {regular expression of the path or its end: r}",
                        "dict[str, int]"),
      Option::by_module("alpha_pattern", "alpha", "alpha by module, as rank_pattern", "dict[str, float]")},
     "{}",
     [](const Options& fields, const Site& site) {
       const nlohmann::json& start = fields.value("init_weights");
       VENEER_CHECK(start.is_boolean() || start == "lycoris", "LoKrConfig",
                    "init_weights must be one of: true, false, \"lycoris\"; got ", start.dump());
       return method_call("additive",
                          {{"matrix",
                            {{"name", "lokr"},
                             {"rank", pattern_value(fields.value("rank_pattern"), site.path, fields.integer("r"))},
                             {"alpha", pattern_value(fields.value("alpha_pattern"), site.path, fields.number("alpha"))},
                             {"decompose_both", fields.flag("decompose_both")},
                             {"decompose_factor", fields.integer("decompose_factor")},
                             {"initial", start == "lycoris" ? "lycoris" : "default"}}},
                           {"rank_dropout", fields.number("rank_dropout")},
                           {"rank_dropout_scale", fields.flag("rank_dropout_scale")},
                           {"module_dropout", fields.number("module_dropout")},
                           {"start", start == false ? "random" : "zero"}});
     }}};

}  // namespace
}  // namespace veneer
