#!/usr/bin/env python3
"""Whether `cargo binstall` finds all programs in the archive of a target, by the templates of Cargo.toml.

    release/binstall.py FOLDER TARGET"""

import json
import pathlib
import re
import subprocess
import sys
import tarfile

folder, target = pathlib.Path(sys.argv[1]), sys.argv[2]
command = ["cargo", "metadata", "--locked", "--no-deps", "--format-version", "1"]
packages = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["packages"]
package = next(package for package in packages if package["name"] == "svdo")
templates = package["metadata"]["binstall"]


def filled(template: str, **more: str) -> str:
    known = {"name": "svdo", "version": package["version"], "target": target, "repo": "REPO", "binary-ext": "", **more}
    return re.sub(r"{ ([a-z-]+) }", lambda found: known[found[1]], template)


archive = folder / filled(templates["pkg-url"]).rsplit("/", 1)[1]
if templates["pkg-fmt"] != "tgz" or not archive.exists():
    sys.exit(f"{archive}: named otherwise in Cargo.toml")
with tarfile.open(archive) as files:
    names = files.getnames()
programs = [kind["name"] for kind in package["targets"] if "bin" in kind["kind"]]
missing = [path for path in (filled(templates["bin-dir"], bin=name) for name in programs) if path not in names]
if missing or not programs:
    sys.exit(f"{archive} lacks {missing}")
print(f"{archive.name}: as cargo binstall looks for {', '.join(programs)}")
