// Payloads of each operation, built as lists of parts and read back with every index checked.
#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "transport/frame.h"
#include "transport/row_codec.h"

namespace paceline {
namespace {

static_assert(kBlockRows == 64, "a set of rows is one 64-bit word here, an index one byte on the wire");

constexpr size_t Pad8(size_t bytes) { return (bytes + 7) & ~size_t{7}; }

absl::Status Refuse(const std::string& what) {
  return Error(errors::kFrame, absl::StrCat("bad frame: ", what));
}

absl::Status CheckPadding(Bytes padding, const char* after) {
  for (const std::byte b : padding) {
    if (b != std::byte{0}) {
      return Refuse(absl::StrCat("padding after the ", after, ": expected 0, got ", static_cast<int>(b)));
    }
  }
  return absl::OkStatus();
}

// Row indices: strictly ascending, below kBlockRows, the first as the header says.
absl::Status CheckIndices(const FrameHeader& header, Bytes indices) {
  int previous = -1;
  for (size_t i = 0; i < indices.size(); ++i) {
    const int index = static_cast<int>(indices[i]);
    if (index <= previous || index >= kBlockRows) {
      return Refuse(absl::StrCat("row index ", i, ": expected ", previous + 1, " to ", kBlockRows - 1,
                                 ", got ", index));
    }
    previous = index;
  }
  if (static_cast<int>(indices[0]) != header.first_row) {
    return Refuse(absl::StrCat("first row: expected ", static_cast<int>(indices[0]),
                               " as in the row list, got ", header.first_row));
  }
  return absl::OkStatus();
}

template <class T>
Bytes View(const T* values, size_t count) {
  return std::as_bytes(std::span<const T>(values, count));
}

template <class T>
void CopyInto(std::vector<T>& to, Bytes from) {
  to.resize(from.size() / sizeof(T));
  std::memcpy(to.data(), from.data(), from.size());
}

}  // namespace

absl::Status DecodeExperts(const Frame& frame, ExpertsRequest& into) {
  const FrameHeader& h = frame.header;
  const auto rows = static_cast<size_t>(h.rows);
  const auto width = static_cast<size_t>(h.width);
  const Bytes list = frame.payload.first(rows);
  if (absl::Status bad = CheckIndices(h, list); !bad.ok()) return bad;
  if (absl::Status bad = CheckPadding(frame.payload.subspan(rows, Pad8(rows) - rows), "row list"); !bad.ok())
    return bad;
  CopyInto(into.indices, list);

  const Bytes routes =
      frame.payload.subspan(Pad8(rows), static_cast<size_t>(kRouteBytes) * static_cast<size_t>(h.routes));
  into.routes.clear();
  uint64_t seen = 0;
  for (int32_t i = 0; i < h.routes; ++i) {
    struct {
      uint32_t expert;
      uint16_t first_group;
      uint16_t groups;
      float weight;
      uint16_t row;
      uint16_t zero;
    } raw;
    static_assert(sizeof(raw) == kRouteBytes);
    std::memcpy(&raw, routes.data() + kRouteBytes * i, sizeof(raw));
    if (raw.expert > INT32_MAX)
      return Refuse(absl::StrCat("expert of route ", i, ": expected 0 to 2147483647, got ", raw.expert));
    if (raw.groups == 0) return Refuse(absl::StrCat("groups of route ", i, ": expected 1 or more, got 0"));
    if (raw.row >= rows)
      return Refuse(absl::StrCat("row of route ", i, ": expected 0 to ", rows - 1, ", got ", raw.row));
    if (raw.zero != 0)
      return Refuse(absl::StrCat("last two bytes of route ", i, ": expected 0, got ", raw.zero));
    seen |= uint64_t{1} << raw.row;
    into.routes.push_back({.row = raw.row,
                           .expert = static_cast<int32_t>(raw.expert),
                           .first_group = raw.first_group,
                           .groups = raw.groups,
                           .weight = raw.weight});
  }
  if (std::popcount(seen) != h.rows) {
    return Refuse(absl::StrCat("routes: expected at least one for each of ", rows, " rows, got them for ",
                               std::popcount(seen)));
  }

  const Bytes data = frame.payload.subspan(Pad8(rows) + routes.size());
  into.block = RowBlock{.format = static_cast<RowFormat>(h.row_format), .rows = h.rows, .hidden = h.width};
  if (HasCodes(into.block.format)) {
    const size_t code_bytes = static_cast<size_t>(ElementBytes(into.block.format)) * rows * width;
    if (into.block.format == RowFormat::kInt8Group128) {
      into.codes.resize(rows * width);
      for (size_t i = 0; i < rows * width; ++i) into.codes[i] = static_cast<int8_t>(data[i]);
    } else {
      CopyInto(into.codes, data.first(code_bytes));
    }
    CopyInto(into.scales, data.subspan(code_bytes));
    into.block.codes = into.codes.data();
    into.block.scales = into.scales.data();
  } else {
    CopyInto(into.values, data);
    into.block.values = into.values.data();
  }
  return absl::OkStatus();
}

absl::StatusOr<ExpertsResult> DecodeExpertsResult(const Frame& frame) {
  const FrameHeader& h = frame.header;
  const auto rows = static_cast<size_t>(h.rows);
  const size_t list = Pad8(rows);
  ExpertsResult result;
  result.indices = frame.payload.first(rows);
  result.sum_bytes = frame.payload.subspan(list, rows);
  result.row_errors = frame.payload.subspan(2 * list, rows);
  result.packed = frame.payload.subspan(3 * list);
  if (absl::Status bad = CheckIndices(h, result.indices); !bad.ok()) return bad;
  const char* const names[] = {"row list", "bytes per sum", "error flags"};
  for (size_t i = 0; i < 3; ++i) {
    if (absl::Status bad = CheckPadding(frame.payload.subspan(i * list + rows, list - rows), names[i]);
        !bad.ok())
      return bad;
  }
  size_t expected = 0;
  for (size_t i = 0; i < rows; ++i) {
    const int bytes = static_cast<int>(result.sum_bytes[i]);
    if (bytes < kMinSumBytes || bytes > kMaxSumBytes) {
      return Refuse(absl::StrCat("bytes per sum of row ", i, ": expected 4 to 8, got ", bytes));
    }
    if (const int flag = static_cast<int>(result.row_errors[i]); flag > 1) {
      return Refuse(absl::StrCat("error flag of row ", i, ": expected 0 or 1, got ", flag));
    }
    expected += static_cast<size_t>(bytes) * static_cast<size_t>(h.width);
  }
  if (result.packed.size() != expected) {
    return Refuse(absl::StrCat("rows of sums: expected ", expected, " bytes, got ", result.packed.size()));
  }
  return result;
}

void CopyMatmulValues(const Frame& frame, std::vector<float>& values) { CopyInto(values, frame.payload); }

absl::Status DecodeError(const Frame& frame, absl::Status& said) {
  uint32_t code;
  std::memcpy(&code, frame.payload.data(), 4);
  if (code < 1 || code > 16) return Refuse(absl::StrCat("status code: expected 1 to 16, got ", code));
  const Bytes text = frame.payload.subspan(4);
  // The sentence ends in terminals and logs: a peer's control characters do not.
  std::string sentence(reinterpret_cast<const char*>(text.data()), text.size());
  for (char& c : sentence) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) c = ' ';
  }
  said = absl::Status(static_cast<absl::StatusCode>(code), sentence);
  return absl::OkStatus();
}

absl::Status FrameBuilder::Experts(const FrameKey& key, const RowBlock& block,
                                   std::span<const Route> routes) {
  CHECK(block.rows >= 1 && block.rows <= kBlockRows);
  CHECK(block.hidden >= 1 && block.hidden <= kMaxFrameWidth);
  if (routes.empty() || routes.size() > static_cast<size_t>(kMaxFrameRoutes)) {
    return absl::InvalidArgumentError(
        absl::StrCat("a part of ", routes.size(), " routes; 1 to ", kMaxFrameRoutes, " fit a frame"));
  }
  uint64_t used = 0;
  for (const Route& route : routes) {
    if (route.row < 0 || route.row >= block.rows || route.expert < 0 || route.first_group < 0 ||
        route.first_group > UINT16_MAX || route.groups < 1 || route.groups > UINT16_MAX) {
      return absl::InvalidArgumentError(
          absl::StrCat("route of row ", route.row, " of ", block.rows, " to expert ", route.expert,
                       ", groups ", route.first_group, " + ", route.groups, " fits no frame"));
    }
    used |= uint64_t{1} << route.row;
  }
  indices_.clear();
  for (uint64_t left = used; left != 0; left &= left - 1)
    indices_.push_back(static_cast<uint8_t>(std::countr_zero(left)));
  const size_t rows = indices_.size();

  head_of_payload_.assign(Pad8(rows) + kRouteBytes * routes.size(), std::byte{0});
  std::memcpy(head_of_payload_.data(), indices_.data(), rows);
  std::byte* out = head_of_payload_.data() + Pad8(rows);
  for (const Route& route : routes) {
    const auto expert = static_cast<uint32_t>(route.expert);
    const auto first_group = static_cast<uint16_t>(route.first_group);
    const auto groups = static_cast<uint16_t>(route.groups);
    const auto position = static_cast<uint16_t>(std::popcount(used & ((uint64_t{1} << route.row) - 1)));
    std::memcpy(out, &expert, 4);
    std::memcpy(out + 4, &first_group, 2);
    std::memcpy(out + 6, &groups, 2);
    std::memcpy(out + 8, &route.weight, 4);
    std::memcpy(out + 12, &position, 2);
    out += kRouteBytes;
  }

  parts_.assign(1, Bytes());
  parts_.push_back(head_of_payload_);
  // One part per run of neighbouring rows.
  const auto add_rows = [&](const auto* data, size_t columns) {
    for (size_t i = 0; i < rows;) {
      size_t end = i + 1;
      while (end < rows && indices_[end] == indices_[end - 1] + 1) ++end;
      parts_.push_back(View(data + indices_[i] * columns, (end - i) * columns));
      i = end;
    }
  };
  const auto hidden = static_cast<size_t>(block.hidden);
  if (HasCodes(block.format)) {
    if (block.format == RowFormat::kInt8Group128) {
      narrow_.resize(rows * hidden);
      for (size_t i = 0; i < rows; ++i) {
        const int16_t* row = block.codes + indices_[i] * hidden;
        for (size_t k = 0; k < hidden; ++k) narrow_[i * hidden + k] = static_cast<int8_t>(row[k]);
      }
      parts_.push_back(View(narrow_.data(), narrow_.size()));
    } else {
      add_rows(block.codes, hidden);
    }
    add_rows(block.scales, static_cast<size_t>(ScalesOf(block.hidden)));
  } else {
    add_rows(block.values, hidden);
  }
  Finish({.operation = Operation::kExperts,
          .row_format = static_cast<uint8_t>(block.format),
          .key = key,
          .first_row = indices_[0],
          .rows = static_cast<int32_t>(rows),
          .width = block.hidden,
          .routes = static_cast<int32_t>(routes.size())});
  return absl::OkStatus();
}

void FrameBuilder::ExpertsResult(const FrameKey& key, std::span<const uint8_t> indices, int32_t hidden,
                                 ExpertSums sums) {
  const size_t rows = indices.size();
  const size_t list = Pad8(rows);
  head_of_payload_.assign(3 * list, std::byte{0});
  size_t bytes = 0;
  for (size_t i = 0; i < rows; ++i) {
    const int of_row = SumBytes(sums.sums + i * static_cast<size_t>(hidden), hidden);
    head_of_payload_[i] = std::byte{indices[i]};
    head_of_payload_[list + i] = static_cast<std::byte>(of_row);
    head_of_payload_[2 * list + i] = static_cast<std::byte>(sums.row_errors[i] != 0 ? 1 : 0);
    bytes += static_cast<size_t>(of_row) * static_cast<size_t>(hidden);
  }
  if (packed_.size() < bytes) packed_.resize(bytes);
  std::byte* out = packed_.data();
  for (size_t i = 0; i < rows; ++i) {
    const int of_row = static_cast<int>(head_of_payload_[list + i]);
    PackSums(sums.sums + i * static_cast<size_t>(hidden), hidden, of_row, out);
    out += static_cast<size_t>(of_row) * static_cast<size_t>(hidden);
  }
  parts_.assign(1, Bytes());
  parts_.push_back(head_of_payload_);
  parts_.push_back(Bytes(packed_).first(bytes));
  Finish({.operation = Operation::kExpertsResult,
          .key = key,
          .first_row = indices[0],
          .rows = static_cast<int32_t>(rows),
          .width = hidden});
}

void FrameBuilder::Matmul(Operation operation, const FrameKey& key, int32_t first_row, const float* values,
                          int32_t rows, int32_t width) {
  parts_.assign(1, Bytes());
  parts_.push_back(View(values, static_cast<size_t>(rows) * static_cast<size_t>(width)));
  Finish({.operation = operation,
          .row_format = static_cast<uint8_t>(RowFormat::kFloat32),
          .key = key,
          .first_row = first_row,
          .rows = rows,
          .width = width});
}

void FrameBuilder::Error(const FrameKey& key, const absl::Status& status) {
  const auto code = static_cast<uint32_t>(status.code());
  const absl::string_view text = status.message().substr(0, kMaxErrorText);
  head_of_payload_.resize(4 + text.size());
  std::memcpy(head_of_payload_.data(), &code, 4);
  std::memcpy(head_of_payload_.data() + 4, text.data(), text.size());
  parts_.assign(1, Bytes());
  parts_.push_back(head_of_payload_);
  Finish({.operation = Operation::kError, .key = key});
}

void FrameBuilder::Probe(const FrameKey& key, Bytes payload, int32_t result_bytes) {
  parts_.assign({Bytes(), payload});
  Finish({.operation = Operation::kProbe, .key = key, .width = result_bytes});
}

void FrameBuilder::ProbeResult(const FrameKey& key, Bytes payload) {
  parts_.assign({Bytes(), payload});
  Finish({.operation = Operation::kProbeResult, .key = key, .width = static_cast<int32_t>(payload.size())});
}

}  // namespace paceline
