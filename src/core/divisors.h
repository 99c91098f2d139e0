// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Sizes that must divide a matrix's.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "veneer/matrix.h"

namespace veneer {

// The largest divisor of n that is at most `limit`.
int64_t largest_divisor(int64_t n, int64_t limit);
// [p, q], p <= q, p q = n, as square as n allows.
std::pair<int64_t, int64_t> square_factors(int64_t n);
// Ascending factors of n near 8, about log_8(n) of them: its primes, largest first, each go to the smallest.
std::vector<int64_t> octal_factors(int64_t n);

// gcd(d_in, d_out). An error where it is 1 and the matrix is larger than 1 x 1, since the blocks would be single
// numbers and the matrix silently dense; `instead` says what to give.
int64_t common_divisor(const std::string& owner, const MatrixSite& site, const std::string& instead);
// An error unless `value` divides both sizes; names the nearest that does.
void check_divides(const std::string& owner, const std::string& option, int64_t value, const MatrixSite& site,
                   const std::string& instead = "");

}  // namespace veneer
