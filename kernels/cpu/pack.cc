// Packing of weights, and the memory helpers of the cpu backend.
#include <immintrin.h>
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
  *out = static_cast<uint16_t>(_mm_cvtsi128_si32(_mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT)));
  return std::fabs(x) <= 65504.0f && std::bit_cast<uint32_t>(_cvtsh_ss(*out)) == std::bit_cast<uint32_t>(x);
}

void PackScales(const PlainLinear& w, PackedMatrix& to) {
  Matrix& m = to.view;
  const int64_t count = m.panels() * m.groups * kLanes;
  bool f16 = true, bf16 = true;
  float largest = 0;
  for (float s : w.scales) {
    uint16_t half;
    largest = std::fabs(s) <= largest ? largest : std::fabs(s);  // NaN is the largest
    f16 = f16 && ToF16Exactly(s, &half);
    bf16 = bf16 && (std::bit_cast<uint32_t>(s) & 0xFFFF) == 0;
  }
  const float deviation = w.format == WeightFormat::kInt4 ? 15.0f : 255.0f;
  m.reach =
      largest * (deviation * static_cast<float>(kActivationGroup) * TopCode(ActivationContract::kInt16));
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

// What is known of a matrix before its elements.
absl::Status Prepare(const PlainLinear& form, PackedMatrix& to) {
  CHECK_EQ(form.first_input % kActivationGroup, 0);
  CHECK_EQ(form.first_output % 128, 0);
  if (IsInteger(form.format) && form.group % kOctet != 0 && form.groups() != 1) {
    return Error(
        errors::kModelUnsupported,
        absl::StrCat("the cpu backend reads integer weights in groups of a multiple of 8 inputs, not ",
                     form.group, "; use --backend reference"));
  }
  Matrix& m = to.view;
  m.format = form.format;
  m.outputs = form.outputs;
  m.inputs = form.inputs;
  if (IsInteger(form.format)) {
    m.groups = form.groups();
    m.zero = form.format == WeightFormat::kInt4 ? 8 : 128;
    m.panel_bytes = m.octets() * (form.format == WeightFormat::kInt4 ? 64 : 128);
  } else {
    m.panel_bytes = m.inputs * kFloatPanel * ElementBytes(form.format);
  }
  to.elements = to.data.Allocate(m.panels() * m.panel_bytes);
  to.bytes += m.panels() * m.panel_bytes;
  m.data = to.elements;
  return absl::OkStatus();
}

// Everything behind the elements; `w` has scales and zeros.
void Complete(const PlainLinear& w, PackedMatrix& to) {
  if (IsInteger(w.format)) {
    PackScales(w, to);
    PackTerms(w, to);
    return;
  }
  if (w.format != WeightFormat::kFp8Block128) return;
  Matrix& m = to.view;
  m.column_blocks = w.column_blocks();
  const int64_t count = static_cast<int64_t>(w.scales.size());
  CHECK_EQ(count, w.row_blocks() * w.column_blocks());
  float* scales = Items<float>(to.block_scales, count);
  std::copy(w.scales.begin(), w.scales.end(), scales);
  m.block_scales = scales;
  to.bytes += 4 * count;
}

absl::Status Pack(const PlainLinear& w, PackedMatrix& to) {
  if (absl::Status status = Prepare(w, to); !status.ok()) return status;
  PackElements(w, 0, 0, to.view, to.elements);
  Complete(w, to);
  return absl::OkStatus();
}

void Describe(const PlainLinear& form, PackedLinear& linear) {
  linear.outputs = form.outputs;
  linear.inputs = form.inputs;
  linear.format = form.format;
}

class PartPacker final : public LinearPacker {
 public:
  explicit PartPacker(const PlainLinear& form) : form_(form), linear_(std::make_unique<PackedLinear>()) {}

  absl::Status Start() { return Prepare(form_, linear_->matrix); }
  void Add(const PlainLinear& part) override {
    PackedMatrix& to = linear_->matrix;
    PackElements(part, part.first_output - form_.first_output, part.first_input - form_.first_input, to.view,
                 to.elements);
  }
  std::unique_ptr<Linear> Finish(std::vector<float> scales, std::vector<uint8_t> zeros) override {
    form_.scales = std::move(scales);
    form_.zeros = std::move(zeros);
    Complete(form_, linear_->matrix);
    Describe(form_, *linear_);
    linear_->bytes = linear_->matrix.bytes;
    return std::move(linear_);
  }

 private:
  PlainLinear form_;
  std::unique_ptr<PackedLinear> linear_;
};

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
  Describe(plain, *linear);
  if (absl::Status status = Pack(plain, linear->matrix); !status.ok()) return status;
  linear->bytes = linear->matrix.bytes;
  return linear;
}

absl::StatusOr<std::unique_ptr<LinearPacker>> StartLinear(const PlainLinear& form) {
  auto packer = std::make_unique<PartPacker>(form);
  if (absl::Status status = packer->Start(); !status.ok()) return status;
  return packer;
}

absl::StatusOr<std::unique_ptr<Expert>> PackExpert(PlainExpert plain) {
  auto expert = std::make_unique<PackedExpert>();
  expert->Describe(plain);
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
