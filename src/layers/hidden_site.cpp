// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/hidden_site.h"

#include <algorithm>
#include <ostream>
#include <string>
#include <vector>

#include "veneer/check.h"

namespace veneer {

HiddenSiteImpl::HiddenSiteImpl(const HiddenSiteOptions& options_) : options(options_) {
  VENEER_CHECK(options.d() > 0, "HiddenSite", "d must be positive, got ", options.d());
  const std::string& wiring = options.wiring();
  const std::vector<std::string> known{"output", "norm", "input", "parallel"};
  VENEER_CHECK(std::find(known.begin(), known.end(), wiring) != known.end(), "HiddenSite",
               "wiring must be one of: ", join(known), "; got ", wiring, suggestion(wiring, known));
}

torch::Tensor HiddenSiteImpl::forward(const torch::Tensor& z, const torch::Tensor& y) {
  torch::Tensor out = y.defined() ? y : z;
  for (const auto* part : acting()) out = run(*part, z, out, {}, {});
  return out;
}

Site HiddenSiteImpl::site() const {
  Site site;
  site.kind = SiteKind::hidden;
  site.d_in = site.d_out = options.d();
  site.has_weight = false;
  return site;
}

std::string HiddenSiteImpl::route() const {
  if (adapters().empty()) return "identity: no adapter";
  if (!enabled()) return "identity: adapters are disabled";
  const auto parts = acting();
  if (parts.empty()) return "identity: no active adapter";
  return parts.size() == 1 ? "one op on the hidden state" : c10::str(parts.size(), " updates summed");
}

void HiddenSiteImpl::pretty_print(std::ostream& stream) const {
  stream << "veneer::HiddenSite(d=" << options.d() << ", wiring=" << options.wiring() << adapters_text() << ")";
}

std::shared_ptr<torch::nn::Module> HiddenSiteImpl::clone(const std::optional<torch::Device>& device) const {
  auto copy = std::make_shared<HiddenSiteImpl>(*this);
  copy->parameters_.clear();
  copy->copy_adapters(*this, device);
  return copy;
}

void HiddenSiteImpl::clone_(torch::nn::Module& other, const std::optional<torch::Device>& device) {
  const auto copy = std::dynamic_pointer_cast<HiddenSiteImpl>(other.clone(device));
  VENEER_CHECK(copy != nullptr, "HiddenSite", "expected a veneer::HiddenSite to clone from, got a ", other.name());
  *this = *copy;
}

}  // namespace veneer
