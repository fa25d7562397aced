// The cpu backend for AVX-512 with AMX: integer weights through int8 tiles.
#define PACELINE_VECTOR "kernels/cpu/vec_avx512.h"
#define PACELINE_VNNI 1
#define PACELINE_TILES "kernels/cpu/tiles.h"
#define PACELINE_TABLE AmxKernels
#define PACELINE_NAME "cpu amx"
#include "kernels/cpu/isa.inc"
