// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// Matrices made of other matrices: their parts, and what each part needs.
#pragma once

#include <string>
#include <vector>

#include "veneer/matrix.h"

namespace veneer {

// The parts listed in option `option`, part k bound to sites[k] (see veneer/options.h: a list of matrices).
class Parts {
 public:
  Parts(const Options& options, const std::string& option, const std::vector<MatrixSite>& sites);

  size_t size() const { return parts_.size(); }
  const Matrix& operator[](size_t k) const { return *parts_[k]; }

  // Part k's parameters are called part<k>_<name>, here and in checkpoints.
  ParameterSpecs parameters() const;
  Params params(const Params& params, size_t k) const { return params.scoped(prefix(k)); }
  static ParameterSpecs shared(const Options& options, const std::string& option,
                               const std::vector<std::vector<MatrixSite>>& sites);

  // What all parts prepare, in one list, and part k's share of it.
  std::vector<at::Tensor> prepare(const Params& params) const;
  static at::TensorList prepared(at::TensorList all, size_t k);

  bool placed() const;

 private:
  static std::string prefix(size_t k) { return "part" + std::to_string(k) + "_"; }

  std::vector<std::shared_ptr<const Matrix>> parts_;
};

}  // namespace veneer
