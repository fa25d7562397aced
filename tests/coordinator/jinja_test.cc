// What the comparison with jinja2 (jinja_oracle_test.py) cannot show: limits, lines of errors, many threads.
#include <thread>

#include "coordinator/jinja/template.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace paceline::jinja {
namespace {

using testing::HasSubstr;

Rendered Render(std::string_view source, const RenderOptions& options = {},
                const std::vector<std::pair<std::string, Value>>& context = {}) {
  const auto parsed = Template::Parse(source);
  if (!parsed.ok()) {
    ADD_FAILURE() << parsed.status();
    return {};
  }
  return (*parsed)->Render(context, options);
}

std::string ParseError(std::string_view source) {
  const auto parsed = Template::Parse(source);
  return parsed.ok() ? "" : std::string(parsed.status().message().data(), parsed.status().message().size());
}

TEST(Jinja, ErrorsCarryTheLine) {
  EXPECT_THAT(ParseError("a\n{% if x %}\nb\n{% endfor %}"),
              HasSubstr("line 4: Encountered unknown tag 'endfor'"));
  EXPECT_THAT(ParseError("\n\n{{ 'x }}"), HasSubstr("line 3"));
  EXPECT_THAT(ParseError("{% include 'x' %}"), HasSubstr("'include' is not covered"));
  const Rendered rendered = Render("a\n{% for x in [1] %}\n{{ x.y.z }}\n{% endfor %}");
  EXPECT_FALSE(rendered.ok);
  EXPECT_EQ(rendered.line, 3);
  EXPECT_EQ(rendered.sentence, "'int object' has no attribute 'y'");
  EXPECT_FALSE(rendered.raised);
  const Rendered raised = Render("\n{{ raise_exception('Not ' ~ 'so.') }}");
  EXPECT_TRUE(raised.raised);
  EXPECT_EQ(raised.sentence, "Not so.");
  EXPECT_EQ(raised.line, 2);
}

TEST(Jinja, FailureInsideACaptureOrACallEndsTheRender) {
  for (const char* source :
       {"{% set x %}{{ 1 / 0 }}{% endset %}after", "{% macro m() %}{{ 1 / 0 }}{% endmacro %}{{ m() }}after",
        "{% filter upper %}{{ 1 / 0 }}{% endfilter %}", "{{ [1]|map('nope')|list }}", "{{ x if 1 / 0 }}",
        "{% for x in [1] recursive %}{{ loop(5) }}{% endfor %}"}) {
    EXPECT_FALSE(Render(source).ok) << source;
  }
}

RenderOptions Small() {
  RenderOptions options;
  options.limits.steps = 100'000;
  options.limits.bytes = 1'000'000;
  options.limits.output = 10'000;
  return options;
}

TEST(Jinja, WorkMemoryOutputAndDepthAreBounded) {
  const std::pair<const char*, const char*> cases[] = {
      {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "steps"},
      {"{{ 'x' * 1000000000000 }}", "bytes"},
      {"{{ [0] * 1000000000000 }}", "too often"},
      {"{% set ns = namespace(x='x') %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
       "bytes"},
      {"{% for i in range(900) %}{{ 'xxxxxxxxxxxxxxxxxxxx' }}{% endfor %}", "prints more"},
      {"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "too deeply"},
      {"{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "too deeply"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x] %}{% endfor %}", "deep"},
      {"{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = [ns.x]|map('list') %}{% endfor "
       "%}",
       "deep"},
      {"{% set ns = namespace(x={}) %}{% for i in range(9999) %}{% set ns.x = ns.x.items().count if false "
       "else {'a': ns.x} %}{% endfor %}",
       "deep"},
      {"{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}", "too deep"},
      {"{{ 'x'.center(99999999999) }}", "wide"},
      {"{{ '%99999s' % 1 }}", "large"},
      {"{{ 'a'|indent(999999999) }}", "wide"},
      {"{{ [1, 2]|slice(99999999)|list }}", "bytes"},
      {"{{ [1]|batch(999999999, 'x')|list }}", "steps"},
      {"{{ ('x' * 900)|replace('', 'y' * 1000) }}", "bytes"},
      {"{{ range(0, 9223372036854775807, 1) }}", "Range too big"},
      {"{{ 9223372036854775807 + 1 }}", "64 bits"},
      {"{{ (-9223372036854775807 - 1) // -1 }}", "64 bits"},
      {"{{ 2 ** 64 }}", "64 bits"},
  };
  for (const auto& [source, sentence] : cases) {
    const Rendered rendered = Render(source, Small());
    EXPECT_FALSE(rendered.ok) << source;
    EXPECT_THAT(rendered.sentence, HasSubstr(sentence)) << source;
  }
  EXPECT_EQ(Render("{{ (-9223372036854775807 - 1) % -1 }}{{ range(-9223372036854775807, 9223372036854775807, "
                   "9223372036854775807)|length }}")
                .text,
            "02");
}

TEST(Jinja, SourcesThatNestTooDeepAreRefused) {
  const auto repeat = [](const std::string& text, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += text;
    return out;
  };
  for (const std::string& source :
       {"{{ " + repeat("(", 5000) + "1" + repeat(")", 5000) + " }}",
        "{{ " + repeat("[", 5000) + repeat("]", 5000) + " }}", "{{ 1" + repeat(" + 1", 5000) + " }}",
        "{{ x" + repeat(".x", 5000) + " }}", "{{ x" + repeat("|trim", 5000) + " }}",
        "{{ " + repeat("not ", 5000) + "x }}", "{{ " + repeat("-", 5000) + "1 }}",
        "{{ x" + repeat("()", 5000) + " }}", "{{ 1" + repeat(" if 1 else 1", 5000) + " }}",
        repeat("{% if 1 %}", 5000) + repeat("{% endif %}", 5000),
        "{% set " + repeat("(", 5000) + "x" + repeat(")", 5000) + " = 1 %}"}) {
    EXPECT_NE(ParseError(source), "") << source.substr(0, 40);
  }
  // What people write is far from that.
  EXPECT_EQ(Render("{{ " + repeat("(", 40) + "1" + repeat(")", 40) + repeat(" + 1", 300) + " }}").text,
            "301");
  EXPECT_EQ(Render(repeat("{% if 1 %}", 80) + "x" + repeat("{% endif %}", 80)).text, "x");
}

TEST(Jinja, RecursionAsDeepAsTheLimitFitsTheStack) {
  EXPECT_FALSE(Render("{% macro f(n) %}{% if n %}{{ (((f(n - 1)|trim) ~ 'x')|string) }}{% endif %}{% "
                      "endmacro %}{{ f(100000) }}")
                   .ok);
  EXPECT_EQ(Render("{% macro f(n) %}{% if n %}{{ f(n - 1) }}x{% endif %}{% endmacro %}{{ f(50) }}").text,
            std::string(50, 'x'));
}

TEST(Jinja, ValuesThatHoldThemselvesAreFreed) {
  // LeakSanitizer judges.
  EXPECT_TRUE(
      Render("{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}{% set a.l = [a, b] %}"
             "{% macro m() %}{% endmacro %}{% set a.m = m %}{% for x in [a] %}{% set a.loop = loop %}"
             "{{ loop.changed(loop) }}{% set a.f = loop.cycle %}{% endfor %}{% set a.c = cycler(a) %}")
          .ok);
}

TEST(Jinja, OneTemplateServesManyThreads) {
  const auto parsed =
      Template::Parse("{% for x in xs %}{{ x|upper ~ loop.index }}{{ 'const'|title }}{% endfor %}");
  ASSERT_TRUE(parsed.ok());
  std::vector<std::thread> threads;
  std::vector<std::string> texts(4);
  for (size_t t = 0; t < texts.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        texts[t] = (*parsed)->Render({{"xs", Value::List({Value::Text("a"), Value::Text("é")})}}).text;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : texts) EXPECT_EQ(text, "A1ConstÉ2Const");
}

TEST(Jinja, BytesThatAreNoTextAreRefused) {
  EXPECT_THAT(ParseError("a\xff"), HasSubstr("byte 1 is not UTF-8"));
  EXPECT_THAT(ParseError("{{ '\\ud800' }}"), HasSubstr("no character"));
}

}  // namespace
}  // namespace paceline::jinja
