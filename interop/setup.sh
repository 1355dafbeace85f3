#!/bin/sh
# Puts the real peers of the trials into target/interop: a Python venv (with a Node >= 22 in it) and node_modules.
# Needs python3.11 and npm; runs again only when the pinned versions changed. A syslog receiver, a browser, a PKCS#11 token
# and a keyring come from Debian's packages.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
home=$(cd "$here/.." && pwd)/target/interop
mkdir -p "$home"
cd "$home"

missing=''
for wanted in rsyslogd:rsyslog rsyslogd:rsyslog-openssl chromium:chromium softhsm2-util:softhsm2 \
    gnome-keyring-daemon:gnome-keyring dbus-run-session:dbus dbus-run-session:dbus-daemon; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${wanted%%:*}" >/dev/null || missing="$missing ${wanted#*:}"
done
if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get -o DPkg::Lock::Timeout=300 update -qq
    # shellcheck disable=SC2086 # a list of names
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends $missing >/dev/null
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
