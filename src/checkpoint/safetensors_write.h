// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "checkpoint/new_file.h"
#include "veneer/safetensors.h"

namespace veneer {

// Writes everything but does not commit: for files that must change together.
void write_safetensors(NewFile& file, const std::map<std::string, at::Tensor>& tensors,
                       const std::map<std::string, std::string>& metadata);

}  // namespace veneer
