// Which form of a kernel serves a kind of weights, a number of planes and a number of rows. One place, for
// the backend and for measurements. M has `template <class K> void Launch(const typename K::Args&)`.
#pragma once

#include "kernels/cuda/matrix.h"

namespace paceline::kernels::cuda {

template <template <Kind, int32_t, int32_t> class K, Kind kKind, class M, class Args>
void LaunchEven(M& machine, const Args& args, int32_t planes, int64_t rows) {
  if (planes == 1) {
    machine.template Launch<K<kKind, 1, 8>>(args);
  } else if (rows <= 4) {
    machine.template Launch<K<kKind, 2, 4>>(args);
  } else {
    machine.template Launch<K<kKind, 2, 8>>(args);
  }
}

// `rows`: the most that a thread block meets, of a task or of the call.
template <template <Kind, int32_t, int32_t> class K, class M, class Args>
void LaunchFor(M& machine, Kind kind, const Args& args, int32_t planes, int64_t rows) {
  if (kind == Kind::kInt4) {
    LaunchEven<K, Kind::kInt4>(machine, args, planes, rows);
  } else if (kind == Kind::kInt8) {
    LaunchEven<K, Kind::kInt8>(machine, args, planes, rows);
  } else if (rows == 1) {
    machine.template Launch<K<Kind::kAny, 2, 1>>(args);
  } else {
    machine.template Launch<K<Kind::kAny, 2, 8>>(args);
  }
}

}  // namespace paceline::kernels::cuda
