// CHECK for our own bugs: a broken invariant prints both values and aborts. The world's mistakes are
// absl::Status.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>

namespace paceline::internal {

[[noreturn]] inline void CheckFailed(const char* file, int line, const std::string& what) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, what.c_str());
  std::abort();
}

template <class A, class B>
std::string CheckMessage(const char* text, const A& a, const B& b) {
  std::ostringstream out;
  out << text << " (" << a << " against " << b << ")";
  return out.str();
}

}  // namespace paceline::internal

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) ::paceline::internal::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

#define PACELINE_CHECK_OP(op, a, b)                                                                       \
  do {                                                                                                    \
    const auto& check_a_ = (a);                                                                           \
    const auto& check_b_ = (b);                                                                           \
    if (!(check_a_ op check_b_))                                                                          \
      ::paceline::internal::CheckFailed(                                                                  \
          __FILE__, __LINE__, ::paceline::internal::CheckMessage(#a " " #op " " #b, check_a_, check_b_)); \
  } while (false)

#define CHECK_EQ(a, b) PACELINE_CHECK_OP(==, a, b)
#define CHECK_NE(a, b) PACELINE_CHECK_OP(!=, a, b)
#define CHECK_LT(a, b) PACELINE_CHECK_OP(<, a, b)
#define CHECK_LE(a, b) PACELINE_CHECK_OP(<=, a, b)
#define CHECK_GT(a, b) PACELINE_CHECK_OP(>, a, b)
#define CHECK_GE(a, b) PACELINE_CHECK_OP(>=, a, b)
