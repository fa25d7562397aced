// The other end of the API, for `generate grpc://H:P`, `chat` and `status`: plain calls, plain types.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/cluster.h"
#include "coordinator/chat.h"
#include "coordinator/generation.h"
#include "coordinator/request.h"
#include "coordinator/serving_state.h"

namespace paceline {

struct ClusterStatus {
  ClusterState state = ClusterState::kLoading;
  std::string model;
  ClusterFacts facts;
};

// A prompt as the head's chat template makes it.
struct TemplatedChat {
  std::vector<TokenId> ids;
  bool starts_in_reasoning = false;  // OutputParserOptions
};

// The H:P of grpc://H:P. CFG-002 when `url` is no such thing.
absl::StatusOr<std::string> AddressOfUrl(const std::string& url);
// True for text that begins with grpc://.
bool IsGrpcUrl(const std::string& text);

// Calls block and carry the head's own errors; NET-002 when nobody answers at the address. Thread-safe.
class ApiClient {
 public:
  // `address` is H:P. Nothing is sent before the first call. `api_key`: for a head that wants one.
  explicit ApiClient(const std::string& address, const std::string& api_key = "");
  ~ApiClient();

  // Runs one request to its end over GenerateStream; as RunGeneration, with the prompt's ids filled in and
  // without what the API does not carry (logits_hash). `on_token` may return false to cancel, and so may
  // `wanted`, which another thread asks while nothing comes.
  absl::StatusOr<GenerationResult> Generate(
      GenerateRequest request, const std::function<bool(const GeneratedToken&)>& on_token = nullptr,
      const std::function<bool()>& wanted = nullptr);
  absl::StatusOr<TemplatedChat> ApplyChatTemplate(const ChatRequest& chat);
  absl::StatusOr<std::vector<TokenId>> Tokenize(const std::string& text);
  // Waits at most `limit`.
  absl::StatusOr<ClusterStatus> Status(Duration limit);
  // Prometheus text. Waits at most `limit`.
  absl::StatusOr<std::string> Metrics(Duration limit);

 private:
  struct Parts;
  absl::Status Explain(absl::Status status) const;
  std::unique_ptr<Parts> parts_;
};

}  // namespace paceline
