// Holders, texts, snapshots.
#include "coordinator/prefix_cache.h"

#include "base/check.h"
#include "base/sha256.h"

namespace paceline {
namespace {

// With its length in front, so that no two lists of parts read alike.
void AddPart(Sha256& hash, std::string_view part) {
  const uint64_t bytes = part.size();
  hash.Add(&bytes, sizeof(bytes));
  hash.Add(part);
}

}  // namespace

std::string ChainRoot(std::string_view fingerprint, std::string_view key, std::string_view salt) {
  Sha256 hash;
  for (const std::string_view part : {fingerprint, key, salt}) AddPart(hash, part);
  return hash.Hex();
}

std::string NextInChain(std::string_view before, std::span<const TokenId> page) {
  Sha256 hash;
  AddPart(hash, before);
  hash.Add(page.data(), page.size_bytes());
  return hash.Hex();
}

PrefixCache::PrefixCache(int32_t pages, int32_t snapshots)
    : pages_(static_cast<size_t>(pages)), snapshots_(static_cast<size_t>(snapshots)) {
  for (int32_t page = pages - 1; page >= 0; --page) empty_.push_back(page);
  for (int32_t snapshot = snapshots - 1; snapshot >= 0; --snapshot) free_snapshots_.push_back(snapshot);
}

int32_t PrefixCache::available() const { return static_cast<int32_t>(empty_.size() + resting_.size()); }

int32_t PrefixCache::Spare() {
  if (empty_.empty()) {
    CHECK(!resting_.empty());
    Forget(resting_.begin()->second);
  }
  return empty_.back();
}

int32_t PrefixCache::Take() {
  const int32_t page = Spare();
  empty_.pop_back();
  At(page).holders = 1;
  ++held_;
  return page;
}

void PrefixCache::Hold(int32_t page) {
  Page& p = At(page);
  if (p.holders++ > 0) return;
  CHECK(!p.digest.empty());
  CHECK_EQ(resting_.erase({p.dropped, page}), 1u);
  ++held_;
}

void PrefixCache::Drop(std::span<const int32_t> pages) {
  for (size_t i = pages.size(); i-- > 0;) {
    Page& p = At(pages[i]);
    CHECK_GT(p.holders, 0);
    if (--p.holders > 0) continue;
    --held_;
    if (p.digest.empty()) {
      empty_.push_back(pages[i]);
    } else {
      p.dropped = ++clock_;
      resting_.emplace(p.dropped, pages[i]);
    }
  }
}

void PrefixCache::Forget(int32_t page) {
  Page& p = At(page);
  CHECK_EQ(p.holders, 0);
  resting_.erase({p.dropped, page});
  by_digest_.erase(p.digest);
  p.digest.clear();
  if (p.snapshot >= 0) {
    Snapshot& s = snapshots_[static_cast<size_t>(p.snapshot)];
    CHECK_EQ(s.pins, 0);  // who pins a snapshot holds its page
    Leave(p.snapshot);
    s = Snapshot();
    --attached_;
    free_snapshots_.push_back(p.snapshot);
    p.snapshot = -1;
  }
  empty_.push_back(page);
}

int32_t PrefixCache::Publish(const std::string& digest, int32_t page) {
  const auto [entry, fresh] = by_digest_.try_emplace(digest, page);
  if (fresh) {
    CHECK(At(page).digest.empty());
    At(page).digest = digest;
    return page;
  }
  const int32_t other = entry->second;
  if (other == page) return page;
  Hold(other);
  Drop({&page, 1});
  return other;
}

int32_t PrefixCache::Find(const std::string& digest) const {
  const auto entry = by_digest_.find(digest);
  return entry == by_digest_.end() ? -1 : entry->second;
}

PrefixCache::Match PrefixCache::Longest(std::span<const std::string> digests) const {
  Match match;
  size_t whole = 0;  // pages of the longest match so far
  for (const std::string& digest : digests) {
    const int32_t page = Find(digest);
    if (page < 0) break;
    match.pages.push_back(page);
    if (!has_snapshot(page)) continue;
    whole = match.pages.size();
    match.snapshot = pages_[static_cast<size_t>(page)].snapshot;
  }
  match.pages.resize(whole);
  return match;
}

void PrefixCache::Leave(int32_t snapshot) {
  const Snapshot& s = snapshots_[static_cast<size_t>(snapshot)];
  order_.erase({s.worth, s.used, snapshot});
}

void PrefixCache::Enter(int32_t snapshot) {
  const Snapshot& s = snapshots_[static_cast<size_t>(snapshot)];
  if (s.page >= 0 && s.pins == 0) order_.emplace(s.worth, s.used, snapshot);
}

int32_t PrefixCache::Replaceable(std::span<const int32_t> pages) const {
  for (size_t i = pages.size(); i-- > 0;) {
    const int32_t snapshot = pages_[static_cast<size_t>(pages[i])].snapshot;
    if (snapshot < 0) continue;
    const Snapshot& s = snapshots_[static_cast<size_t>(snapshot)];
    return s.lasting || s.pins > 0 ? -1 : snapshot;
  }
  return -1;
}

int32_t PrefixCache::TakeSnapshot(std::span<const int32_t> pages) {
  if (!free_snapshots_.empty()) {
    const int32_t snapshot = free_snapshots_.back();
    free_snapshots_.pop_back();
    return snapshot;
  }
  if (order_.empty()) return -1;
  int32_t least = std::get<2>(*order_.begin());
  if (snapshots_[static_cast<size_t>(least)].worth) {
    const int32_t own = Replaceable(pages);
    if (own >= 0) least = own;
  }
  Leave(least);
  At(snapshots_[static_cast<size_t>(least)].page).snapshot = -1;
  snapshots_[static_cast<size_t>(least)] = Snapshot();
  --attached_;
  return least;
}

void PrefixCache::ReturnSnapshot(int32_t snapshot) {
  CHECK_EQ(snapshots_[static_cast<size_t>(snapshot)].page, -1);
  free_snapshots_.push_back(snapshot);
}

void PrefixCache::Attach(int32_t snapshot, std::span<const int32_t> pages, bool anchor) {
  CHECK(!pages.empty());
  Page& end = At(pages.back());
  CHECK(!end.digest.empty());
  if (end.snapshot >= 0) return ReturnSnapshot(snapshot);
  Snapshot& s = snapshots_[static_cast<size_t>(snapshot)];
  end.snapshot = snapshot;
  s.page = pages.back();
  s.used = ++clock_;
  ++attached_;
  Enter(snapshot);
  s.lasting = anchor;
  // Whoever goes on with this text goes on from here: the one before is worth less.
  const int32_t before = Replaceable(pages.first(pages.size() - 1));
  if (before < 0) return;
  Leave(before);
  snapshots_[static_cast<size_t>(before)].worth = false;
  Enter(before);
}

void PrefixCache::Pin(int32_t snapshot) {
  Snapshot& s = snapshots_[static_cast<size_t>(snapshot)];
  CHECK_GE(s.page, 0);
  Leave(snapshot);
  ++s.pins;
  s.used = ++clock_;
  s.worth = s.lasting = true;
}

void PrefixCache::Unpin(int32_t snapshot) {
  Snapshot& s = snapshots_[static_cast<size_t>(snapshot)];
  CHECK_GT(s.pins, 0);
  --s.pins;
  Enter(snapshot);
}

void PrefixCache::Clear() {
  while (!resting_.empty()) Forget(resting_.begin()->second);
}

}  // namespace paceline
