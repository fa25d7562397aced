// Two indices: one of long runs, so that a long agreement is found among few candidates, and one of the
// shortest that count.
#include "model/suffix_drafter.h"

#include <algorithm>

namespace paceline {
namespace {

constexpr int32_t kLongGram = 8;

// Of the `gram` tokens that end at `end`; token `end` itself is `last`.
uint64_t Hash(const std::vector<TokenId>& tokens, int64_t end, int32_t gram, TokenId last) {
  uint64_t hash = static_cast<uint64_t>(last) + 1;
  for (int64_t i = end - 1; i > end - gram; --i) {
    hash = (hash ^ (hash >> 29)) * 0x9e3779b97f4a7c15u + static_cast<uint64_t>(tokens[i]) + 1;
  }
  return hash;
}

}  // namespace

void SuffixDrafter::Commit(const DraftContext& /*context*/, const CommittedRows& rows) {
  if (rows.tokens.empty()) return;
  if (rows.first_position == 0) {
    Sequence fresh;
    if (options_.min_match < kLongGram && kLongGram <= options_.max_match)
      fresh.indices.emplace_back(kLongGram);
    fresh.indices.emplace_back(options_.min_match);
    sequences_[rows.sequence] = std::move(fresh);
  }
  const auto found = sequences_.find(rows.sequence);
  if (found == sequences_.end()) return;
  Sequence& s = found->second;
  if (static_cast<int64_t>(s.tokens.size()) != rows.first_position) {
    sequences_.erase(found);
    return;
  }
  for (const TokenId token : rows.tokens) {
    const int64_t at = static_cast<int64_t>(s.tokens.size());
    for (Index& index : s.indices) {
      index.earlier.push_back(-1);
      if (at + 1 < index.gram) continue;
      const auto [slot, fresh] =
          index.latest.try_emplace(Hash(s.tokens, at, index.gram, token), static_cast<int32_t>(at));
      if (!fresh) {
        index.earlier.back() = slot->second;
        slot->second = static_cast<int32_t>(at);
      }
    }
    s.tokens.push_back(token);
  }
}

SuffixDrafter::Match SuffixDrafter::Find(const Sequence& s, TokenId last_token) const {
  Match best;
  const int64_t at = static_cast<int64_t>(s.tokens.size());  // of last_token
  for (const Index& index : s.indices) {
    if (at + 1 < index.gram) continue;
    const auto slot = index.latest.find(Hash(s.tokens, at, index.gram, last_token));
    if (slot == index.latest.end()) continue;
    int64_t end = slot->second;
    for (int32_t tried = 0; end >= 0 && tried < options_.candidates; ++tried, end = index.earlier[end]) {
      if (s.tokens[end] != last_token) continue;
      int32_t length = 1;
      while (length < options_.max_match && length <= end && s.tokens[end - length] == s.tokens[at - length])
        ++length;
      if (length >= options_.min_match && length > best.length) best = {end, length};
      if (best.length == options_.max_match) return best;
    }
    if (best.length > 0) return best;
  }
  return best;
}

absl::Status SuffixDrafter::Draft(const DraftContext& /*context*/, std::span<const DraftRequest> requests,
                                  std::span<DraftResult> drafts) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const DraftRequest& request = requests[i];
    std::vector<TokenId>& out = drafts[i].tokens;
    out.clear();
    drafts[i].distributions.clear();
    const auto found = sequences_.find(request.sequence);
    if (found == sequences_.end()) continue;
    const std::vector<TokenId>& tokens = found->second.tokens;
    const int64_t at = static_cast<int64_t>(tokens.size());
    if (at != request.position) continue;
    const Match match = Find(found->second, request.last_token);
    if (match.length == 0) continue;
    for (int64_t from = match.end + 1; static_cast<int32_t>(out.size()) < request.depth; ++from) {
      // Behind the text come last_token and the draft itself.
      out.push_back(from < at ? tokens[from] : from == at ? request.last_token : out[from - at - 1]);
    }
  }
  return absl::OkStatus();
}

DraftOffer SuffixDrafter::Offer(SequenceId sequence, TokenId last_token) const {
  const auto found = sequences_.find(sequence);
  if (found == sequences_.end()) return {DraftSource::kSuffix, 0, 0};
  const Match match = Find(found->second, last_token);
  return {DraftSource::kSuffix, match.length > 0 ? kMaxDraft : 0, match.length};
}

}  // namespace paceline
