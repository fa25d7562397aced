// The public face of the interpreter: a parsed template that renders. Equal to jinja2's
// ImmutableSandboxedEnvironment as Transformers sets it up (trim_blocks, lstrip_blocks, loopcontrols, its own
// tojson, raise_exception, strftime_now); docs/TEMPLATES.md lists what is covered.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/jinja/runtime.h"
#include "coordinator/jinja/value.h"

namespace paceline::jinja {

struct Program;

struct Rendered {
  bool ok = false;
  std::string text = {};      // of ok
  std::string sentence = {};  // what went wrong
  int32_t line = 0;           // of the template
  bool raised = false;        // the template called raise_exception: the sentence is its own
};

struct RenderOptions {
  Limits limits = {};
  std::function<int64_t()> now = nullptr;  // seconds since 1970 for strftime_now; absent: the system's clock
};

// Thread-safe.
class Template {
 public:
  // InvalidArgument with the line.
  static absl::StatusOr<std::unique_ptr<Template>> Parse(std::string_view source);
  ~Template();

  // Names that the template does not use cost nothing. Ends within the limits whatever the template does.
  Rendered Render(const std::vector<std::pair<std::string, Value>>& context,
                  const RenderOptions& options = {}) const;

 private:
  explicit Template(std::unique_ptr<Program> program);
  const std::unique_ptr<Program> program_;
};

}  // namespace paceline::jinja
