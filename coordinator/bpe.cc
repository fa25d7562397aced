#include "coordinator/bpe.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <queue>
#include <tuple>
#include <utility>

namespace paceline {
namespace {

// Up to here looking at every pair again for every merge is cheaper than a heap.
constexpr size_t kShortPiece = 48;  // symbols

uint64_t Pair(TokenId left, TokenId right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

}  // namespace

Bpe::Bpe(const std::array<TokenId, 256>& byte_tokens, const std::vector<Merge>& merges,
         absl::flat_hash_map<std::string, TokenId> whole)
    : byte_tokens_(byte_tokens), whole_(std::move(whole)) {
  merges_.reserve(merges.size());
  int32_t rank = 0;
  for (const Merge& m : merges) merges_[Pair(m.left, m.right)] = {rank++, m.result};
}

const Bpe::RankedMerge* Bpe::Find(TokenId left, TokenId right) const {
  auto it = merges_.find(Pair(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

void Bpe::Encode(std::string_view piece, std::vector<TokenId>* ids) const {
  if (!whole_.empty()) {
    if (auto it = whole_.find(absl::string_view(piece.data(), piece.size())); it != whole_.end()) {
      ids->push_back(it->second);
      return;
    }
  }
  std::vector<TokenId> symbols;
  symbols.reserve(piece.size());
  for (char byte : piece) {
    const TokenId id = byte_tokens_[static_cast<uint8_t>(byte)];
    if (id >= 0) symbols.push_back(id);
  }
  if (symbols.size() <= kShortPiece) {
    EncodeShort(&symbols);
  } else {
    EncodeLong(&symbols);
  }
  ids->insert(ids->end(), symbols.begin(), symbols.end());
}

void Bpe::EncodeShort(std::vector<TokenId>* symbols) const {
  std::array<const RankedMerge*, kShortPiece> merge{};  // [i]: of symbols i and i + 1
  std::vector<TokenId>& s = *symbols;
  for (size_t i = 0; i + 1 < s.size(); ++i) merge[i] = Find(s[i], s[i + 1]);
  while (s.size() > 1) {
    size_t best = s.size();
    int32_t rank = std::numeric_limits<int32_t>::max();
    for (size_t i = 0; i + 1 < s.size(); ++i) {
      if (merge[i] != nullptr && merge[i]->rank < rank) {
        rank = merge[i]->rank;
        best = i;
      }
    }
    if (best == s.size()) return;
    s[best] = merge[best]->result;
    s.erase(s.begin() + static_cast<ptrdiff_t>(best) + 1);
    std::copy(merge.begin() + best + 1, merge.begin() + s.size(), merge.begin() + best);
    if (best > 0) merge[best - 1] = Find(s[best - 1], s[best]);
    merge[best] = best + 1 < s.size() ? Find(s[best], s[best + 1]) : nullptr;
  }
}

void Bpe::EncodeLong(std::vector<TokenId>* symbols) const {
  constexpr int64_t kEnd = -1;
  struct Symbol {
    TokenId id;  // -1: merged into the one before
    int64_t previous, next;
  };
  struct Candidate {
    int32_t rank;
    int64_t at;
    TokenId left, right, result;
    bool operator>(const Candidate& o) const { return std::tie(rank, at) > std::tie(o.rank, o.at); }
  };
  const auto count = static_cast<int64_t>(symbols->size());
  std::vector<Symbol> list(symbols->size());
  for (int64_t i = 0; i < count; ++i) list[i] = {(*symbols)[i], i - 1, i + 1 < count ? i + 1 : kEnd};
  std::vector<Candidate> storage;
  storage.reserve(symbols->size());
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue(std::greater<>(),
                                                                               std::move(storage));
  const auto consider = [&](int64_t left) {
    if (left == kEnd || list[left].next == kEnd) return;
    const TokenId l = list[left].id, r = list[list[left].next].id;
    if (const RankedMerge* m = Find(l, r)) queue.push({m->rank, left, l, r, m->result});
  };
  for (int64_t i = 0; i + 1 < count; ++i) consider(i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = list[best.at];
    if (left.id != best.left || left.next == kEnd || list[left.next].id != best.right)
      continue;  // merged meanwhile
    Symbol& right = list[left.next];
    left.id = best.result;
    right.id = -1;
    left.next = right.next;
    if (left.next != kEnd) list[left.next].previous = best.at;
    consider(left.previous);
    consider(best.at);
  }
  symbols->clear();
  for (int64_t i = 0; i != kEnd; i = list[i].next) symbols->push_back(list[i].id);
}

}  // namespace paceline
