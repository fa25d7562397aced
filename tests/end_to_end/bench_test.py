#!/usr/bin/env python3
"""`bench step` on a small synthetic model in every format: all kinds of steps run, and what is printed adds up.
No figure of speed is judged here."""
import json
import os
import pathlib
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("PACELINE", str(ROOT / "build/release/bin/paceline"))
SMALL_SYNTH = os.environ.get("SMALL_SYNTH", str(ROOT / "build/release/bin/small_synth"))
ALWAYS = {"norms", "attention_projections", "attention", "delta_net_projections", "delta_net", "router", "experts", "shared_expert",
          "head", "sampling", "other"}


def run(*words):
    done = subprocess.run([BINARY, *map(str, words)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise AssertionError(f"{words} exited with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


class BenchStep(unittest.TestCase):
    def bench(self, folder, format, *flags):
        subprocess.run([SMALL_SYNTH, folder, *format.split("+")], check=True)
        return json.loads(run("bench", "step", folder, "--rows", "1,4", "--prefill", "100", "--prefill-chunk", "64", "--threads", "2",
                              "--json", *flags))

    def check(self, out, extra=frozenset()):
        self.assertGreater(out["read_bandwidth_gbps"], 0)
        self.assertRegex(out["cpu"], r"\((AMX|AVX-512 VNNI|AVX2)\)$")
        self.assertEqual([(r["kind"], r["rows"]) for r in out["results"]], [("decode", 1), ("verify", 4), ("prefill", 100)])
        for result in out["results"]:
            stages = result["stages"]
            self.assertEqual({stage["name"] for stage in stages}, ALWAYS | extra)
            self.assertAlmostEqual(sum(stage["seconds"] for stage in stages), result["step_s"], delta=1e-6 + 0.001 * result["step_s"])
            self.assertEqual(sum(stage["bytes"] for stage in stages), result["bytes"])
            self.assertAlmostEqual(result["tokens_per_second"] * result["step_s"], result["rows"], delta=1e-6 * result["rows"])
            self.assertAlmostEqual(result["gbps"] * result["step_s"] * 1e9, result["bytes"], delta=1e-6 * result["bytes"])

    def test_every_format(self):
        read = {}
        for format in ("hybrid", "int4", "bf16", "hybrid+mtp"):
            with self.subTest(format=format), tempfile.TemporaryDirectory() as folder:
                out = self.bench(folder, format)
                self.check(out)
                read[format] = out["results"][0]["bytes"]
                if format != "hybrid":
                    continue
                flags = ["bench", "step", folder, "--rows", "1", "--prefill", "0"]
                markdown, text = run(*flags, "--markdown"), run(*flags)
                for name in ALWAYS - {"other", "sampling"}:  # either may be too short to show
                    self.assertRegex(markdown, rf"(?m)^\| {name} \|")
                    self.assertRegex(text, rf"(?m)^{name} ")
                self.assertIn("lost against R", markdown)
                with self.assertRaisesRegex(AssertionError, "--markdown"):
                    run(*flags, "--markdown", "--json")
        self.assertLess(read["int4"], read["hybrid"])
        self.assertLess(read["hybrid"], read["bf16"])
        # A step reads the rows since its state's last border too, and which step is the median one is chance.
        self.assertAlmostEqual(read["hybrid+mtp"], read["hybrid"], delta=0.05 * read["hybrid"])

    def test_a_context_that_is_not_run(self):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run([SMALL_SYNTH, folder, "int4"], check=True)
            for dtype, vector in (("bf16", 512), ("int4", 132)):
                out = json.loads(run("bench", "step", folder, "--rows", "1", "--prefill", "0", "--context", "9000", "--threads", "2",
                                     "--kv-dtype", dtype, "--json"))
                read = next(s["bytes"] for s in out["results"][0]["stages"] if s["name"] == "attention")
                # Keys and values of two heads; the median step is one of eighteen positions.
                self.assertGreater(read, 4 * 9000 * vector)
                self.assertLessEqual(read, 4 * 9018 * vector)

    def test_a_worker_shows_as_waiting(self):
        with tempfile.TemporaryDirectory() as folder:
            out = self.bench(folder, "int4", "--local-workers", "1", "--link", "loopback")
            self.check(out, {"exchange_send", "exchange_wait"})


if __name__ == "__main__":
    unittest.main()
