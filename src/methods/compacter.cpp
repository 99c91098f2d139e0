// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Compacter (arXiv 2106.04647): bottleneck adapters whose projections are sums of Kronecker products, with rules shared
// by all layers. Compacter++ has them after the feed-forward only.
#include <nlohmann/json.hpp>

#include "methods/adapter_fields.h"

namespace veneer {
namespace {

const RegisterConfig config{
    {"COMPACTER", "CompacterConfig",
     "Bottleneck adapter of Kronecker products with shared rules: Compacter (arXiv 2106.04647); Compacter++ with "
     "placement=\"houlsby_feedforward\"",
     OptionTable{Option::integer("phm_dim", 4, "n, the terms of a projection; it must divide d and the inner size", 1),
                 Option::integer("phm_rank", 1, "rank of the terms' larger factors; 0: full", 0),
                 Option::flag("shared_phm_rule", true, "share the rules between all layers (false: PHM adapters)"),
                 Option::number("phm_init_std", 0.01, "standard deviation of the rules at the start", 0),
                 Option::choice("init_weights", "zero_up",
                                "the base model exactly, or as in the paper, whose start is only near it",
                                {"zero_up", "paper"})} +
         bottleneck_fields("houlsby", "gelu_tanh", 0, 32.0),
     "{}", [](const Options& fields, const Site&) {
       const nlohmann::json matrix{{"name", "phm"},
                                   {"n", fields.integer("phm_dim")},
                                   {"rank", fields.integer("phm_rank")},
                                   {"shared_rule", fields.flag("shared_phm_rule")},
                                   {"rule_std", fields.number("phm_init_std")},
                                   {"initial", fields.text("init_weights") == "paper" ? "paper" : "zero"}};
       return bottleneck_call(matrix, matrix, fields);
     }}};

}  // namespace
}  // namespace veneer
