// A loopback worker is what is left of a worker process without its process: a handler, a thread, a link.
#include "worker/loopback_workers.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "base/error.h"
#include "transport/link.h"

namespace paceline {

class LoopbackWorkers::Worker {
 public:
  Worker(JoinHost& host, WorkerFacts facts, const KnownAnswer& known_answer, const HandlerFactory& factory,
         bool yield, const std::function<void(const absl::Status&)>& refused)
      : host_(host), control_(std::make_shared<Control>()), yield_(yield) {
    thread_ = std::thread([this, facts = std::move(facts), known_answer, factory, refused] {
      Run(facts, known_answer, factory, refused);
    });
  }
  ~Worker() {
    control_->stop = true;
    thread_.join();
  }

 private:
  // The head's way back. No stream: the flags are the messages.
  struct Control final : MemberChannel {
    void AnnounceEpoch(Epoch announced) override { epoch.store(announced.value()); }
    void Close() override { stop = true; }
    std::atomic<uint32_t> epoch{0};
    std::atomic<bool> stop{false};
  };

  void Run(const WorkerFacts& facts, const KnownAnswer& known_answer, const HandlerFactory& factory,
           const std::function<void(const absl::Status&)>& refused) {
    const JoinHello hello = MakeHello(host_.terms(), facts, known_answer);
    const JoinHost::Admission admission = host_.Join(hello, control_);
    if (!admission.status.ok()) {
      if (refused) refused(admission.status);
      return;
    }
    const uint64_t member = admission.member;
    absl::StatusOr<LoadedHandler> loaded =
        factory(admission.assignment.share,
                [this, member](LoadProgress progress) { host_.OnProgress(member, progress); });
    if (!loaded.ok()) {
      host_.OnFailed(member, loaded.status());
      return;
    }
    auto [head_end, worker_end] = LoopbackPair();
    host_.OnLink(admission.assignment.link_token, std::move(head_end));
    host_.OnLoaded(member, loaded->facts);

    ServeOptions options;
    options.epoch = admission.assignment.epoch;
    options.newest_epoch = [this, first = admission.assignment.epoch] {
      return std::max(first, Epoch(control_->epoch.load()));
    };
    options.head = admission.assignment.head;
    options.yield = yield_;
    options.stop = [this] { return control_->stop.load(); };
    const absl::Status ended = ServeExchange(*worker_end, *loaded->handler, options);
    if (!ended.ok()) host_.OnGone(member, std::string(ended.message()));
  }

  JoinHost& host_;
  const std::shared_ptr<Control> control_;
  const bool yield_;
  std::thread thread_;
};

LoopbackWorkers::LoopbackWorkers(JoinHost& host, std::vector<WorkerFacts> workers, KnownAnswer known_answer,
                                 HandlerFactory factory, bool yield,
                                 std::function<void(const absl::Status&)> refused) {
  for (WorkerFacts& facts : workers) {
    workers_.push_back(
        std::make_unique<Worker>(host, std::move(facts), known_answer, factory, yield, refused));
  }
}

LoopbackWorkers::~LoopbackWorkers() = default;

}  // namespace paceline
