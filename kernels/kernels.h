// The contract of every kernel. A backend is one filled KernelTable: `reference` (plain loops, the judge),
// `cpu` (vector code, chosen by CPUID) and `cuda`. The bits are fixed by docs/NUMERICS.md: every
// backend that claims a contract returns the same ones, for any number of rows, any neighbours and any number
// of threads. Arguments are checked with CHECK by the callee; memory is the caller's. Rows are independent
// everywhere.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/thread_pool.h"
#include "kernels/constants.h"
#include "kernels/weights.h"

namespace paceline::kernels {

// Codes of activations in front of integer weights.
enum class ActivationContract : uint8_t {
  kInt16,  // a / 32639: two signed 8-bit planes, the default
  kInt8,   // a / 127: one plane, half the products
};
constexpr float TopCode(ActivationContract contract) {
  return contract == ActivationContract::kInt16 ? 32639.0f : 127.0f;
}

// Scratch that only ever grows, so that a warm step allocates nothing. Use one per step thread.
class Workspace {
 public:
  // Uninitialised memory for `count` items, 64-byte aligned, valid until Reset().
  template <class T>
  T* Take(int64_t count) {
    return static_cast<T*>(TakeBytes(count * static_cast<int64_t>(sizeof(T))));
  }
  void Reset();

  // Gives back, at its end, everything taken since its start.
  class Scope {
   public:
    explicit Scope(Workspace& workspace)
        : workspace_(workspace), chunk_(workspace.chunk_), used_(workspace.used_) {}
    ~Scope() {
      workspace_.chunk_ = chunk_;
      workspace_.used_ = used_;
    }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Workspace& workspace_;
    size_t chunk_;
    int64_t used_;
  };

 private:
  void* TakeBytes(int64_t bytes);
  struct Free {
    void operator()(std::byte* p) const;
  };
  struct Chunk {
    std::unique_ptr<std::byte, Free> memory;
    int64_t bytes = 0;
  };
  std::vector<Chunk> chunks_;
  size_t chunk_ = 0;  // the one being filled
  int64_t used_ = 0;  // bytes of it
};

// Rows in front of linears.
struct Activations {
  int32_t rows = 0;
  int64_t width = 0;
  const float* values = nullptr;   // [rows, width]; may be null when every consumer is integer
  const int16_t* codes = nullptr;  // [rows, width]; null when no consumer is integer
  const float* scales = nullptr;   // [rows, ActivationGroups(width)]
  ActivationContract contract = ActivationContract::kInt16;  // of the codes
};

// A linear layer as its backend keeps it. Immutable after packing; thread-safe to read.
class Linear {
 public:
  virtual ~Linear() = default;
  int64_t outputs = 0;
  int64_t inputs = 0;
  WeightFormat format = WeightFormat::kF32;
  int64_t bytes = 0;  // read per pass over the weights, scales and zeros included
};

// Gate, up and down of one expert, or of a run of its groups.
class Expert {
 public:
  virtual ~Expert() = default;
  int64_t hidden = 0;
  int64_t columns = 0;      // of this slice
  int32_t first_group = 0;  // absolute
  int32_t groups = 0;
  WeightFormat gate_format = WeightFormat::kF32, up_format = WeightFormat::kF32,
               down_format = WeightFormat::kF32;
  int64_t bytes = 0;

  // Everything but bytes, for the backend that packs `plain`, whose three matrices have to fit together.
  void Describe(const PlainExpert& plain);
};

// A linear layer whose elements come in parts: a matrix that is too large to stand in memory in two forms.
class LinearPacker {
 public:
  virtual ~LinearPacker() = default;
  // Elements of outputs [first_output, ..) and inputs [first_input, ..), absolute as in the whole; scales and
  // zeros of a part are not looked at. From any thread; two parts at a time must not share a block of 128
  // inputs by 128 outputs. Parts begin at multiples of 128 of either, or take all of it.
  virtual void Add(const PlainLinear& part) = 0;
  // Once, behind the last part: scales and zeros of the whole, as PlainLinear has them.
  virtual std::unique_ptr<Linear> Finish(std::vector<float> scales, std::vector<uint8_t> zeros) = 0;
};

// One expert's rows in a block: leaves of groups [first_group, first_group + groups), absolute, all inside
// `expert`.
struct ExpertTask {
  const Expert* expert = nullptr;
  int32_t first_group = 0;
  int32_t groups = 0;
  std::span<const int32_t> rows;   // indices into the activations, and into the sums
  std::span<const float> weights;  // router weight of each of `rows`
};

struct AttentionShape {
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
};

enum class KvDtype : uint8_t {
  kBF16,
  kF32,
  kInt8,  // codes and a scale for every vector: kernels/kv_codes.h
  kInt4,  // rotated first
};
// Of an element of the float dtypes.
constexpr int64_t KvDtypeBytes(KvDtype dtype) { return dtype == KvDtype::kBF16 ? 2 : 4; }
// Of the key, or the value, of one position and head, its scale included.
constexpr int64_t KvVectorBytes(KvDtype dtype, int64_t head_dim) {
  switch (dtype) {
    case KvDtype::kInt8:
      return head_dim + 4;
    case KvDtype::kInt4:
      return head_dim / 2 + 4;
    default:
      return head_dim * KvDtypeBytes(dtype);
  }
}

// The KV pages of one layer: k and v are [pages, kv_heads, kAttentionBlock, head_dim] of `dtype`; of codes
// each [page, head] is laid out as kernels/kv_codes.h draws it.
struct KvPages {
  KvDtype dtype = KvDtype::kBF16;
  void* k = nullptr;
  void* v = nullptr;
  float* k_scales = nullptr;  // [pages, kv_heads, kAttentionBlock]; null but for codes
  float* v_scales = nullptr;  // the same
};

// Consecutive rows of one sequence inside a step.
struct RowRun {
  int32_t first_row = 0;
  int32_t rows = 0;
  int64_t first_position = 0;
  const int32_t* pages = nullptr;  // position p is in page pages[p / kAttentionBlock]
};

struct GdnShape {
  int32_t key_heads = 0;
  int32_t value_heads = 0;
  int32_t key_dim = 0;
  int32_t value_dim = 0;
  int32_t conv_taps = 0;
  int64_t channels() const { return int64_t{2} * key_heads * key_dim + int64_t{value_heads} * value_dim; }
};

struct GdnWeights {
  const float* conv = nullptr;     // [channels, taps]
  const float* decay = nullptr;    // [value_heads], exp(A_log) by our own exp
  const float* dt_bias = nullptr;  // [value_heads]
};

// State at a border (a multiple of kGdnBlock) and the rows since. A row taken back needs no undoing: nothing
// reads k, u and c from its index on before a later row has written them.
struct GdnBlock {
  float* state = nullptr;  // [value_heads, key_dim, value_dim] at the border
  float* k = nullptr;      // [kGdnBlock, key_heads, key_dim]
  float* u = nullptr;      // [kGdnBlock, value_heads, value_dim]
  float* c = nullptr;      // [kGdnBlock, value_heads], cumulative log decay since the border
};

// The recurrent state of one sequence in one layer. Rows in front of the first border of a run go to `block`;
// at that border block's state and rows are folded into next.state, and the rows behind it go to `next`,
// which folds later borders in place. Where the two are different memory, `block` still has its state and all
// rows afterwards, so the run can be taken back to any position; where they are the same, only rows behind
// the last border can.
struct GdnState {
  GdnBlock block;
  GdnBlock next;            // may be `block`
  float* window = nullptr;  // [kGdnWindow, channels], the input of position p in row p % kGdnWindow before
                            // the convolution; zeros for a fresh sequence
};

struct KernelTable {
  std::string_view name;  // "reference", "cpu avx2", ...
  FloatMath float_math = FloatMath::kPortable;
  // The same backend under `--float-math native`; null where there is none. It differs in the linears and
  // experts that it packs: the arithmetic of a matrix is chosen once, then.
  const KernelTable* native = nullptr;
  // Whether write_kv and attention know the dtypes of kernels/kv_codes.h.
  bool kv_codes = false;

  // Packing consumes the plain form. Unimplemented names a format that the backend lacks.
  absl::StatusOr<std::unique_ptr<Linear>> (*pack_linear)(PlainLinear plain);
  absl::StatusOr<std::unique_ptr<Expert>> (*pack_expert)(PlainExpert plain);
  // The same as pack_linear, part by part. `form` says everything but elements, scales and zeros.
  absl::StatusOr<std::unique_ptr<LinearPacker>> (*start_linear)(const PlainLinear& form);

  // NUMERICS, Activations: codes [rows, width] and scales [rows, groups] of x [rows, width].
  void (*quantise)(ThreadPool& pool, const float* x, int32_t rows, int64_t width, ActivationContract contract,
                   int16_t* codes, float* scales);
  // y[row * stride + n] for n < w.outputs. Integer weights read codes and scales, float weights read values.
  void (*linear)(ThreadPool& pool, const Linear& w, const Activations& x, float* y, int64_t stride);
  // Adds every leaf of the tasks to sums [x.rows, hidden]; a bad leaf sets row_errors[row] to 1 and adds
  // nothing. When x has no codes and an integer expert needs them, it quantises the rows itself, with the
  // same bits. `contract` is that of the codes that are there, and of those made here.
  void (*experts)(ThreadPool& pool, Workspace& workspace, const Activations& x,
                  std::span<const ExpertTask> tasks, ActivationContract contract, int64_t* sums,
                  uint8_t* row_errors);

  // y = x * rsqrt(mean(x^2) + eps) * (w + plus), plus 1 or 0. x and y [rows, width]; may be the same memory.
  void (*rms_norm)(ThreadPool& pool, const float* x, int32_t rows, int64_t width, const float* w, float plus,
                   float eps, float* y);
  // h [rows, width] += y.
  void (*add)(ThreadPool& pool, float* h, const float* y, int64_t count);
  // x [rows, width] + bias [width], in place.
  void (*add_bias)(ThreadPool& pool, float* x, int32_t rows, int64_t width, const float* bias);
  // out = silu(gate) * up.
  void (*silu_mul)(ThreadPool& pool, const float* gate, const float* up, int64_t count, float* out);

  // Per head: RMS norm over head_dim (as rms_norm), then rotation of the first 2 * half dims, i with i +
  // half, by the row's angles. x: head j of row r at x + r * row_stride + j * head_stride; out [rows, heads,
  // head_dim].
  void (*head_norm_rope)(ThreadPool& pool, const float* x, int64_t row_stride, int64_t head_stride,
                         int32_t rows, int32_t heads, int32_t head_dim, const float* w, float plus, float eps,
                         const float* cos, const float* sin, int32_t half, float* out);
  // Rounds k and v [rows, kv_heads, head_dim] (v with its own row stride) to the KV dtype and stores them.
  void (*write_kv)(ThreadPool& pool, const AttentionShape& shape, const KvPages& kv,
                   std::span<const RowRun> runs, const float* k, const float* v);
  // Causal attention of q [rows, heads, head_dim] over the pages; out the same shape. NUMERICS, Attention.
  void (*attention)(ThreadPool& pool, Workspace& workspace, const AttentionShape& shape, const KvPages& kv,
                    std::span<const RowRun> runs, const float* q, float* out);
  // out *= sigmoid(gate); gate of head j of row r at gate + r * row_stride + j * head_stride.
  void (*sigmoid_gate)(ThreadPool& pool, const float* gate, int64_t row_stride, int64_t head_stride,
                       int32_t rows, int32_t heads, int32_t head_dim, float* out);

  // Convolution, SiLU, L2 norms, gates and the delta rule. qkv [rows, channels] before the convolution, b and
  // a [rows, value_heads]; states[i] belongs to runs[i] and moves on; taps are at most kGdnMaxTaps. out
  // [rows, value_heads, value_dim].
  void (*gated_delta_net)(ThreadPool& pool, Workspace& workspace, const GdnShape& shape,
                          const GdnWeights& weights, const float* qkv, const float* b, const float* a,
                          std::span<const RowRun> runs, std::span<const GdnState> states, float* out);
  // Per value head: out = x * rsqrt(mean(x^2) + eps) * w * silu(z); x, z, out [rows, heads, dim], w [dim].
  void (*gated_norm)(ThreadPool& pool, const float* x, const float* z, int32_t rows, int32_t heads,
                     int32_t dim, const float* w, float eps, float* out);

  // Softmax over logits [rows, experts], top-k by probability, ties to the lower id. ids and weights [rows,
  // top_k], highest first; weights divided by their sum when `renormalise`.
  void (*route)(ThreadPool& pool, const float* logits, int32_t rows, int32_t experts, int32_t top_k,
                bool renormalise, int32_t* ids, float* weights);
  // h += routed + shared * sigmoid(gate): routed from sums [rows, hidden]; shared and gate [rows] may be
  // null.
  void (*combine)(ThreadPool& pool, const int64_t* sums, const float* shared, const float* gate, int32_t rows,
                  int64_t hidden, float* h);

  // ln sum exp of one row of logits, blocks of kVocabBlock merged in order.
  float (*log_sum_exp)(ThreadPool& pool, const float* logits, int64_t count);
  // Lowest index of the largest value; -1 when no value exceeds minus infinity or one is NaN.
  int64_t (*arg_max)(ThreadPool& pool, const float* logits, int64_t count);
};

const KernelTable& ReferenceKernels();

// Unimplemented, in a sentence, where `table` cannot keep keys and values of `head_dim` as `dtype`.
absl::Status CheckKvDtype(const KernelTable& table, KvDtype dtype, int64_t head_dim);

// `backend`: "reference", "cpu", "cuda", "cuda-emulated" (the cuda kernels on the host, slow); `isa`: ""
// chooses by CPUID, else "avx2", "avx512", "vnni", "amx" or "amx-emulated" of the cpu backend. DEV-001 says
// what is missing on this machine or in this build.
absl::StatusOr<const KernelTable*> SelectKernels(std::string_view backend, std::string_view isa);

}  // namespace paceline::kernels
