// SPDX-FileCopyrightText: The Veneer authors
// SPDX-License-Identifier: Apache-2.0
#include "veneer/safetensors.h"

#include <sys/stat.h>

#include <cstring>

#include "support.h"

namespace veneer::test {
namespace {

// A file from its parts. `length`: the header length it claims.
std::string bytes(const std::string& header, const std::string& data, std::optional<uint64_t> length = std::nullopt) {
  const uint64_t claimed = length.value_or(header.size());
  std::string all(8, '\0');
  std::memcpy(all.data(), &claimed, 8);
  return all + header + data;
}

std::string refusal(const TemporaryFolder& folder, const std::string& content) {
  const std::string path = folder / "bad.safetensors";
  write_file(path, content);
  return error_of([&] { SafetensorsFile file(path); });
}

std::map<std::string, at::Tensor> every_type() {
  std::map<std::string, at::Tensor> tensors;
  for (const auto type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong, at::kInt, at::kShort, at::kChar,
                          at::kByte, at::kBool}) {
    tensors[std::string("t.") + c10::toString(type)] = at::arange(7).to(type);
  }
  tensors["scalar"] = at::scalar_tensor(2.5);
  tensors["empty"] = at::empty({3, 0, 2});
  tensors["strided"] = at::arange(12, at::kFloat).reshape({3, 4}).t();
  tensors["name \"with\" \\ and \xc3\xa9"] = at::ones({1, 1});
  return tensors;
}

TEST(Safetensors, RoundTripIsExactForEveryType) {
  const TemporaryFolder folder;
  const auto tensors = every_type();
  write_safetensors(folder / "a.safetensors", tensors, {{"format", "pt"}, {"note", "x"}});
  std::map<std::string, at::Tensor> read;
  {
    const SafetensorsFile file(folder / "a.safetensors");
    EXPECT_EQ(file.metadata(), (std::map<std::string, std::string>{{"format", "pt"}, {"note", "x"}}));
    ASSERT_EQ(file.entries().size(), tensors.size());
    for (const auto& [name, tensor] : tensors) read[name] = file.tensor(name);
  }
  for (const auto& [name, tensor] : tensors)
    EXPECT_TRUE(same(read[name], tensor)) << name;  // they outlive the file object
}

TEST(Safetensors, LayoutIsTheReferenceImplementations) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a",
                    {{"b", at::zeros({2})}, {"a", at::zeros({1}, at::kDouble)}, {"c", at::ones({1}, at::kChar)}});
  const std::string text = read_file(folder / "a");
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F32","shape":[2],"data_offsets":[8,16]},"c":{"dtype":"I8","shape":[1],"data_offsets":[16,17]}})";
  EXPECT_EQ(text.substr(8, header.size()), header);
  EXPECT_EQ((text.size() - 17) % 8, 0U);
}

TEST(Safetensors, TensorsViewTheFileAndWritesStayPrivate) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {{"x", at::ones({4})}});
  const SafetensorsFile file(folder / "a");
  const at::Tensor x = file.tensor("x");
  EXPECT_EQ(x.const_data_ptr(), file.tensor("x").const_data_ptr());
  x.fill_(7);
  EXPECT_TRUE(same(SafetensorsFile(folder / "a").tensor("x"), at::ones({4})));
}

TEST(Safetensors, UnalignedDataIsCopied) {
  const TemporaryFolder folder;
  const float value = 1.5F;
  std::string data(1, '\1');
  data.append(reinterpret_cast<const char*>(&value), 4);
  write_file(
      folder / "a",
      bytes(
          R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"F32","shape":[],"data_offsets":[1,5]}} )",
          data));
  const SafetensorsFile file(folder / "a");
  EXPECT_TRUE(same(file.tensor("x"), at::scalar_tensor(1.5F)));
}

TEST(Safetensors, SayWhatIsWrong) {
  const TemporaryFolder folder;
  const auto one = [](const std::string& entry, const std::string& data = std::string(8, 'x')) {
    return bytes("{\"t\":" + entry + "}", data);
  };
  const std::vector<std::pair<std::string, std::string>> bad{
      {"", "expected at least 8 bytes, got 0"},
      {"1234567", "expected at least 8 bytes, got 7"},
      {bytes("{}", "", 3), "the file is cut off"},
      {bytes("{}", "", ~uint64_t{0}), "must be at most 100000000"},
      {bytes("", ""), "must start with `{`"},
      {bytes(" {}", ""), "must start with `{`"},
      {bytes("{\"t\":", ""), "is not JSON"},
      {bytes("{\"\xff\": 1}", ""), "is not JSON"},
      {bytes("{}", "x"), "the tensors take 0 bytes, but 1 follow"},
      {bytes(R"({"__metadata__":{"a":1}})", ""), "__metadata__ `a` must be a string, got 1"},
      {bytes(R"({"__metadata__":[]})", ""), "__metadata__ must be an object of strings"},
      {bytes(
           R"({"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"t":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
           ""),
       "`t` is used twice"},
      {bytes(R"({"t":[[[[1]]]]})", ""), "nested deeper"},
      {bytes("{\"t\":" + std::string(100000, '['), ""), "is not JSON"},
      {one("1"), "expected an object with dtype, shape and data_offsets, got 1"},
      {one(R"({"dtype":"F32","shape":[2]})"), "expected an object with dtype"},
      {one(R"({"dtype":"F33","shape":[2],"data_offsets":[0,8]})"), "dtype must be one of: BOOL, U8"},
      {one(R"({"dtype":4,"shape":[2],"data_offsets":[0,8]})"), "dtype must be one of"},
      {one(R"({"dtype":"F32","shape":[-2],"data_offsets":[0,8]})"), "shape must be a list of sizes, got [-2]"},
      {one(R"({"dtype":"F32","shape":[2.0],"data_offsets":[0,8]})"), "shape must be a list of sizes"},
      {one(R"({"dtype":"F32","shape":2,"data_offsets":[0,8]})"), "shape must be a list of sizes"},
      {one(R"({"dtype":"F32","shape":[9223372036854775807,2],"data_offsets":[0,8]})"), "overflows"},
      {one(R"({"dtype":"F32","shape":[4294967296,4294967296,0],"data_offsets":[0,0]})", ""), "overflows"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[8,0]})"), "must rise and lie within the data's 8 bytes"},
      {one(R"({"dtype":"F32","shape":[4],"data_offsets":[0,16]})"), "must rise and lie within the data's 8 bytes"},
      {one(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8,9]})"), "must be two offsets"},
      {one(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})"), "takes 12 bytes, but data_offsets [0,8] span 8"},
      {one(R"({"dtype":"F32","shape":[1],"data_offsets":[4,8]})"), "leave a gap at byte 0"},
      {one(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4]})"), "the tensors take 4 bytes, but 8 follow"},
      {bytes(
           R"({"a":{"dtype":"U8","shape":[6],"data_offsets":[0,6]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
           std::string(8, 'x')),
       "overlap at byte 4"}};
  for (const auto& [content, message] : bad) {
    const std::string error = refusal(folder, content);
    EXPECT_TRUE(has(error, message)) << content.substr(0, 200);
    EXPECT_TRUE(has(error, "[safetensors] ")) << error;
  }
}

TEST(Safetensors, RefusesBooleansOtherThanZeroAndOne) {
  const TemporaryFolder folder;
  write_file(folder / "a", bytes(R"({"t":{"dtype":"BOOL","shape":[2],"data_offsets":[0,2]}})", std::string("\1\2")));
  const SafetensorsFile file(folder / "a");
  EXPECT_TRUE(has(error_of([&] { file.tensor("t"); }), "booleans other than 0 and 1"));
}

TEST(Safetensors, RefusesOtherFilesAndNames) {
  const TemporaryFolder folder;
  EXPECT_TRUE(has(error_of([&] { SafetensorsFile file(folder / "none"); }), "cannot open"));
  EXPECT_TRUE(has(error_of([&] { SafetensorsFile file(folder / ""); }), "is not a regular file"));
  write_safetensors(folder / "a", {{"weight", at::ones({4})}});
  const SafetensorsFile file(folder / "a");
  EXPECT_TRUE(has(error_of([&] { file.tensor("wieght"); }), "did you mean `weight`?"));
}

TEST(Safetensors, FailedWriteLeavesTheOldFile) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {{"x", at::ones({4})}});
  const std::string before = read_file(folder / "a");
  EXPECT_TRUE(has(error_of([&] {
                    write_safetensors(folder / "a", {{"x", at::ones({1}, at::kComplexFloat)}});
                  }),
                  "which the format does not know"));
  EXPECT_TRUE(has(error_of([&] { write_safetensors(folder / "a", {{"x", at::Tensor()}}); }), "must be dense"));
  EXPECT_EQ(read_file(folder / "a"), before);
  mkdir((folder / "b").c_str(), 0777);
  EXPECT_TRUE(has(error_of([&] { write_safetensors(folder / "b", {{"x", at::ones({4})}}); }), "cannot replace"));
  EXPECT_TRUE(has(error_of([&] { write_safetensors(folder / "none/c", {{"x", at::ones({4})}}); }), "cannot write"));
  EXPECT_EQ(files_under(folder / "."), std::vector<std::string>{folder / "./a"});  // no leftovers
}

// Opens a file and reads all of it: either works, or throws a ValueError.
bool readable(const std::string& path) {
  try {
    const SafetensorsFile file(path);
    double sum = 0;
    for (const auto& [name, entry] : file.entries()) {
      const at::Tensor tensor = file.tensor(name);
      if (tensor.numel() > 0) sum += tensor.to(at::kDouble).nan_to_num(0).sum().item<double>();
    }
    return std::isfinite(sum) || true;
  } catch (const c10::ValueError&) {
    return false;
  }
}

TEST(Safetensors, FuzzTruncated) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", every_type());
  const std::string whole = read_file(folder / "a");
  for (size_t size = 0; size < whole.size(); ++size) {
    write_file(folder / "b", whole.substr(0, size));
    EXPECT_FALSE(readable(folder / "b")) << size;
  }
  write_file(folder / "b", whole + "x");
  EXPECT_FALSE(readable(folder / "b"));
}

TEST(Safetensors, FuzzMutatedBytes) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a",
                    {{"w", at::ones({2, 3})}, {"b", at::ones({3}, at::kBool)}, {"s", at::scalar_tensor(1.0)}});
  const std::string whole = read_file(folder / "a");
  size_t survived = 0;
  for (size_t i = 0; i < whole.size(); ++i) {
    for (const char value : {'\0', '\1', '\x7f', '\xff', '"', '{', '}', '[', ']', ',', ':', '0', '9', '-', 'e', '.'}) {
      std::string mutated = whole;
      mutated[i] = value;
      write_file(folder / "b", mutated);
      survived += readable(folder / "b") ? 1 : 0;
    }
    for (int bit = 0; bit < 8; ++bit) {
      std::string mutated = whole;
      mutated[i] = static_cast<char>(mutated[i] ^ (1 << bit));
      write_file(folder / "b", mutated);
      survived += readable(folder / "b") ? 1 : 0;
    }
  }
  EXPECT_GT(survived, 0U);  // names and data bytes may change
}

TEST(Safetensors, FuzzCutsAndRepeats) {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", {{"w", at::ones({2, 3})}, {"b", at::ones({3}, at::kBool)}});
  const std::string whole = read_file(folder / "a");
  const uint64_t length = whole.size() - (4 * 6 + 3) - 8;
  for (size_t begin = 8; begin < 8 + length; ++begin) {
    for (size_t count = 1; count <= 24; count += 3) {
      for (const bool repeat : {false, true}) {
        std::string header = whole.substr(8, length);
        const size_t at = begin - 8;
        const std::string piece = header.substr(at, count);
        if (repeat) {
          header.insert(at, piece);
        } else {
          header.erase(at, piece.size());
        }
        write_file(folder / "b", bytes(header, whole.substr(8 + length)));
        readable(folder / "b");
      }
    }
  }
}

TEST(Safetensors, ReadsRealFiles) {
  const auto data = shared_data();
  if (!data) GTEST_SKIP() << "no shared/data here; set VENEER_SHARED_DATA to test with real files";
  size_t files = 0;
  const TemporaryFolder folder;
  for (const auto& path : files_under(*data, ".safetensors")) {
    ++files;
    const SafetensorsFile file(path);
    std::map<std::string, at::Tensor> tensors;
    for (const auto& [name, entry] : file.entries()) {
      tensors[name] = file.tensor(name);
      EXPECT_TRUE(tensors[name].isfinite().all().item<bool>()) << path << " " << name;
    }
    write_safetensors(folder / "again", tensors, file.metadata());
    const SafetensorsFile again(folder / "again");
    for (const auto& [name, tensor] : tensors) EXPECT_TRUE(same(again.tensor(name), tensor)) << name;
  }
  EXPECT_GT(files, 0U);
}

}  // namespace
}  // namespace veneer::test
