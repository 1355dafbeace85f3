#!/bin/sh
# Puts the real peers of the trials into target/interop: a Python venv (with a Node >= 22 in it) and node_modules.
# Needs python3.11 and npm; runs again only when the pinned versions changed. A syslog receiver, a PKCS#11 token and a
# keyring come from Debian's packages.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
home=$(cd "$here/.." && pwd)/target/interop
mkdir -p "$home"
cd "$home"

if ! PATH="$PATH:/usr/sbin:/sbin" command -v rsyslogd >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rsyslog rsyslog-openssl >/dev/null
fi

# A PKCS#11 token and a keyring, for root keys that are kept there.
if ! { command -v softhsm2-util && command -v gnome-keyring-daemon && command -v dbus-run-session; } >/dev/null \
    && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends softhsm2 gnome-keyring dbus dbus-daemon >/dev/null
fi

pins() { cat "$here/package.json" "$here/package-lock.json" "$here/.npmrc" "$here/requirements.txt" "$here/setup.sh" | sha256sum; }
if [ "$(pins)" = "$(cat pins 2>/dev/null || true)" ]; then
    exit 0
fi
rm -f pins

python=$(command -v python3.11 || command -v python3)
[ -x venv/bin/python ] || "$python" -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"

# npm runs no install script of any package: none of these needs one.
cp "$here/package.json" "$here/package-lock.json" "$here/.npmrc" .
npm ci --ignore-scripts --loglevel=error

pins >pins
