#include "coordinator/nfc.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/stringpiece.h>
#include <unicode/uniset.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "coordinator/unicode_tables.h"

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
  icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text.size()));
  filtered->normalizer->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())),
                                      sink, nullptr, status);
  if (U_FAILURE(status))
    return absl::InternalError(absl::StrCat("ICU cannot normalise: ", u_errorName(status)));
  return out;
}

}  // namespace paceline
