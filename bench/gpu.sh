#!/bin/bash
# The cuda backend on a machine with a GPU: right first, then fast.
#
#   bench/gpu.sh pack          where this repository builds: programs with kernels for sm_90a, stripped, and the
#                              libraries they need beside them, into build/gpu (below 20 MiB)
#   bench/gpu.sh run [--fast]  where the GPU is: needs build/gpu of this tree, a driver and, for its part,
#                              compute-sanitizer; no compiler, no package, no network. Prints one table; ends with 0
#                              only if every check passed. --fast leaves compute-sanitizer and the whole step out
#
# `run` takes its parts in the order in which a failure makes the rest worthless: every kernel against the reference
# backend on random inputs, the same under compute-sanitizer on small cases, then times.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
OUT_DIR=build/gpu
ARCHITECTURES=${PACELINE_GPU_ARCHITECTURES:-90a}
LIMIT_MIB=20

say() { printf '\n== %s\n' "$*"; }
die() { printf 'gpu.sh: %s\n' "$*" >&2; exit 1; }

# pack_libraries PROGRAM: what the other machine may lack. The parts of glibc must be its own.
pack_libraries() {
  local program=$1 line name path
  while read -r line; do
    name=${line%% *}
    path=$(sed -n 's/.*=> \(\/[^ ]*\).*/\1/p' <<<"$line")
    case $name in
      linux-vdso* | ld-linux* | */ld-linux* | libc.so* | libm.so* | libpthread.so* | libdl.so* | librt.so*) ;;
      *) [[ -n $path ]] && cp -Lf "$path" "$OUT_DIR/$name" ;;
    esac
  done < <(ldd "$program")
}

pack() {
  cmake --preset cuda -DPACELINE_TESTS=ON "-DPACELINE_CUDA_ARCHITECTURES=$ARCHITECTURES" >/dev/null ||
    die "configuring failed; it needs nvcc in PATH"
  ninja -C build/cuda -j "$(nproc)" cuda_kernels_test gpu_bench
  rm -rf "$OUT_DIR"
  mkdir -p "$OUT_DIR"
  local program
  for program in cuda_kernels_test gpu_bench; do
    pack_libraries "build/cuda/bin/$program"
    strip -o "$OUT_DIR/$program" "build/cuda/bin/$program"
  done
  git rev-parse --short HEAD >"$OUT_DIR/commit" 2>/dev/null || echo unknown >"$OUT_DIR/commit"
  local kib
  kib=$(du -sk "$OUT_DIR" | cut -f 1)
  ((kib <= LIMIT_MIB * 1024)) || die "$OUT_DIR has $kib KiB, more than $LIMIT_MIB MiB"
  ls -l "$OUT_DIR"
}

FAILED=()
# part SECONDS NAME COMMAND...: one part, with a limit; a failure is noted and the rest goes on.
part() {
  local limit=$1 name=$2 start=$SECONDS status=0
  shift 2
  say "$name"
  LD_LIBRARY_PATH=$PWD/$OUT_DIR${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} timeout "$limit" "$@" || status=$?
  ((status == 0)) || FAILED+=("$name")
  printf '== %s: %s in %d s\n' "$name" "$( ((status == 0)) && echo passed || echo "FAILED ($status)")" \
    $((SECONDS - start))
}

run() {
  [[ -x $OUT_DIR/gpu_bench ]] || die "there is no $OUT_DIR here: run \`bench/gpu.sh pack\` where this tree is built"
  say "commit $(<"$OUT_DIR/commit")"
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm --format=csv 2>/dev/null || true
  # The tests read the vectors of tests/goldens under the path of the tree they were built in.
  export PACELINE_TEST_GPU=only
  local layers=()
  part 150 "every kernel against the reference" "$OUT_DIR/cuda_kernels_test" --gtest_brief=1 \
    "--gtest_filter=-Numerics.*"
  if [[ ${1:-} == --fast ]]; then
    layers=(--layers 4)
  elif command -v compute-sanitizer >/dev/null; then
    local small="Quantise.*:Experts.*:Ops.Heads:Ops.Route:Ops.Attention:DeltaNet.FoldsIntoTheNextBlock"
    local tool
    for tool in memcheck racecheck; do
      part 90 "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 99 \
        "$OUT_DIR/cuda_kernels_test" --gtest_brief=1 "--gtest_filter=$small"
    done
  else
    FAILED+=("compute-sanitizer (not on this machine)")
  fi
  part 200 "times" "$OUT_DIR/gpu_bench" "${layers[@]}"
  if ((${#FAILED[@]} > 0)); then
    printf 'gpu.sh: failed: %s\n' "$(IFS=,; echo "${FAILED[*]}")" >&2
    exit 1
  fi
  say "all passed"
}

case ${1:-} in
  pack) pack ;;
  run) run "${2:-}" ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
