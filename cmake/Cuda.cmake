# The CUDA backend, where nvcc is. Everything about nvcc's command line stands here.
# paceline_cuda_sources(TARGET): how the .cu files of TARGET compile and what they link.
set(PACELINE_WITH_CUDA OFF)
if(PACELINE_CUDA STREQUAL "AUTO" AND (PACELINE_SANITIZE OR NOT CMAKE_CXX_COMPILER_ID STREQUAL "GNU"))
  return() # the sanitizer builds need no second compiler
endif()
if(PACELINE_CUDA)
  set(CMAKE_CUDA_ARCHITECTURES OFF) # said for each target below
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION) # CMake 3.25 does not know that nvcc has it
      set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
      set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
    endif()
    find_package(CUDAToolkit REQUIRED)
    set(PACELINE_WITH_CUDA ON)
  elseif(NOT PACELINE_CUDA STREQUAL "AUTO")
    message(FATAL_ERROR "PACELINE_CUDA is ON, and CMake finds no nvcc: put it into PATH or set CUDACXX to its path")
  endif()
endif()

function(paceline_cuda_sources TARGET)
  set(NAMES ${PACELINE_CUDA_ARCHITECTURES})
  list(TRANSFORM NAMES APPEND "-real") # machine code alone: no driver compiles anything at a user's start
  set_target_properties(${TARGET} PROPERTIES CUDA_ARCHITECTURES "${NAMES}")
  # The token contract (docs/NUMERICS.md, Build flags). Warnings of both compilers are errors; -Wpedantic is not for
  # the host code that nvcc writes.
  string(REPLACE ";" " " NAMES "${PACELINE_CUDA_ARCHITECTURES}")
  target_compile_options(${TARGET} PRIVATE
    "$<$<COMPILE_LANGUAGE:CUDA>:-fmad=false;-ftz=false;-prec-div=true;-prec-sqrt=true;--expt-relaxed-constexpr;-Werror=all-warnings;-Xcompiler=-Wall,-Wextra,-Werror,-ffp-contract=off>")
  target_compile_definitions(${TARGET} PRIVATE "$<$<COMPILE_LANGUAGE:CUDA>:PACELINE_CUDA_ARCHITECTURES=\"${NAMES}\">")
  target_link_libraries(${TARGET} PUBLIC CUDA::cudart_static)
endfunction()
