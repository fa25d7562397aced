#include "coordinator/http/text_parts.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace paceline {

std::string ReadTextParts(Fields& fields, const std::string& name, const Json& content,
                          const TextPartKind& kind) {
  if (content.is_string()) return content.get<std::string>();
  std::string text;
  if (!content.is_array()) {
    fields.Refuse(name,
                  absl::StrCat("expected a string or an array of ", kind.plural, ", got ", KindOf(content)));
  }
  for (size_t i = 0; content.is_array() && i < content.size(); ++i) {
    Fields part(content[i], absl::StrCat(name, "[", i, "]."));
    const std::string type = part.Text("type").value_or("");
    if (std::find(kind.types.begin(), kind.types.end(), type) == kind.types.end()) {
      part.Refuse("type", absl::StrCat("expected ", kind.expected, ", got \"", type,
                                       "\"; this model reads text only"));
    }
    const std::string one = part.Text("text").value_or("");
    fields.Fail(part.status());
    if (!kind.left_out.empty() && one.starts_with(kind.left_out)) continue;
    absl::StrAppend(&text, text.empty() || one.empty() ? "" : kind.separator, one);
  }
  return text;
}

}  // namespace paceline
