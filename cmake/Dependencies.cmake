# Every third-party package and where it is found. Versions are Debian 12's; the install line is in ./run.
find_package(Threads REQUIRED)
find_package(absl REQUIRED CONFIG)          # 20220623
find_package(nlohmann_json REQUIRED CONFIG) # 3.11
find_package(OpenSSL REQUIRED)              # 3.0
find_package(PkgConfig REQUIRED)
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8) # 10.42: the pre-tokenizer's pattern
pkg_check_modules(LIBURING REQUIRED IMPORTED_TARGET liburing)  # 2.3: loading
find_package(ICU REQUIRED COMPONENTS uc)    # 72: NFC
if(NOT PACELINE_CORE_ONLY)
  find_package(CLI11 REQUIRED CONFIG)       # 2.1
  find_package(Protobuf REQUIRED)           # 3.21, CMake's own module
  find_package(gRPC REQUIRED CONFIG)        # 1.51
  find_package(prometheus-cpp REQUIRED CONFIG) # 1.0: core only, metrics as text
  find_package(Boost 1.81 REQUIRED)         # Beast and Asio, headers only
  pkg_check_modules(LIBEDIT REQUIRED IMPORTED_TARGET libedit) # 3.1: lines of `paceline chat`
  find_program(GRPC_CPP_PLUGIN grpc_cpp_plugin REQUIRED)
  if(PACELINE_UCX)
    find_package(ucx QUIET CONFIG)          # 1.13
  endif()
endif()
if(PACELINE_TESTS)
  find_package(GTest REQUIRED CONFIG)       # 1.12
endif()
