"""A network behind HTTP, with nothing but the standard library:

    python serve.py model.svdo 8000
    curl --data-binary @images.f32 http://127.0.0.1:8000/

A request's body holds raw samples as little-endian f32; the answer is JSON: the best class of each, by name where the
file names classes, and its output. One network serves all threads."""

import http.server
import json
import sys

import numpy as np

import svdo

MOST_BYTES = 64 << 20


def server(path, port):
    model = svdo.load(path)
    size = int(np.prod(model.input_shape))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            length = int(self.headers.get("Content-Length") or 0)
            if length > MOST_BYTES or length % (4 * size):
                return self.answer(400, {"error": f"{length} bytes are not samples of {4 * size} bytes"})
            samples = np.frombuffer(self.rfile.read(length), "<f4").reshape(-1, *model.input_shape)
            try:
                outputs = model(samples, threads=1).reshape(len(samples), -1)
            except svdo.SvdoError as error:
                return self.answer(400, {"error": str(error)})
            best = outputs.argmax(1)
            names = model.classes or range(outputs.shape[1])
            self.answer(200, [{"class": names[c], "output": float(row[c])} for c, row in zip(best, outputs)])

        def answer(self, status, value):
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    server(sys.argv[1], int(sys.argv[2])).serve_forever()
