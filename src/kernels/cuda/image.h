// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace veneer::kernels::cuda {

// Whether the kernels are built for the current device: as its machine code, or as PTX that its driver compiles.
bool has_image();

}  // namespace veneer::kernels::cuda
