#include "coordinator/nfc.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uchar.h>
#include <unicode/uniset.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "coordinator/unicode_tables.h"
#include "coordinator/utf8.h"

namespace paceline {
namespace {

// Characters below are never changed by NFC unless a character from here on follows.
constexpr unsigned char kFirstActiveLead = 0xCC;  // lead byte of U+0300

struct Filtered {
  icu::UnicodeSet set;
  std::unique_ptr<icu::FilteredNormalizer2> normalizer;
  std::string error;
};

// ICU knows newer characters than the package, for which they are plain: they stay as they are and nothing
// passes them.
Filtered* MakeFiltered() {
  auto* filtered = new Filtered;
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(status);
  icu::UnicodeSet set(icu::UnicodeString(u"[:^NFC_Inert:]"), status);
  if (U_FAILURE(status)) {
    filtered->error = u_errorName(status);
    return filtered;
  }
  for (const CodePointRange& r : kNormalizationRanges) {
    set.remove(static_cast<UChar32>(r.first), static_cast<UChar32>(r.last));
  }
  filtered->set = set.complement();
  filtered->set.freeze();
  filtered->normalizer = std::make_unique<icu::FilteredNormalizer2>(*nfc, filtered->set);
  return filtered;
}

// ICU sorts marks by insertion, which a long run in the wrong order makes quadratic. Runs above this are
// sorted before.
constexpr size_t kLongRun = 64;  // code points

bool IsMark(const Filtered& filtered, char32_t c) {
  return c >= 0x300 && filtered.set.contains(static_cast<UChar32>(c)) &&
         u_getIntPropertyValue(static_cast<UChar32>(c), UCHAR_LEAD_CANONICAL_COMBINING_CLASS) != 0;
}

// Appends the canonical decomposition of `marks` in canonical order: an equivalent text, so its NFC is the
// same.
void AppendSorted(const icu::Normalizer2& nfc, const std::vector<char32_t>& marks, std::string* out) {
  std::vector<UChar32> decomposed;
  decomposed.reserve(marks.size());
  for (const char32_t c : marks) {
    icu::UnicodeString parts;
    if (!nfc.getDecomposition(static_cast<UChar32>(c), parts)) {
      decomposed.push_back(static_cast<UChar32>(c));
      continue;
    }
    for (int32_t i = 0; i < parts.length(); i = parts.moveIndex32(i, 1))
      decomposed.push_back(parts.char32At(i));
  }
  std::stable_sort(decomposed.begin(), decomposed.end(),
                   [](UChar32 a, UChar32 b) { return u_getCombiningClass(a) < u_getCombiningClass(b); });
  for (const UChar32 c : decomposed) AppendUtf8(static_cast<char32_t>(c), out);
}

// `text` with its long runs of marks sorted.
std::string SortLongRuns(const Filtered& filtered, std::string_view text) {
  std::string out;
  std::vector<char32_t> run;
  size_t run_begin = 0;
  size_t copied = 0;  // text before is in `out`
  for (size_t at = 0; at <= text.size();) {
    const Utf8Unit unit = at < text.size() ? ReadUtf8(text.substr(at)) : Utf8Unit{Utf8Kind::kValid, 1, 0};
    if (IsMark(filtered, unit.code_point)) {
      if (run.empty()) run_begin = at;
      run.push_back(unit.code_point);
    } else if (!run.empty()) {
      if (run.size() > kLongRun) {
        out += text.substr(copied, run_begin - copied);
        AppendSorted(*filtered.normalizer, run, &out);
        copied = at;
      }
      run.clear();
    }
    at += unit.length;
  }
  return out.append(text.substr(copied));
}

}  // namespace

absl::StatusOr<std::string> NormalizeNfc(std::string_view text) {
  if (std::all_of(text.begin(), text.end(),
                  [](char c) { return static_cast<unsigned char>(c) < kFirstActiveLead; })) {
    return std::string(text);
  }
  static const Filtered* const filtered = MakeFiltered();  // never freed: it lives as long as the process
  if (filtered->normalizer == nullptr) {
    return absl::InternalError(absl::StrCat("ICU cannot normalise: ", filtered->error));
  }
  if (text.size() > std::numeric_limits<int32_t>::max() / 4) {
    return absl::InvalidArgumentError("the text is too long to be normalised");
  }
  UErrorCode status = U_ZERO_ERROR;
  std::string out;
  const std::string sorted = SortLongRuns(*filtered, text);
  const auto length = static_cast<int32_t>(sorted.size());
  icu::StringByteSink<std::string> sink(&out, length);
  filtered->normalizer->normalizeUTF8(0, icu::StringPiece(sorted.data(), length), sink, nullptr, status);
  if (U_FAILURE(status))
    return absl::InternalError(absl::StrCat("ICU cannot normalise: ", u_errorName(status)));
  return out;
}

}  // namespace paceline
