#!/usr/bin/env python3
"""Each instruction set's object holds the instructions it claims, and none that its machines may lack.

  isa_instructions_test.py OBJECT...     objects of kernels/cpu/{avx2,avx512,vnni,amx,amx_emulated}.cc

A vector path that the compiler turned into something narrower would pass every test of bits and be slow; one that it made
wider would stop on the machines it is for.
"""
import pathlib
import re
import subprocess
import sys

TILES = ["ldtilecfg", "tileloadd", "tilestored", "tilezero", "tdpbsud", "tdpbf16ps"]
# Object -> (patterns that must occur, patterns that must not).
CLAIMS = {
    "avx2": (["vpmaddwd.*%ymm", "vpmaddubsw.*%ymm", "vfmadd.*%ymm"], ["%zmm", r"%k[1-7]", "vpdpbusd", *TILES]),
    "avx512": (["vpmaddwd.*%zmm", "vpmaddubsw.*%zmm", "vfmadd.*%zmm"], ["vpdpbusd", *TILES]),
    "vnni": (["vpdpbusd.*%zmm", "vfmadd.*%zmm"], TILES),
    "amx": (["vfmadd.*%zmm", *TILES], []),
    "amx_emulated": (["vfmadd.*%ymm"], ["%zmm", r"%k[1-7]", "vpdpbusd", *TILES]),
}


def main(objects):
    seen = set()
    findings = []
    for path in objects:
        name = pathlib.Path(path).name.split(".")[0]
        if name not in CLAIMS:
            continue
        seen.add(name)
        code = subprocess.run(["objdump", "-d", "--no-show-raw-insn", path], capture_output=True, text=True, check=True).stdout
        wanted, forbidden = CLAIMS[name]
        findings += [f"{name}: no instruction like `{p}`" for p in wanted if not re.search(p, code)]
        for pattern in forbidden:
            found = re.search(rf".*{pattern}.*", code)
            if found:
                findings.append(f"{name}: `{found[0].strip()}` is beyond what this object may use")
    findings += [f"{name}: no such object among {' '.join(objects)}" for name in CLAIMS if name not in seen]
    print("\n".join(findings) or f"{len(seen)} objects hold what they claim")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
