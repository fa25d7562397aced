#include "coordinator/code_point_set.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace paceline {
namespace {

constexpr char32_t kLastCodePoint = 0x10FFFF;
constexpr char32_t kFirstSurrogate = 0xD800, kLastSurrogate = 0xDFFF;

}  // namespace

CodePointSet::CodePointSet(std::span<const CodePointRange> ranges) : ranges_(ranges.begin(), ranges.end()) {
  Sort();
}

bool CodePointSet::ForProperty(std::string_view name, CodePointSet* set) {
  bool known = false;
  for (size_t i = 0; i < kCategoryRuns.size(); ++i) {
    const std::string_view category = kCategoryNames[kCategoryRuns[i].category];
    if (category != name && !(name.size() == 1 && category[0] == name[0])) continue;
    known = true;
    const char32_t last = i + 1 < kCategoryRuns.size() ? kCategoryRuns[i + 1].first - 1 : kLastCodePoint;
    set->ranges_.push_back({kCategoryRuns[i].first, last});
  }
  set->Sort();
  return known;
}

void CodePointSet::Add(char32_t first, char32_t last) {
  ranges_.push_back({first, last});
  Sort();
}

void CodePointSet::Add(const CodePointSet& other) {
  ranges_.insert(ranges_.end(), other.ranges_.begin(), other.ranges_.end());
  Sort();
}

void CodePointSet::Invert() {
  std::vector<CodePointRange> out;
  char32_t next = 0;
  for (const CodePointRange& r : ranges_) {
    if (r.first > next) out.push_back({next, r.first - 1});
    next = r.last + 1;
  }
  if (next <= kLastCodePoint) out.push_back({next, kLastCodePoint});
  ranges_ = std::move(out);
}

void CodePointSet::CloseOverCase() {
  std::vector<CodePointRange> more;
  for (size_t i = 0; i < kCaseFolds.size();) {
    size_t end = i;
    bool any = Contains(kCaseFolds[i].representative);
    for (; end < kCaseFolds.size() && kCaseFolds[end].representative == kCaseFolds[i].representative; ++end) {
      any = any || Contains(kCaseFolds[end].other);
    }
    if (any) {
      more.push_back({kCaseFolds[i].representative, kCaseFolds[i].representative});
      for (size_t k = i; k < end; ++k) more.push_back({kCaseFolds[k].other, kCaseFolds[k].other});
    }
    i = end;
  }
  ranges_.insert(ranges_.end(), more.begin(), more.end());
  Sort();
}

bool CodePointSet::Contains(char32_t c) const {
  auto it = std::upper_bound(ranges_.begin(), ranges_.end(), c,
                             [](char32_t value, const CodePointRange& r) { return value < r.first; });
  return it != ranges_.begin() && c <= std::prev(it)->last;
}

bool CodePointSet::Intersects(const CodePointSet& other) const {
  for (auto a = ranges_.begin(), b = other.ranges_.begin(); a != ranges_.end() && b != other.ranges_.end();) {
    if (a->last < b->first) {
      ++a;
    } else if (b->last < a->first) {
      ++b;
    } else {
      return true;
    }
  }
  return false;
}

std::string CodePointSet::ToPcre() const {
  std::string out;
  for (const CodePointRange& r : ranges_) {
    // PCRE2 refuses surrogates as the ends of a range; text never holds one.
    const char32_t first =
        r.first >= kFirstSurrogate && r.first <= kLastSurrogate ? kLastSurrogate + 1 : r.first;
    const char32_t last =
        r.last >= kFirstSurrogate && r.last <= kLastSurrogate ? kFirstSurrogate - 1 : r.last;
    if (first > last) continue;
    absl::StrAppendFormat(&out, "\\x{%x}", static_cast<uint32_t>(first));
    if (last > first) absl::StrAppendFormat(&out, "-\\x{%x}", static_cast<uint32_t>(last));
  }
  return out.empty() ? "(?!)" : absl::StrCat("[", out, "]");
}

void CodePointSet::Sort() {
  std::sort(ranges_.begin(), ranges_.end(),
            [](const CodePointRange& a, const CodePointRange& b) { return a.first < b.first; });
  size_t kept = 0;
  for (const CodePointRange& r : ranges_) {
    if (kept > 0 && r.first <= ranges_[kept - 1].last + 1) {
      ranges_[kept - 1].last = std::max(ranges_[kept - 1].last, r.last);
    } else {
      ranges_[kept++] = r;
    }
  }
  ranges_.resize(kept);
}

CodePointSet CaseClass(char32_t c) {
  CodePointSet set;
  set.Add(c, c);
  set.CloseOverCase();
  return set;
}

}  // namespace paceline
