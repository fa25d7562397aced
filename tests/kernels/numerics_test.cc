// The known answers of tests/goldens/numerics, computed elsewhere with exact rationals, from every backend.
#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>

#include "tests/kernels/kernel_cases.h"
#include "tests/kernels/tables.h"

namespace paceline::kernels {
namespace {

using nlohmann::json;

const json& Vectors() {
  static const json vectors =
      json::parse(std::ifstream(PACELINE_SOURCE_DIR "/tests/goldens/numerics/vectors.json"));
  return vectors;
}

std::vector<float> Floats(const json& patterns) {
  std::vector<float> out;
  for (const json& p : patterns) out.push_back(std::bit_cast<float>(p.get<uint32_t>()));
  return out;
}
uint32_t Pattern(float x) { return std::bit_cast<uint32_t>(x); }

std::vector<const KernelTable*> Tables() {
  std::vector<const KernelTable*> tables = TestableTables();
  tables.push_back(&ReferenceKernels());
  return tables;
}

struct Codes {
  std::vector<int16_t> codes;
  std::vector<float> scales;
};
Codes QuantiseRow(const KernelTable& t, const std::vector<float>& x) {
  Codes out{std::vector<int16_t>(x.size()),
            std::vector<float>(ActivationGroups(static_cast<int64_t>(x.size())))};
  ThreadPool pool(1);
  t.quantise(pool, x.data(), 1, static_cast<int64_t>(x.size()), ActivationContract::kInt16, out.codes.data(),
             out.scales.data());
  return out;
}

float OneOutput(const KernelTable& t, const PlainLinear& w, const float* x, const Codes& codes,
                int64_t group) {
  auto linear = *t.pack_linear(w);
  ThreadPool pool(1);
  float y = 0;
  const Activations view{1, w.inputs, x, codes.codes.data() + group * kActivationGroup,
                         codes.scales.data() + group};
  t.linear(pool, *linear, view, &y, 1);
  return y;
}

TEST(Numerics, Quantise) {
  for (const KernelTable* t : Tables()) {
    for (const json& v : Vectors()["quantise"]) {
      const Codes got = QuantiseRow(*t, Floats(v["x"]));
      EXPECT_EQ(got.codes, v["codes"].get<std::vector<int16_t>>()) << t->name << " " << v["name"];
      EXPECT_EQ(Pattern(got.scales[0]), v["scale"].get<uint32_t>()) << t->name << " " << v["name"];
    }
  }
}

// Columns [begin, end) of one output row with centred weights, which fit INT8 whatever the range.
PlainLinear IntegerRow(const json& row, int64_t group, int64_t begin, int64_t end) {
  PlainLinear w;
  w.format = WeightFormat::kInt8;
  w.outputs = 1;
  w.inputs = end - begin;
  w.first_input = begin;
  w.group = group;
  for (int64_t k = begin; k < end; ++k) w.data.push_back(static_cast<uint8_t>(row["w"][k].get<int>()));
  const std::vector<float> scales = Floats(row["w_scales"]);
  for (int64_t g = begin / group; g < begin / group + w.groups(); ++g) w.scales.push_back(scales[g]);
  return w;
}

TEST(Numerics, IntegerLinear) {
  for (const KernelTable* t : Tables()) {
    for (const json& v : Vectors()["int_linear"]) {
      const std::vector<float> x = Floats(v["x"]);
      const int64_t k = v["k"], group = v["w_group"];
      Codes codes = QuantiseRow(*t, x);
      if (!v["router_weight"].is_null()) {
        for (float& s : codes.scales) s = s * std::bit_cast<float>(v["router_weight"].get<uint32_t>());
      }
      for (const json& row : v["rows"]) {
        if (row.contains("y")) {
          const float y = OneOutput(*t, IntegerRow(row, group, 0, k), x.data(), codes, 0);
          EXPECT_EQ(Pattern(y), row["y"].get<uint32_t>()) << t->name << " " << v["name"];
          continue;
        }
        for (int64_t g = 0; g < ActivationGroups(k); ++g) {
          const PlainLinear w = IntegerRow(row, group, g * 128, std::min(k, (g + 1) * 128));
          EXPECT_EQ(Pattern(OneOutput(*t, w, x.data() + g * 128, codes, g)), row["leaves"][g].get<uint32_t>())
              << t->name << " " << v["name"];
        }
      }
    }
  }
}

// Columns [begin, end) as BF16 or, where the row has block scales, as E4M3. Some vectors hold 480, which E4M3
// has not; then nothing.
std::optional<PlainLinear> FloatRow(const json& row, int64_t begin, int64_t end) {
  PlainLinear w;
  w.outputs = 1;
  w.inputs = end - begin;
  w.first_input = begin;
  const bool fp8 = !row["scales"].is_null();
  w.format = fp8 ? WeightFormat::kFp8Block128 : WeightFormat::kBF16;
  for (int64_t k = begin; k < end; ++k) {
    const uint32_t bits = row["w"][k];
    if (!fp8) {
      w.data.push_back(static_cast<uint8_t>(bits >> 16));
      w.data.push_back(static_cast<uint8_t>(bits >> 24));
      continue;
    }
    int code = 0;
    while (code < 256 && Pattern(FromE4M3(static_cast<uint8_t>(code))) != bits) ++code;
    if (code == 256) return std::nullopt;
    w.data.push_back(static_cast<uint8_t>(code));
  }
  if (fp8) {
    const std::vector<float> scales = Floats(row["scales"]);
    for (int64_t b = 0; b < w.column_blocks(); ++b) w.scales.push_back(scales[begin / 128 + b]);
  }
  return w;
}

// The same columns as fp32 blocks, whose scales are applied here.
float ByBlocks(const KernelTable& t, const json& row, const std::vector<float>& x, const Codes& codes,
               int64_t begin, int64_t end) {
  const std::vector<float> weights = Floats(row["w"]);
  float total = 0;
  for (int64_t k = begin; k < end; k += kActivationGroup) {
    PlainLinear w;
    w.outputs = 1;
    w.inputs = std::min(end - k, kActivationGroup);
    w.data.resize(w.inputs * 4);
    std::memcpy(w.data.data(), weights.data() + k, w.data.size());
    const float scale =
        row["scales"].is_null() ? 1.0f : Floats(row["scales"])[static_cast<size_t>(k / kActivationGroup)];
    total = std::fma(OneOutput(t, w, x.data() + k, codes, 0), scale, total);
  }
  return total;
}

TEST(Numerics, FloatLinear) {
  int stored = 0;  // rows that exist in their own format
  for (const KernelTable* t : Tables()) {
    for (const json& v : Vectors()["float_linear"]) {
      const std::vector<float> x = Floats(v["x"]);
      const int64_t k = v["k"];
      const Codes codes = QuantiseRow(*t, x);
      for (const json& row : v["rows"]) {
        const bool whole = row.contains("y");
        for (int64_t begin = 0; begin < k; begin += whole ? k : kActivationGroup) {
          const int64_t end = whole ? k : std::min(k, begin + kActivationGroup);
          const uint32_t want = (whole ? row["y"] : row["leaves"][begin / kActivationGroup]).get<uint32_t>();
          EXPECT_EQ(Pattern(ByBlocks(*t, row, x, codes, begin, end)), want) << t->name << " " << v["name"];
          const std::optional<PlainLinear> w = FloatRow(row, begin, end);
          if (!w) continue;
          ++stored;
          EXPECT_EQ(Pattern(OneOutput(*t, *w, x.data() + begin, codes, 0)), want)
              << t->name << " " << v["name"];
        }
      }
    }
  }
  EXPECT_GT(stored, 0);
}

PlainLinear Fp32(int64_t outputs, int64_t inputs, const std::vector<float>& values) {
  PlainLinear w;
  w.outputs = outputs;
  w.inputs = inputs;
  w.data.resize(values.size() * 4);
  std::memcpy(w.data.data(), values.data(), w.data.size());
  return w;
}

// An expert of one column whose middle is exactly 1 (silu(128) = 128, up 1/128), so that its leaves are its
// down projection.
TEST(Numerics, ExactSum) {
  for (const KernelTable* t : Tables()) {
    for (const json& v : Vectors()["exact_sum"]) {
      const std::vector<float> leaves = Floats(v["leaves"]);
      const int64_t hidden = static_cast<int64_t>(leaves.size());
      std::vector<float> gate(hidden), up(hidden);
      gate[0] = 128.0f;
      up[0] = 0x1p-7f;
      auto expert = *t->pack_expert({Fp32(1, hidden, gate), Fp32(1, hidden, up), Fp32(hidden, 1, leaves)});
      std::vector<float> x(hidden, 1.0f);
      const std::vector<int32_t> rows = {0};
      const std::vector<float> weights = {1.0f};
      const std::vector<ExpertTask> tasks = {{expert.get(), 0, 1, rows, weights}};
      std::vector<int64_t> sums(hidden);
      uint8_t error = 0;
      ThreadPool pool(1);
      Workspace workspace;
      t->experts(pool, workspace, {1, hidden, x.data(), nullptr, nullptr}, tasks, ActivationContract::kInt16,
                 sums.data(), &error);
      EXPECT_EQ(error, 0);
      EXPECT_EQ(sums, v["fixed"].get<std::vector<int64_t>>()) << t->name << " " << v["name"];
      const int64_t sum = v["sum"];
      float h = 0;
      t->combine(pool, &sum, nullptr, nullptr, 1, 1, &h);
      EXPECT_EQ(Pattern(h), v["value"].get<uint32_t>()) << t->name << " " << v["name"];
    }
  }
}

}  // namespace
}  // namespace paceline::kernels
