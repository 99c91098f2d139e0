// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
// The registry's texts for Python. No tensor passes here: ops are reached through the dispatcher, which loading this
// module's library fills.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <nlohmann/json.hpp>

#include "core/json.h"
#include "core/routes.h"

namespace py = pybind11;

namespace {

// User errors of the core as Python's own types, without the C++ stack.
void translate(std::exception_ptr pointer) {
  try {
    if (pointer) std::rethrow_exception(pointer);
  } catch (const c10::ValueError& error) {
    PyErr_SetString(PyExc_ValueError, error.what_without_backtrace());
  } catch (const c10::TypeError& error) {
    PyErr_SetString(PyExc_TypeError, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what_without_backtrace());
  }
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  py::register_exception_translator(translate);
  m.def(
      "registry", [] { return veneer::registry_to_json().dump(); },
      "Every method and structured matrix with its options table, as JSON.");
  m.def(
      "bind",
      [](const std::string& method, const std::vector<std::string>& options, const std::vector<std::string>& sites) {
        return veneer::bind_to_json(method, options, sites).dump();
      },
      py::arg("method"), py::arg("options"), py::arg("sites"),
      "Binds a method to sites (JSON objects): plans, parameter specs and traits, as JSON.");
  m.def(
      "bind_config",
      [](const std::string& config, const std::vector<std::string>& sites) {
        return veneer::bind_config_to_json(config, sites).dump();
      },
      py::arg("config"), py::arg("sites"), "As `bind`, for an adapter configuration (JSON).");
  m.def(
      "check_config",
      [](const std::string& config, bool file) { return veneer::check_config_to_json(config, file).dump(); },
      py::arg("config"), py::arg("file") = false,
      "The configuration completed with its defaults. `file`: fields of HF PEFT's are tolerated at neutral values.");
  m.def(
      "build_id", [] { return veneer::call_id(); },
      "Hash of the library's sources, with `-composed` where VENEER_COMPOSED=1 keeps fused paths off.");
  m.def(
      "take_routes", [](bool go_on) { return veneer::take_routes(go_on); }, py::arg("go_on"),
      "The way each update went since the last call, a line each; recorded from a call with go_on to one without.");
  m.def(
      "version", [] { return veneer::version(); }, "Veneer's version.");
  m.def(
      "torch_version", [] { return VENEER_TORCH_VERSION; }, "The torch version this library was built against.");
}
