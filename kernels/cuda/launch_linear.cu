// Linear layers: for each kind of weights, by planes of the codes and rows at a time.
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/linear.h"

namespace paceline::kernels::cuda {

PACELINE_CUDA_WEIGHT_KERNEL(LinearTile);

}  // namespace paceline::kernels::cuda
