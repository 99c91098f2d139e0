// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// KronA (arXiv 2212.10650): a Kronecker product of two factors as the update of a weight; as an adapter layer beside
// the feed-forward (KronA_B), with a trained residual scale (KronA_B-res), it is AdditiveConfig at hidden states with
// the matrices this file names.
#include <nlohmann/json.hpp>

#include "methods/adapter_fields.h"
#include "methods/additive_fields.h"

namespace veneer {
namespace {

const OptionTable own_fields{
    Option::choice("variant", "krona", "beside a weight, beside the feed-forward, or that with a residual scale",
                   {"krona", "krona_b", "krona_b_res"}),
    Option::any("factors", "[]", "sizes [rows, columns] of the factors; none: two near-square ones", "list[list[int]]"),
    Option::any("placement", "null", "krona_b: where; none: beside the feed-forward", "str | None"),
    Option::integer("hidden_size", 0, "krona_b: d where neither the model's config nor the module tells it; 0: found",
                    0)};

const RegisterConfig config{
    {"KRONA",
     "KronAConfig",
     "Kronecker product of two factors as the update, or as a layer beside the feed-forward: KronA (arXiv 2212.10650)",
     own_fields + additive_fields("krona_only"),
     "{}",
     [](const Options& fields, const Site&) {
       nlohmann::json matrix{{"name", "kronecker"}, {"form", "chain"}, {"factors", fields.value("factors")}};
       if (fields.text("variant") == "krona_b_res") {
         matrix = {{"name", "sum"}, {"terms", {matrix, {{"name", "diagonal"}, {"form", "scalar"}}}}};
       }
       return additive_call(matrix, fields);
     },
     {},
     [](nlohmann::json& fields) {
       refuse_others("KronAConfig", own_fields, fields, "variant", {{"hidden_size", {"krona_b", "krona_b_res"}}});
       default_placement("KronAConfig", fields, fields.at("variant") != "krona", "parallel");
     }}};

}  // namespace
}  // namespace veneer
