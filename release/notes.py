#!/usr/bin/env python3
"""The part of CHANGELOG.md that tells of a version, or of what is not released yet.

    release/notes.py VERSION"""

import pathlib
import re
import sys

version = sys.argv[1]
text = (pathlib.Path(__file__).parent.parent / "CHANGELOG.md").read_text()
parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
found = dict(zip(parts[1::2], parts[2::2]))
names = [name for name in found if name.split()[0] in (version, "Unreleased")]
# Its own part, where it has one.
names.sort(key=lambda name: name.startswith("Unreleased"))
if not names:
    sys.exit(f"CHANGELOG.md has no part for {version}")
print(f"# svdo {version}\n\n{found[names[0]].strip()}")
