// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Configurations that are the method `additive` with some matrix.
#pragma once

#include <string>

#include "veneer/config.h"

namespace veneer {

// Their fields beside the matrix's own: scaling, dropout, bias ("none", "all" or `own_bias`), use_dora, dora_dropout.
OptionTable additive_fields(const std::string& own_bias);
// The method with these fields. `start`: "zero" or "random".
MethodCall additive_call(const nlohmann::json& matrix, const Options& fields, const std::string& start = "zero");

}  // namespace veneer
