// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Functions marked so are compiled for AVX-512, for AVX2 and for any processor; the loader takes the one that fits.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define VENEER_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define VENEER_CLONES
#endif
// What such functions call must become part of them, or it would be compiled for any processor.
#define VENEER_INLINE [[gnu::always_inline]] inline
