# SPDX-License-Identifier: Apache-2.0
# Debian 12 packages only. `./run install-deps build` installs them.
# Keep in step with cmake/polluxConfig.cmake.in and cmake/pollux.pc.in.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(tomlplusplus REQUIRED)
find_package(nlohmann_json REQUIRED)
pkg_check_modules(libpcap REQUIRED IMPORTED_TARGET libpcap)
pkg_check_modules(httplib REQUIRED IMPORTED_TARGET cpp-httplib)
pkg_check_modules(libsystemd REQUIRED IMPORTED_TARGET libsystemd)

if(POLLUX_APPS)
  find_package(CLI11 REQUIRED)
endif()
if(POLLUX_TESTS)
  find_package(GTest REQUIRED)
endif()
if(POLLUX_BENCH)
  find_package(benchmark REQUIRED)
endif()
