// Packing of weights, and the memory helpers of the cpu backend.
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "base/status.h"
#include "kernels/cpu/packed.h"
#include "kernels/plain_decode.h"

namespace paceline::kernels::cpu {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kChunk = int64_t{64} << 20;  // bytes mapped at once for small matrices
constexpr int64_t kLine = 64;

template <class T>
T* Items(Storage& storage, int64_t count) {
  return reinterpret_cast<T*>(storage.Allocate(count * static_cast<int64_t>(sizeof(T))));
}

// fp32 to F16 where that loses nothing.
bool ToF16Exactly(float x, uint16_t* out) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const float magnitude = std::fabs(x);
  if (!(magnitude <= 65504.0f)) return false;
  if (magnitude < 0x1p-14f) {
    *out = static_cast<uint16_t>(sign | static_cast<uint16_t>(magnitude * 0x1p24f));
  } else {
    *out = static_cast<uint16_t>(sign | ((bits & 0x7FFFFFFF) - (uint32_t{112} << 23)) >> 13);
  }
  return std::bit_cast<uint32_t>(FromF16(*out)) == bits;
}

void PackScales(const PlainLinear& w, PackedMatrix& to) {
  Matrix& m = to.view;
  const int64_t count = m.panels() * m.groups * kLanes;
  bool f16 = true, bf16 = true;
  for (float s : w.scales) {
    uint16_t half;
    f16 = f16 && ToF16Exactly(s, &half);
    bf16 = bf16 && (std::bit_cast<uint32_t>(s) & 0xFFFF) == 0;
  }
  m.scale_format = f16 ? ScaleFormat::kF16 : bf16 ? ScaleFormat::kBF16 : ScaleFormat::kF32;
  const bool wide = m.scale_format == ScaleFormat::kF32;
  uint8_t* memory = to.scales.Allocate(count * (wide ? 4 : 2));
  to.bytes += count * (wide ? 4 : 2);
  for (int64_t n = 0; n < m.outputs; ++n) {
    for (int64_t g = 0; g < m.groups; ++g) {
      const int64_t at = ((n / kLanes) * m.groups + g) * kLanes + n % kLanes;
      const float scale = w.scales[n * m.groups + g];
      uint16_t half = static_cast<uint16_t>(std::bit_cast<uint32_t>(scale) >> 16);
      if (f16) CHECK(ToF16Exactly(scale, &half));
      if (wide) {
        std::memcpy(memory + 4 * at, &scale, 4);
      } else {
        std::memcpy(memory + 2 * at, &half, 2);
      }
    }
  }
  m.scales = memory;
  if (w.zeros.empty() || w.format == WeightFormat::kInt8) return;
  uint8_t* zeros = to.zeros.Allocate(count);
  to.bytes += count;
  for (int64_t n = 0; n < m.outputs; ++n) {
    for (int64_t g = 0; g < m.groups; ++g)
      zeros[((n / kLanes) * m.groups + g) * kLanes + n % kLanes] = w.zeros[n * m.groups + g];
  }
  m.zeros = zeros;
}

void PackTerms(const PlainLinear& w, PackedMatrix& to) {
  std::vector<Term> terms;
  std::vector<int32_t> first_term;
  for (int64_t k = 0; k < w.inputs;) {
    const int64_t group = WeightGroup(w, k);
    const int64_t group_end = (w.first_input / w.group + group + 1) * w.group - w.first_input;
    const int64_t activation_group = k / kActivationGroup;
    const int64_t stop = std::min({w.inputs, group_end, (activation_group + 1) * kActivationGroup});
    if (k == activation_group * kActivationGroup) first_term.push_back(static_cast<int32_t>(terms.size()));
    terms.push_back({static_cast<int32_t>(k / kOctet), static_cast<int32_t>((stop - k + kOctet - 1) / kOctet),
                     static_cast<int32_t>(group), static_cast<int32_t>(activation_group)});
    k = stop;
  }
  first_term.push_back(static_cast<int32_t>(terms.size()));
  Term* t = Items<Term>(to.terms, static_cast<int64_t>(terms.size()));
  std::copy(terms.begin(), terms.end(), t);
  int32_t* f = Items<int32_t>(to.first_term, static_cast<int64_t>(first_term.size()));
  std::copy(first_term.begin(), first_term.end(), f);
  to.view.terms = t;
  to.view.first_term = f;
}

void PackInteger(const PlainLinear& w, PackedMatrix& to) {
  Matrix& m = to.view;
  const bool int4 = w.format == WeightFormat::kInt4;
  m.groups = w.groups();
  m.zero = int4 ? 8 : 128;
  m.panel_bytes = m.octets() * (int4 ? 64 : 128);
  uint8_t* memory = to.data.Allocate(m.panels() * m.panel_bytes);
  to.bytes += m.panels() * m.panel_bytes;
  for (int64_t n = 0; n < m.outputs; ++n) {
    uint8_t* panel = memory + n / kLanes * m.panel_bytes + n % kLanes * 4;
    const uint8_t* row = w.data.data() + n * w.inputs;
    for (int64_t k = 0; k < w.inputs; ++k) {
      const int64_t octet = k / kOctet, in_half = k % 4, half = k / 4 % 2;
      if (int4) {
        panel[octet * 64 + in_half] |= static_cast<uint8_t>(row[k] << (4 * half));
      } else {
        panel[octet * 128 + half * 64 + in_half] = static_cast<uint8_t>(row[k] + 128);
      }
    }
  }
  m.data = memory;
  PackScales(w, to);
  PackTerms(w, to);
}

void PackFloat(const PlainLinear& w, PackedMatrix& to) {
  Matrix& m = to.view;
  const int64_t size = w.format == WeightFormat::kF32 ? 4 : w.format == WeightFormat::kFp8Block128 ? 1 : 2;
  m.panel_bytes = m.inputs * kFloatPanel * size;
  uint8_t* memory = to.data.Allocate(m.panels() * m.panel_bytes);
  to.bytes += m.panels() * m.panel_bytes;
  for (int64_t n = 0; n < m.outputs; ++n) {
    uint8_t* panel = memory + n / kFloatPanel * m.panel_bytes + n % kFloatPanel * size;
    const uint8_t* row = w.data.data() + n * w.inputs * size;
    for (int64_t k = 0; k < w.inputs; ++k) std::memcpy(panel + k * kFloatPanel * size, row + k * size, size);
  }
  m.data = memory;
  if (w.format != WeightFormat::kFp8Block128) return;
  m.column_blocks = w.column_blocks();
  // A checkpoint with such a code is refused when it is read (LOAD-005); the kernels convert numbers only.
  CHECK(std::none_of(w.data.begin(), w.data.end(), [](uint8_t code) { return (code & 0x7F) == 0x7F; }));
  const int64_t count = static_cast<int64_t>(w.scales.size());
  CHECK_EQ(count, w.row_blocks() * w.column_blocks());
  float* scales = Items<float>(to.block_scales, count);
  std::copy(w.scales.begin(), w.scales.end(), scales);
  m.block_scales = scales;
  to.bytes += 4 * count;
}

absl::Status Pack(const PlainLinear& w, PackedMatrix& to) {
  CHECK_EQ(w.first_input % kActivationGroup, 0);
  CHECK_EQ(w.first_output % 128, 0);
  if (IsInteger(w.format) && w.group % kOctet != 0 && w.groups() != 1) {
    return Error(
        errors::kModelUnsupported,
        absl::StrCat("the cpu backend reads integer weights in groups of a multiple of 8 inputs, not ",
                     w.group, "; use --backend reference"));
  }
  to.view.format = w.format;
  to.view.outputs = w.outputs;
  to.view.inputs = w.inputs;
  if (IsInteger(w.format)) {
    PackInteger(w, to);
  } else {
    PackFloat(w, to);
  }
  return absl::OkStatus();
}

}  // namespace

Storage::Chunk::Chunk(int64_t bytes) : bytes_(bytes) {
  // Twice aligned by hand: a chunk that starts inside a huge page would get small ones at both ends.
  mapped_bytes_ = bytes + kHugePage;
  mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mapped_ != MAP_FAILED);
  const uintptr_t start = reinterpret_cast<uintptr_t>(mapped_);
  memory_ = static_cast<uint8_t*>(mapped_) + (kHugePage - start % kHugePage) % kHugePage;
  madvise(memory_, bytes_, MADV_HUGEPAGE);
}

Storage::Chunk::~Chunk() { munmap(mapped_, mapped_bytes_); }

uint8_t* Storage::Chunk::Take(int64_t bytes) {
  const int64_t rounded = (bytes + kLine - 1) / kLine * kLine;
  if (used_ + rounded > bytes_) return nullptr;
  used_ += rounded;
  return memory_ + used_ - rounded;
}

uint8_t* Storage::Allocate(int64_t bytes) {
  CHECK(chunk_ == nullptr);
  const int64_t pages = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  if (bytes >= kChunk / 4) {
    chunk_ = std::make_shared<Chunk>(pages);
    return chunk_->Take(bytes);
  }
  static std::mutex mutex;
  static std::weak_ptr<Chunk> open;  // the one being filled, while a matrix lives in it
  const std::lock_guard<std::mutex> lock(mutex);
  chunk_ = open.lock();
  uint8_t* memory = chunk_ == nullptr ? nullptr : chunk_->Take(bytes);
  if (memory != nullptr) return memory;
  chunk_ = std::make_shared<Chunk>(kChunk);
  open = chunk_;
  return chunk_->Take(bytes);
}

PackedLinear::~PackedLinear() = default;
PackedExpert::~PackedExpert() = default;

absl::StatusOr<std::unique_ptr<Linear>> PackLinear(PlainLinear plain) {
  auto linear = std::make_unique<PackedLinear>();
  linear->outputs = plain.outputs;
  linear->inputs = plain.inputs;
  linear->format = plain.format;
  if (absl::Status status = Pack(plain, linear->matrix); !status.ok()) return status;
  linear->bytes = linear->matrix.bytes;
  return linear;
}

absl::StatusOr<std::unique_ptr<Expert>> PackExpert(PlainExpert plain) {
  CHECK_EQ(plain.gate.outputs, plain.down.inputs);
  CHECK_EQ(plain.up.outputs, plain.down.inputs);
  auto expert = std::make_unique<PackedExpert>();
  expert->hidden = plain.gate.inputs;
  expert->columns = plain.down.inputs;
  expert->first_group = static_cast<int32_t>(plain.down.first_input / kActivationGroup);
  expert->groups = static_cast<int32_t>(ActivationGroups(plain.down.inputs));
  expert->gate_format = plain.gate.format;
  expert->up_format = plain.up.format;
  expert->down_format = plain.down.format;
  const std::pair<const PlainLinear*, PackedMatrix*> parts[] = {
      {&plain.gate, &expert->gate}, {&plain.up, &expert->up}, {&plain.down, &expert->down}};
  for (const auto& [from, to] : parts) {
    if (absl::Status status = Pack(*from, *to); !status.ok()) return status;
    expert->bytes += to->bytes;
  }
  return expert;
}

void* Scratch(int64_t bytes) {
  thread_local Workspace workspace;
  workspace.Reset();
  return workspace.Take<uint8_t>(bytes);
}

void Broken(const char* what) {
  std::fprintf(stderr, "cpu kernels: %s\n", what);
  std::abort();
}

}  // namespace paceline::kernels::cpu
