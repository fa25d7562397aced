// Who starts, who has to stop, and what a sequence finds in the prefix cache.
#include <algorithm>

#include "base/check.h"
#include "coordinator/scheduler.h"

namespace paceline {
namespace {

// Having given way so often, a sequence gives way to higher priorities alone.
constexpr int32_t kEnoughPreemptions = 4;

}  // namespace

bool Scheduler::Outranks(const Sequence& a, const Sequence& b) {
  if (a.spec.priority != b.spec.priority) return a.spec.priority > b.spec.priority;
  const bool a_stays = a.preemptions >= kEnoughPreemptions, b_stays = b.preemptions >= kEnoughPreemptions;
  if (a_stays != b_stays) return a_stays;
  return a.arrival < b.arrival;
}

bool Scheduler::StartsBefore(const Sequence& a, const Sequence& b) const {
  if (a.spec.priority != b.spec.priority) return a.spec.priority > b.spec.priority;
  if (a.ever_started != b.ever_started) return a.ever_started;
  if (!a.ever_started && a.spec.key != b.spec.key) {
    const int64_t a_served = shares_.served(a.spec.key), b_served = shares_.served(b.spec.key);
    if (a_served != b_served) return a_served < b_served;
  }
  return a.arrival < b.arrival;
}

void Scheduler::Admit(SequenceSpec spec) {
  CHECK(!spec.prompt.empty());
  CHECK_GE(spec.max_tokens, 1);
  CHECK_LE(static_cast<int64_t>(spec.prompt.size()) + spec.max_tokens, context_);
  auto sequence = std::make_unique<Sequence>();
  sequence->tokens = std::move(spec.prompt);
  sequence->prompt_tokens = static_cast<int64_t>(sequence->tokens.size());
  sequence->arrival = ++arrivals_;
  sequence->spec = std::move(spec);
  shares_.Enter(sequence->spec.key);
  waiting_.push_back(std::move(sequence));
}

std::vector<SequenceId> Scheduler::Start() {
  std::vector<SequenceId> started;
  while (!waiting_.empty()) {
    const auto next =
        std::min_element(waiting_.begin(), waiting_.end(),
                         [this](const Owned& a, const Owned& b) { return StartsBefore(*a, *b); });
    Sequence& sequence = **next;
    // Preempting puts others into waiting_: `next` is not to be used any more.
    if (!MakeRoom(sequence)) break;
    const auto at = std::find_if(waiting_.begin(), waiting_.end(),
                                 [&](const Owned& owned) { return owned.get() == &sequence; });
    Owned owned = std::move(*at);
    waiting_.erase(at);
    if (!owned->ever_started) started.push_back(owned->spec.id);
    Begin(std::move(owned));
  }
  CHECK(!running_.empty() || waiting_.empty());
  return started;
}

// Pages that have to be there before it starts: those it does not find, those that it finds and nobody holds,
// and what others that started are still to take for their prompts. One that had to stop before comes back
// when everybody can grow by a page too, or it would stop again soon. `without_lower`: were those of lower
// priority not there.
int64_t Scheduler::PagesToStart(const Sequence& next, const PrefixCache::Match& match,
                                bool without_lower) const {
  int64_t pages = PagesOf(next.next_positions()) - static_cast<int64_t>(match.pages.size());
  for (const int32_t page : match.pages) pages += cache_.unheld(page) ? 1 : 0;
  for (const Owned& other : running_) {
    if (without_lower && other->spec.priority < next.spec.priority) continue;
    if (next.ever_started) ++pages;
    if (!other->prefilling()) continue;
    pages +=
        std::max<int64_t>(0, PagesOf(other->next_positions()) - static_cast<int64_t>(other->pages.size()));
  }
  return pages;
}

// Whether there are a slot and pages for `next`, after sequences of lower priority have given up theirs where
// that helps.
bool Scheduler::MakeRoom(Sequence& next) {
  const auto fits = [&] {
    return running() < max_sequences_ && PagesToStart(next, Lookup(next), false) <= cache_.available();
  };
  if (fits()) return true;
  std::vector<Sequence*> lower = ByRank();
  std::erase_if(lower, [&](const Sequence* s) { return s->spec.priority >= next.spec.priority; });
  // With all of them gone, would it? Pages that two of them share are counted for neither.
  int64_t back = 0;
  for (const Sequence* s : lower) {
    for (const int32_t page : s->pages) back += cache_.shared(page) ? 0 : 1;
  }
  if (lower.empty() || running() - static_cast<int32_t>(lower.size()) >= max_sequences_ ||
      PagesToStart(next, Lookup(next), true) > cache_.available() + back) {
    return false;
  }
  while (!lower.empty() && !fits()) {
    Preempt(*lower.back());
    lower.pop_back();
  }
  return fits();
}

void Scheduler::Begin(Owned sequence) {
  Sequence& s = *sequence;
  const PrefixCache::Match match = Lookup(s);
  for (const int32_t page : match.pages) cache_.Hold(page);
  s.pages = match.pages;
  s.published = match.pages.size();
  s.restore = match.snapshot;
  if (s.restore >= 0) cache_.Pin(s.restore);
  s.computed = static_cast<int64_t>(match.pages.size()) * kPagePositions;
  s.prefill_end = static_cast<int64_t>(s.tokens.size());
  s.slot = free_slots_.back();
  free_slots_.pop_back();
  if (!s.ever_started) {
    s.ever_started = true;
    s.cached_tokens = s.computed;
    if (cache_.on() && s.spec.sharing.prefix_cache && !s.scores_due()) {
      counters_.prefix_queries += s.prompt_tokens;
      counters_.prefix_hits += s.cached_tokens;
    }
  }
  running_.push_back(std::move(sequence));
}

// Never the whole text: the last token's row has to run, for what comes behind it; and so have those that are
// still to be scored.
PrefixCache::Match Scheduler::Lookup(Sequence& sequence) const {
  if (!cache_.on() || !sequence.spec.sharing.prefix_cache || sequence.scores_due()) return {};
  const auto pages = (sequence.tokens.size() - 1) / static_cast<size_t>(kPagePositions);
  ExtendDigests(sequence, pages);
  return cache_.Longest(std::span(sequence.digests).first(pages));
}

void Scheduler::ExtendDigests(Sequence& sequence, size_t pages) const {
  while (sequence.digests.size() < pages) {
    const size_t at = sequence.digests.size();
    const std::string before = at > 0
                                   ? sequence.digests[at - 1]
                                   : ChainRoot(fingerprint_, sequence.spec.key, sequence.spec.sharing.salt);
    sequence.digests.push_back(NextInChain(
        before,
        std::span(sequence.tokens).subspan(at * static_cast<size_t>(kPagePositions), kPagePositions)));
  }
}

void Scheduler::GiveBack(Sequence& sequence) {
  if (sequence.restore >= 0) cache_.Unpin(sequence.restore);
  if (sequence.keep >= 0) cache_.ReturnSnapshot(sequence.keep);
  cache_.Drop(sequence.pages);
  free_slots_.push_back(sequence.slot);
  sequence.restore = sequence.keep = sequence.slot = -1;
  sequence.pages.clear();
}

void Scheduler::Preempt(Sequence& sequence) {
  GiveBack(sequence);
  sequence.computed = sequence.prefill_end = sequence.rows = 0;
  sequence.published = 0;
  sequence.offers.clear();
  ++sequence.preemptions;
  ++counters_.preemptions;
  suspended_.push_back(sequence.spec.id);
  const auto at = std::find_if(running_.begin(), running_.end(),
                               [&](const Owned& owned) { return owned.get() == &sequence; });
  waiting_.push_back(std::move(*at));
  running_.erase(at);
}

bool Scheduler::Remove(SequenceId id) {
  controller_.Forget(id);
  const Sequence* sequence = Find(id);
  if (sequence == nullptr) return false;
  shares_.Leave(sequence->spec.key);
  std::erase(suspended_, id);
  std::vector<Owned>& list = sequence->slot >= 0 ? running_ : waiting_;
  const auto at =
      std::find_if(list.begin(), list.end(), [&](const Owned& owned) { return owned.get() == sequence; });
  if ((*at)->slot >= 0) GiveBack(**at);
  list.erase(at);
  return true;
}

std::vector<SequenceId> Scheduler::Waiting() const {
  std::vector<SequenceId> ids;
  for (const Owned& sequence : waiting_) {
    if (!sequence->ever_started) ids.push_back(sequence->spec.id);
  }
  return ids;
}

int64_t Scheduler::cached_tokens(SequenceId id) const {
  const Sequence* sequence = Find(id);
  CHECK(sequence != nullptr);
  return sequence->cached_tokens;
}

int32_t Scheduler::SparePage() {
  CHECK(running_.empty());
  return cache_.Spare();
}

void Scheduler::ForgetTexts() {
  CHECK(running_.empty());
  cache_.Clear();
}

}  // namespace paceline
