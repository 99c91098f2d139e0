// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// In the place of torch's.
#pragma once

#include <c10/util/Exception.h>
#include <cuda_runtime_api.h>

#define C10_CUDA_CHECK(error) TORCH_CHECK((error) == cudaSuccess, "CUDA error ", static_cast<int>(error))
