// Kernels that read no weights but norms: rows, attention, Gated DeltaNet, vocabulary.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/codes.h"
#include "kernels/cuda/delta_net.h"
#include "kernels/cuda/fill.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/vocabulary.h"

namespace paceline::kernels::cuda {

PACELINE_CUDA_KERNEL(FillRandom);
PACELINE_CUDA_KERNEL(QuantiseRows);
PACELINE_CUDA_KERNEL(SplitCodes);
PACELINE_CUDA_KERNEL(RmsNorm);
PACELINE_CUDA_KERNEL(Add);
PACELINE_CUDA_KERNEL(SiluMul);
PACELINE_CUDA_KERNEL(HeadNormRope);
PACELINE_CUDA_KERNEL(SigmoidGate);
PACELINE_CUDA_KERNEL(GatedNorm);
PACELINE_CUDA_KERNEL(Combine);
PACELINE_CUDA_KERNEL(WriteKv);
PACELINE_CUDA_KERNEL(AttentionBlocks);
PACELINE_CUDA_KERNEL(AttentionMerge);
PACELINE_CUDA_KERNEL(DeltaConvolve);
PACELINE_CUDA_KERNEL(DeltaNormalise);
PACELINE_CUDA_KERNEL(DeltaGates);
PACELINE_CUDA_KERNEL(DeltaDots);
PACELINE_CUDA_KERNEL(DeltaSolve);
PACELINE_CUDA_KERNEL(DeltaStore);
PACELINE_CUDA_KERNEL(Route);
PACELINE_CUDA_KERNEL(LogSumExpBlocks);
PACELINE_CUDA_KERNEL(LogSumExpMerge);
PACELINE_CUDA_KERNEL(ArgMaxBlocks);
PACELINE_CUDA_KERNEL(ArgMaxMerge);

}  // namespace paceline::kernels::cuda
