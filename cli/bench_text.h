// English prose for benchmarks: what the paragraphs of this repository's documents say, put into the binary
// by CMake. Random tokens would hide what drafting gains on text (and what a tokenizer makes of it).
#pragma once

#include <string>
#include <string_view>

namespace paceline::cli {

// The documents as they are written, in Markdown.
extern const std::string_view kBenchDocuments;

// The paragraphs and list items of a Markdown text on one line, in their order: no headings, tables or code.
std::string ProseOf(std::string_view markdown);

}  // namespace paceline::cli
