// Equal shares among keys (tenants): who has been served least goes first. Counts rows run, a drawn token
// twice: a decode row costs more than a row of a prompt. A key that comes back from idling takes up at the
// level of the least served key that is there, so that nobody saves up turns. Sheng et al., "Fairness in
// serving large language models", 2024.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <string>

namespace paceline {

// A pure object; use from one thread.
class Shares {
 public:
  // One more request of `key` is there, or one less.
  void Enter(const std::string& key) {
    Account& account = accounts_[key];
    if (account.requests == 0) account.served = std::max(account.served, Least().value_or(0));
    ++account.requests;
  }
  void Leave(const std::string& key) {
    const auto account = accounts_.find(key);
    if (--account->second.requests > 0) return;
    // What a key was given beyond the others is remembered while they are there; the rest would be lifted.
    const int64_t least = Least().value_or(std::numeric_limits<int64_t>::max());
    std::erase_if(accounts_, [least](const auto& entry) {
      return entry.second.requests == 0 && entry.second.served <= least;
    });
  }
  void Serve(const std::string& key, int64_t rows, int64_t drawn) { accounts_[key].served += rows + drawn; }
  int64_t served(const std::string& key) const {
    const auto account = accounts_.find(key);
    return account == accounts_.end() ? 0 : account->second.served;
  }
  size_t keys() const { return accounts_.size(); }

 private:
  struct Account {
    int64_t requests = 0;
    int64_t served = 0;
  };
  // Of the keys that have requests.
  std::optional<int64_t> Least() const {
    std::optional<int64_t> least;
    for (const auto& [key, account] : accounts_) {
      if (account.requests > 0) least = std::min(least.value_or(account.served), account.served);
    }
    return least;
  }

  std::map<std::string, Account> accounts_;
};

}  // namespace paceline
