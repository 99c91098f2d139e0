// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// SURM's configurations (arXiv 2406.17740): a structured matrix of unrestricted rank beside a frozen weight, or as an
// adapter layer.
#include <nlohmann/json.hpp>

#include "core/divisors.h"
#include "methods/adapter_fields.h"
#include "methods/additive_fields.h"

namespace veneer {
namespace {

using nlohmann::json;

const std::vector<std::string> structures{"circulant", "symmetric_toeplitz", "toeplitz", "kronecker", "ldr"};

OptionTable structure_fields() {
  return {
      Option::choice("structure", "circulant", "the structured matrix", structures),
      Option::any(
          "form", "null",
          "circulant: product (c = a * b) or single; symmetric_toeplitz: product (T(b) T(a)), elementwise (T(a * "
          "b)) or single; none: the paper's",
          "str | None"),
      Option::integer("rank", 0, "kronecker: r; ldr: number of products; 0: a default that fits any layer", 0),
      Option::integer("block_size", 0, "circulant: size of the blocks of a rectangular layer; 0: gcd(d_in, d_out)", 0),
      Option::flag("padding", false, "circulant: pad sizes up to multiples of block_size")};
}

void check_structure(const std::string& owner, const json& fields) {
  refuse_others(owner, structure_fields(), fields, "structure",
                {{"form", {"circulant", "symmetric_toeplitz"}},
                 {"rank", {"kronecker", "ldr"}},
                 {"block_size", {"circulant"}},
                 {"padding", {"circulant"}}});
}

// The matrix; `form` where none is given.
json matrix_of(const Options& fields, const char* form) {
  const std::string structure = fields.text("structure");
  json matrix{{"name", structure == "ldr" ? "low_displacement_rank" : structure}};
  if (structure == "circulant") {
    matrix.update({{"block_size", fields.integer("block_size")}, {"padding", fields.flag("padding")}});
  }
  if (structure == "symmetric_toeplitz") matrix["form"] = form;
  if (!fields.value("form").is_null()) matrix["form"] = fields.value("form");
  if (fields.integer("rank") > 0) matrix["rank"] = fields.integer("rank");
  return matrix;
}

const RegisterConfig update{
    {"SURM",
     "SurmConfig",
     "Structured update of unrestricted rank: SURM (arXiv 2406.17740)",
     structure_fields() + additive_fields("surm_only"),
     "{}",
     [](const Options& fields, const Site&) { return additive_call(matrix_of(fields, "product"), fields); },
     {},
     [](json& fields) { check_structure("SurmConfig", fields); }}};

const RegisterConfig layer{
    {"SURM_ADAPTER",
     "SurmAdapterConfig",
     "Adapter layer of one square structured matrix at hidden states: SURM (arXiv 2406.17740)",
     structure_fields() + layer_fields("houlsby", "gelu", "after the matrix", "train a bias after the nonlinearity"),
     "{}",
     [](const Options& fields, const Site& site) {
       json matrix = matrix_of(fields, "elementwise");
       if (fields.text("structure") == "kronecker" && fields.integer("rank") == 0) {
         // x (B (x) A) with A of the near-square factors of d, the larger first.
         const auto [small, large] = square_factors(site.d_in);
         matrix = {{"name", "kronecker"},
                   {"form", "chain"},
                   {"factors", {{site.d_in / small, site.d_in / large}, {small, large}}}};
       }
       return method_call("surm_adapter", {{"matrix", matrix},
                                           {"activation", fields.text("non_linearity")},
                                           {"scale", fields.number("scaling")},
                                           {"dropout", fields.number("dropout")},
                                           {"bias", fields.flag("use_bias")}});
     },
     {},
     [](json& fields) { check_structure("SurmAdapterConfig", fields); }}};

}  // namespace
}  // namespace veneer
