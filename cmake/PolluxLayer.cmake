# SPDX-License-Identifier: Apache-2.0

# layers.txt is the one table of layers: CMake links by it, tools/check-layers checks includes by it.
set(POLLUX_LAYERS_FILE ${PROJECT_SOURCE_DIR}/src/pollux/layers.txt)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${POLLUX_LAYERS_FILE})

# Sets <out> to the layers that <name> may use, as layers.txt says.
function(pollux_layer_depends name out)
  file(STRINGS ${POLLUX_LAYERS_FILE} line REGEX "^${name}:")
  if(NOT line)
    message(FATAL_ERROR "layer '${name}' is not in ${POLLUX_LAYERS_FILE}: add a line there")
  endif()
  string(REGEX REPLACE "^${name}:" "" line "${line}")
  string(REGEX MATCHALL "[a-z0-9_]+" depends "${line}")
  set(${out} "${depends}" PARENT_SCOPE)
endfunction()

# pollux_layer(<name> [LIBRARIES <third-party targets>])
#
# Makes target pollux_<name> of every .cpp below src/pollux/<name>, linked to the layers below it only, and adds
# it to the library `pollux`. A folder without .cpp is an INTERFACE library: headers alone.
function(pollux_layer name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "LIBRARIES")
  pollux_layer_depends(${name} depends)
  list(TRANSFORM depends PREPEND pollux_)

  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${name}/*.cpp)
  if(sources)
    add_library(pollux_${name} OBJECT ${sources})
    set(scope PUBLIC)
    set_target_properties(pollux_${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)
    target_sources(pollux PRIVATE $<TARGET_OBJECTS:pollux_${name}>)
  else()
    add_library(pollux_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  target_include_directories(pollux_${name} ${scope} ${PROJECT_SOURCE_DIR}/src
                                                     ${PROJECT_BINARY_DIR}/generated)
  target_link_libraries(pollux_${name} ${scope} ${depends} ${arg_LIBRARIES})
  target_link_libraries(pollux PUBLIC ${arg_LIBRARIES})
endfunction()
