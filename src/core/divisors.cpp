// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/divisors.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <numeric>

#include "veneer/check.h"

namespace veneer {

namespace {

// The divisor of n nearest to `wanted`; on ties the smaller.
int64_t nearest_divisor(int64_t n, int64_t wanted) {
  int64_t best = 1;
  for (int64_t d = 1; d <= n; ++d) {
    if (n % d == 0 && std::abs(d - wanted) < std::abs(best - wanted)) best = d;
  }
  return best;
}

}  // namespace

int64_t largest_divisor(int64_t n, int64_t limit) {
  int64_t best = 1;
  for (int64_t d = 1; d <= limit && d <= n; ++d) {
    if (n % d == 0) best = d;
  }
  return best;
}

std::pair<int64_t, int64_t> square_factors(int64_t n) {
  int64_t small = 1;
  for (int64_t d = 1; d * d <= n; ++d) {
    if (n % d == 0) small = d;
  }
  return {small, n / small};
}

std::vector<int64_t> octal_factors(int64_t n) {
  const double count = std::log(static_cast<double>(n)) / std::log(8.0);
  std::vector<int64_t> factors(std::max<size_t>(1, static_cast<size_t>(std::lround(count))), 1), primes;
  for (int64_t p = 2, rest = n; rest > 1; ++p) {
    for (; rest % p == 0; rest /= p) primes.push_back(p);
  }
  for (auto prime = primes.rbegin(); prime != primes.rend(); ++prime) {
    *std::min_element(factors.begin(), factors.end()) *= *prime;
  }
  std::erase(factors, 1);
  if (factors.empty()) factors.push_back(1);
  std::sort(factors.begin(), factors.end());
  return factors;
}

int64_t common_divisor(const std::string& owner, const MatrixSite& site, const std::string& instead) {
  const int64_t common = std::gcd(site.d_in, site.d_out);
  VENEER_CHECK(common > 1 || (site.d_in == 1 && site.d_out == 1), owner, "d_in ", site.d_in, " and d_out ", site.d_out,
               " have no common divisor but 1, and blocks of size 1 are a dense matrix; expected sizes with a common",
               " divisor, or ", instead);
  return common;
}

void check_divides(const std::string& owner, const std::string& option, int64_t value, const MatrixSite& site,
                   const std::string& instead) {
  const bool fits = site.d_in % value == 0 && site.d_out % value == 0;
  VENEER_CHECK(fits, owner, option, " must divide ", site.d_in, " and ", site.d_out, ", got ", value,
               "; the nearest that does is ", nearest_divisor(std::gcd(site.d_in, site.d_out), value), instead);
}

}  // namespace veneer
