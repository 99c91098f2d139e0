// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// What a matrix prepares of its parameters, inside an op that has its own gradient: recorded, so that the gradients of
// what was prepared give those of the parameters.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "veneer/matrix.h"

namespace veneer {

class Recorded {
 public:
  // `dense`: the dense matrix alone, whatever the matrix's form.
  Recorded(const Matrix& matrix, const Params& params, bool dense);

  const std::vector<at::Tensor>& prepared() const { return prepared_; }
  // Of the tensors of the parameters, in their order and dtypes, undefined for frozen ones and for what none depends
  // on; `of_prepared` in any dtypes, may be undefined.
  std::vector<at::Tensor> gradients(std::vector<at::Tensor> of_prepared) const;

 private:
  std::vector<at::Tensor> leaves_, prepared_;
};

}  // namespace veneer
