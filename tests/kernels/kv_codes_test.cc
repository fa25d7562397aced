// Keys and values in 8 and 4 bits: every instruction set against the reference, bit for bit, rows against
// rows alone, pinned digests; what a code stands for, and what the rotation is for.
#include "kernels/kv_codes.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/sha256.h"
#include "kernels/reference/reference.h"
#include "tests/kernels/reference_bits.h"

namespace paceline::kernels {
namespace {

constexpr KvDtype kCodeDtypes[] = {KvDtype::kInt8, KvDtype::kInt4};

// Pages of one layer, filled with what no vector left there.
class Pages {
 public:
  Pages(const AttentionShape& shape, KvDtype dtype, int32_t pages, uint32_t seed = 8)
      : shape_(shape), dtype_(dtype) {
    const int64_t vectors = int64_t{pages} * shape.kv_heads * kAttentionBlock;
    std::mt19937 bits(seed);
    codes_.resize(static_cast<size_t>(2 * vectors * (KvVectorBytes(dtype, shape.head_dim) - 4)));
    for (uint8_t& byte : codes_) byte = static_cast<uint8_t>(bits());
    scales_ = RandomValues(2 * vectors, seed);
  }
  KvPages view() {
    return {dtype_, codes_.data(), codes_.data() + codes_.size() / 2, scales_.data(),
            scales_.data() + scales_.size() / 2};
  }
  // The vector that was kept, rotated where it is kept rotated.
  std::vector<float> Kept(bool value, int64_t page, int64_t head, int64_t position) const {
    const int64_t vectors = (page * shape_.kv_heads + head) * kAttentionBlock, dim = shape_.head_dim;
    const int64_t bytes = vectors * (KvVectorBytes(dtype_, dim) - 4);
    const uint8_t* codes = codes_.data() + (value ? codes_.size() / 2 : 0) + bytes;
    const float scale = scales_[(value ? scales_.size() / 2 : 0) + static_cast<size_t>(vectors + position)];
    std::vector<float> out(static_cast<size_t>(dim));
    for (int64_t d = 0; d < dim; ++d) {
      const KvPlace place =
          value ? KvPlaceOf(dtype_, d, position, kAttentionBlock) : KvPlaceOf(dtype_, position, d, dim);
      const int code = dtype_ == KvDtype::kInt8 ? codes[place.byte] - kKvZero
                                                : kKvLevels[codes[place.byte] >> place.shift & 15];
      out[static_cast<size_t>(d)] = static_cast<float>(code) * scale;
    }
    return out;
  }
  void AppendTo(Result& to) const {
    for (const uint8_t byte : codes_) to.push_back(static_cast<float>(byte));
    to.insert(to.end(), scales_.begin(), scales_.end());
  }

 private:
  const AttentionShape shape_;
  const KvDtype dtype_;
  std::vector<uint8_t> codes_;  // [k and v, pages, kv_heads, panels of one page]
  std::vector<float> scales_;   // [k and v, pages, kv_heads, kAttentionBlock]
};

struct Case {
  int32_t heads, kv_heads, dim;
  KvDtype dtype;
  Values kind = Values::kOrdinary;
};

// Attention over `runs` after their own rows were written; then the memory.
Result RunAll(const KernelTable& table, ThreadPool& pool, const Case& c, const std::vector<RowRun>& runs) {
  const AttentionShape shape{c.heads, c.kv_heads, c.dim};
  int64_t rows = 0;
  for (const RowRun& run : runs) rows = std::max<int64_t>(rows, run.first_row + run.rows);
  const auto k = RandomValues(rows * c.kv_heads * c.dim, 1, c.kind),
             v = RandomValues(rows * c.kv_heads * c.dim, 2, c.kind),
             q = RandomValues(rows * c.heads * c.dim, 3, c.kind);
  Pages pages(shape, c.dtype, 4);
  const KvPages kv = pages.view();
  table.write_kv(pool, shape, kv, runs, k.data(), v.data());
  Workspace workspace;
  Result out(q.size());
  table.attention(pool, workspace, shape, kv, runs, q.data(), out.data());
  pages.AppendTo(out);
  return out;
}

// A run of one row deep in a text; odd ones over the borders of octets, panels and pages; a first position.
const std::vector<RowRun>& Runs() {
  static constexpr int32_t kPages[] = {2, 0, 3, 1};
  static const std::vector<RowRun> runs = {{0, 1, 700, kPages},
                                           {1, 9, 250, kPages},
                                           {10, 1, 0, kPages + 3},
                                           {11, 23, 501, kPages},
                                           {34, 2, 14, kPages + 3}};
  return runs;
}

TEST(KvCodes, EveryInstructionSetHasTheBitsOfTheReference) {
  for (const KvDtype dtype : kCodeDtypes) {
    for (const Case& c : {Case{4, 2, 64, dtype}, Case{6, 1, 16, dtype}, Case{2, 2, 128, dtype, Values::kHard},
                          Case{3, 3, 80, dtype}, Case{8, 2, 96, dtype, Values::kHard}, Case{11, 1, 48, dtype},
                          Case{16, 1, 256, dtype}}) {
      ExpectReferenceBits("KV in codes, head_dim " + std::to_string(c.dim),
                          [&](const KernelTable& t, ThreadPool& pool) { return RunAll(t, pool, c, Runs()); });
    }
  }
}

TEST(KvCodes, TheLargestHead) {
  static constexpr int32_t kPages[] = {1, 0};
  for (const KvDtype dtype : kCodeDtypes) {
    ExpectReferenceBits("KV in codes, the largest head", [&](const KernelTable& t, ThreadPool& pool) {
      return RunAll(t, pool, {2, 1, kKvLargestHead, dtype}, {{0, 3, 255, kPages}});
    });
  }
}

// All codes of the query and of every key at their ends: the sum is the largest there is.
TEST(KvCodes, TheLargestSumFits) {
  const AttentionShape shape{1, 1, kKvLargestHead};
  static constexpr int32_t kPages[] = {0};
  const std::vector<RowRun> runs = {{0, 1, 0, kPages}};
  const std::vector<float> ones(static_cast<size_t>(kKvLargestHead), 1.0f);
  ExpectReferenceBits("ones", [&](const KernelTable& t, ThreadPool& pool) {
    Pages pages(shape, KvDtype::kInt8, 1);
    t.write_kv(pool, shape, pages.view(), runs, ones.data(), ones.data());
    Workspace workspace;
    Result out(ones.size());
    t.attention(pool, workspace, shape, pages.view(), runs, ones.data(), out.data());
    for (const float o : out) EXPECT_NEAR(o, 1.0f, 1e-6f);
    return out;
  });
}

// A row has the bits it has alone, whatever stands before and behind it in its run.
TEST(KvCodes, RowsKnowNoNeighbours) {
  static constexpr int32_t kPages[] = {2, 0, 3, 1};
  constexpr int64_t kRows = 21, kFirst = 245;
  std::vector<const KernelTable*> tables = AvailableTables();
  tables.push_back(&ReferenceKernels());
  for (const KvDtype dtype : kCodeDtypes) {
    const AttentionShape shape{6, 2, 64};
    const auto k = RandomValues(kRows * 128, 1), v = RandomValues(kRows * 128, 2),
               q = RandomValues(kRows * 384, 3);
    for (const KernelTable* t : tables) {
      ThreadPool pool(2);
      Workspace workspace;
      Pages together(shape, dtype, 4), apart(shape, dtype, 4);
      const std::vector<RowRun> run = {{0, kRows, kFirst, kPages}};
      Result all(q.size()), one(q.size());
      t->write_kv(pool, shape, together.view(), run, k.data(), v.data());
      t->attention(pool, workspace, shape, together.view(), run, q.data(), all.data());
      for (int32_t i = 0; i < kRows; ++i) {
        const std::vector<RowRun> row = {{i, 1, kFirst + i, kPages}};
        t->write_kv(pool, shape, apart.view(), row, k.data(), v.data());
        t->attention(pool, workspace, shape, apart.view(), row, q.data(), one.data());
      }
      together.AppendTo(all);
      apart.AppendTo(one);
      std::string where;
      EXPECT_TRUE(SameBits(all, one, &where)) << t->name << ": " << where;
    }
  }
}

// The contract's bits, as the reference backend gave them when they were specified.
TEST(KvCodes, PinnedDigests) {
  const char* const want[] = {"f8e83d749a9e545a", "7f9cb50c0ede4410"};
  for (size_t i = 0; i < 2; ++i) {
    ThreadPool pool(1);
    const Result result = RunAll(ReferenceKernels(), pool, {4, 2, 64, kCodeDtypes[i]}, Runs());
    Sha256 sha;
    sha.Add(result.data(), 36 * 4 * 64 * sizeof(float));  // the outputs
    EXPECT_EQ(sha.Hex().substr(0, 16), want[i]);
  }
}

double SquaredError(const std::vector<float>& x, const std::vector<float>& y) {
  double error = 0, all = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    error += std::pow(static_cast<double>(x[i]) - static_cast<double>(y[i]), 2);
    all += std::pow(static_cast<double>(x[i]), 2);
  }
  return error / all;
}

// Relative squared error of keeping x, over keys and values.
double ErrorOfKeeping(KvDtype dtype, const std::vector<float>& x) {
  const AttentionShape shape{1, 1, static_cast<int32_t>(x.size())};
  static constexpr int32_t kPages[] = {0};
  Pages pages(shape, dtype, 1);
  ThreadPool pool(1);
  const std::vector<RowRun> run = {{0, 1, 77, kPages}};
  ReferenceKernels().write_kv(pool, shape, pages.view(), run, x.data(), x.data());
  std::vector<float> key = pages.Kept(false, 0, 0, 77), value = pages.Kept(true, 0, 0, 77);
  EXPECT_EQ(key, value);
  if (dtype == KvDtype::kInt4) {
    reference::RotateHead(key.data(), shape.head_dim);
    // The scale gives what is kept its length along x: scores are not drawn towards 0.
    const double along = std::inner_product(x.begin(), x.end(), key.begin(), 0.0);
    EXPECT_NEAR(along / std::inner_product(x.begin(), x.end(), x.begin(), 0.0), 1, 1e-5);
  }
  return SquaredError(x, key);
}

std::vector<float> Gaussian(int64_t dim, uint32_t seed) {
  std::mt19937 bits(seed);
  std::vector<float> x(static_cast<size_t>(dim));
  // Sums of twelve uniform numbers less their mean have variance 1.
  for (float& v : x) {
    for (int i = 0; i < 12; ++i) v += static_cast<float>(bits() >> 8) * 0x1p-24f - 0.5f;
  }
  return x;
}

TEST(KvCodes, ErrorOfVectors) {
  constexpr int kVectors = 200;
  double plain8 = 0, plain4 = 0, outlier4 = 0, unrotated4 = 0;
  for (uint32_t seed = 0; seed < kVectors; ++seed) {
    std::vector<float> x = Gaussian(256, seed);
    plain8 += ErrorOfKeeping(KvDtype::kInt8, x) / kVectors;
    plain4 += ErrorOfKeeping(KvDtype::kInt4, x) / kVectors;
    x[seed % 256] = 40.0f;
    x[(seed * 7 + 3) % 256] = -25.0f;
    outlier4 += ErrorOfKeeping(KvDtype::kInt4, x) / kVectors;
    // Rotated beforehand, the kernel's rotation brings x itself back: this is what codes without one would
    // lose.
    reference::RotateHead(x.data(), 256);
    unrotated4 += ErrorOfKeeping(KvDtype::kInt4, x) / kVectors;
  }
  EXPECT_LT(plain8, 1e-4);
  EXPECT_NEAR(plain4, 0.0095, 0.0005);  // of the quantiser, on a Gaussian
  EXPECT_LT(outlier4, 0.02);
  EXPECT_GT(unrotated4, 10 * outlier4);
}

TEST(KvCodes, EightBitsAreHalfAScaleOff) {
  const std::vector<float> x = Gaussian(128, 5);
  const AttentionShape shape{1, 1, 128};
  static constexpr int32_t kPages[] = {0};
  Pages pages(shape, KvDtype::kInt8, 1);
  ThreadPool pool(1);
  ReferenceKernels().write_kv(pool, shape, pages.view(), std::vector<RowRun>{{0, 1, 3, kPages}}, x.data(),
                              x.data());
  float largest = 0;
  for (const float v : x) largest = std::max(largest, std::fabs(v));
  EXPECT_EQ(pages.view().k_scales[3], largest / 127.0f);
  const std::vector<float> kept = pages.Kept(false, 0, 0, 3);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(kept[i], x[i], 0.5001f * largest / 127.0f);
}

TEST(KvCodes, VectorsWithoutNumbers) {
  const AttentionShape shape{1, 1, 32};
  static constexpr int32_t kPages[] = {0};
  ThreadPool pool(1);
  for (const KvDtype dtype : kCodeDtypes) {
    Pages pages(shape, dtype, 1);
    std::vector<float> x(3 * 32, 0.0f);
    x[32] = __builtin_inff();
    x[64] = __builtin_nanf("");
    ReferenceKernels().write_kv(pool, shape, pages.view(), std::vector<RowRun>{{0, 3, 0, kPages}}, x.data(),
                                x.data());
    EXPECT_EQ(pages.view().k_scales[0], 0.0f);
    EXPECT_TRUE(std::isnan(pages.view().k_scales[1]));
    EXPECT_TRUE(std::isnan(pages.view().v_scales[2]));
  }
}

// Against what the kept vectors say in doubles.
TEST(KvCodes, AttentionIsThatOfTheKeptVectors) {
  constexpr int64_t kRows = 300;
  const AttentionShape shape{2, 1, 64};
  static constexpr int32_t kPages[] = {1, 0};
  const auto k = RandomValues(kRows * 64, 1), v = RandomValues(kRows * 64, 2),
             q = RandomValues(kRows * 128, 3);
  for (const KvDtype dtype : kCodeDtypes) {
    Pages pages(shape, dtype, 2);
    ThreadPool pool(1);
    Workspace workspace;
    const std::vector<RowRun> all = {{0, kRows, 0, kPages}}, last = {{kRows - 1, 1, kRows - 1, kPages}};
    ReferenceKernels().write_kv(pool, shape, pages.view(), all, k.data(), v.data());
    Result out(q.size());
    ReferenceKernels().attention(pool, workspace, shape, pages.view(), last, q.data(), out.data());
    for (int64_t head = 0; head < 2; ++head) {
      std::vector<double> o(64, 0.0);
      double sum = 0;
      const size_t at = static_cast<size_t>((kRows - 1) * 128 + head * 64);
      for (int64_t p = 0; p < kRows; ++p) {
        std::vector<float> key = pages.Kept(false, kPages[p / 256], 0, p % 256),
                           value = pages.Kept(true, kPages[p / 256], 0, p % 256);
        if (dtype == KvDtype::kInt4) {
          reference::RotateHead(key.data(), 64);
          reference::RotateHead(value.data(), 64);
        }
        const double score =
            std::inner_product(key.begin(), key.end(), q.begin() + static_cast<int64_t>(at), 0.0);
        const double weight = std::exp(score / 8);
        sum += weight;
        for (size_t d = 0; d < 64; ++d) o[d] += weight * static_cast<double>(value[d]);
      }
      for (size_t d = 0; d < 64; ++d) EXPECT_NEAR(out[at + d], o[d] / sum, 2e-4) << d;
    }
  }
}

TEST(KvCodes, HeadsThatCannotBeKept) {
  const KernelTable& table = ReferenceKernels();
  for (const int64_t dim : {16, 64, 80, 256, 512}) {
    EXPECT_TRUE(CheckKvDtype(table, KvDtype::kInt4, dim).ok()) << dim;
    EXPECT_TRUE(CheckKvDtype(table, KvDtype::kInt8, dim).ok()) << dim;
  }
  for (const int64_t dim : {8, 40, 100, 528}) {
    EXPECT_TRUE(CheckKvDtype(table, KvDtype::kBF16, dim).ok()) << dim;
    const absl::Status refused = CheckKvDtype(table, KvDtype::kInt4, dim);
    EXPECT_FALSE(refused.ok()) << dim;
    EXPECT_NE(std::string(refused.message()).find("--kv-dtype int4 needs a head_dim"), std::string::npos);
    EXPECT_FALSE(CheckKvDtype(table, KvDtype::kInt8, dim).ok()) << dim;
  }
  KernelTable without = table;
  without.kv_codes = false;
  EXPECT_FALSE(CheckKvDtype(without, KvDtype::kInt8, 64).ok());
  EXPECT_TRUE(CheckKvDtype(without, KvDtype::kF32, 64).ok());
}

}  // namespace
}  // namespace paceline::kernels
