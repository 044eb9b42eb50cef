# SPDX-License-Identifier: Apache-2.0
# Flags for everything in this tree. None of them leaks into an installed target.

# -g1 keeps line tables for profiles and back traces at a fraction of the build time of -g.
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -g1 -DNDEBUG")
if(POLLUX_SANITIZE)
  set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g1")
else()
  set(CMAKE_CXX_FLAGS_DEBUG "-O0 -g")
endif()

add_compile_options(
  -Wall
  -Wextra
  -Wshadow
  -Wconversion
  -Wno-sign-conversion
  -Wnon-virtual-dtor
  -Woverloaded-virtual
  -Wextra-semi
  -Wimplicit-fallthrough
  -Wundef)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  # False alarms of GCC 12 about std::expected and the interference sizes of other CPUs.
  add_compile_options(-Wno-maybe-uninitialized -Wno-interference-size)
  add_compile_options(-fdiagnostics-color=auto)
else()
  add_compile_options(-Wno-unused-command-line-argument -fcolor-diagnostics)
endif()
if(POLLUX_WERROR)
  add_compile_options(-Werror)
endif()

# A binary must run in any guest: never -march=native.
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$" AND POLLUX_ARCH)
  add_compile_options(-march=${POLLUX_ARCH})
endif()

if(CMAKE_BUILD_TYPE STREQUAL "Debug" OR POLLUX_SANITIZE)
  add_compile_definitions(_GLIBCXX_ASSERTIONS)
endif()

if(POLLUX_SANITIZE)
  add_compile_options(-fsanitize=${POLLUX_SANITIZE} -fno-sanitize-recover=all
                      -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${POLLUX_SANITIZE})
endif()

if(POLLUX_FUZZ)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "POLLUX_FUZZ needs clang: use `cmake --preset fuzz`")
  endif()
  # Every object gets coverage; only the targets themselves link libFuzzer's main().
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
