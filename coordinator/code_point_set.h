// A set of Unicode code points as sorted ranges: what a character class of the split pattern means.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/unicode_tables.h"

namespace paceline {

class CodePointSet {
 public:
  CodePointSet() = default;
  explicit CodePointSet(std::span<const CodePointRange> ranges);
  // \p{name}: a general category ("Lu") or a group of them ("L"). False when the name is neither.
  static bool ForProperty(std::string_view name, CodePointSet* set);

  void Add(char32_t first, char32_t last);
  void Add(const CodePointSet& other);
  void Invert();
  // Adds everything that matches a member when case is ignored.
  void CloseOverCase();

  // Sorted, neither overlapping nor adjacent.
  std::span<const CodePointRange> ranges() const { return ranges_; }
  bool Contains(char32_t c) const;
  bool Intersects(const CodePointSet& other) const;
  // As a PCRE2 class of explicit ranges (UTF mode).
  std::string ToPcre() const;

 private:
  void Sort();

  std::vector<CodePointRange> ranges_;  // sorted, neither overlapping nor adjacent
};

// Everything that matches `c` when case is ignored, `c` among it.
CodePointSet CaseClass(char32_t c);

}  // namespace paceline
