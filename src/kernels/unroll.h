// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Before loops of constant bounds over arrays that are to stay in registers: the compilers leave them in memory where
// an index is not a constant.
#pragma once

#if defined(__CUDA_ARCH__) || defined(__clang__)
#define VENEER_UNROLL _Pragma("unroll")
#elif defined(__GNUC__) && !defined(__CUDACC__)
#define VENEER_UNROLL _Pragma("GCC unroll 16")
#else
#define VENEER_UNROLL
#endif
