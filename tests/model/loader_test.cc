// Loading over the real ring, the real threads and real files: what comes is what is there, however it is
// read and whatever goes wrong on the way.
#include "model/loader.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <random>

#include "model/head.h"
#include "model/load_arena.h"
#include "model/read_rate.h"
#include "tests/model/checkpoint_files.h"

namespace paceline {
namespace {

using testing::Folder;
using ::testing::HasSubstr;
using testing::SmallConfig;
using testing::SmallTensors;
using testing::Tensors;

constexpr LoadIo kEveryIo[] = {LoadIo::kRing, LoadIo::kThreads, LoadIo::kBuffered};
constexpr int64_t kFiller = 3'000'017;

LoadOptions Small(LoadIo io) {
  LoadOptions options;
  options.io = io;
  options.depth = 4;
  options.rules = {.block = 4096, .largest = 65536, .merge_gap = 16384};
  options.memory_bytes = 1 << 20;
  return options;
}

// Does something to every read that comes back.
class Faulty final : public BlockReader {
 public:
  using Fault = std::function<void(BlockRead& read, BlockDone& done)>;
  Faulty(std::unique_ptr<BlockReader> real, Fault fault) : real_(std::move(real)), fault_(std::move(fault)) {}
  int depth() const override { return real_->depth(); }
  void Submit(const BlockRead& read) override {
    reads_.resize(std::max(reads_.size(), static_cast<size_t>(read.tag) + 1));
    reads_[read.tag] = read;
    real_->Submit(read);
  }
  BlockDone Wait() override {
    BlockDone done = real_->Wait();
    fault_(reads_[done.tag], done);
    return done;
  }

 private:
  std::unique_ptr<BlockReader> real_;
  Fault fault_;
  std::vector<BlockRead> reads_;
};

class LoaderTest : public ::testing::Test {
 protected:
  LoaderTest() {
    Tensors tensors = SmallTensors();
    std::mt19937 bits(11);
    std::string filler(kFiller, '\0');
    for (char& byte : filler) byte = static_cast<char>(bits());
    tensors["model.visual.filler"] = {"U8", {kFiller}, filler};
    folder_.WriteModel(SmallConfig(), tensors);
    checkpoint_ = *Checkpoint::Open(folder_.path());
    const SafetensorsFile& file = *checkpoint_->files()[0];
    for (const TensorEntry& entry : file.entries()) {
      if (entry.name == "model.visual.filler") filler_ = {&file, &entry};
    }
    whole_ = filler;
  }
  std::string path() const { return folder_.path() + "/model.safetensors"; }

  // Jobs over random stretches of the filler; each compares what it gets with what was written.
  void AddRandomJobs(Loader& loader, int count, uint32_t seed) {
    std::mt19937 bits(seed);
    const auto below = [&](int64_t n) { return static_cast<int64_t>(bits() % static_cast<uint32_t>(n)); };
    for (int i = 0; i < count; ++i) {
      std::vector<std::pair<int64_t, int64_t>> stretches;  // offset, bytes
      for (int64_t s = below(4); s >= 0; --s) {
        const int64_t bytes = below(i % 3 == 0 ? 200000 : 300);
        // Some of them end with the file.
        const int64_t offset = below(5) == 0 ? kFiller - bytes : below(kFiller - bytes);
        stretches.emplace_back(offset, bytes);
      }
      loader.Add(
          [this, stretches](std::vector<FileRange>& ranges) {
            for (const auto& [offset, bytes] : stretches) ranges.push_back(filler_.RangeOf(offset, bytes));
          },
          [this, stretches](const ReadAhead& ahead) -> absl::Status {
            for (const auto& [offset, bytes] : stretches) {
              std::string got(static_cast<size_t>(bytes), '\0');
              const absl::Status read = ahead.Read(filler_, offset, bytes, got.data());
              if (!read.ok()) return read;
              wrong_ += got != whole_.substr(static_cast<size_t>(offset), static_cast<size_t>(bytes));
            }
            ++used_;
            return absl::OkStatus();
          });
    }
  }

  Folder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
  StoredTensor filler_;
  std::string whole_;
  ThreadPool pool_{3};
  std::atomic<int> wrong_{0}, used_{0};
};

TEST_F(LoaderTest, BringsWhatTheFileHolds) {
  for (const LoadIo io : kEveryIo) {
    used_ = 0;
    Loader loader(*checkpoint_, Small(io));
    AddRandomJobs(loader, 300, 5);
    int64_t last = -1, total = 0;
    const absl::Status loaded = loader.Run(pool_, [&](int64_t done, int64_t all) {
      EXPECT_GE(done, last);
      last = done;
      total = all;
    });
    ASSERT_TRUE(loaded.ok()) << loaded;
    EXPECT_EQ(wrong_, 0);
    EXPECT_EQ(used_, 300);
    EXPECT_EQ(last, total);
    const LoadReport& report = loader.report();
    EXPECT_EQ(report.misses, 0) << report.mode;
    EXPECT_GT(report.bytes, 0);
    EXPECT_LE(report.bytes, kFiller);
    EXPECT_GE(report.read_bytes, report.bytes);
    EXPECT_LE(report.peak_memory_bytes, 1 << 20);
    if (io == LoadIo::kBuffered) {
      EXPECT_EQ(report.mode, "threads, page cache");
      EXPECT_TRUE(report.notes.empty());
    }
    if (io == LoadIo::kThreads) {
      EXPECT_THAT(report.mode, HasSubstr("threads, "));
    }
  }
}

TEST_F(LoaderTest, RunsThenInOrderAndOnlyAfterSuccess) {
  Loader loader(*checkpoint_);
  std::vector<int> order;
  loader.Then([&] { order.push_back(used_); });
  AddRandomJobs(loader, 5, 1);
  loader.Then([&] { order.push_back(-1); });
  ASSERT_TRUE(loader.Run(pool_, {}).ok());
  EXPECT_EQ(order, (std::vector<int>{5, -1}));
}

TEST_F(LoaderTest, NothingToReadIsALoad) {
  Loader none(*checkpoint_);
  EXPECT_TRUE(none.Run(pool_, {}).ok());
  Loader empty(*checkpoint_);
  empty.Add([](std::vector<FileRange>&) {},
            [this](const ReadAhead&) {
              ++used_;
              return absl::OkStatus();
            });
  EXPECT_TRUE(empty.Run(pool_, {}).ok());
  EXPECT_EQ(used_, 1);
}

TEST_F(LoaderTest, AJobMayBeLargerThanTheMemory) {
  for (const LoadIo io : kEveryIo) {
    LoadOptions options = Small(io);
    options.memory_bytes = 256 << 10;
    Loader loader(*checkpoint_, options);
    AddRandomJobs(loader, 50, 3);
    loader.Add([this](std::vector<FileRange>& ranges) { ranges.push_back(filler_.RangeOf(0, kFiller)); },
               [this](const ReadAhead& ahead) {
                 const uint8_t* all = ahead.View(filler_, 0, kFiller);
                 wrong_ += all == nullptr || std::memcmp(all, whole_.data(), kFiller) != 0;
                 return absl::OkStatus();
               });
    AddRandomJobs(loader, 50, 4);
    ASSERT_TRUE(loader.Run(pool_, {}).ok());
    EXPECT_EQ(wrong_, 0);
  }
}

TEST_F(LoaderTest, FailedAndShortReadsAreReadAgain) {
  for (const LoadIo io : kEveryIo) {
    used_ = 0;
    int64_t faults = 0;
    LoadOptions options = Small(io);
    options.wrap_reader = [&](std::unique_ptr<BlockReader> real) -> std::unique_ptr<BlockReader> {
      return std::make_unique<Faulty>(std::move(real), [&](BlockRead& read, BlockDone& done) {
        if (++faults % 3 == 0) return;
        const int64_t came = faults % 3 == 1 ? 0 : std::min<int64_t>(done.result, 512);
        std::memset(read.to + came, 0xEE, static_cast<size_t>(read.bytes - came));
        done.result = came == 0 ? -EIO : came;
      });
    };
    Loader loader(*checkpoint_, options);
    AddRandomJobs(loader, 200, 6);
    ASSERT_TRUE(loader.Run(pool_, {}).ok());
    EXPECT_GT(faults, 100);
    EXPECT_EQ(used_, 200);
    EXPECT_EQ(wrong_, 0);
  }
}

TEST_F(LoaderTest, RefusedDirectReadsGoThroughThePageCache) {
  LoadOptions options = Small(LoadIo::kRing);
  const int page_cache_fd = checkpoint_->files()[0]->fd();
  options.wrap_reader = [&](std::unique_ptr<BlockReader> real) -> std::unique_ptr<BlockReader> {
    return std::make_unique<Faulty>(std::move(real), [&](BlockRead& read, BlockDone& done) {
      if (read.fd != page_cache_fd) done.result = -EINVAL;
    });
  };
  Loader loader(*checkpoint_, options);
  AddRandomJobs(loader, 100, 6);
  ASSERT_TRUE(loader.Run(pool_, {}).ok());
  EXPECT_EQ(wrong_, 0);
  EXPECT_THAT(loader.report().mode, HasSubstr(", page cache"));
  ASSERT_FALSE(loader.report().notes.empty());
  EXPECT_THAT(loader.report().notes.back(),
              HasSubstr("model.safetensors cannot be read past the page cache"));
}

TEST_F(LoaderTest, ARefusedRingLeavesThreads) {
  LoadOptions options = Small(LoadIo::kRing);
  options.depth = 1 << 20;  // more than any kernel gives
  Loader loader(*checkpoint_, options);
  AddRandomJobs(loader, 100, 6);
  ASSERT_TRUE(loader.Run(pool_, {}).ok());
  EXPECT_EQ(wrong_, 0);
  EXPECT_THAT(loader.report().mode, HasSubstr("threads, "));
  ASSERT_FALSE(loader.report().notes.empty());
  EXPECT_THAT(loader.report().notes[0], HasSubstr("io_uring is not to be had here"));
  EXPECT_THAT(loader.report().notes[0], HasSubstr("loading reads with threads"));
}

TEST_F(LoaderTest, AFileThatWasCutIsAnErrorInTheWordsOfItsTensor) {
  for (const LoadIo io : kEveryIo) {
    folder_.WriteModel(SmallConfig(), SmallTensors());
    const auto checkpoint = *Checkpoint::Open(folder_.path());
    const StoredTensor last{checkpoint->files()[0].get(), &checkpoint->files()[0]->entries().back()};
    std::filesystem::resize_file(path(), static_cast<uintmax_t>(checkpoint->files()[0]->file_bytes() - 5));
    Loader loader(*checkpoint, Small(io));
    loader.Add(
        [&](std::vector<FileRange>& ranges) { ranges.push_back(last.RangeOf(0, last.entry->bytes())); },
        [&](const ReadAhead& ahead) {
          std::string bytes(static_cast<size_t>(last.entry->bytes()), '\0');
          return ahead.Read(last, 0, last.entry->bytes(), bytes.data());
        });
    const absl::Status loaded = loader.Run(pool_, {});
    EXPECT_THAT(std::string(loaded.message()), HasSubstr("LOAD-003: "));
    EXPECT_THAT(std::string(loaded.message()), HasSubstr(last.entry->name));
    EXPECT_THAT(std::string(loaded.message()), HasSubstr("the file ends at byte"));
  }
}

TEST_F(LoaderTest, AFileThatChangedWhileItWasReadIsAnError) {
  for (const LoadIo io : kEveryIo) {
    const auto checkpoint = *Checkpoint::Open(folder_.path());
    Loader loader(*checkpoint, Small(io));
    loader.Add([&](std::vector<FileRange>& ranges) { ranges.push_back({0, 0, 1000}); },
               [&](const ReadAhead&) {
                 std::ofstream(path(), std::ios::app) << "more";
                 return absl::OkStatus();
               });
    const absl::Status loaded = loader.Run(pool_, {});
    EXPECT_THAT(std::string(loaded.message()), HasSubstr("LOAD-003: "));
    EXPECT_THAT(std::string(loaded.message()), HasSubstr("was changed while it was read"));
  }
}

TEST_F(LoaderTest, AFileWithAnotherInItsPlaceIsReadAsItWas) {
  std::filesystem::rename(path(), path() + ".old");
  folder_.Write("model.safetensors", std::string(kFiller, 'x'));
  for (const LoadIo io : kEveryIo) {
    Loader loader(*checkpoint_, Small(io));
    AddRandomJobs(loader, 40, 2);
    const absl::Status loaded = loader.Run(pool_, {});
    ASSERT_TRUE(loaded.ok()) << loaded;
    EXPECT_EQ(wrong_, 0);
    EXPECT_THAT(loader.report().mode, HasSubstr("page cache"));
  }
}

TEST_F(LoaderTest, AnErrorInTheMiddleEndsTheLoad) {
  for (const LoadIo io : kEveryIo) {
    for (int at = 0; at < 60; at += 7) {
      used_ = 0;
      Loader loader(*checkpoint_, Small(io));
      AddRandomJobs(loader, at, 5);
      loader.Add([this](std::vector<FileRange>& ranges) { ranges.push_back(filler_.RangeOf(1000, 70000)); },
                 [](const ReadAhead&) { return absl::DataLossError("LOAD-005: planted"); });
      AddRandomJobs(loader, 60 - at, 6);
      bool after = false;
      loader.Then([&] { after = true; });
      EXPECT_EQ(loader.Run(pool_, {}), absl::DataLossError("LOAD-005: planted"));
      EXPECT_FALSE(after);
      EXPECT_EQ(wrong_, 0);
    }
  }
}

TEST_F(LoaderTest, JobsApartFailAmongThemselves) {
  Loader loader(*checkpoint_, Small(LoadIo::kRing));
  absl::Status apart, refused;
  bool after = false, after_all = false;
  int tried = 0;
  AddRandomJobs(loader, 20, 1);
  loader.Apart(&apart, [&] {
    loader.Then([&] { after = true; });
    for (int i = 0; i < 5; ++i) {
      loader.Add([this](std::vector<FileRange>& ranges) { ranges.push_back(filler_.RangeOf(0, 100)); },
                 [&](const ReadAhead&) {
                   ++tried;
                   return absl::DataLossError("LOAD-005: planted");
                 });
    }
    return absl::OkStatus();
  });
  // What cannot even be added leaves nothing behind.
  loader.Apart(&refused, [&]() -> absl::Status {
    loader.Add([](std::vector<FileRange>&) {}, [](const ReadAhead&) { return absl::InternalError("ran"); });
    return absl::NotFoundError("no such layer");
  });
  loader.Then([&] { after_all = true; });
  ThreadPool one(1);
  ASSERT_TRUE(loader.Run(one, {}).ok());
  EXPECT_EQ(apart, absl::DataLossError("LOAD-005: planted"));
  EXPECT_EQ(refused, absl::NotFoundError("no such layer"));
  EXPECT_EQ(tried, 1);
  EXPECT_EQ(used_, 20);
  EXPECT_FALSE(after);
  EXPECT_TRUE(after_all);
}

TEST_F(LoaderTest, ReadsWholeFilesForTheYardstick) {
  const absl::StatusOr<ReadRate> all = MeasureReadRate(*checkpoint_, Small(LoadIo::kRing), int64_t{1} << 40);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->bytes, checkpoint_->files()[0]->file_bytes());
  EXPECT_GT(all->bytes_per_second(), 0);
  EXPECT_EQ(MeasureReadRate(*checkpoint_, Small(LoadIo::kRing), 100'000)->bytes, 100'000);
}

TEST(LoadArena, LendsEveryByteOnceAndTakesAllBack) {
  constexpr int64_t kBlock = 4096, kBytes = 64 * kBlock;
  LoadArena arena(kBytes, kBlock);
  std::mt19937 bits(2);
  std::vector<std::pair<uint8_t*, int64_t>> lent;
  for (int round = 0; round < 5000; ++round) {
    if (bits() % 2 == 0 || lent.empty()) {
      const int64_t bytes = 1 + bits() % (20 * kBlock);
      uint8_t* memory = arena.Take(bytes);
      if (memory == nullptr) continue;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(memory) % kBlock, 0u);
      for (const auto& [other, size] : lent) EXPECT_TRUE(memory + bytes <= other || other + size <= memory);
      lent.emplace_back(memory, bytes);
    } else {
      const size_t which = bits() % lent.size();
      arena.Give(lent[which].first, lent[which].second);
      lent.erase(lent.begin() + static_cast<ptrdiff_t>(which));
    }
  }
  for (const auto& [memory, bytes] : lent) arena.Give(memory, bytes);
  EXPECT_EQ(arena.lent_bytes(), 0);
  uint8_t* const all = arena.Take(kBytes);
  EXPECT_EQ(all, arena.data());
  EXPECT_EQ(arena.Take(1), nullptr);
  EXPECT_EQ(arena.Take(kBytes + 1), nullptr) << "larger than all of it, and something is lent";
  arena.Give(all, kBytes);
  uint8_t* const larger = arena.Take(kBytes + 1);
  ASSERT_NE(larger, nullptr);
  std::memset(larger, 1, kBytes + 1);
  arena.Give(larger, kBytes + 1);
  EXPECT_EQ(arena.lent_bytes(), 0);
}

// Reads ahead give what reads without give, of every layer and every slice of an expert, and the list of
// ranges is all that is read.
void ExpectReadsAhead(const Checkpoint& checkpoint) {
  const ModelConfig& config = checkpoint.config();
  Loader loader(checkpoint, Small(LoadIo::kRing));
  std::atomic<int> wrong{0};
  const auto same = [&](kernels::PlainLinear got, const kernels::PlainLinear& want) {
    OwnElements(got);
    wrong += got.data != want.data || got.scales != want.scales || got.zeros != want.zeros ||
             got.format != want.format || got.group != want.group || got.outputs != want.outputs ||
             got.inputs != want.inputs || got.first_input != want.first_input ||
             got.first_output != want.first_output;
  };
  for (const char* name : {"embed_tokens", "lm_head"}) {
    const int64_t rows = checkpoint.DescribeLinear(name)->outputs;
    for (const Span64 outputs : {Span64{}, Span64{rows / 3, rows - 1}}) {
      loader.Add([&, name, outputs](auto& ranges) { checkpoint.ListLinear(name, outputs, {}, ranges); },
                 [&, name, outputs](const ReadAhead& ahead) {
                   same(*checkpoint.ReadLinear(name, outputs, {}, ahead),
                        *checkpoint.ReadLinear(name, outputs));
                   return absl::OkStatus();
                 });
    }
  }
  const int64_t middle = std::min<int64_t>(128, config.expert_columns);
  for (size_t layer = 0; layer < config.layers.size(); ++layer) {
    const std::string prefix = "layers." + std::to_string(layer);
    loader.Add(
        [&, prefix](auto& ranges) { checkpoint.ListVector(prefix + ".input_layernorm.weight", ranges); },
        [&, prefix](const ReadAhead& ahead) {
          wrong += *checkpoint.ReadVector(prefix + ".input_layernorm.weight", ahead) !=
                   *checkpoint.ReadVector(prefix + ".input_layernorm.weight");
          return absl::OkStatus();
        });
    if (config.layers[layer].feed_forward != FeedForward::kMoe) continue;
    const std::string mlp = prefix + ".mlp";
    for (int32_t e = 0; e < config.experts; ++e) {
      for (const Span64 columns : {Span64{}, Span64{0, middle}, Span64{middle, config.expert_columns}}) {
        if (columns.end == columns.begin) continue;
        loader.Add([&, mlp, e, columns](auto& ranges) { checkpoint.ListExpert(mlp, e, columns, ranges); },
                   [&, mlp, e, columns](const ReadAhead& ahead) {
                     const auto got = *checkpoint.ReadExpert(mlp, e, columns, ahead);
                     const auto want = *checkpoint.ReadExpert(mlp, e, columns);
                     same(got.gate, want.gate);
                     same(got.up, want.up);
                     same(got.down, want.down);
                     return absl::OkStatus();
                   });
      }
    }
  }
  ThreadPool pool(2);
  ASSERT_TRUE(loader.Run(pool, {}).ok());
  EXPECT_EQ(wrong, 0);
  EXPECT_EQ(loader.report().misses, 0);
}

TEST(ReadAheadTest, GivesWhatTheFilesGive) {
  for (const auto& folder : std::filesystem::directory_iterator(PACELINE_SOURCE_DIR "/tests/goldens/cases")) {
    SCOPED_TRACE(folder.path().string());
    ExpectReadsAhead(**Checkpoint::Open(folder.path().string()));
  }
}

TEST(ReadAheadTest, GivesWhatSeveralFilesGive) {
  const Folder folder;
  folder.WriteModel(SmallConfig(), {});
  Tensors shards[3];
  int next = 0;
  for (const auto& [name, tensor] : SmallTensors()) shards[next++ % 3][name] = tensor;
  const char* const names[] = {"model.safetensors", "b.safetensors", "a.safetensors"};
  for (int i = 0; i < 3; ++i) folder.Write(names[i], testing::Safetensors(shards[i]));
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ExpectReadsAhead(**checkpoint);
}

// Resident memory of this process, from /proc.
int64_t StatusKb(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.rfind(field, 0) == 0) return std::stoll(line.substr(line.find_first_of("0123456789")));
  }
  return -1;
}

// GCC says it by macros, Clang by features.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#elif defined(__has_feature)
constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool kSanitized = false;
#endif

// A head of 96 MiB in BF16 becomes 48 MiB of INT8: in one piece it would take twice its stored size beside
// that.
TEST(LoadMemory, NothingLargeIsThereTwice) {
  if (kSanitized) GTEST_SKIP() << "sanitizers have memory of their own";
  constexpr int64_t kRows = 196'608, kHidden = 256, kMiB = 1 << 20;
  const Folder folder;
  {
    nlohmann::json config = SmallConfig();
    config["vocab_size"] = kRows;
    Tensors tensors = SmallTensors();
    tensors["lm_head.weight"] = testing::Bf16({kRows, kHidden}, 1);
    tensors["model.embed_tokens.weight"] = testing::Bf16({kRows, kHidden}, 2);
    folder.WriteModel(config, tensors);
  }
  const auto checkpoint = *Checkpoint::Open(folder.path());
  const auto table = *kernels::SelectKernels("cpu", "");
  LoadOptions options;
  options.memory_bytes = 8 * kMiB;
  ThreadPool pool(2);
  Loader loader(*checkpoint, options);
  const auto head = *LmHead::Add(loader, HeadFormat::kInt8, {}, *table);
  // Resets the peak to what is resident now.
  if (std::ofstream clear("/proc/self/clear_refs"); !(clear << "5" << std::flush))
    GTEST_SKIP() << "this system does not let a process reset its peak";
  const int64_t before = StatusKb("VmRSS");
  ASSERT_TRUE(loader.Run(pool, {}).ok());
  const int64_t above = (StatusKb("VmHWM") - before) * 1024;
  EXPECT_GT(head->bytes(), kRows * kHidden);
  EXPECT_GE(above, head->bytes() / 2) << "the measurement itself";
  EXPECT_LE(above, head->bytes() * 102 / 100 + options.memory_bytes + 16 * kMiB);
}

}  // namespace
}  // namespace paceline
