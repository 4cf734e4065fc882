#!/usr/bin/env python3
"""Runs the action's own step as a workflow would, with the programs of a folder and a platform that is made up.

    .github/test.py BIN"""

import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
comments: dict[int, str] = {}
methods: list[str] = []


class Platform(http.server.BaseHTTPRequestHandler):
    """Comments of one pull request."""

    def answer(self, value: object, status: int = 200) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def body(self) -> str:
        methods.append(self.command)
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"]

    def do_GET(self) -> None:
        assert self.path == "/repos/a/b/issues/7/comments?per_page=100", self.path
        self.answer([{"id": id, "body": body} for id, body in comments.items()])

    def do_POST(self) -> None:
        assert self.path == "/repos/a/b/issues/7/comments", self.path
        if self.headers["Authorization"] != "Bearer may-write":
            return self.answer({}, 403)
        comments[40 + len(comments)] = self.body()
        self.answer({}, 201)

    def do_PATCH(self) -> None:
        comments[int(self.path.removeprefix("/repos/a/b/issues/comments/"))] = self.body()
        self.answer({})

    def log_message(self, *_: object) -> None:
        pass


def main(programs: pathlib.Path) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), Platform)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as folder:
        work = pathlib.Path(folder)
        (work / "svdo").mkdir()
        (work / "svdo/bin").symlink_to(programs.resolve())
        named = work / "a model.safetensors"
        named.symlink_to(HERE.parent / "fixtures/lenet300_mnist.safetensors")
        given = {
            "RUNNER_TEMP": folder,
            "GITHUB_OUTPUT": str(work / "outputs"),
            "GITHUB_STEP_SUMMARY": str(work / "summary.md"),
            "GITHUB_API_URL": f"http://127.0.0.1:{server.server_port}",
            "GITHUB_REPOSITORY": "a/b",
            "GITHUB_REF": "refs/pull/7/merge",
            "CHECKPOINT": str(named),
            "OUTPUT": str(work / "model.svdo"),
            "REPORT": str(work / "report.json"),
            "ARGUMENTS": f"--assert-ratio 40\n--html '{work / 'a report.html'}'\n",
            "COMMENT": "true",
            "TOKEN": "may-write",
        }

        def step(expected: int, **changes: str) -> str:
            done = subprocess.run(
                ["bash", str(HERE / "compress.sh")], env={**os.environ, **given, **changes}, capture_output=True, text=True
            )
            assert done.returncode == expected, f"{done.returncode}: {done.stdout}{done.stderr}"
            return done.stdout

        step(0)
        assert (work / "a report.html").exists(), "a quoted argument is one"
        assert (work / "outputs").read_text().startswith("size-ratio=")
        summary = (work / "summary.md").read_text()
        assert "fc1" in summary and list(comments.values())[0].endswith(summary), "the comment is the report"
        # The same checkpoint has one comment; a gate that fails is in it.
        out = step(1, BASELINE=given["REPORT"], MAX_GROWTH="1%", ARGUMENTS="--preset small --assert-ratio 900")
        assert "::error title=svdo gate failed" in out
        assert len(comments) == 1 and methods == ["POST", "PATCH"] and "FAILED" in comments[40]
        step(0, CHECKPOINT=str(HERE.parent / "fixtures/lenet5_mnist.safetensors"))
        assert len(comments) == 2
        # What has no pull request, or may not write, builds all the same.
        assert "no pull request" in step(0, GITHUB_REF="refs/heads/main")
        comments.clear()
        assert "::warning" in step(0, TOKEN="")
        step(2, MAX_GROWTH="1%")
        step(0, ARGUMENTS="")
    print("the action's step: reports, gates and comments as it should")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
