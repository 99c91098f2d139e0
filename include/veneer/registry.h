// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "veneer/matrix.h"
#include "veneer/method.h"

namespace veneer {

// A file announces itself with a static registrar; registering a name twice is an error.
//   static const RegisterMatrix registrar{{"circulant", ...}};
struct RegisterMatrix {
  explicit RegisterMatrix(MatrixEntry entry);
};
struct RegisterMethod {
  explicit RegisterMethod(MethodEntry entry);
};

// The `bind` of a class whose constructor takes options and site.
template <class M>
std::shared_ptr<const Matrix> make_matrix(const Options& options, const MatrixSite& site) {
  return std::make_shared<M>(options, site);
}
template <class M>
std::shared_ptr<const Method> make_method(const Options& options, const Site& site) {
  return std::make_shared<M>(options, site);
}

// Sorted names; the entry of a name (ValueError lists the known and the closest ones).
std::vector<std::string> matrix_names();
std::vector<std::string> method_names();
const MatrixEntry& matrix_entry(const std::string& name);
const MethodEntry& method_entry(const std::string& name);

// A matrix that an option of a method, or of another matrix, names: bound to a site, and its shared tensors (none for
// most), where `site_of` gives the matrix's site at each place of the method's or the other matrix's.
std::shared_ptr<const Matrix> bind_matrix(const MatrixChoice& matrix, const MatrixSite& site);
ParameterSpecs shared_of(const MatrixChoice& matrix, const std::vector<MatrixSite>& sites);
template <class Place, class SiteOf>
ParameterSpecs shared_of(const MatrixChoice& matrix, const std::vector<Place>& places, const SiteOf& site_of) {
  std::vector<MatrixSite> sites;
  for (const auto& place : places) sites.push_back(site_of(place));
  return shared_of(matrix, sites);
}

// A method bound to its options and site, with the specs of all its tensors (own, then shared).
struct BoundMethod {
  std::string name;  // the method's
  std::shared_ptr<const Method> method;
  ParameterSpecs specs;  // own, then shared
  size_t own = 0;        // how many of them are the layer's own
  int64_t d_in = 0, d_out = 0;
  std::string plan;  // canonical JSON of method options and sizes: the `options` argument of veneer::forward
};

// Binds `method` with `options` (JSON) to each site; all sites of one adapter together, so that shared tensors are
// sized from all of them. `options` holds one object for all, or one per site.
std::vector<std::shared_ptr<const BoundMethod>> bind_method(const std::string& method,
                                                            const std::vector<nlohmann::json>& options,
                                                            const std::vector<Site>& sites);

// The bound method a plan stands for. Parsed once, then served from a cache behind a lock.
std::shared_ptr<const BoundMethod> from_plan(const std::string& method, const std::string& plan);

// Fresh tensors for a bound method, in the order of its own specs, then Method::start. `weight` may be undefined.
std::vector<at::Tensor> initial_parameters(const BoundMethod& bound, const at::Tensor& weight,
                                           at::TensorOptions options, const std::vector<at::Tensor>& shared = {});
// Fresh tensors for specs (the shared ones).
std::vector<at::Tensor> initial_tensors(const ParameterSpecs& specs, at::TensorOptions options);

// Hash of all sources, made by CMake.
const char* build_id();
// Whether VENEER_COMPOSED=1 keeps every method on the path that autograd differentiates, the fused paths' oracle.
bool composed_only();
// What each op call carries, so that a compile cache never serves a rebuilt library, or one on other paths: the build
// id, with "-composed" where composed_only().
const std::string& call_id();
const char* version();

}  // namespace veneer
