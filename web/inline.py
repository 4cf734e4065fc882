#!/usr/bin/env python3
"""Makes one HTML file of the page: `inline.py PACKAGE NETWORK.svdo OUT.html`.

Modules become data addresses in the import map, the engine (compressed), the network and ten digits of the
test set lie in elements of their own: the file needs neither server nor network.
"""

import base64
import gzip
import json
import pathlib
import sys

WEB = pathlib.Path(__file__).parent


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def embedded(name: str, data: bytes, encoding: str = "") -> str:
    return f'<script type="text/plain" id="embedded-{name}" data-encoding="{encoding}">{encoded(data)}</script>\n'


def digits() -> bytes:
    """The first image of each class in the test set."""
    fixtures = WEB.parent / "fixtures"
    images = gzip.open(fixtures / "t10k-images-idx3-ubyte.gz").read()[16:]
    labels = gzip.open(fixtures / "t10k-labels-idx1-ubyte.gz").read()[8:]
    first = [labels.index(digit) for digit in range(10)]
    return b"".join(images[784 * at : 784 * (at + 1)] for at in first)


def replaced(page: str, old: str, new: str) -> str:
    if page.count(old) != 1:
        sys.exit(f"index.html: expected once: {old}")
    return page.replace(old, new)


def main(package: pathlib.Path, network: pathlib.Path, out: pathlib.Path) -> None:
    page = (WEB / "index.html").read_text()
    imports = json.loads(page.split('<script type="importmap">')[1].split("</script>")[0])["imports"]
    for name, address in imports.items():
        source = package / "svdo.js" if name == "svdo-web" else WEB / address
        data = "data:text/javascript;base64," + encoded(source.read_bytes())
        page = replaced(page, json.dumps(address), json.dumps(data))
    style = f"<style>\n{(WEB / 'style.css').read_text()}</style>"
    page = replaced(page, '<link rel="stylesheet" href="style.css">', style)
    engine = gzip.compress((package / "svdo.wasm").read_bytes(), 9, mtime=0)
    elements = embedded("engine", engine, "gzip") + embedded("network", network.read_bytes())
    elements += embedded("examples", gzip.compress(digits(), 9, mtime=0), "gzip")
    script = f'<script type="module">\n{(WEB / "page.js").read_text()}</script>'
    page = replaced(page, '<script type="module" src="page.js"></script>', elements + script)
    # What the page is promised not to do, it cannot do.
    page = replaced(page, "; connect-src 'self'", "").replace("'self' ", "")
    out.write_text(page)


if __name__ == "__main__":
    main(*map(pathlib.Path, sys.argv[1:4]))
