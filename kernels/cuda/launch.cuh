// How a kernel of this folder starts on a GPU. Included by the launch_*.cu files alone.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>

#include "kernels/cuda/device.h"
#include "kernels/cuda/gpu_machine.h"

namespace paceline::kernels::cuda {

template <class K>
__global__ void __launch_bounds__(K::kThreads) Entry(const __grid_constant__ typename K::Args args) {
  K::Run(args);
}

template <class K>
void LaunchOn(void* stream, const typename K::Args& args) {
  const Grid grid = K::Blocks(args);
  const dim3 blocks(static_cast<unsigned>(grid.x), static_cast<unsigned>(grid.y));
  Entry<K>
      <<<blocks, K::kThreads, static_cast<size_t>(grid.shared_bytes), static_cast<cudaStream_t>(stream)>>>(
          args);
  const cudaError_t error = cudaGetLastError();
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "cuda backend: a launch of %lld x %d blocks was refused: %s\n",
               static_cast<long long>(grid.x), grid.y, cudaGetErrorString(error));
  std::abort();
}

}  // namespace paceline::kernels::cuda

#define PACELINE_CUDA_KERNEL(...) \
  template void LaunchOn<__VA_ARGS__>(void*, const typename __VA_ARGS__::Args&)
// A kernel of weights in all the forms that LaunchFor (backend.h) chooses from.
#define PACELINE_CUDA_WEIGHT_KERNEL(K)        \
  PACELINE_CUDA_KERNEL(K<Kind::kInt4, 1, 8>); \
  PACELINE_CUDA_KERNEL(K<Kind::kInt4, 2, 4>); \
  PACELINE_CUDA_KERNEL(K<Kind::kInt4, 2, 8>); \
  PACELINE_CUDA_KERNEL(K<Kind::kInt8, 1, 8>); \
  PACELINE_CUDA_KERNEL(K<Kind::kInt8, 2, 4>); \
  PACELINE_CUDA_KERNEL(K<Kind::kInt8, 2, 8>); \
  PACELINE_CUDA_KERNEL(K<Kind::kAny, 2, 1>);  \
  PACELINE_CUDA_KERNEL(K<Kind::kAny, 2, 8>)
