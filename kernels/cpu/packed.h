// How the cpu backend keeps weights: one layout for every instruction set, written once at load. Views are
// plain data, so that the files of one instruction set instantiate nothing that the linker could share.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/cpu/cpu.h"
#include "kernels/kernels.h"

namespace paceline::kernels::cpu {

inline constexpr int64_t kOctet = 8;        // inputs per step of an integer panel
inline constexpr int64_t kLanes = 16;       // outputs of an integer panel
inline constexpr int64_t kFloatPanel = 64;  // outputs of a float panel

enum class ScaleFormat : uint8_t { kF32, kF16, kBF16 };  // the narrowest that holds every scale exactly

// The overlap of a weight group and an activation group. Starts at a multiple of 8 inputs.
struct Term {
  int32_t first_octet;
  int32_t octets;
  int32_t group;             // of the weights, relative to the slice
  int32_t activation_group;  // relative to the slice
};

struct Matrix {
  WeightFormat format = WeightFormat::kF32;
  int64_t outputs = 0;
  int64_t inputs = 0;
  // INT4: [panels of 16][octets][16 outputs][4 bytes]; byte j holds input j in the low nibble, 4 + j in the
  // high one. INT8: [panels of 16][octets][2][16 outputs][4 bytes], code + 128. Float: [panels of
  // 64][inputs][64] elements. The last panel and octet are filled up with zero bytes.
  const uint8_t* data = nullptr;
  int64_t panel_bytes = 0;
  const void* scales = nullptr;    // integer: [panels][groups][16] of scale_format
  const uint8_t* zeros = nullptr;  // INT4 with zeros: [panels][groups][16]; else null
  int32_t zero = 0;                // of every code when zeros is null: 8 or 128
  ScaleFormat scale_format = ScaleFormat::kF32;
  float reach =
      0;  // integer: no sum over kActivationGroup inputs with codes of scale 1 is larger; may be inf, NaN
  int64_t groups = 0;
  const Term* terms = nullptr;          // ascending
  const int32_t* first_term = nullptr;  // [activation groups + 1]
  const float* block_scales = nullptr;  // FP8: [row blocks of 128][column blocks]
  int64_t column_blocks = 0;
  bool native = false;  // BF16, FP8: products of bf16 tiles instead of fp32 lanes

  bool integer() const { return format == WeightFormat::kInt4 || format == WeightFormat::kInt8; }
  int64_t panel_width() const { return integer() ? kLanes : kFloatPanel; }
  int64_t panels() const { return (outputs + panel_width() - 1) / panel_width(); }
  int64_t octets() const { return (inputs + kOctet - 1) / kOctet; }
};

// Memory of one part of a packed matrix: zeros, 64-byte aligned, on huge pages where the system gives them.
// Small parts share chunks, in the order of allocation, so that an expert's matrices lie together on huge
// pages although each is smaller than one. A chunk goes back to the system with the last part in it.
class Storage {
 public:
  Storage() = default;
  Storage(const Storage&) = delete;
  Storage& operator=(const Storage&) = delete;
  // Thread-safe.
  uint8_t* Allocate(int64_t bytes);

 private:
  class Chunk {
   public:
    explicit Chunk(int64_t bytes);
    ~Chunk();
    Chunk(const Chunk&) = delete;
    Chunk& operator=(const Chunk&) = delete;
    uint8_t* Take(int64_t bytes);  // null when it is full

   private:
    void* mapped_ = nullptr;
    uint8_t* memory_ = nullptr;  // the first huge page of mapped_
    int64_t mapped_bytes_ = 0, bytes_ = 0, used_ = 0;
  };
  std::shared_ptr<Chunk> chunk_;
};

struct PackedMatrix {
  Matrix view;
  Storage data, scales, zeros, terms, first_term, block_scales;
  uint8_t* elements = nullptr;  // view.data, while it is filled
  int64_t bytes = 0;
};

struct PackedLinear final : Linear {
  ~PackedLinear() override;
  PackedMatrix matrix;
};

struct PackedExpert final : Expert {
  ~PackedExpert() override;
  PackedMatrix gate, up, down;
};

// Unimplemented: an integer format whose groups do not start at multiples of 8 inputs.
absl::StatusOr<std::unique_ptr<Linear>> PackLinear(PlainLinear plain);
absl::StatusOr<std::unique_ptr<Expert>> PackExpert(PlainExpert plain);
absl::StatusOr<std::unique_ptr<LinearPacker>> StartLinear(const PlainLinear& form);

// Puts the elements of `part` where `m` has them: output 0 and input 0 of the part are (n0, k0) of the
// matrix. `memory` is m.data, zeroed before the first part. k0 is a multiple of 8, and so is the part's width
// where it does not reach the last input.
void PackElements(const PlainLinear& part, int64_t n0, int64_t k0, const Matrix& m, uint8_t* memory);

// The same for native float math; only instruction sets with tiles read what these pack.
absl::StatusOr<std::unique_ptr<Linear>> PackNativeLinear(PlainLinear plain);
absl::StatusOr<std::unique_ptr<Expert>> PackNativeExpert(PlainExpert plain);
absl::StatusOr<std::unique_ptr<LinearPacker>> StartNativeLinear(const PlainLinear& form);

// Scratch of the calling thread for ops without a workspace: valid until its next call, grows only.
void* Scratch(int64_t bytes);
// Aborts with `what`: CHECK without templates that two instruction sets would share.
[[noreturn]] void Broken(const char* what);

// What the file of an instruction set makes. Everything it hands out is one of these.
struct IsaTable : KernelTable {
  ExpertsWithoutContractFunction experts_without_contract;
};

const KernelTable& Avx2Kernels();
const KernelTable& Avx512Kernels();
const KernelTable& VnniKernels();
const KernelTable& AmxKernels();
const KernelTable& AmxEmulatedKernels();

}  // namespace paceline::kernels::cpu
