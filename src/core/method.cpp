// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/method.h"

#include "veneer/check.h"

namespace veneer {

at::Tensor Method::weight(const at::Tensor& /*weight*/, const Params& /*params*/) const {
  TORCH_CHECK_VALUE(false, "[veneer] cannot merge: ", merge_refusal());
}

}  // namespace veneer
