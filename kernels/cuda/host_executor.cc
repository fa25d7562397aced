// Fibers by ucontext for their birth and by _setjmp for every later switch, which asks nothing of the system.
#include "kernels/cuda/host_executor.h"

#include <setjmp.h>
#include <ucontext.h>

#include <memory>
#include <string>
#include <vector>

#include "base/check.h"

namespace paceline::kernels::cuda {
namespace {

constexpr int32_t kLanes = 32;
constexpr size_t kStackBytes = size_t{128} << 10;

enum class Waits : uint8_t { kNothing, kBlock, kWarp, kShuffle, kMultiply, kDone };
const char* Name(Waits waits) {
  static constexpr const char* kNames[] = {"runs",     "waits for the block",    "waits for the warp",
                                           "shuffles", "multiplies with a warp", "is done"};
  return kNames[static_cast<size_t>(waits)];
}

struct Fiber {
  HostExecutor::Thread thread;
  Waits waits = Waits::kNothing;
  jmp_buf where;
  ucontext_t birth;
  std::unique_ptr<std::byte[]> stack;
  bool born = false;
  // Of the warp's exchange.
  uint64_t word = 0;
  int32_t source = 0;
  int32_t c[4];
  uint32_t a[4], b[2];
};

class Executor {
 public:
  void Run(int64_t blocks_x, int32_t blocks_y, int32_t threads, int32_t shared_bytes,
           void (*body)(const void*), const void* args) {
    CHECK(threads > 0 && threads % kLanes == 0);
    CHECK(current_ == nullptr);
    body_ = body;
    args_ = args;
    threads_ = threads;
    while (static_cast<int32_t>(fibers_.size()) < threads) fibers_.push_back(std::make_unique<Fiber>());
    // A vector of words is aligned as shared memory is.
    shared_.resize(static_cast<size_t>(shared_bytes) / 16 + 1);
    const int64_t blocks = blocks_x * blocks_y;
    ++launch_;
    for (int64_t n = 0; n < blocks; ++n) {
      const int64_t block = launch_ % 2 == 0 ? n : blocks - 1 - n;
      std::memset(shared_.data(), 0xFF, shared_.size() * 16);  // NaN as floats, -1 as indexes
      RunBlock(block % blocks_x, static_cast<int32_t>(block / blocks_x));
    }
  }

  Fiber& Self() { return *current_; }
  std::byte* Shared() { return reinterpret_cast<std::byte*>(shared_.data()); }

  // The caller waits; the last one that was awaited lets all go on.
  void Wait(Waits waits) {
    Fiber& self = *current_;
    self.waits = waits;
    const int32_t first = waits == Waits::kBlock ? 0 : self.thread.index / kLanes * kLanes;
    const int32_t count = waits == Waits::kBlock ? threads_ : kLanes;
    bool all = true;
    for (int32_t i = first; i < first + count && all; ++i) all = fibers_[i]->waits == waits;
    if (!all) return Switch(self.where, scheduler_);
    if (waits == Waits::kShuffle) {
      uint64_t words[kLanes];
      for (int32_t i = 0; i < kLanes; ++i) {
        const int32_t source = fibers_[first + i]->source;
        CHECK(source >= 0 && source < kLanes);
        words[i] = fibers_[first + source]->word;
      }
      for (int32_t i = 0; i < kLanes; ++i) fibers_[first + i]->word = words[i];
    }
    if (waits == Waits::kMultiply) Multiply(first);
    for (int32_t i = first; i < first + count; ++i) fibers_[i]->waits = Waits::kNothing;
  }

 private:
  struct alignas(16) Words {
    std::byte bytes[16];
  };

  // No locals: nothing of this frame may live in a register across the jump.
  __attribute__((noinline)) static void Switch(jmp_buf& from, jmp_buf& to) {
    if (_setjmp(from) == 0) _longjmp(to, 1);
  }

  static void Live();

  void Resume(Fiber& fiber) {
    current_ = &fiber;
    if (fiber.born) {
      Switch(scheduler_, fiber.where);
    } else {
      fiber.born = true;
      fiber.stack = std::make_unique<std::byte[]>(kStackBytes);
      CHECK_EQ(getcontext(&fiber.birth), 0);
      fiber.birth.uc_stack.ss_sp = fiber.stack.get();
      fiber.birth.uc_stack.ss_size = kStackBytes;
      fiber.birth.uc_link = nullptr;
      makecontext(&fiber.birth, &Executor::Live, 0);
      Enter(fiber);
    }
    current_ = nullptr;
  }
  __attribute__((noinline)) void Enter(Fiber& fiber) {
    if (_setjmp(scheduler_) == 0) setcontext(&fiber.birth);
  }

  void RunBlock(int64_t x, int32_t y) {
    for (int32_t i = 0; i < threads_; ++i) {
      fibers_[i]->thread = {i, x, y};
      fibers_[i]->waits = Waits::kNothing;
    }
    // 1, 7 and 11 have no factor in common with a multiple of 32.
    static constexpr int32_t kStrides[] = {1, 7, -1, 11};
    const int32_t stride = kStrides[(launch_ + static_cast<uint64_t>(x)) % 4];
    for (int32_t done = 0; done < threads_;) {
      bool moved = false;
      done = 0;
      for (int32_t n = 0; n < threads_; ++n) {
        const int32_t i =
            stride > 0 ? static_cast<int32_t>(int64_t{n} * stride % threads_) : threads_ - 1 - n;
        Fiber& fiber = *fibers_[i];
        if (fiber.waits == Waits::kNothing) {
          moved = true;
          Resume(fiber);
        }
        done += fiber.waits == Waits::kDone ? 1 : 0;
      }
      if (!moved && done < threads_) Stuck();
    }
  }

  [[noreturn]] void Stuck() {
    std::string what = "a kernel waits for ever:";
    Waits last = Waits::kNothing;
    for (int32_t i = 0; i < threads_; ++i) {
      if (fibers_[i]->waits == last) continue;
      last = fibers_[i]->waits;
      what += " thread " + std::to_string(i) + " " + Name(last) + ";";
    }
    internal::CheckFailed(__FILE__, __LINE__, what);
  }

  void Multiply(int32_t first) {
    int8_t a[16][32], b[8][32];
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      const Fiber& f = *fibers_[first + lane];
      const int32_t g = lane / 4, t = lane % 4;
      for (int32_t r = 0; r < 4; ++r) std::memcpy(&a[g + r % 2 * 8][r / 2 * 16 + 4 * t], &f.a[r], 4);
      for (int32_t r = 0; r < 2; ++r) std::memcpy(&b[g][r * 16 + 4 * t], &f.b[r], 4);
    }
    for (int32_t lane = 0; lane < kLanes; ++lane) {
      Fiber& f = *fibers_[first + lane];
      for (int32_t r = 0; r < 4; ++r) {
        const int8_t *row = a[lane / 4 + r / 2 * 8], *column = b[lane % 4 * 2 + r % 2];
        int32_t sum = 0;
        for (int32_t k = 0; k < 32; ++k) sum += row[k] * column[k];
        f.c[r] += sum;
      }
    }
  }

  void (*body_)(const void*) = nullptr;
  const void* args_ = nullptr;
  int32_t threads_ = 0;
  uint64_t launch_ = 0;
  jmp_buf scheduler_;
  Fiber* current_ = nullptr;
  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Words> shared_;
};

Executor& TheExecutor() {
  // Never destroyed: fibers have stacks that nobody unwinds.
  static Executor* const executor = new Executor;
  return *executor;
}

// The life of a fiber: one kernel's thread after the other.
void Executor::Live() {
  Executor& executor = TheExecutor();
  Fiber& self = *executor.current_;
  while (true) {
    executor.body_(executor.args_);
    self.waits = Waits::kDone;
    Switch(self.where, executor.scheduler_);
  }
}

}  // namespace

void HostExecutor::Run(int64_t blocks_x, int32_t blocks_y, int32_t threads, int32_t shared_bytes,
                       void (*body)(const void*), const void* args) {
  TheExecutor().Run(blocks_x, blocks_y, threads, shared_bytes, body, args);
}

const HostExecutor::Thread& HostExecutor::Self() { return TheExecutor().Self().thread; }
std::byte* HostExecutor::Shared() { return TheExecutor().Shared(); }
void HostExecutor::BlockBarrier() { TheExecutor().Wait(Waits::kBlock); }
void HostExecutor::WarpBarrier() { TheExecutor().Wait(Waits::kWarp); }

uint64_t HostExecutor::ShuffleWord(uint64_t word, int32_t lane) {
  Executor& executor = TheExecutor();
  executor.Self().word = word;
  executor.Self().source = lane;
  executor.Wait(Waits::kShuffle);
  return executor.Self().word;
}

void HostExecutor::MultiplyBytes(int32_t (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  Executor& executor = TheExecutor();
  Fiber& self = executor.Self();
  std::memcpy(self.a, a, sizeof(a));
  std::memcpy(self.b, b, sizeof(b));
  std::memcpy(self.c, c, sizeof(c));
  executor.Wait(Waits::kMultiply);
  std::memcpy(c, self.c, sizeof(c));
}

}  // namespace paceline::kernels::cuda
