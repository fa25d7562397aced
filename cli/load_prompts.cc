#include "cli/load_prompts.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/error.h"

namespace paceline::cli {
namespace {

using nlohmann::json;

json Wrap(PromptForm form, json text) {
  if (form == PromptForm::kText) return {{"prompt", std::move(text)}};
  return {{"messages", json::array({{{"role", "user"}, {"content", std::move(text)}}})}};
}

// Where prompt i begins among `places`: far from its neighbours, and nowhere twice before all were taken.
size_t Begin(int64_t i, uint64_t seed, size_t places) {
  size_t stride = std::max<size_t>(1, places * 618 / 1000);
  while (std::gcd(stride, places) != 1) ++stride;
  return static_cast<size_t>((seed % places + static_cast<uint64_t>(i) % places * stride) % places);
}

void AppendCyclic(const std::vector<TokenId>& ids, size_t begin, int64_t count, std::vector<TokenId>* out) {
  for (int64_t i = 0; i < count; ++i) out->push_back(ids[(begin + static_cast<size_t>(i)) % ids.size()]);
}

}  // namespace

absl::StatusOr<PromptBook> PromptBook::Read(std::string_view lines, PromptForm form,
                                            const std::string& file) {
  PromptBook book;
  int64_t number = 0;
  while (!lines.empty()) {
    const size_t end = lines.find('\n');
    std::string_view line = lines.substr(0, end);
    lines.remove_prefix(end == std::string_view::npos ? lines.size() : end + 1);
    ++number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.find_first_not_of(" \t") == std::string_view::npos) continue;
    if (line.front() != '{' && line.front() != '"') {
      book.read_.push_back(Wrap(form, std::string(line)));
      continue;
    }
    const auto wrong = [&](const char* what) {
      return Error(errors::kOption, absl::StrCat(file, ": line ", number, ": ", what));
    };
    json entry = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (entry.is_object() && entry.contains("messages")) {
      if (form != PromptForm::kMessages) return wrong("messages need --endpoint chat");
      if (!entry["messages"].is_array() || entry["messages"].empty())
        return wrong("expected an array of messages");
      book.read_.push_back({{"messages", std::move(entry["messages"])}});
      continue;
    }
    json text = entry.is_object() && entry.contains("prompt") ? entry["prompt"] : entry;
    if (!text.is_string()) {
      return wrong("expected plain text, a JSON string, or an object with \"prompt\" or \"messages\"");
    }
    book.read_.push_back(Wrap(form, std::move(text)));
  }
  if (book.read_.empty())
    return Error(errors::kOption, absl::StrCat(file, " holds no prompt: give one a line"));
  return book;
}

PromptBook PromptBook::Prose(ProsePlan plan, Corpus corpus) {
  CHECK(!corpus.text.empty());
  PromptBook book;
  book.plan_ = std::move(plan);
  book.corpus_ = std::move(corpus);
  const std::string& text = book.corpus_.text;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != ' ' && (i == 0 || text[i - 1] == ' ')) book.words_.push_back(i);
  }
  if (!book.corpus_.ids.empty())
    book.bytes_per_token_ = static_cast<double>(text.size()) / static_cast<double>(book.corpus_.ids.size());
  return book;
}

json PromptBook::Prompt(int64_t i) const {
  if (!read_.empty()) return read_[static_cast<size_t>(i) % read_.size()];
  if (plan_.form == PromptForm::kText && !corpus_.ids.empty()) return Wrap(plan_.form, FromIds(i));
  return Wrap(plan_.form, FromText(i));
}

// Salt, what is shared, what is the prompt's own. Only the last may be what the salt leaves of it.
json PromptBook::FromIds(int64_t i) const {
  std::vector<TokenId> ids = corpus_.salt_ids;
  const auto left = [&ids](int64_t tokens) {
    return std::max<int64_t>(0, tokens - static_cast<int64_t>(ids.size()));
  };
  AppendCyclic(corpus_.ids, 0, left(plan_.shared), &ids);
  AppendCyclic(corpus_.ids, Begin(i, plan_.seed, corpus_.ids.size()), left(plan_.tokens), &ids);
  ids.resize(std::min(ids.size(), static_cast<size_t>(plan_.tokens)));
  return ids;
}

std::string PromptBook::FromText(int64_t i) const {
  std::string out = plan_.salt;
  // Whole words from word `begin` on, until the text has `tokens` tokens or so; one word at least.
  const auto append = [&](size_t begin, int64_t tokens) {
    const auto wanted = static_cast<size_t>(static_cast<double>(tokens) * bytes_per_token_);
    const std::string& text = corpus_.text;
    for (size_t w = begin % words_.size(); out.size() < wanted; w = (w + 1) % words_.size()) {
      const size_t end = text.find(' ', words_[w]);
      if (!out.empty()) out.push_back(' ');
      out.append(text, words_[w], end == std::string::npos ? std::string::npos : end - words_[w]);
    }
  };
  if (plan_.shared > 0) append(0, plan_.shared);
  append(Begin(i, plan_.seed, words_.size()), plan_.tokens);
  return out;
}

}  // namespace paceline::cli
