#!/usr/bin/env python3
"""Every C++ file looks as the pinned clang-format makes it: the repository's .clang-format, version 19.

  format_test.py [--fix]

Exit status 77 (skipped) where clang-format-19 is not installed. Standard library only.
"""
import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROOMS = ("base", "proto", "transport", "kernels", "model", "worker", "coordinator", "cli", "bench", "tests", "tools")


def main():
    program = shutil.which("clang-format-19")
    if not program:
        print("skipped: clang-format-19 is not installed (./run test installs it)")
        return 77
    files = sorted(str(p.relative_to(ROOT)) for room in ROOMS for p in (ROOT / room).rglob("*")
                   if p.suffix in (".h", ".cc", ".cu", ".cuh"))
    mode = ["-i"] if "--fix" in sys.argv[1:] else ["--dry-run", "-Werror"]
    # One process per core: the largest file decides, not the number of files.
    count = os.cpu_count() or 1
    running = [subprocess.Popen([program, *mode, *part], cwd=ROOT, stderr=subprocess.PIPE, text=True)
               for part in (files[i::count] for i in range(count)) if part]
    wrong = set()
    for process in running:
        _, errors = process.communicate()
        wrong.update(line.split(":")[0] for line in errors.splitlines() if "[-Wclang-format-violations]" in line)
        if process.returncode and not wrong:
            print(errors)
            return 1
    for name in sorted(wrong):
        print(f"{name}: not formatted; tests/house/format_test.py --fix repairs it")
    print(f"{len(files)} files, {len(wrong)} not formatted")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
