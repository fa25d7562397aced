// The layouts of matrix.h, written element by element: loading is bound by reading files and copying to the
// device.
#include "kernels/cuda/pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"
#include "base/status.h"

namespace paceline::kernels::cuda {
namespace {

constexpr int64_t kStretchBytes = int64_t{8} << 20;  // of packed tiles on their way to the device

int64_t TileBytes(WeightFormat format, int64_t inputs) {
  if (format == WeightFormat::kInt4) return Parts(inputs, 2 * kChunk) * kWarp * 16;
  if (format == WeightFormat::kInt8) return Parts(inputs, kChunk) * kWarp * 16;
  const int64_t elements = 16 / ElementBytes(format);
  return Parts(inputs, elements) * kTile * 16;
}

// Where element (output of the tile, input) stands: a byte, and for INT4 which half of it.
int64_t OffsetOf(WeightFormat format, int64_t output, int64_t k) {
  const int64_t chunk = k / kChunk, lane = output % 8 * 4 + k % kChunk / 8, i = k % 8;
  if (format == WeightFormat::kInt4)
    return ((chunk / 2 * kWarp + lane) * 4 + chunk % 2 * 2 + i / 4) * 4 + i % 4;
  if (format == WeightFormat::kInt8) return ((chunk * kWarp + lane) * 4 + i / 4 * 2 + output / 8) * 4 + i % 4;
  const int64_t size = ElementBytes(format), elements = 16 / size;
  return (k / elements * kTile + output) * 16 + k % elements * size;
}

void PackTile(const PlainLinear& w, int64_t tile, uint8_t* to) {
  const int64_t size = ElementBytes(w.format), outputs = std::min<int64_t>(kTile, w.outputs - tile * kTile);
  for (int64_t n = 0; n < outputs; ++n) {
    const uint8_t* row = RowOf(w, tile * kTile + n);
    for (int64_t k = 0; k < w.inputs; ++k) {
      uint8_t* at = to + OffsetOf(w.format, n, k);
      if (w.format == WeightFormat::kInt4) {
        *at |= static_cast<uint8_t>(n < 8 ? row[k] : row[k] << 4);
      } else {
        std::memcpy(at, row + k * size, static_cast<size_t>(size));
      }
    }
  }
}

// NUMERICS, Integer linears: the overlaps of weight groups and activation groups, ascending.
std::vector<Term> TermsOf(const PlainLinear& w, std::vector<int32_t>& first_term) {
  std::vector<Term> terms;
  const int64_t first_group = w.first_input / w.group;
  for (int64_t k = 0; k < w.inputs;) {
    const int64_t group = (w.first_input + k) / w.group, activation_group = k / kActivationGroup;
    if (static_cast<int64_t>(first_term.size()) == activation_group)
      first_term.push_back(static_cast<int32_t>(terms.size()));
    const int64_t end = std::min(
        {w.inputs, (group + 1) * w.group - w.first_input, (activation_group + 1) * kActivationGroup});
    terms.push_back({static_cast<int32_t>(k), static_cast<int32_t>(end - k),
                     static_cast<int32_t>(group - first_group), static_cast<int32_t>(activation_group)});
    k = end;
  }
  first_term.push_back(static_cast<int32_t>(terms.size()));
  return terms;
}

// fp32 to fp16 where that is exact.
bool ToF16Exactly(float x, uint16_t* half) {
  // Every fp16 is a multiple of 2^-24 below 65536 with 11 bits; a table of 2^16 would say the same.
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const int32_t exponent = static_cast<int32_t>(bits >> 23 & 255) - 127;
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (x == 0) {
    *half = sign;
  } else if (exponent >= -14 && exponent <= 15) {
    *half = static_cast<uint16_t>(sign | (exponent + 15) << 10 | (bits >> 13 & 0x3FF));
  } else if (exponent >= -24 && exponent < -14) {
    *half = static_cast<uint16_t>(sign | ((bits & 0x7FFFFF) | 0x800000) >> (-1 - exponent));
  } else {
    return false;
  }
  return std::bit_cast<uint32_t>(FromF16(*half)) == bits;
}

template <class T>
DeviceMemory Upload(Machine& machine, const std::vector<T>& from) {
  DeviceMemory to(machine, static_cast<int64_t>(from.size() * sizeof(T)));
  CHECK(to.as<T>() != nullptr);  // a few bytes beside elements that had room
  machine.CopyIn(to.as<T>(), from.data(), to.bytes());
  return to;
}

// [N, groups] to [tiles][groups][16].
template <class T>
std::vector<T> ByTile(const std::vector<T>& from, int64_t outputs, int64_t groups) {
  std::vector<T> to(static_cast<size_t>(Parts(outputs, kTile) * groups * kTile));
  for (int64_t n = 0; n < outputs; ++n) {
    for (int64_t g = 0; g < groups; ++g)
      to[static_cast<size_t>((n / kTile * groups + g) * kTile + n % kTile)] =
          from[static_cast<size_t>(n * groups + g)];
  }
  return to;
}

void PackScales(Machine& machine, const std::vector<float>& scales, DeviceMatrix& m) {
  std::vector<uint16_t> f16(scales.size()), bf16(scales.size());
  bool fits_f16 = true, fits_bf16 = true;
  for (size_t i = 0; i < scales.size(); ++i) {
    fits_f16 = fits_f16 && ToF16Exactly(scales[i], &f16[i]);
    bf16[i] = ToBf16(scales[i]);
    fits_bf16 = fits_bf16 && FromBf16(bf16[i]) == scales[i];
  }
  m.view.scale_format = fits_f16 ? ScaleFormat::kF16 : fits_bf16 ? ScaleFormat::kBF16 : ScaleFormat::kF32;
  m.scales = m.view.scale_format == ScaleFormat::kF32
                 ? Upload(machine, scales)
                 : Upload(machine, m.view.scale_format == ScaleFormat::kF16 ? f16 : bf16);
  m.view.scales = m.scales.as<void>();
}

}  // namespace

DeviceLinear::~DeviceLinear() = default;
DeviceExpert::~DeviceExpert() = default;

namespace {

int64_t DataBytes(const PlainLinear& form) {
  return Parts(form.outputs, kTile) * TileBytes(form.format, form.inputs);
}

absl::Status NoRoom(int64_t bytes) {
  return Error(errors::kOutOfMemory,
               absl::StrCat("the GPU has no room for ", bytes,
                            " more bytes of weights; place experts on other nodes, or use --backend cpu"));
}

// `data`: where the elements go, DataBytes of it.
DeviceMatrix Fill(Machine& machine, const PlainLinear& plain, DeviceMemory data) {
  DeviceMatrix m;
  m.view.format = plain.format;
  m.view.outputs = plain.outputs;
  m.view.inputs = plain.inputs;
  m.view.tile_bytes = TileBytes(plain.format, plain.inputs);
  const int64_t tiles = m.view.tiles();
  m.data = std::move(data);
  m.view.data = m.data.as<uint8_t>();
  const int64_t stretch = std::max<int64_t>(1, kStretchBytes / m.view.tile_bytes);
  for (int64_t first = 0; first < tiles; first += stretch) {
    const int64_t count = std::min(stretch, tiles - first);
    std::vector<uint8_t> packed(static_cast<size_t>(count * m.view.tile_bytes));
    for (int64_t i = 0; i < count; ++i) PackTile(plain, first + i, packed.data() + i * m.view.tile_bytes);
    machine.CopyIn(m.data.as<uint8_t>() + first * m.view.tile_bytes, packed.data(),
                   static_cast<int64_t>(packed.size()));
  }
  if (plain.format == WeightFormat::kFp8Block128) {
    m.block_scales = Upload(machine, plain.scales);
    m.view.block_scales = m.block_scales.as<float>();
    m.view.column_blocks = plain.column_blocks();
  } else if (IsInteger(plain.format)) {
    std::vector<int32_t> first_term;
    const std::vector<Term> terms = TermsOf(plain, first_term);
    m.view.terms = static_cast<int32_t>(terms.size());
    m.view.groups = static_cast<int32_t>(plain.groups());
    m.view.zero = plain.format == WeightFormat::kInt4 ? 8 : 0;
    m.view.even = m.view.regular = true;
    for (int32_t t = 0; t < m.view.terms; ++t) {
      const Term& term = terms[static_cast<size_t>(t)];
      const bool ends = term.first + term.count == plain.inputs;
      m.view.even = m.view.even && term.first % kChunk == 0 && (term.count % kChunk == 0 || ends);
      m.view.regular = m.view.regular && term.first == t * kActivationGroup && term.group == t;
    }
    m.terms = Upload(machine, terms);
    m.first_term = Upload(machine, first_term);
    m.view.term = m.terms.as<Term>();
    m.view.first_term = m.first_term.as<int32_t>();
    PackScales(machine, ByTile(plain.scales, plain.outputs, plain.groups()), m);
    if (!plain.zeros.empty()) {
      m.zeros = Upload(machine, ByTile(plain.zeros, plain.outputs, plain.groups()));
      m.view.zeros = m.zeros.as<uint8_t>();
    }
  }
  m.bytes = m.data.bytes() + m.scales.bytes() + m.zeros.bytes() + m.block_scales.bytes();
  return m;
}

std::unique_ptr<Linear> FillLinear(Machine& machine, const PlainLinear& plain, DeviceMemory data) {
  auto linear = std::make_unique<DeviceLinear>();
  linear->outputs = plain.outputs;
  linear->inputs = plain.inputs;
  linear->format = plain.format;
  linear->matrix = Fill(machine, plain, std::move(data));
  linear->bytes = linear->matrix.bytes;
  return linear;
}

}  // namespace

absl::StatusOr<DeviceMatrix> PackMatrix(Machine& machine, PlainLinear plain) {
  OwnElements(plain);
  DeviceMemory data(machine, DataBytes(plain));
  if (data.as<void>() == nullptr) return NoRoom(data.bytes());
  return Fill(machine, plain, std::move(data));
}

absl::StatusOr<std::unique_ptr<Linear>> PackLinear(Machine& machine, PlainLinear plain) {
  OwnElements(plain);
  DeviceMemory data(machine, DataBytes(plain));
  if (data.as<void>() == nullptr) return NoRoom(data.bytes());
  return FillLinear(machine, plain, std::move(data));
}

absl::StatusOr<std::unique_ptr<Expert>> PackExpert(Machine& machine, PlainExpert plain) {
  auto expert = std::make_unique<DeviceExpert>();
  expert->Describe(plain);
  ASSIGN_OR_RETURN(expert->gate, PackMatrix(machine, std::move(plain.gate)));
  ASSIGN_OR_RETURN(expert->up, PackMatrix(machine, std::move(plain.up)));
  ASSIGN_OR_RETURN(expert->down, PackMatrix(machine, std::move(plain.down)));
  expert->bytes = expert->gate.bytes + expert->up.bytes + expert->down.bytes;
  expert->matrices =
      Upload(machine, std::vector<ExpertMatrices>{{expert->gate.view, expert->up.view, expert->down.view}});
  return expert;
}

namespace {

// Parts gather in the plain form: the device has memory of its own, so the matrix still is in host memory
// once.
class HostPacker final : public LinearPacker {
 public:
  HostPacker(Machine& machine, const PlainLinear& form, DeviceMemory data)
      : machine_(machine), plain_(form), data_(std::move(data)) {
    plain_.data.resize(static_cast<size_t>(form.outputs * form.inputs * ElementBytes(form.format)));
  }
  void Add(const PlainLinear& part) override {
    PlainLinear own;
    const PlainLinear* from = &part;
    if (part.borrowed != nullptr && part.format == WeightFormat::kInt4) {
      own = part;
      OwnElements(own);
      from = &own;
    }
    const int64_t size = ElementBytes(plain_.format);
    const int64_t n0 = part.first_output - plain_.first_output, k0 = part.first_input - plain_.first_input;
    CHECK(part.format == plain_.format);
    CHECK(n0 >= 0 && n0 + part.outputs <= plain_.outputs && k0 >= 0 && k0 + part.inputs <= plain_.inputs);
    for (int64_t n = 0; n < part.outputs; ++n)
      std::memcpy(plain_.data.data() + ((n0 + n) * plain_.inputs + k0) * size, RowOf(*from, n),
                  static_cast<size_t>(part.inputs * size));
  }
  std::unique_ptr<Linear> Finish(std::vector<float> scales, std::vector<uint8_t> zeros) override {
    plain_.scales = std::move(scales);
    plain_.zeros = std::move(zeros);
    return FillLinear(machine_, plain_, std::move(data_));
  }

 private:
  Machine& machine_;
  PlainLinear plain_;
  DeviceMemory data_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LinearPacker>> StartLinear(Machine& machine, const PlainLinear& form) {
  DeviceMemory data(machine, DataBytes(form));
  if (data.as<void>() == nullptr) return NoRoom(data.bytes());
  return std::make_unique<HostPacker>(machine, form, std::move(data));
}

Kind KindOf(const Matrix& m) {
  if (!m.integer() || !m.even) return Kind::kAny;
  return m.format == WeightFormat::kInt4 ? Kind::kInt4 : Kind::kInt8;
}

}  // namespace paceline::kernels::cuda
