// Digests of kernels/known_answers.h in one line that a join compares and a person can read.
#include "worker/known_answer.h"

#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/error.h"
#include "kernels/known_answers.h"

namespace paceline {
namespace {

constexpr size_t kDigits = 16;

template <class DigestOf>
std::string Line(const DigestOf& digest_of) {
  std::vector<std::string> parts;
  for (const kernels::ArithmeticClass arithmetic : kernels::kArithmeticClasses) {
    parts.push_back(absl::StrCat(std::string(kernels::ArithmeticClassName(arithmetic)), " ",
                                 std::string(digest_of(arithmetic)).substr(0, kDigits)));
  }
  return absl::StrJoin(parts, ", ");
}

}  // namespace

std::string RunKnownAnswers(const kernels::KernelTable& table) {
  return Line([&table](kernels::ArithmeticClass arithmetic) { return KnownAnswers(table, arithmetic); });
}

std::string ExpectedKnownAnswers(kernels::FloatMath math) {
  return Line(
      [math](kernels::ArithmeticClass arithmetic) { return kernels::ExpectedAnswers(arithmetic, math); });
}

absl::Status CheckKnownAnswers(const kernels::KernelTable& table, const std::string& answer) {
  const std::string right = ExpectedKnownAnswers(table.float_math);
  if (answer == right) return absl::OkStatus();
  const std::vector<std::string> expected = absl::StrSplit(right, ", ");
  const std::vector<std::string> found = absl::StrSplit(answer, ", ");
  std::vector<std::string> differences;
  for (size_t i = 0; i < expected.size(); ++i) {
    const std::string got = i < found.size() ? found[i] : "nothing";
    if (got != expected[i]) differences.push_back(absl::StrCat("expected ", expected[i], ", got ", got));
  }
  return Error(
      errors::kDevice,
      absl::StrCat("the known-answer run of backend ", std::string(table.name),
                   " gave wrong bits: ", absl::StrJoin(differences, "; "),
                   ". Try --backend reference: if that runs, this processor or this build is at fault"));
}

}  // namespace paceline
