// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "core/recorded.h"

#include "core/recording.h"
#include "veneer/numeric.h"

namespace veneer {

Recorded::Recorded(const Matrix& matrix, const Params& params, bool dense) {
  for (size_t i = 0; i < params.tensors().size(); ++i) {
    leaves_.push_back(params.tensors()[i].detach().requires_grad_(params.specs()[i].trainable));
  }
  const Recording recording;
  const Params recorded = params.with(leaves_);
  prepared_ = dense ? std::vector<at::Tensor>{matrix.dense(recorded)} : matrix.prepare(recorded);
}

std::vector<at::Tensor> Recorded::gradients(std::vector<at::Tensor> of_prepared) const {
  for (size_t i = 0; i < of_prepared.size(); ++i) {
    if (of_prepared[i].defined()) of_prepared[i] = as(of_prepared[i], prepared_[i]);
  }
  const Recording recording;
  return gradients_of(prepared_, leaves_, of_prepared);
}

}  // namespace veneer
