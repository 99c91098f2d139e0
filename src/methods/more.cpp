// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// MoRe (arXiv 2408.17383): a Monarch matrix as the update.
#include <nlohmann/json.hpp>

#include "methods/additive_fields.h"

namespace veneer {
namespace {

const RegisterConfig config{
    {"MORE", "MoreConfig", "Monarch matrix as the update: MoRe (arXiv 2408.17383)",
     OptionTable{Option::integer("nblocks", 4, "blocks of each factor", 1),
                 Option::integer("blk_r", 4, "rows of a block of the first factor", 1)} +
         additive_fields("more_only"),
     "{}", [](const Options& fields, const Site&) {
       return additive_call(
           {{"name", "monarch"}, {"blocks", fields.integer("nblocks")}, {"rank", fields.integer("blk_r")}}, fields);
     }}};

}  // namespace
}  // namespace veneer
