// The backend on the host executor: `--backend cuda-emulated`. Device memory is host memory that was asked
// for here, filled with garbage and watched at its borders; a kernel's arguments may point nowhere else.
#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <map>

#include "base/check.h"
#include "kernels/cuda/backend.h"
#include "kernels/cuda/cuda.h"

namespace paceline::kernels::cuda {
namespace {

class EmulatedMachine final : public Machine {
 public:
  static EmulatedMachine& Instance() {
    static EmulatedMachine* const machine = new EmulatedMachine;  // weights may outlive statics
    return *machine;
  }

  void* Allocate(int64_t bytes) override {
    const size_t size = static_cast<size_t>(bytes);
    auto* memory = static_cast<std::byte*>(std::aligned_alloc(256, (size + kBorder + 255) / 256 * 256));
    CHECK(memory != nullptr);
    std::memset(memory, 0xFF, size);  // NaN as floats, -1 as indexes
    std::memset(memory + size, kMark, kBorder);
    const std::lock_guard<std::mutex> lock(registry_lock_);
    registry_[memory] = size;
    return memory;
  }
  void Free(void* memory) override {
    auto* bytes = static_cast<std::byte*>(memory);
    {
      const std::lock_guard<std::mutex> lock(registry_lock_);
      const auto at = registry_.find(bytes);
      CHECK(at != registry_.end());
      for (size_t i = 0; i < kBorder; ++i) CHECK_EQ(static_cast<int>(bytes[at->second + i]), kMark);
      registry_.erase(at);
    }
    std::free(memory);
  }
  void CopyIn(void* to, const void* from, int64_t bytes) override {
    CHECK(Owns(to, bytes));
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  void CopyOut(void* to, const void* from, int64_t bytes) override {
    CHECK(Owns(from, bytes));
    if (bytes > 0) std::memcpy(to, from, static_cast<size_t>(bytes));
  }
  void Clear(void* memory, int64_t bytes) override {
    CHECK(Owns(memory, bytes));
    std::memset(memory, 0, static_cast<size_t>(bytes));
  }
  bool watches_borders() const override { return true; }

  template <class K>
  void Launch(const typename K::Args& args) {
#if defined(__GNUC__) && !defined(__clang__)
    // Old bytes between fields may be any address.
    typename K::Args fields = args;
    __builtin_clear_padding(&fields);
    CheckPointers(&fields, sizeof(fields));
#endif
    const Grid grid = K::Blocks(args);
    CHECK(grid.x > 0 && grid.x < int64_t{1} << 31 && grid.y > 0 && grid.y < 1 << 16);
    CHECK_LE(grid.shared_bytes, 48 << 10);  // what every GPU gives without being asked
    HostExecutor::Run(
        grid.x, grid.y, K::kThreads, grid.shared_bytes,
        [](const void* of) { K::Run(*static_cast<const typename K::Args*>(of)); }, &args);
  }

 private:
  static constexpr size_t kBorder = 64;
  static constexpr int kMark = 0xA5;

  bool Owns(const void* memory, int64_t bytes) {
    const auto* at = static_cast<const std::byte*>(memory);
    const std::lock_guard<std::mutex> lock(registry_lock_);
    auto after = registry_.upper_bound(const_cast<std::byte*>(at));
    if (after == registry_.begin()) return false;
    --after;
    return at + bytes <= after->first + after->second;
  }
  // A word that is an address of this process has to be one of this machine. Other words are numbers far
  // below, or two fields of 4 bytes, which hardly ever make the address of anything mapped.
  void CheckPointers(const void* args, size_t bytes) {
    for (size_t i = 0; i + 8 <= bytes; i += 8) {
      uint64_t word;
      std::memcpy(&word, static_cast<const std::byte*>(args) + i, 8);
      if (word >> 40 < 0x55 || word >> 40 > 0x7F) continue;
      if (Owns(reinterpret_cast<const void*>(word), 0)) continue;
      constexpr uint64_t kPage = 4096;
      CHECK(msync(reinterpret_cast<void*>(word / kPage * kPage), kPage, MS_ASYNC) != 0);  // host memory
    }
  }

  std::mutex registry_lock_;
  std::map<std::byte*, size_t> registry_;
};

}  // namespace

absl::StatusOr<const KernelTable*> SelectEmulated() {
  static const KernelTable table = Backend<EmulatedMachine>::Table("cuda emulated");
  return &table;
}

}  // namespace paceline::kernels::cuda
