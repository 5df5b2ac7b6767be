#!/bin/sh
# Make .venv hold this checkout and what it needs: `sh tools/setup.sh run` for users, `... dev` with the tools that test
# it. Does nothing, quickly, when that is so already. PYTHON=... chooses the interpreter; otherwise uv is used where it
# is installed, else the first Python that works, is of a version that MLX has wheels for and (on a Mac) runs natively.
set -eu

cd "$(dirname "$0")/.."
kind=${1:-dev}
stamp=.venv/.qwen3-mlx-$kind

say() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# Executed, not only looked up: shims of version managers exist and fail, Apple's own python3 is 3.9, and MLX has no
# wheels for an Intel Python on a Mac (which also means Rosetta).
works() {
    "$1" -c '
import sys, platform
sys.exit(not (3, 11) <= sys.version_info < (3, 15) or (sys.platform == "darwin" and platform.machine() != "arm64"))
' >/dev/null 2>&1
}
has_pip() { "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; }

candidates() {
    if [ -n "${PYTHON:-}" ]; then
        printf '%s\n' "$PYTHON"
        return
    fi
    for name in python3.13 python3.12 python3.11 python3.14 python3 python; do
        command -v "$name" || true
    done
    for path in /opt/homebrew/bin/python3.1[1-9] /usr/local/bin/python3.1[1-9] /usr/bin/python3.1[1-9] \
        "$HOME"/.pyenv/versions/3.1[1-9]*/bin/python3 "$HOME"/.local/bin/python3.1[1-9] \
        /Library/Frameworks/Python.framework/Versions/3.1[1-9]/bin/python3; do
        if [ -x "$path" ]; then printf '%s\n' "$path"; fi
    done
}

no_python() {
    case $(uname -s) in
    Darwin) how='brew install python     (https://brew.sh), or uv: https://docs.astral.sh/uv/' ;;
    *) how='for example  apt-get install python3 python3-venv  , or uv: https://docs.astral.sh/uv/' ;;
    esac
    fail "No usable Python: 3.11 to 3.14 is needed${PYTHON:+ (PYTHON=$PYTHON is not)}." "Install one, then run the same command again:" "    $how"
}

create_with_uv() {
    say "creating .venv with uv"
    uv venv --quiet --seed --python "${PYTHON:->=3.11,<3.15}" .venv
}

create_with_python() {
    found='' without_pip=''
    IFS='
' # a path may hold spaces
    for python in $(candidates); do
        works "$python" || continue
        if has_pip "$python"; then
            found=$python
            break
        fi
        without_pip=${without_pip:-$python}
    done
    if [ -z "$found" ] && [ -n "$without_pip" ]; then
        fail "$without_pip would do but has no venv or ensurepip module." "On Debian or Ubuntu:  apt-get install python3-venv"
    fi
    [ -n "$found" ] || no_python
    say "creating .venv with $("$found" --version) ($found)"
    "$found" -m venv .venv
}

# What the environment was made from: change one of these and it is brought up to date.
wanted() { printf '%s %s\n' "$(pwd)" "$(cat pyproject.toml tools/setup.sh | cksum)"; }

if [ -d .venv ] && ! works .venv/bin/python; then
    [ -f .venv/pyvenv.cfg ] || fail ".venv exists but is no virtual environment: move it away."
    say ".venv does not work any more (was the checkout moved, or its Python removed?): making it anew"
    rm -rf .venv
fi
for made in .venv/.qwen3-mlx-dev "$stamp"; do
    if [ -f "$made" ] && [ "$(cat "$made")" = "$(wanted)" ]; then exit 0; fi
done

if [ ! -d .venv ]; then
    if ! command -v uv >/dev/null 2>&1 || ! create_with_uv; then create_with_python; fi
fi

case $kind in
run) target=. ;;
dev) target='.[dev]' ;;
*) fail "usage: sh tools/setup.sh run|dev" ;;
esac
say "installing qwen3-mlx and what it needs into .venv (the first time: a minute or two)"
begin=$(date +%s)
if ! command -v uv >/dev/null 2>&1 || ! uv pip install --quiet --python .venv/bin/python --editable "$target"; then
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$target" ||
        fail "The installation failed; what pip said is above. With no network, packages cannot be fetched."
fi
wanted >"$stamp"
say "ready after $(($(date +%s) - begin)) s"
