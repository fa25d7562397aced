# paceline_room(NAME SOURCES .. LINK ..): one static library per room.
# paceline_test(NAME SOURCES .. LINK .. [LABELS ..]): one GoogleTest binary, one CTest entry per binary.
function(paceline_room NAME)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_library(paceline_${NAME} STATIC ${ARG_SOURCES})
  target_link_libraries(paceline_${NAME} PUBLIC ${ARG_LINK})
endfunction()

function(paceline_test NAME)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINK;LABELS;ARGS" ${ARGN})
  add_executable(${NAME} ${ARG_SOURCES})
  target_link_libraries(${NAME} PRIVATE ${ARG_LINK} GTest::gtest_main GTest::gmock)
  target_compile_definitions(${NAME} PRIVATE PACELINE_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  add_test(NAME ${NAME} COMMAND ${NAME} ${ARG_ARGS})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 600)
  endif()
  set_tests_properties(${NAME} PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()
