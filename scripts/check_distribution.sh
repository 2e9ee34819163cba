#!/usr/bin/env bash
# Build the sdist and the wheel, check both, and try the wheel in a clean environment of each Python that is named.
#
#   scripts/check_distribution.sh [PYTHON...]     such as: scripts/check_distribution.sh python3.11 python3.12 python3.13
#
# It takes minutes for each Python. PIP_OPTIONS reaches every `pip install`, to choose torch's build for CPUs, say.
# DIST keeps what was built. Needs the packages build, twine and check-wheel-contents.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v .venv/bin/python || command -v python3)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
dist=${DIST:-$work/dist}
mkdir -p "$dist"

"$python" -m build --outdir "$dist" .                      # the sdist, and the wheel from it
"$python" -m build --wheel --outdir "$work/again" .        # the wheel from the clone
wheel=$(ls -t "$dist"/bitvar-*.whl | head -n 1)
sdist=$(ls -t "$dist"/bitvar-*.tar.gz | head -n 1)
cmp "$wheel" "$work/again/$(basename "$wheel")"
echo "The sdist and the clone build the same wheel."
"$python" -m twine check --strict "$wheel" "$sdist"
"$python" -m check_wheel_contents --ignore W002 "$wheel"   # models share small files on purpose
if tar -tzf "$sdist" | grep -E '^[^/]+/(tests|docs|data|runs)/'; then
    echo "The sdist holds files that the wheel does not need." >&2
    exit 1
fi
du -h "$wheel" "$sdist"

for interpreter in "$@"; do
    "$interpreter" -m venv "$work/env"
    # shellcheck disable=SC2086
    "$work/env/bin/pip" install --quiet ${PIP_OPTIONS:-} "$wheel"
    (
        cd "$work" # outside the clone, so that nothing of it is imported
        "$work/env/bin/python" -W error -c 'import bitvar, sys; print(sys.version.split()[0], bitvar.__version__)'
        env/bin/bitvar --version
        env/bin/bitvar models verify --all
        env/bin/bitvar generate "a red apple, 3D emoji" --seed 0 -o "$work/apple.png"
        env/bin/bitvar generate --from "$work/apple.png" -o "$work/again.png"
        cmp "$work/apple.png" "$work/again.png"
        env/bin/bitvar doctor
        env/bin/pip check
    )
    rm -rf "$work/env" "$work"/*.png
done
echo "Good: $(basename "$wheel") on ${*:-no Python}"
