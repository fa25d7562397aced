// SHA-256: digests of checkpoints, fingerprints of arithmetic, hashes of logits.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace paceline {

// Use one per thread.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  void Add(const void* data, size_t bytes);
  void Add(std::string_view text) { Add(text.data(), text.size()); }
  // Lower-case hex of everything added so far; more may be added afterwards.
  std::string Hex() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace paceline
