#!/usr/bin/env python3
"""Random shapes, one hash: models whose head counts, widths, formats and layer patterns are drawn from a seed give the same
logits on the reference backend, on every instruction set of this machine, in any chunks and over any ranks; and so under
the contracts that are chosen by a flag.

    shapes_test.py [--seeds FIRST,END]      default 0,24
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
VENV_PYTHON = ROOT / "build/venv/bin/python3"
try:
    from random_model import RandomModel
except ImportError:
    if not VENV_PYTHON.exists() or pathlib.Path(sys.prefix) == VENV_PYTHON.parents[1]:
        sys.exit("the package numpy is missing: `./run test` makes build/venv from tests/requirements.txt")
    os.execv(VENV_PYTHON, [str(VENV_PYTHON), *sys.argv])

BINARY = os.environ.get("PACELINE", str(ROOT / "build/release/bin/paceline"))
WAYS = {
    "cpu": ["--threads", "2"],
    "cpu avx2, chunks of 7": ["--isa", "avx2", "--prefill-chunk", "7", "--threads", "2"],
    "3 ranks, sliced, head split": ["--local-workers", "2", "--placement", "sliced", "--head-split", "--link", "loopback"],
    "5 ranks, strided, chunks of 5": ["--local-workers", "4", "--placement", "strided", "--link", "loopback", "--prefill-chunk", "5"],
}
AMX = ["--isa", "amx-emulated"]
WAYS["amx-emulated, chunks of 9"] = [*AMX, "--prefill-chunk", "9"]
OTHER_CONTRACTS = {
    "int8 activations": (["--activations", "int8"], {
        "cpu, 2 ranks": ["--local-workers", "1", "--link", "loopback"],
        "cpu avx2, chunks of 7": WAYS["cpu avx2, chunks of 7"],
        "amx-emulated, chunks of 19": [*AMX, "--prefill-chunk", "19"],
    }),
    "native": (["--float-math", "native"], {
        "amx-emulated, chunks of 5": [*AMX, "--prefill-chunk", "5", "--threads", "2"],
        "amx-emulated, 3 ranks": [*AMX, "--local-workers", "2", "--placement", "sliced", "--link", "loopback"],
    }),
}
SEEDS = range(0, 24)


def score_hash(folder, tokens, *flags):
    done = subprocess.run([BINARY, "score", str(folder), "--tokens-json", str(tokens), "--json", *flags], capture_output=True, text=True,
                          timeout=300)
    if done.returncode != 0:
        raise AssertionError(f"score {' '.join(flags)} exited with {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout)["logits_hash"]


class Shapes(unittest.TestCase):
    def test_one_hash(self):
        for seed in SEEDS:
            with self.subTest(seed=seed), tempfile.TemporaryDirectory() as folder:
                tokens = RandomModel(seed).write(folder)
                want = score_hash(folder, tokens, "--backend", "reference")
                for name, flags in WAYS.items():
                    self.assertEqual(score_hash(folder, tokens, *flags), want, f"seed {seed}: {name}")
                if seed % 2 == 1:
                    continue
                for contract, (flags, ways) in OTHER_CONTRACTS.items():
                    want = score_hash(folder, tokens, "--backend", "reference", *flags)
                    for name, way in ways.items():
                        self.assertEqual(score_hash(folder, tokens, *flags, *way), want, f"seed {seed}: {contract}, {name}")


if __name__ == "__main__":
    if "--seeds" in sys.argv:
        at = sys.argv.index("--seeds")
        SEEDS = range(*map(int, sys.argv[at + 1].split(",")))
        del sys.argv[at:at + 2]
    unittest.main()
