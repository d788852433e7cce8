# shellcheck shell=bash
# Sourced by scripts/sparsebench, scripts/test and .ci/run: the virtual environment in <repository>/.venv.
#
#   ensure_venv ""     makes it hold sparsebench (editable) and what sparsebench needs
#   ensure_venv dev    ... and the tools that check and test it
#
# After that, run "$venv/bin/python". Where nothing has changed this costs one start of Python (about 10 ms).
# What lies on disk, and how each accident ends well:
#
#   .venv/.ready, .venv/.ready-dev   written last: for which repository folder, Python and pyproject.toml
#   .venv/.incomplete                there while .venv is being changed; found later: set-up was killed, so rebuild
#   .venv/setup.log                  what venv and pip said
#   .venv.lock                       locked during a set-up; the kernel lets go of it when its owners die
#
# An environment of the user's own making (no .ready) is completed in place. A moved or copied one is made
# again, because the scripts in .venv/bin contain the old path. SPARSEBENCH_PYTHON names the Python to create it
# with. Written for bash 3.2 (macOS) and later.

root=$(unset CDPATH && cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
unset PYTHONHOME  # would break any virtual environment

say() { printf 'sparsebench: %s\n' "$*" >&2; }

die() {
    say "$@"
    exit 1
}

ensure_venv() {
    local extra=$1 stamp=$venv/.ready${1:+-$1}
    is_ready "$stamp" && return
    [ -w "$root" ] || die "cannot set up .venv: no permission to write in $root"
    # In a subshell, so that the lock is let go of whichever way this ends. pip inherits it: it also holds
    # while a pip runs on whose launcher was killed.
    (
        trap 'exit 130' INT
        trap 'exit 143' TERM
        take_lock
        is_ready "$stamp" || set_up "$extra" "$stamp"
    ) 9>>"$root/.venv.lock" </dev/null || exit
}

# is_ready STAMP: was .venv completed, here, for this pyproject.toml, and does its Python still run?
is_ready() {
    [ -s "$1" ] && [ "$(cat "$1")" = "$(fingerprint)" ]
}

fingerprint() {
    local version
    version=$("$venv/bin/python" -I -S -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) \
        || return
    printf 'root %s\npython %s\npyproject %s\n' "$root" "$version" "$(cksum <"$root/pyproject.toml")"
}

# set_up EXTRA STAMP: completes .venv, or creates it (again), and writes the stamp.
set_up() {
    local extra=$1 stamp=$2 base
    if is_sound; then
        say "bringing the Python environment in .venv up to date ..."
        mark_incomplete
        printf 'completing .venv in place\n' >"$venv/setup.log"
        install_into_venv "$extra" in-place
        if ! resolves_here; then  # something else in there also calls itself sparsebench
            base=$(find_python) || exit
            rebuild "$base" "$extra"
        fi
    else
        base=$(find_python) || exit
        if [ -e "$venv" ]; then
            say ".venv is incomplete or does not belong here: setting it up again (a minute or a few) ..."
        else
            say "first use, setting up the Python environment in .venv (a minute or a few) ..."
        fi
        rebuild "$base" "$extra"
    fi
    if ! { fingerprint >"$stamp.new" && mv "$stamp.new" "$stamp"; }; then die "cannot write $stamp"; fi
    if [ -n "$extra" ]; then cp "$stamp" "$venv/.ready"; fi
    rm -f "$venv/.incomplete"
}

# Is there an environment that pip can complete: not left half-made, not moved here, with a Python that runs?
is_sound() {
    [ ! -e "$venv/.incomplete" ] || return
    local stamp
    for stamp in "$venv"/.ready*; do
        if [ -e "$stamp" ] && [ "$(head -n 1 "$stamp")" != "root $root" ]; then return 1; fi
    done
    "$venv/bin/python" -I -c '
import sys
assert (3, 10) <= sys.version_info[:2] < (3, 14) and sys.prefix != sys.base_prefix
import pip' >/dev/null 2>&1
}

mark_incomplete() {
    if ! { mkdir -p "$venv" && : >"$venv/.incomplete" && rm -f "$venv"/.ready*; }; then
        die "cannot write in $venv"
    fi
}

# rebuild BASE_PYTHON EXTRA
rebuild() {
    mark_incomplete
    # Emptied rather than removed: .venv may be a link to a larger disk, and the mark has to stay.
    find "$venv/" -mindepth 1 -maxdepth 1 ! -name .incomplete -exec rm -rf {} + || die "cannot empty $venv"
    "$1" -m venv "$(cd -P -- "$venv" && pwd)" >"$venv/setup.log" 2>&1 \
        || fail "making a virtual environment with $1 failed"
    install_into_venv "$2"
    resolves_here || die "the sparsebench in $venv is not the one in $root (see $venv/setup.log)"
}

# install_into_venv EXTRA [in-place]
install_into_venv() {
    local status=0
    (
        unset PYTHONPATH PIP_TARGET PIP_PREFIX
        cd -- "$root" || exit
        PIP_USER=0 "$venv/bin/python" -m pip install --no-input --disable-pip-version-check \
            --progress-bar off -e ".${1:+[$1]}"
    ) >>"$venv/setup.log" 2>&1 || status=$?
    [ "$status" -ne 0 ] || return 0
    # A pip that fails by itself (no network, say) leaves an environment as it was; a killed one does not.
    if [ -n "${2-}" ] && [ "$status" -lt 128 ]; then rm -f "$venv/.incomplete"; fi
    fail "pip could not install sparsebench into .venv (status $status)"
}

# Is the sparsebench that .venv imports the one of this repository?
resolves_here() {
    "$venv/bin/python" -I -c '
import importlib.util, os, sys
origin = importlib.util.find_spec("sparsebench").origin
sys.exit(not os.path.samefile(os.path.dirname(origin), os.path.join(sys.argv[1], "sparsebench")))' \
        "$root" >/dev/null 2>&1
}

# fail MESSAGE: the end of the log, then one line.
fail() {
    tail -n 15 "$venv/setup.log" | cut -c 1-200 | sed 's/^/    /' >&2
    die "$1; the whole log: $venv/setup.log"
}

# Prints a Python that can make the environment.
find_python() {
    local candidate answer status wrong="" bare=""
    if [ -n "${SPARSEBENCH_PYTHON-}" ]; then
        set -- "$SPARSEBENCH_PYTHON"
    else
        set -- python3.13 python3.12 python3.11 python3.10 python3
    fi
    for candidate in "$@"; do
        command -v "$candidate" >/dev/null 2>&1 || continue
        status=0
        answer=$("$candidate" -I -c '
import sys
print("%d.%d.%d" % sys.version_info[:3])
if not (3, 10) <= sys.version_info[:2] < (3, 14):
    sys.exit(3)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(4)' 2>/dev/null) || status=$?
        case $status in
            0)
                printf '%s\n' "$candidate"
                return
                ;;
            3) wrong="$candidate is $answer" ;;
            4) bare=${bare:-$candidate} ;;
        esac  # any other status: a name without a Python behind it
    done
    if [ -n "$bare" ]; then
        die "$bare lacks ensurepip, which virtual environments need (Debian, Ubuntu: apt install python3-venv)"
    elif [ -n "$wrong" ]; then
        die "needs Python 3.10 to 3.13, but $wrong; install one, or name one in SPARSEBENCH_PYTHON"
    elif [ -n "${SPARSEBENCH_PYTHON-}" ]; then
        die "SPARSEBENCH_PYTHON=$SPARSEBENCH_PYTHON does not run; it has to be a Python 3.10 to 3.13"
    else
        die "found no python3; install Python 3.10 to 3.13, or name one in SPARSEBENCH_PYTHON"
    fi
}

# Locks descriptor 9, waiting for its holder. By Python, because macOS has no flock command; the lock is the
# open file's, so it stays when that Python ends. Not by the one in .venv if there is another: it may just be
# going away.
take_lock() {
    local python status=0
    python=$(find_python 2>/dev/null) || python=$venv/bin/python
    [ -x "$(command -v "$python")" ] || find_python >/dev/null || exit
    lock_with "$python" LOCK_NB || status=$?
    if [ "$status" -eq 3 ]; then
        say "waiting for another set-up of .venv ..."
        status=0
        lock_with "$python" LOCK_EX || status=$?
    fi
    if [ "$status" -ne 0 ]; then
        say "cannot lock .venv.lock on this file system: let one first use end before the next starts"
    fi
}

# lock_with PYTHON FLAG: status 3 where somebody else has it.
lock_with() {
    "$1" -I -S -c '
import fcntl, sys
try:
    fcntl.flock(9, fcntl.LOCK_EX | getattr(fcntl, sys.argv[1]))
except BlockingIOError:
    sys.exit(3)
except OSError:
    sys.exit(4)' "$2" 2>/dev/null
}
