# SPDX-License-Identifier: Apache-2.0
# Headers, library, CMake package and pkg-config file, so that other projects can use an installed Pollux.
include(CMakePackageConfigHelpers)

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/pollux)
configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/polluxConfig.cmake.in ${PROJECT_BINARY_DIR}/polluxConfig.cmake
  INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/polluxConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
file(RELATIVE_PATH POLLUX_PC_TO_PREFIX /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" POLLUX_PC_TO_PREFIX "${POLLUX_PC_TO_PREFIX}")
configure_file(${PROJECT_SOURCE_DIR}/cmake/pollux.pc.in ${PROJECT_BINARY_DIR}/pollux.pc @ONLY)

install(TARGETS pollux EXPORT polluxTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT polluxTargets NAMESPACE pollux:: DESTINATION ${package_dir})
install(FILES ${PROJECT_BINARY_DIR}/polluxConfig.cmake
              ${PROJECT_BINARY_DIR}/polluxConfigVersion.cmake DESTINATION ${package_dir})
install(FILES ${PROJECT_BINARY_DIR}/pollux.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(
  DIRECTORY ${PROJECT_SOURCE_DIR}/src/pollux ${PROJECT_BINARY_DIR}/generated/pollux
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
  FILES_MATCHING
  PATTERN "*.hpp")
