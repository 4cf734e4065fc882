#!/usr/bin/env bash
# Puts the programs of this action's own version into $RUNNER_TEMP/svdo/bin: those of its release, or, where there
# is none for this machine or this commit, built from source.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
bin=${RUNNER_TEMP:?}/svdo/bin
mkdir -p "$bin"
# v0.2.0; a branch or a commit has no release.
version=${SVDO_VERSION:-${GITHUB_ACTION_REF:-}}
version=${version#v}
case $(uname -sm) in
    "Linux x86_64") target=x86_64-unknown-linux-gnu ;;
    "Linux aarch64") target=aarch64-unknown-linux-gnu ;;
    *) target=none ;;
esac
releases=${SVDO_RELEASES:-https://github.com/${GITHUB_ACTION_REPOSITORY:-}/releases/download/v$version}
name=svdo-$version-$target.tar.gz
if [[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] &&
    curl -fsSL --retry 3 "$releases/$name" -o "$bin/$name" &&
    curl -fsSL --retry 3 "$releases/SHA256SUMS" -o "$bin/SHA256SUMS"; then
    (cd "$bin" && grep " $name\$" SHA256SUMS | sha256sum --check --quiet)
    tar -xzf "$bin/$name" -C "$bin" --strip-components 1
    rm "$bin/$name" "$bin/SHA256SUMS"
else
    echo "no release for ${version:-this commit} and $(uname -sm): building from source" >&2
    cargo install --locked --path "$here" --root "${bin%/bin}"
fi
"$bin/svdo" --version
