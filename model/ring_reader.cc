// BlockReader over io_uring; the only file that knows liburing.
#include <liburing.h>
#include <sys/uio.h>

#include <cerrno>
#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "model/block_reader.h"

namespace paceline {
namespace {

class RingReader final : public BlockReader {
 public:
  RingReader(int depth, uint8_t* memory, int64_t bytes) : depth_(depth), memory_(memory), bytes_(bytes) {}
  ~RingReader() override {
    if (!open_) return;
    while (under_way_ > 0) Wait();
    io_uring_queue_exit(&ring_);
  }

  // 0, or a negated errno.
  int Open() {
    if (const int failed = io_uring_queue_init(static_cast<unsigned>(depth_), &ring_, 0); failed < 0)
      return failed;
    open_ = true;
    // Reads without a vector came with kernel 5.6, later than rings.
    io_uring_probe* probe = io_uring_get_probe_ring(&ring_);
    const bool reads = probe != nullptr && io_uring_opcode_supported(probe, IORING_OP_READ);
    if (probe != nullptr) io_uring_free_probe(probe);
    if (!reads) return -ENOSYS;
    // Pinned memory counts against RLIMIT_MEMLOCK; where that is low, reads pin their pages one by one.
    const iovec whole{memory_, static_cast<size_t>(bytes_)};
    registered_ = bytes_ > 0 && io_uring_register_buffers(&ring_, &whole, 1) == 0;
    return 0;
  }

  int depth() const override { return depth_; }

  void Submit(const BlockRead& read) override {
    CHECK_LT(under_way_, depth_);
    io_uring_sqe* entry = io_uring_get_sqe(&ring_);
    CHECK(entry != nullptr);
    const auto bytes = static_cast<unsigned>(read.bytes);
    const auto position = static_cast<uint64_t>(read.position);
    if (registered_ && read.to >= memory_ && read.to + read.bytes <= memory_ + bytes_) {
      io_uring_prep_read_fixed(entry, read.fd, read.to, bytes, position, 0);
    } else {
      io_uring_prep_read(entry, read.fd, read.to, bytes, position);
    }
    entry->user_data = read.tag;
    ++under_way_;
    ++unsent_;
  }

  BlockDone Wait() override {
    CHECK_GT(under_way_, 0);
    Send();
    io_uring_cqe* done = nullptr;
    int failed = io_uring_wait_cqe(&ring_, &done);
    while (failed == -EINTR || failed == -EAGAIN) failed = io_uring_wait_cqe(&ring_, &done);
    CHECK_EQ(failed, 0);
    const BlockDone out{done->user_data, done->res};
    io_uring_cqe_seen(&ring_, done);
    --under_way_;
    return out;
  }

 private:
  // Gives the kernel what is submitted; at least one read is with it afterwards.
  void Send() {
    while (unsent_ > 0) {
      const int sent = io_uring_submit(&ring_);
      if (sent > 0) unsent_ -= sent;
      if (sent > 0) continue;
      // Short of memory for a moment, or interrupted: what is under way may come back first.
      CHECK(sent == 0 || sent == -EINTR || sent == -EAGAIN || sent == -EBUSY);
      if (under_way_ > unsent_) return;
      std::this_thread::yield();
    }
  }

  const int depth_;
  uint8_t* const memory_;
  const int64_t bytes_;
  io_uring ring_{};
  bool open_ = false;
  bool registered_ = false;
  int under_way_ = 0;  // submitted and not yet returned
  int unsent_ = 0;     // of them, not yet given to the kernel
};

}  // namespace

absl::StatusOr<std::unique_ptr<BlockReader>> OpenRing(int depth, uint8_t* memory, int64_t bytes) {
  auto ring = std::make_unique<RingReader>(depth, memory, bytes);
  const int failed = ring->Open();
  if (failed == 0) return ring;
  return absl::UnavailableError(
      absl::StrCat("io_uring is not to be had here (", std::strerror(-failed), ")"));
}

}  // namespace paceline
