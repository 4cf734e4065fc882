#!/usr/bin/env python3
"""All crates that the programs are built of, with versions and licences, as SPDX 2.3 JSON."""

import json
import subprocess
import sys

command = ["cargo", "metadata", "--locked", "--format-version", "1"]
metadata = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
packages = {package["id"]: package for package in metadata["packages"]}
nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
root = next(p["id"] for p in packages.values() if p["name"] == "svdo" and p["source"] is None)

needed, waiting = set(), [root]
while waiting:
    package = waiting.pop()
    if package in needed:
        continue
    needed.add(package)
    for dependency in nodes[package]["deps"]:
        # Neither of tests nor of build scripts alone.
        if any(kind["kind"] is None for kind in dependency["dep_kinds"]):
            waiting.append(dependency["pkg"])


def named(package):
    return f"SPDXRef-{package['name']}-{package['version']}".replace("_", "-").replace("+", "-")


listed = sorted((packages[package] for package in needed), key=lambda p: (p["name"], p["version"]))
lacking = [package["name"] for package in listed if not package["license"]]
if lacking:
    sys.exit(f"no licence is given for {', '.join(lacking)}")
svdo = packages[root]
document = {
    "spdxVersion": "SPDX-2.3",
    "dataLicense": "CC0-1.0",
    "SPDXID": "SPDXRef-DOCUMENT",
    "name": f"svdo-{svdo['version']}",
    "documentNamespace": f"https://spdx.org/spdxdocs/svdo-{svdo['version']}",
    "creationInfo": {"created": "1970-01-01T00:00:00Z", "creators": ["Tool: release/spdx.py"]},
    "packages": [
        {
            "SPDXID": named(package),
            "name": package["name"],
            "versionInfo": package["version"],
            "licenseDeclared": package["license"].replace("/", " OR "),
            "licenseConcluded": "NOASSERTION",
            "downloadLocation": package["repository"] or "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "filesAnalyzed": False,
        }
        for package in listed
    ],
    "relationships": [
        {
            "spdxElementId": "SPDXRef-DOCUMENT",
            "relationshipType": "DESCRIBES",
            "relatedSpdxElement": named(svdo),
        }
    ]
    + [
        {
            "spdxElementId": named(svdo),
            "relationshipType": "DEPENDS_ON",
            "relatedSpdxElement": named(package),
        }
        for package in listed
        if package is not svdo
    ],
}
json.dump(document, sys.stdout, indent=1)
print()
