// Routed experts: for each kind of weights, by planes of the codes and rows at a time.
#include "kernels/cuda/experts.h"
#include "kernels/cuda/launch.cuh"

namespace paceline::kernels::cuda {

PACELINE_CUDA_WEIGHT_KERNEL(ExpertMiddle);
PACELINE_CUDA_WEIGHT_KERNEL(ExpertDown);
PACELINE_CUDA_KERNEL(GatherTasks);

}  // namespace paceline::kernels::cuda
