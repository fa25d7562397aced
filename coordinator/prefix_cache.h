// Who holds which KV page, and which text that has been run is still there to be used again. A page that is
// full of text stays what it is for ever (docs/NUMERICS.md: a position's keys do not depend on how it was
// run), so sequences with the same beginning read the same pages, and a page that nobody holds keeps its text
// until the room is needed. A page alone brings nothing where layers are recurrent: a text can go on only
// from a border at which a *snapshot* of the recurrent state was stored.
//
// Bookkeeping only: pages and snapshots are numbers, the trunk has the memory. A pure object without threads,
// clocks or I/O.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "base/ids.h"

namespace paceline {

// A text's pages are named by a chain of digests: each covers its page's tokens and all in front of them. The
// beginning of the chain says whose text it is: texts of different arithmetic, key or salt never meet.
std::string ChainRoot(std::string_view fingerprint, std::string_view key, std::string_view salt);
std::string NextInChain(std::string_view before, std::span<const TokenId> page);

class PrefixCache {
 public:
  PrefixCache(int32_t pages, int32_t snapshots);

  int32_t held() const { return held_; }  // pages that sequences hold
  int32_t available() const;              // pages nobody holds, with text or without
  int32_t pages_with_text() const { return static_cast<int32_t>(by_digest_.size()); }
  int32_t snapshots_attached() const { return attached_; }
  int32_t snapshots_free() const { return static_cast<int32_t>(free_snapshots_.size()); }
  bool on() const { return !snapshots_.empty(); }

  // A page for one holder, empty; the text longest unused goes for it. CHECKs that one is available.
  int32_t Take();
  // One that Take could give, without taking it.
  int32_t Spare();
  // One more holder.
  void Hold(int32_t page);
  // One holder less of each. `pages` are a text in order: when room is needed, its end goes first.
  void Drop(std::span<const int32_t> pages);
  bool shared(int32_t page) const { return pages_[static_cast<size_t>(page)].holders > 1; }
  bool unheld(int32_t page) const { return pages_[static_cast<size_t>(page)].holders == 0; }

  // `page`, held by the caller, is full of the text of `digest`. Returns the page to go on with: another one
  // where the same text is there already, held instead of `page`, which is given up.
  int32_t Publish(const std::string& digest, int32_t page);
  // The page with the text of `digest`, -1 when there is none.
  int32_t Find(const std::string& digest) const;
  // The most pages from the first on that are all there and end at a snapshot.
  struct Match {
    std::vector<int32_t> pages;
    int32_t snapshot = -1;
  };
  Match Longest(std::span<const std::string> digests) const;

  // A snapshot to be written for the text that begins with `pages`; the one that is worth least goes for it:
  // one that a later one of its text has made useless, then the last of this text, then the one longest
  // unused. -1 when all are in use.
  int32_t TakeSnapshot(std::span<const int32_t> pages);
  // Taken, and after all not written.
  void ReturnSnapshot(int32_t snapshot);
  // Taken, and written at the end of the text `pages`, which have been published. An `anchor` outlives other
  // snapshots of its text: the end of a prompt is where the next turn of a conversation usually goes on. A
  // snapshot that is there already stays.
  void Attach(int32_t snapshot, std::span<const int32_t> pages, bool anchor);
  bool has_snapshot(int32_t page) const { return pages_[static_cast<size_t>(page)].snapshot >= 0; }
  // About to be read, and a reason to keep it; stays until it is unpinned as often.
  void Pin(int32_t snapshot);
  void Unpin(int32_t snapshot);

  // Forgets the text of every page that nobody holds.
  void Clear();

 private:
  struct Page {
    int32_t holders = 0;
    int32_t snapshot = -1;  // of the state at its end
    uint64_t dropped = 0;   // when its last holder left, while nobody holds it
    std::string digest;     // empty: no text to be used again
  };
  struct Snapshot {
    int32_t page = -1;  // -1: free, or taken and not attached
    int32_t pins = 0;
    uint64_t used = 0;
    bool lasting = false;  // an anchor, or somebody has gone on from it
    bool worth = true;     // false: a later one of the same text does as well, as far as anybody knows
  };
  using Order = std::set<std::tuple<bool, uint64_t, int32_t>>;  // worth, used, snapshot: the first goes first

  Page& At(int32_t page) { return pages_[static_cast<size_t>(page)]; }
  void Forget(int32_t page);
  // The last one of a text, where it may go for a later one of it; else -1.
  int32_t Replaceable(std::span<const int32_t> pages) const;
  // Around every change of what decides its place among those that may go.
  void Leave(int32_t snapshot);
  void Enter(int32_t snapshot);

  std::vector<Page> pages_;
  std::vector<int32_t> empty_;                      // pages without holder and text; the last is taken first
  std::set<std::pair<uint64_t, int32_t>> resting_;  // dropped, page: with text, without holder
  std::unordered_map<std::string, int32_t> by_digest_;
  std::vector<Snapshot> snapshots_;
  std::vector<int32_t> free_snapshots_;
  Order order_;  // attached and not pinned
  int32_t held_ = 0;
  int32_t attached_ = 0;
  uint64_t clock_ = 0;  // counts events
};

}  // namespace paceline
