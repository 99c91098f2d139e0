// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace veneer {

// One row of an options table. Python's fields, the JSON reader, error texts and the reference pages come from it.
struct Option {
  enum class Type { integer, number, flag, text, matrix, matrices, any };
  static constexpr double unbounded = std::numeric_limits<double>::infinity();

  std::string name;
  Type type;
  std::string fallback;                   // the default, as JSON text: "8", "0.0", "false", "\"gelu\""
  std::string help;                       // one line
  double minimum = -unbounded;            // integer and number: inclusive
  double maximum = unbounded;             // inclusive
  std::vector<std::string> choices = {};  // text: the valid values; empty: any
  std::string annotation = {};            // any: the type in Python's words
  std::string of = {};                    // any: an object {pattern: value} of values of this other option of the table

  static Option integer(std::string name, int64_t fallback, std::string help, double minimum = -unbounded,
                        double maximum = unbounded);
  static Option number(std::string name, double fallback, std::string help, double minimum = -unbounded,
                       double maximum = unbounded);
  static Option flag(std::string name, bool fallback, std::string help);
  static Option choice(std::string name, const std::string& fallback, std::string help,
                       std::vector<std::string> choices);
  static Option matrix(std::string name, const std::string& fallback, std::string help);
  // A list of at least one matrix; `fallback` is JSON text.
  static Option matrices(std::string name, std::string fallback, std::string help);
  // Any JSON value; whoever reads it checks it. `fallback` is JSON text, `annotation` Python's type.
  static Option any(std::string name, std::string fallback, std::string help, std::string annotation);
  // {regular expression: value}, each value checked as the option `of` is.
  static Option by_module(std::string name, std::string of, std::string help, std::string annotation);
};

using OptionTable = std::vector<Option>;

OptionTable operator+(OptionTable a, const OptionTable& b);

struct MatrixChoice;

// Options checked against a table: every key known, every type and range right, defaults filled in. `owner` is the name
// used in brackets in errors. A `matrix` option is a registered structured matrix: its name, or an object with "name"
// and that matrix's own options, which are checked against that matrix's table.
class Options {
 public:
  Options(const std::string& owner, const OptionTable& table, const nlohmann::json& values);
  Options(const Options&);
  Options(Options&&) noexcept;
  Options& operator=(Options) noexcept;
  ~Options();

  int64_t integer(const std::string& name) const;
  double number(const std::string& name) const;
  bool flag(const std::string& name) const;
  std::string text(const std::string& name) const;
  MatrixChoice matrix(const std::string& name) const;                 // of a matrix option
  std::vector<MatrixChoice> matrices(const std::string& name) const;  // of a list of them
  // A list of sizes, of an option that may be any value: an error unless all are positive integers.
  std::vector<int64_t> sizes(const std::string& owner, const std::string& name) const;
  const nlohmann::json& value(const std::string& name) const;
  const nlohmann::json& json() const { return *values_; }  // complete and canonical

 private:
  std::unique_ptr<nlohmann::json> values_;
};

// A structured matrix by its name, with its own checked options.
struct MatrixChoice {
  std::string name;
  Options options;
};

}  // namespace veneer
