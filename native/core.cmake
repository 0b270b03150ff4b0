# herd_core: core/ and kernels/, which know nothing of Python. kernels/isa_*.cpp hold the same kernels, each built for one
# instruction set: only those files get its flags, so that an older processor never meets an instruction it lacks.
option(HERD_SANITIZE "Address and undefined-behaviour sanitizers" OFF)

file(GLOB HERD_CORE CONFIGURE_DEPENDS "${CMAKE_CURRENT_LIST_DIR}/core/*.cpp" "${CMAKE_CURRENT_LIST_DIR}/kernels/*.cpp")
set(HERD_FLAGS -O3 -Wall -Wextra -fno-math-errno -fno-trapping-math -ffp-contract=fast)
if(HERD_SANITIZE)
  list(APPEND HERD_FLAGS -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all)
  add_link_options(-fsanitize=address,undefined)
endif()
find_package(Threads REQUIRED)

# The codebooks of iq1 to iq3, one file for Python and for kernels: its bytes, as words.
set(HERD_BOOKS "${CMAKE_CURRENT_LIST_DIR}/../src/herd/formats/codebooks.bin")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${HERD_BOOKS}")
file(READ "${HERD_BOOKS}" HERD_BOOKS HEX)
string(REGEX REPLACE "(..)(..)" "0x\\2\\1,\n" HERD_BOOKS "${HERD_BOOKS}")
file(CONFIGURE OUTPUT "${CMAKE_CURRENT_BINARY_DIR}/codebooks.inc" CONTENT "${HERD_BOOKS}")

add_library(herd_core STATIC ${HERD_CORE})
set_target_properties(herd_core PROPERTIES POSITION_INDEPENDENT_CODE ON CXX_VISIBILITY_PRESET hidden)
target_compile_options(herd_core PRIVATE ${HERD_FLAGS})
target_include_directories(herd_core PRIVATE "${CMAKE_CURRENT_BINARY_DIR}")
target_link_libraries(herd_core PUBLIC Threads::Threads)
set(HERD_KERNELS "${CMAKE_CURRENT_LIST_DIR}/kernels")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_source_files_properties(${HERD_KERNELS}/isa_avx2.cpp PROPERTIES COMPILE_OPTIONS "-mavx2;-mfma;-mf16c")
  set_source_files_properties(${HERD_KERNELS}/isa_avxvnni.cpp PROPERTIES COMPILE_OPTIONS "-mavx2;-mavxvnni;-mfma;-mf16c")
  # GCC 12 warns of uninitialised values inside its own AVX-512 headers.
  set_source_files_properties(${HERD_KERNELS}/isa_avx512.cpp PROPERTIES COMPILE_OPTIONS
    "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mfma;-mf16c;-mprefer-vector-width=512;-Wno-maybe-uninitialized;-Wno-uninitialized")
  set_source_files_properties(${HERD_KERNELS}/isa_avx512vbmi.cpp PROPERTIES COMPILE_OPTIONS
    "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mavx512vbmi;-mgfni;-mfma;-mf16c;-mprefer-vector-width=512;-Wno-maybe-uninitialized;-Wno-uninitialized")
  set_source_files_properties(${HERD_KERNELS}/isa_avx512bf16.cpp PROPERTIES COMPILE_OPTIONS
    "-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mavx512vnni;-mavx512bf16;-fno-exceptions;-mfma;-mf16c;-mprefer-vector-width=512;-Wno-maybe-uninitialized;-Wno-uninitialized")
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  set_source_files_properties(${HERD_KERNELS}/isa_neon.cpp PROPERTIES COMPILE_OPTIONS "-march=armv8.2-a+dotprod")
endif()

# core/encode_*.cpp: the same, for encoders. Without contraction every processor computes the same bits.
set(HERD_ENCODERS "${CMAKE_CURRENT_LIST_DIR}/core/encode")
set_source_files_properties(${HERD_ENCODERS}_portable.cpp PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  set_source_files_properties(${HERD_ENCODERS}_avx2.cpp PROPERTIES COMPILE_OPTIONS "-ffp-contract=off;-mavx2;-mf16c")
  set_source_files_properties(${HERD_ENCODERS}_avx512.cpp PROPERTIES COMPILE_OPTIONS
    "-ffp-contract=off;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mf16c;-mprefer-vector-width=512;-Wno-maybe-uninitialized;-Wno-uninitialized")
endif()
