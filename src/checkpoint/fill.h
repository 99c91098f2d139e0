// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Filling tensors from a file, all or none.
#pragma once

#include <map>
#include <string>

#include "veneer/safetensors.h"

namespace veneer {

// What a file must hold: its key for each tensor to fill.
using Wanted = std::map<std::string, at::Tensor>;

// Copies the file's tensors into the wanted ones, converting between floating-point types. Before the first copy: every
// key present, no other key in the file, equal shapes, no float for an integer or the other way round; else one error
// that lists everything that is wrong.
void fill(const char* owner, const SafetensorsFile& file, const std::string& path, const Wanted& wanted);

}  // namespace veneer
