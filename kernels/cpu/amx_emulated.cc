// The cpu backend for AMX on machines without it: the same source over emulated tiles and AVX2 lanes.
#define PACELINE_VECTOR "kernels/cpu/vec_avx2.h"
#define PACELINE_VNNI 0
#define PACELINE_TILES "kernels/cpu/tiles_emulated.h"
#define PACELINE_TABLE AmxEmulatedKernels
#define PACELINE_NAME "cpu amx-emulated"
#include "kernels/cpu/isa.inc"
