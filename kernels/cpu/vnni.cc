// The cpu backend for AVX-512 with VNNI.
#define PACELINE_VECTOR "kernels/cpu/vec_avx512.h"
#define PACELINE_VNNI 1
#define PACELINE_TABLE VnniKernels
#define PACELINE_NAME "cpu vnni"
#include "kernels/cpu/isa.inc"
