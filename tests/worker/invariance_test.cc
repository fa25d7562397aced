// One hash of all logits, whatever the cluster: rows per step, batch, ranks, placement, link, arrival order,
// instruction set, threads, head split. A covering set in which every pair of values meets; with
// PACELINE_INVARIANCE=full the product of one case too. The last tests break the contract on purpose and must
// see the hash change.
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <map>
#include <set>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu.h"
#include "kernels/plain_decode.h"
#include "kernels/reference/reference.h"
#include "tests/testing/golden_case.h"
#include "tests/testing/local_cluster.h"

namespace paceline {
namespace {

using testing::GoldenCase;
using testing::LocalCluster;
using testing::LocalClusterOptions;

// ---------------------------------------------------------------- factors

struct Factor {
  std::string name;
  std::vector<std::string> values;
};

std::vector<std::string> Backends() {
  std::vector<std::string> names = {"reference"};
  for (const kernels::KernelTable* table : kernels::cpu::Testable()) names.emplace_back(table->name);
  return names;
}

std::vector<Factor> Factors() {
  return {{"chunk", {"1", "5", "16", "64"}},
          {"batch", {"1", "3", "8"}},
          {"ranks", {"1", "2", "3", "4", "8"}},
          {"placement", {"contiguous", "strided", "sliced", "rules"}},
          {"link", {"loopback", "tcp", "ucx"}},
          {"jitter", {"no", "yes"}},
          {"head", Backends()},
          {"worker", Backends()},
          {"threads", {"1", "2"}},
          {"head_split", {"no", "yes"}}};
}

using Row = std::vector<int>;  // index of a value, per factor

// Greedy covering array of strength 2: every value of a factor meets every value of every other factor in
// some row.
std::vector<Row> Pairwise(const std::vector<Factor>& factors) {
  std::set<std::array<int, 4>> open;  // (factor, value, factor, value) not met yet
  for (int a = 0; a < static_cast<int>(factors.size()); ++a) {
    for (int b = a + 1; b < static_cast<int>(factors.size()); ++b) {
      for (int x = 0; x < static_cast<int>(factors[a].values.size()); ++x) {
        for (int y = 0; y < static_cast<int>(factors[b].values.size()); ++y) open.insert({a, x, b, y});
      }
    }
  }
  std::vector<Row> rows;
  while (!open.empty()) {
    Row row(factors.size(), -1);
    const auto seed = *open.begin();
    row[seed[0]] = seed[1];
    row[seed[2]] = seed[3];
    for (int f = 0; f < static_cast<int>(factors.size()); ++f) {
      if (row[f] >= 0) continue;
      int best = 0, best_gain = -1;
      for (int v = 0; v < static_cast<int>(factors[f].values.size()); ++v) {
        int gain = 0;
        for (int g = 0; g < static_cast<int>(factors.size()); ++g) {
          if (row[g] < 0 || g == f) continue;
          gain += static_cast<int>(f < g ? open.count({f, v, g, row[g]}) : open.count({g, row[g], f, v}));
        }
        if (gain > best_gain) {
          best_gain = gain;
          best = v;
        }
      }
      row[f] = best;
    }
    for (int a = 0; a < static_cast<int>(factors.size()); ++a) {
      for (int b = a + 1; b < static_cast<int>(factors.size()); ++b) open.erase({a, row[a], b, row[b]});
    }
    rows.push_back(row);
  }
  return rows;
}

std::vector<Row> Product(const std::vector<Factor>& factors) {
  std::vector<Row> rows = {{}};
  for (const Factor& factor : factors) {
    std::vector<Row> longer;
    for (const Row& row : rows) {
      for (int v = 0; v < static_cast<int>(factor.values.size()); ++v) {
        longer.push_back(row);
        longer.back().push_back(v);
      }
    }
    rows = std::move(longer);
  }
  return rows;
}

// ---------------------------------------------------------------- one run

// Unequal shares and replicas: the last rank holds everything, the others take turns, the head keeps expert
// 0.
std::string WriteRules(int32_t ranks) {
  const std::string path =
      ::testing::TempDir() + "/rules-" + std::to_string(ranks) + "-" + std::to_string(getpid()) + ".json";
  std::ofstream out(path);
  out << R"({"rules":[{"holders":[)" << ranks - 1 << "]}";
  for (int e = 0; e < 4; ++e) {
    out << R"(,{"experts":[)" << e << "," << e << R"(],"holders":[)" << e % ranks;
    if (e % ranks != ranks - 1) out << "," << ranks - 1;
    out << "]}";
  }
  out << R"(,{"experts":[0,0],"holders":[0]}]})";
  return path;
}

void SetBackend(const std::string& name, std::string& backend, std::string& isa) {
  backend = name == "reference" ? "reference" : "cpu";
  isa = name == "reference" ? "" : name.substr(4);  // "cpu avx2"
}

absl::StatusOr<std::vector<std::string>> Hashes(const Checkpoint& checkpoint,
                                                const std::vector<TokenId>& text, kernels::KvDtype kv_dtype,
                                                std::map<std::string, std::string> v) {
  LocalClusterOptions options;
  options.kv_dtype = kv_dtype;
  options.ranks = std::stoi(v["ranks"]);
  options.placement = v["placement"] == "rules" ? WriteRules(options.ranks) : v["placement"];
  options.link = v["link"];
  if (v["jitter"] == "yes") {
    options.simulate = SimulationOptions{};
    options.simulate->rtt = std::chrono::microseconds(60);
    options.simulate->jitter = std::chrono::microseconds(30);
  }
  SetBackend(v["head"], options.head_backend, options.head_isa);
  SetBackend(v["worker"], options.worker_backend, options.worker_isa);
  options.threads = std::stoi(v["threads"]);
  options.head_split = v["head_split"] == "yes";
  auto cluster = LocalCluster::Start(checkpoint, options);
  if (!cluster.ok()) return cluster.status();
  return testing::HashStaggered((*cluster)->trunk(), text, std::stoi(v["chunk"]), std::stoi(v["batch"]));
}

std::vector<TokenId> TextOf(const GoldenCase& c) {
  const auto& p = c.prompts.back();
  std::vector<TokenId> text = p.prompt;
  text.insert(text.end(), p.continuation.begin(), p.continuation.end());
  // Past a Gated DeltaNet border is enough here: the goldens judge long texts.
  text.resize(std::min<size_t>(text.size(), 40));
  return text;
}

// Nightly: the product on one case (about 90,000 clusters), the covering set on every other.
constexpr const char* kProductCase = "int4-wide-experts";
bool Full() {
  const char* mode = std::getenv("PACELINE_INVARIANCE");
  return mode != nullptr && std::string(mode) == "full";
}

struct InvarianceCase {
  GoldenCase golden;
  kernels::KvDtype kv_dtype = kernels::KvDtype::kBF16;
};

class InvarianceTest : public ::testing::TestWithParam<InvarianceCase> {};

TEST_P(InvarianceTest, OneHashWhateverTheCluster) {
  const GoldenCase& c = GetParam().golden;
  const kernels::KvDtype kv_dtype = GetParam().kv_dtype;
  const auto checkpoint = Checkpoint::Open(c.directory);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const std::vector<TokenId> text = TextOf(c);
  auto alone = LocalCluster::Start(**checkpoint, LocalClusterOptions{.kv_dtype = kv_dtype});
  ASSERT_TRUE(alone.ok()) << alone.status();
  const auto want = testing::ScoreText((*alone)->trunk(), text, 64, 0);
  ASSERT_TRUE(want.ok()) << want.status();

  const std::vector<Factor> factors = Factors();
  const std::vector<Row> rows = Full() && c.name == kProductCase && kv_dtype == kernels::KvDtype::kBF16
                                    ? Product(factors)
                                    : Pairwise(factors);
  for (const Row& row : rows) {
    std::map<std::string, std::string> values;
    std::string label = c.name;
    for (size_t f = 0; f < factors.size(); ++f) {
      values[factors[f].name] = factors[f].values[row[f]];
      label += " " + factors[f].name + "=" + factors[f].values[row[f]];
    }
    const auto hashes = Hashes(**checkpoint, text, kv_dtype, values);
    ASSERT_TRUE(hashes.ok()) << label << ": " << hashes.status();
    for (const std::string& hash : *hashes) ASSERT_EQ(hash, want->logits_hash) << label;
  }
}

// The layouts that can be sliced, every weight format, both families; and two of them over KV in codes.
std::vector<InvarianceCase> InvarianceCases() {
  std::vector<InvarianceCase> chosen;
  for (const GoldenCase& c : testing::GoldenCases()) {
    const bool always = c.name.find("wide") != std::string::npos || c.name.rfind("hybrid", 0) == 0 ||
                        c.name.rfind("int4-asym", 0) == 0 || c.name.rfind("qwen3-moe-int4", 0) == 0;
    if (always || Full()) chosen.push_back({c});
    if (c.name == "qwen3-moe-int4" || Full()) chosen.push_back({c, kernels::KvDtype::kInt8});
    if (c.name == "hybrid-int4-fp8-bf16" || Full()) chosen.push_back({c, kernels::KvDtype::kInt4});
  }
  return chosen;
}

INSTANTIATE_TEST_SUITE_P(Cases, InvarianceTest, ::testing::ValuesIn(InvarianceCases()), [](const auto& info) {
  std::string name = info.param.golden.name;
  if (info.param.kv_dtype == kernels::KvDtype::kInt8) name += "_int8_kv";
  if (info.param.kv_dtype == kernels::KvDtype::kInt4) name += "_int4_kv";
  for (char& ch : name) ch = ch == '-' ? '_' : ch;
  return name;
});

// ---------------------------------------------------------------- broken on purpose

using kernels::Activations;
using kernels::ExpertTask;

// A float sum instead of the exact one: a rank's leaves are added in fp32 before they are rounded to the
// grid.
void FloatSumExperts(ThreadPool& pool, kernels::Workspace& workspace, const Activations& x,
                     std::span<const ExpertTask> tasks, kernels::ActivationContract contract, int64_t* sums,
                     uint8_t* row_errors) {
  std::vector<float> total(static_cast<size_t>(x.rows) * x.width, 0.0f);
  for (const ExpertTask& task : tasks) {
    std::vector<int64_t> leaf(total.size(), 0);
    kernels::reference::Experts(pool, workspace, x, {&task, 1}, contract, leaf.data(), row_errors);
    for (size_t i = 0; i < total.size(); ++i) total[i] += static_cast<float>(leaf[i]) * 0x1p-32f;
  }
  for (size_t i = 0; i < total.size(); ++i) sums[i] += std::llrint(static_cast<double>(total[i]) * 0x1p32);
}

// Slices cut in the middle of a group: each half is quantised, and becomes a leaf, by itself.
void HalfGroupExperts(ThreadPool& pool, kernels::Workspace&, const Activations& x,
                      std::span<const ExpertTask> tasks, kernels::ActivationContract contract, int64_t* sums,
                      uint8_t*) {
  namespace r = kernels::reference;
  for (const ExpertTask& task : tasks) {
    const kernels::PlainExpert& e = static_cast<const r::PlainExpertWeights&>(*task.expert).plain;
    for (size_t i = 0; i < task.rows.size(); ++i) {
      const int16_t* codes = x.codes + task.rows[i] * x.width;
      const float* scales = x.scales + task.rows[i] * kernels::ActivationGroups(x.width);
      for (int64_t begin = int64_t{task.first_group} * 128 - e.down.first_input; begin < e.down.inputs;
           begin += 64) {
        const int64_t end = std::min(begin + 64, e.down.inputs);
        std::vector<float> middle(end);
        for (int64_t n = begin; n < end; ++n) {
          middle[n] = kernels::Silu(r::IntegerOutput(e.gate, n, 0, x.width, codes, scales)) *
                      r::IntegerOutput(e.up, n, 0, x.width, codes, scales);
        }
        std::vector<int16_t> middle_codes(end);
        float scale = 0;
        r::Quantise(pool, &middle[begin], 1, end - begin, contract, &middle_codes[begin], &scale);
        const std::vector<float> scale_of_group(begin / 128 + 1, scale * task.weights[i]);
        for (int64_t n = 0; n < x.width; ++n) {
          const float leaf =
              r::IntegerOutput(e.down, n, begin, end, middle_codes.data(), scale_of_group.data());
          sums[task.rows[i] * x.width + n] += std::llrint(static_cast<double>(leaf) * 0x1p32);
        }
      }
    }
  }
}

// A linear whose products are rounded before they are added: what a compiler that un-fuses (or fuses) FMA
// does.
void UnfusedLinear(ThreadPool& pool, const kernels::Linear& linear, const Activations& x, float* y,
                   int64_t stride) {
  const kernels::PlainLinear& w = static_cast<const kernels::reference::PlainLinearWeights&>(linear).plain;
  if (kernels::IsInteger(w.format)) return kernels::reference::LinearForward(pool, linear, x, y, stride);
  for (int32_t row = 0; row < x.rows; ++row) {
    for (int64_t n = 0; n < w.outputs; ++n) {
      float total = 0;
      for (int64_t begin = 0; begin < w.inputs; begin += 128) {
        float block = 0;
        for (int64_t k = begin; k < std::min(w.inputs, begin + 128); ++k) {
          const float product = kernels::StoredValue(w, n, k) * x.values[row * x.width + k];
          block = block + product;
        }
        total = std::fma(block, kernels::BlockScale(w, n, begin), total);
      }
      y[row * stride + n] = total;
    }
  }
}

class BrokenContractTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const GoldenCase& c : testing::GoldenCases()) {
      if (c.name != "int4-wide-experts") continue;
      auto opened = Checkpoint::Open(c.directory);
      ASSERT_TRUE(opened.ok()) << opened.status();
      checkpoint_ = *std::move(opened);
      text_ = TextOf(c);
    }
    ASSERT_NE(checkpoint_, nullptr);
  }

  std::string Hash(const kernels::KernelTable& table, int32_t ranks, const std::string& placement) {
    LocalClusterOptions options;
    options.table = &table;
    options.ranks = ranks;
    options.placement = placement;
    auto cluster = LocalCluster::Start(*checkpoint_, options);
    EXPECT_TRUE(cluster.ok()) << cluster.status();
    const auto scores = testing::ScoreText((*cluster)->trunk(), text_, 64, 0);
    EXPECT_TRUE(scores.ok()) << scores.status();
    return scores->logits_hash;
  }

  std::unique_ptr<Checkpoint> checkpoint_;
  std::vector<TokenId> text_;
};

TEST_F(BrokenContractTest, AFloatSumFavoursOnePlacement) {
  kernels::KernelTable broken = kernels::ReferenceKernels();
  broken.experts = FloatSumExperts;
  EXPECT_NE(Hash(broken, 1, "contiguous"), Hash(broken, 2, "sliced"));
}

TEST_F(BrokenContractTest, ASliceInsideAGroupChangesTheBits) {
  kernels::KernelTable broken = kernels::ReferenceKernels();
  broken.experts = HalfGroupExperts;
  EXPECT_NE(Hash(broken, 1, "contiguous"), Hash(kernels::ReferenceKernels(), 1, "contiguous"));
}

TEST_F(BrokenContractTest, AnUnfusedProductChangesTheBits) {
  kernels::KernelTable broken = kernels::ReferenceKernels();
  broken.linear = UnfusedLinear;
  EXPECT_NE(Hash(broken, 1, "contiguous"), Hash(kernels::ReferenceKernels(), 1, "contiguous"));
}

}  // namespace
}  // namespace paceline
