// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <c10/core/ScalarType.h>

#include <array>
#include <string_view>

namespace veneer {

struct SafetensorsType {
  std::string_view name;
  c10::ScalarType type;
};

// In the reference implementation's order, small to large: its writer sorts tensors by it, the largest first.
inline constexpr std::array<SafetensorsType, 15> safetensors_types{{{"BOOL", c10::ScalarType::Bool},
                                                                    {"U8", c10::ScalarType::Byte},
                                                                    {"I8", c10::ScalarType::Char},
                                                                    {"F8_E5M2", c10::ScalarType::Float8_e5m2},
                                                                    {"F8_E4M3", c10::ScalarType::Float8_e4m3fn},
                                                                    {"I16", c10::ScalarType::Short},
                                                                    {"U16", c10::ScalarType::UInt16},
                                                                    {"F16", c10::ScalarType::Half},
                                                                    {"BF16", c10::ScalarType::BFloat16},
                                                                    {"I32", c10::ScalarType::Int},
                                                                    {"U32", c10::ScalarType::UInt32},
                                                                    {"F32", c10::ScalarType::Float},
                                                                    {"F64", c10::ScalarType::Double},
                                                                    {"I64", c10::ScalarType::Long},
                                                                    {"U64", c10::ScalarType::UInt64}}};

}  // namespace veneer
