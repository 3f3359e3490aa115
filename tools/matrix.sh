#!/usr/bin/env bash
# Runs the core tests on the oldest and on the newest JAX we support, each in a virtual environment of its own under .matrix/.
#
#   tools/matrix.sh [PYTEST ARGUMENTS]      e.g. tools/matrix.sh -x -k scan
#
# An interpreter is looked for on the PATH and then among pyenv's, and must really start. Whatever cannot be run is a failure.
# Environments are kept and brought up to date; delete .matrix/ to begin anew.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

core=(tests ppl estimators --ignore=tests/models)     # what every row runs: everything but the models
rows=(
    # name   Python, first that runs   requirement     pip's upgrade strategy
    "oldest|3.11|jax==0.10.2|only-if-needed"
    "newest|3.13 3.12|jax|eager"
)

find_python() {   # VERSION... -> the first interpreter that starts, is of that version and can make environments
    local version candidate
    for version in "$@"; do
        while read -r candidate; do
            if [ "$("$candidate" -c 'import ensurepip, sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = "$version" ]; then
                echo "$candidate"
                return
            fi
        done < <(type -aP "python$version"; ls -d "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python 2>/dev/null)
    done
    return 1
}

versions() {      # PYTHON -> "3.11.7 jax 0.10.2, numpyro 0.22.0, numpy 2.4.6"
    "$1" -c 'import platform
from importlib.metadata import version
print(platform.python_version(), ", ".join(f"{name} {version(name)}" for name in ("jax", "numpyro", "numpy")))'
}

run_row() {       # NAME PYTHONS REQUIREMENT STRATEGY [PYTEST ARGUMENTS]; sets `about`
    local name=$1 pythons=$2 requirement=$3 strategy=$4 base python
    shift 4
    about="Python $pythons, $requirement"
    # shellcheck disable=SC2086  # a list of versions
    base=$(find_python $pythons) || { about+=": no such interpreter"; return 1; }
    python=.matrix/$name/bin/python
    { "$python" -c '' 2>/dev/null || "$base" -m venv --clear ".matrix/$name"; } &&
        "$python" -m pip install --quiet --upgrade --upgrade-strategy "$strategy" "$requirement" -e '.[test]' ||
        { about+=": could not be installed"; return 1; }
    about=$(versions "$python") && echo "== $name: Python $about" && "$python" -m pytest "${core[@]}" "$@"
}

summary=() failed=0
for row in "${rows[@]}"; do
    IFS='|' read -r name pythons requirement strategy <<<"$row"
    started=$SECONDS
    if run_row "$name" "$pythons" "$requirement" "$strategy" "$@"; then verdict=passed; else verdict=FAILED failed=1; fi
    summary+=("$(printf '%-8s %-7s %5d s   %s' "$name" "$verdict" $((SECONDS - started)) "$about")")
done
printf '\n'
printf '%s\n' "${summary[@]}"
exit $failed
