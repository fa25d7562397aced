"""The page at /, in a headless Chromium that types, reads the stream and stops it. Skipped where none is installed."""
import base64
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import harness
from harness import ROOT, Head

CHROMIUM = shutil.which("chromium")


class Browser:
    """Chromium over its debugging pipe: JSON messages that end with a NUL."""

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        to_browser, self.out = os.pipe()
        self.back, from_browser = os.pipe()
        # It reads from descriptor 3 and writes to 4.
        command = f'exec 3<&{to_browser} 4>&{from_browser}; exec "$0" "$@"'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--window-size=1100,800",
                 f"--user-data-dir={self.folder.name}", "about:blank"]
        self.process = subprocess.Popen(["bash", "-c", command, CHROMIUM, *flags], pass_fds=(to_browser, from_browser),
                                        stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.number, self.rest, self.session, self.complaints = 0, b"", None, []

    def call(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                piece = os.read(self.back, 1 << 20)
                assert piece, "the browser has gone"
                self.rest += piece
            text, self.rest = self.rest.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(answer["params"])
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url):
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)

    def run(self, script):
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition):
        """Until the condition holds, which the page looks at itself whenever it has time."""
        held = self.run(f"""new Promise(say => {{
            const end = performance.now() + {1000 * harness.PATIENCE};
            const look = () => ({condition}) ? say(true) : performance.now() < end ? setTimeout(look, 10) : say(false);
            look();
        }})""")
        assert held, f"never true: {condition}; the page shows {self.run('document.body.innerText')}"

    def close(self):
        self.process.terminate()
        self.process.wait()
        os.close(self.out)
        os.close(self.back)
        self.folder.cleanup()


class Page(harness.TestCase):
    def setUp(self):
        self.head = self.start(Head, "--local-workers", 2, *harness.SLOW_LINK, model=ROOT / "deploy/demo-model").wait_ready()
        self.browser = Browser()
        self.addCleanup(self.browser.close)
        self.browser.open(f"http://{self.head.http}/")
        self.browser.wait("document.getElementById('state')?.textContent === 'ready'")

    def say(self, text):
        self.browser.run(f"document.getElementById('text').value = {json.dumps(text)}; document.getElementById('form').requestSubmit()")

    def test_a_conversation(self):
        page = self.browser
        self.assertEqual(page.run("document.title"), "demo-model")
        self.assertEqual(page.run("document.querySelectorAll('.node').length"), 3)
        page.run("document.getElementById('temperature').value = 0")
        self.say("Sofia has 524 pumps and buys 861 more. How many pumps does she have now?")
        page.wait("document.querySelector('.cost')")
        self.assertIn("1385", page.run("document.getElementById('log').innerText"))
        self.assertTrue(page.run("document.querySelector('.thought').textContent"))
        self.assertGreater(float(page.run("document.getElementById('rate').textContent")), 0)
        self.assertRegex(page.run("document.getElementById('share').textContent"), r"^\d+ %|no drafts$")
        if screenshot := os.environ.get("PACELINE_SCREENSHOT"):
            pathlib.Path(screenshot).write_bytes(base64.b64decode(page.call("Page.captureScreenshot")["data"]))
        # It writes what the model says as text, whatever that is.
        page.run("document.getElementById('think').checked = false")
        self.say("Please write a story about Nora and a wrong turn.")
        page.wait("document.getElementById('log').lastChild.textContent.length > 100")
        page.run("document.getElementById('stop').click()")
        page.wait("!document.getElementById('send').disabled")
        self.client(self.head).wait_idle()
        self.assertEqual(page.complaints, [])


if __name__ == "__main__":
    if CHROMIUM is None:
        print("no Chromium here")
        sys.exit(77)
    harness.main()
