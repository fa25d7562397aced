#!/bin/bash
# Runs every libFuzzer target of a build: run_all.sh BIN_DIR [LIBFUZZER OPTION...]
#   run_all.sh build/asan/bin -max_total_time=20     the short form of `./run test`
#   run_all.sh build/asan/bin -runs=5000000          the long form of `./run nightly`
# Each target starts from the files of tests/goldens that its parser reads and keeps what it learns in
# BIN_DIR/../fuzz/TARGET. A finding leaves its input there, prints the end of the log and makes the exit status 1.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$(cd "$1" && pwd)
shift

# The largest useful seed: beyond it one execution costs more than it finds.
max_bytes=32768

seeds() { # TARGET -> files of tests/goldens its parser reads
  case $1 in
    *tokenizer*) find "$root/tests/goldens" -name tokenizer.json -size -"$max_bytes"c ;;
    *config*) find "$root/tests/goldens" -name config.json ;;
    *jinja*) find "$root/tests/coordinator/templates" -name '*.jinja' ;;
    *safetensors*) find "$root/tests/goldens/bad" -name '*.safetensors' -size -"$max_bytes"c ;;
  esac
}

one() { # TARGET-PATH OPTION...
  local target=$1 name folder log file count=0
  shift
  name=$(basename "$target")
  folder=$bin/../fuzz/$name
  log=$folder.log
  mkdir -p "$folder/corpus"
  while IFS= read -r file; do
    cp "$file" "$folder/corpus/seed-$((count += 1))"
  done < <(seeds "$name")
  if "$target" "$folder/corpus" -max_len="$max_bytes" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$folder/" "$@" >"$log" 2>&1; then
    printf '%s: %s executions, no finding\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
  else
    tail -n 60 "$log"
    printf '%s: FINDING, input in %s\n' "$name" "$folder"
    return 1
  fi
}

export -f one seeds
export root bin max_bytes
mapfile -t targets < <(find "$bin" -maxdepth 1 -type f -name 'fuzz_*' -perm -u+x | sort)
((${#targets[@]})) || {
  printf 'no fuzz_* in %s: build the preset asan first\n' "$bin" >&2
  exit 1
}
# As many at a time as there are cores; xargs exits non-zero when one of them did.
printf '%s\0' "${targets[@]}" | xargs -0 -P "$(nproc)" -I{} bash -c 'one "$@"' _ {} "$@"
