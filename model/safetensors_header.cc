// The header of a safetensors file, read as a stream of JSON events straight into entries: a checkpoint has
// 100,000 of them, and a document tree would cost ten times their size.
#include <algorithm>
#include <exception>
#include <numeric>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/error.h"
#include "base/status.h"
#include "model/json_guard.h"
#include "model/safetensors.h"
#include "nlohmann/json.hpp"

namespace paceline {
namespace {

constexpr size_t kMaxRank = 8;
constexpr int64_t kMaxTensors = 2'000'000;

struct DtypeFacts {
  Dtype dtype;
  const char* name;
  int64_t bytes;
};
constexpr DtypeFacts kDtypes[] = {
    {Dtype::kF64, "F64", 8},        {Dtype::kF32, "F32", 4},        {Dtype::kF16, "F16", 2},
    {Dtype::kBF16, "BF16", 2},      {Dtype::kI64, "I64", 8},        {Dtype::kI32, "I32", 4},
    {Dtype::kI16, "I16", 2},        {Dtype::kI8, "I8", 1},          {Dtype::kU64, "U64", 8},
    {Dtype::kU32, "U32", 4},        {Dtype::kU16, "U16", 2},        {Dtype::kU8, "U8", 1},
    {Dtype::kBool, "BOOL", 1},      {Dtype::kF8E4M3, "F8_E4M3", 1}, {Dtype::kF8E5M2, "F8_E5M2", 1},
    {Dtype::kF8E8M0, "F8_E8M0", 1},
};

// Depth 1 is the file's object, 2 an entry (or __metadata__), 3 the arrays of an entry.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("true or false"); }
  bool number_float(number_float_t, const string_t& text) override { return Unexpected(text); }
  bool binary(binary_t&) override { return Unexpected("binary"); }
  bool number_integer(number_integer_t value) override { return Number(value); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(INT64_MAX)) return Unexpected(absl::StrCat(value));
    return Number(static_cast<int64_t>(value));
  }
  bool string(string_t& value) override {
    if (metadata_) return depth_ == 2 || Unexpected("a string");
    if (depth_ != 2 || field_ != "dtype") return Unexpected("a string");
    for (const DtypeFacts& facts : kDtypes) {
      if (value == facts.name) {
        entry_.dtype = facts.dtype;
        return true;
      }
    }
    return Fail(absl::StrCat("has the unknown dtype \"", Printable(value), "\""));
  }
  bool start_object(size_t) override {
    if (++depth_ > 2) return Unexpected("an object");
    if (depth_ == 2 && !metadata_) {
      entry_.shape.clear();
      offsets_.clear();
      seen_ = 0;
    }
    return true;
  }
  bool end_object() override {
    if (depth_-- != 2) return true;
    if (std::exchange(metadata_, false)) return true;
    if (seen_ != 7) return Fail("lacks one of dtype, shape and data_offsets");
    if (offsets_.size() != 2) return Fail(absl::StrCat("has ", offsets_.size(), " data_offsets; expected 2"));
    entry_.begin = offsets_[0];
    entry_.end = offsets_[1];
    if (static_cast<int64_t>(entries_.size()) >= kMaxTensors)
      return Fail(absl::StrCat("is one tensor too many; at most ", kMaxTensors, " are read"));
    entries_.push_back(std::move(entry_));
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ == 1) {
      metadata_ = name == "__metadata__";
      entry_ = TensorEntry{};
      entry_.name = std::move(name);
      return true;
    }
    if (metadata_) return true;
    field_ = std::move(name);
    const int bit = field_ == "dtype" ? 1 : field_ == "shape" ? 2 : field_ == "data_offsets" ? 4 : 0;
    if (bit == 0) return Fail(absl::StrCat("has the unknown field \"", Printable(field_), "\""));
    if ((seen_ & bit) != 0) return Fail(absl::StrCat("has ", field_, " twice"));
    seen_ |= bit;
    return true;
  }
  bool start_array(size_t) override {
    if (metadata_ || depth_ != 2 || field_ == "dtype") return Unexpected("an array");
    ++depth_;
    return true;
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    problem_ = absl::StrCat("the header is not valid JSON at byte ", position);
    return false;
  }

  const std::string& problem() const { return problem_; }
  std::vector<TensorEntry>& entries() { return entries_; }

 private:
  bool Number(int64_t value) {
    if (metadata_ || depth_ != 3) return Unexpected(absl::StrCat(value));
    std::vector<int64_t>& list = field_ == "shape" ? entry_.shape : offsets_;
    if (list.size() >= kMaxRank) return Fail(absl::StrCat("has more than ", kMaxRank, " values in ", field_));
    list.push_back(value);
    return true;
  }
  bool Unexpected(std::string_view what) {
    const std::string text = Printable(what);
    if (depth_ < 2) {
      problem_ = absl::StrCat("the header holds ", text, entry_.name.empty() ? "" : " at ",
                              Printable(entry_.name), "; expected an object of tensors");
      return false;
    }
    return Fail(absl::StrCat("holds ", text,
                             metadata_ ? "; expected strings" : absl::StrCat(" in ", Printable(field_))));
  }
  bool Fail(const std::string& sentence) {
    problem_ = absl::StrCat(Printable(entry_.name), " ", sentence);
    return false;
  }

  int depth_ = 0;
  bool metadata_ = false;
  int seen_ = 0;
  std::string field_;
  TensorEntry entry_;
  std::vector<int64_t> offsets_;
  std::vector<TensorEntry> entries_;
  std::string problem_;
};

// Shape, size and place of one entry; "" when all is well.
std::string Judge(const TensorEntry& entry, int64_t data_bytes) {
  int64_t bytes = DtypeBytes(entry.dtype);
  bool overflow = false;
  for (const int64_t dim : entry.shape) {
    if (dim < 0)
      return absl::StrCat("has the shape ", ShapeText(entry.shape), "; no dimension may be negative");
    overflow |= __builtin_mul_overflow(bytes, dim, &bytes);
  }
  if (overflow)
    return absl::StrCat("has the shape ", ShapeText(entry.shape), ", whose size does not fit 64 bits");
  if (entry.begin < 0 || entry.end < entry.begin || entry.end > data_bytes) {
    return absl::StrCat("has data_offsets [", entry.begin, ", ", entry.end, "); the file has ", data_bytes,
                        " bytes of data: it is truncated, or the header is wrong");
  }
  if (bytes != entry.bytes()) {
    return absl::StrCat("is ", TypeText(entry), ", ", bytes, " bytes, but its data_offsets hold ",
                        entry.bytes());
  }
  return "";
}

}  // namespace

const char* DtypeName(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].name; }
int64_t DtypeBytes(Dtype dtype) { return kDtypes[static_cast<size_t>(dtype)].bytes; }

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}
std::string TypeText(const TensorEntry& entry) {
  return absl::StrCat(DtypeName(entry.dtype), " ", ShapeText(entry.shape));
}

absl::StatusOr<std::vector<TensorEntry>> ParseSafetensorsHeader(std::string_view header, int64_t data_bytes,
                                                                const std::string& file) {
  if (static_cast<int64_t>(header.size()) > kMaxHeaderBytes) {
    return Error(errors::kModelFile, absl::StrCat(file, ": the header has ", header.size(),
                                                  " bytes; at most ", kMaxHeaderBytes, " are read"));
  }
  RETURN_IF_ERROR(CheckNesting(header, errors::kModelFile, absl::StrCat(file, ": the header")));
  HeaderReader reader;
  try {
    if (!nlohmann::json::sax_parse(header.begin(), header.end(), &reader)) {
      return Error(errors::kModelFile, absl::StrCat(file, ": ", reader.problem()));
    }
  } catch (const std::exception& e) {
    return Error(errors::kModelFile,
                 absl::StrCat(file, ": the header cannot be read: ", Printable(e.what())));
  }
  std::vector<TensorEntry> entries = std::move(reader.entries());
  absl::flat_hash_set<std::string_view> names;
  names.reserve(entries.size());
  for (const TensorEntry& entry : entries) {
    if (const std::string problem = Judge(entry, data_bytes); !problem.empty()) {
      return Error(errors::kModelFile, absl::StrCat(file, ": ", Printable(entry.name), " ", problem));
    }
    if (!names.insert(entry.name).second) {
      return Error(errors::kModelFile,
                   absl::StrCat(file, ": ", Printable(entry.name), " occurs twice in the header"));
    }
  }
  std::vector<const TensorEntry*> order;
  order.reserve(entries.size());
  for (const TensorEntry& entry : entries) {
    if (entry.bytes() > 0) order.push_back(&entry);
  }
  std::sort(order.begin(), order.end(),
            [](const TensorEntry* a, const TensorEntry* b) { return a->begin < b->begin; });
  for (size_t i = 1; i < order.size(); ++i) {
    if (order[i]->begin < order[i - 1]->end) {
      return Error(errors::kModelFile,
                   absl::StrCat(file, ": ", Printable(order[i - 1]->name), " [", order[i - 1]->begin, ", ",
                                order[i - 1]->end, ") and ", Printable(order[i]->name), " [", order[i]->begin,
                                ", ", order[i]->end, ") share bytes"));
    }
  }
  return entries;
}

}  // namespace paceline
