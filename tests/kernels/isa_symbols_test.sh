#!/bin/sh
# Objects compiled for AVX-512 may define one global function each, the table, and nothing weak: the linker
# keeps one copy of a weak function for the whole program, and a machine without AVX-512 would run it.
[ $# -ge 3 ] || { echo "expected the objects of avx512.cc, vnni.cc and amx.cc, got: $*"; exit 1; }
status=0
for object in "$@"; do
  weak=$("${NM:-nm}" -C --defined-only "$object" | awk '$2 ~ /^[uVvWw]$/')
  global=$("${NM:-nm}" -C --defined-only "$object" | awk '$2 ~ /^[A-Z]$/ && $2 !~ /^[UVW]$/')
  if [ -n "$weak" ]; then
    echo "$object has weak symbols:"
    echo "$weak"
    status=1
  fi
  if [ "$(echo "$global" | grep -c .)" != 1 ]; then
    echo "$object should export its table only, and exports:"
    echo "$global"
    status=1
  fi
done
exit $status
