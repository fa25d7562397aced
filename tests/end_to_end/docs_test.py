"""The examples of docs/API.md, run as they stand against the head that the page describes."""
import re
import shutil
import subprocess
import sys

import harness
from harness import ROOT, Head

EXAMPLES = re.findall(r"^```(sh|python)\n(.*?)^```$", (ROOT / "docs/API.md").read_text(), re.M | re.S)
ADDRESS = "127.0.0.1:8000"  # of the page


class Examples(harness.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.head = Head("--local-workers", 2, model=ROOT / "deploy/demo-model").wait_ready()
        cls.addClassCleanup(cls.head.close)

    def test_all(self):
        self.assertGreaterEqual(len(EXAMPLES), 7)
        for language, code in EXAMPLES:
            with self.subTest(code.strip().splitlines()[0]):
                self.assertIn(ADDRESS, code)
                code = code.replace(ADDRESS, self.head.http)
                if language == "sh":
                    self.assertTrue(shutil.which("curl"), "curl is missing: `./run test` installs it")
                    command = ["bash", "-euo", "pipefail", "-c", code.replace("curl -s", "curl -sS --fail-with-body")]
                else:
                    command = [sys.executable, "-c", code]
                done = subprocess.run(command, capture_output=True, text=True, timeout=harness.PATIENCE)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                self.assertTrue(done.stdout.strip())


if __name__ == "__main__":
    harness.main()
