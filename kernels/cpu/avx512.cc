// The cpu backend for AVX-512 F, BW, DQ and VL.
#define PACELINE_VECTOR "kernels/cpu/vec_avx512.h"
#define PACELINE_VNNI 0
#define PACELINE_TABLE Avx512Kernels
#define PACELINE_NAME "cpu avx512"
#include "kernels/cpu/isa.inc"
