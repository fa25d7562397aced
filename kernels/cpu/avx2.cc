// The cpu backend for AVX2 with FMA and F16C.
#define PACELINE_VECTOR "kernels/cpu/vec_avx2.h"
#define PACELINE_VNNI 0
#define PACELINE_TABLE Avx2Kernels
#define PACELINE_NAME "cpu avx2"
#include "kernels/cpu/isa.inc"
