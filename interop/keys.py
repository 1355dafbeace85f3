"""Root keys where they are really kept: a PKCS#11 token (SoftHSM2) and a desktop's keyring (GNOME Keyring).

Each provider: a gate makes its keys under it, keeps a secret, is stopped and started, rotates, and does not start when the provider is
away or the key is another's. The binary is target/debug/bartizan, or what BARTIZAN names.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
BARTIZAN = os.environ.get("BARTIZAN", str(ROOT / "target/debug/bartizan"))
MODULE = next(
    (
        path
        for path in (
            "/usr/lib/softhsm/libsofthsm2.so",
            "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
            "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
        )
        if os.path.exists(path)
    ),
    None,
)


class Place:
    """A folder with a configuration, and commands in it."""

    def __init__(self, folder, keys, environment):
        self.folder, self.environment = pathlib.Path(folder), environment
        self.config = self.folder / "bartizan.toml"
        self.write(keys)

    def write(self, keys):
        self.config.write_text(f'{keys}[[servers]]\nname = "a"\ncommand = ["true"]\n')

    def run(self, *arguments, given="", more=None):
        done = subprocess.run(
            [BARTIZAN, *arguments, "--config", str(self.config)],
            input=given,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, **self.environment, **(more or {})},
        )
        return done.returncode, done.stdout + done.stderr

    def good(self, *arguments, **more):
        code, said = self.run(*arguments, **more)
        assert code == 0, (arguments, code, said)
        return said


def trial(place, provider):
    """What holds for every provider."""
    place.good("secrets", "set", "CANARY", given="canary-value\n")
    assert not (place.folder / ".bartizan/seal.key").exists(), "the root key is the provider's alone"
    kept = json.loads((place.folder / ".bartizan/keys.json").read_text())
    assert kept["provider"] == provider, kept
    said = place.good("keys", "status")
    assert "opens     yes" in said, said
    before = kept["key_id"]
    said = place.good("keys", "rotate")
    assert "secrets: 1 sealed again" in said, said
    after = json.loads((place.folder / ".bartizan/keys.json").read_text())["key_id"]
    assert before != after, "the root key is another"
    assert "CANARY" in place.good("secrets", "list")
    said = place.good("doctor", "--offline", "--format", "json")
    checks = {check["id"]: check["verdict"] for check in json.loads(said[said.index("[") :])}
    assert checks["keys.open"] == "pass", said


def pkcs11(folder):
    """SoftHSM2."""
    tokens = pathlib.Path(folder) / "tokens"
    tokens.mkdir()
    settings = pathlib.Path(folder) / "softhsm2.conf"
    settings.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    environment = {"SOFTHSM2_CONF": str(settings), "TOKEN_PIN": "123456"}
    util = ["softhsm2-util", "--init-token", "--free", "--label", "gate", "--pin", "123456", "--so-pin", "654321"]
    subprocess.run(util, check=True, capture_output=True, env={**os.environ, **environment})
    keys = (
        '[keys]\nprovider = "pkcs11"\n[keys.pkcs11]\n'
        f'module = "{MODULE}"\ntoken = "{{}}"\npin = {{{{ env = "TOKEN_PIN" }}}}\n'
    )
    place = Place(folder, keys.format("gate"), environment)
    trial(place, "pkcs11")
    code, said = place.run("keys", "status", more={"TOKEN_PIN": "999999"})
    assert code == 1 and "refuses" in said, said
    place.write(keys.format("other"))
    code, said = place.run("secrets", "list")
    assert code == 3 and "knows no token `other`" in said, said
    place.write(keys.format("gate"))
    assert "CANARY" in place.good("secrets", "list")


def keyring(folder):
    """GNOME Keyring on a session bus of its own."""
    home = pathlib.Path(folder) / "home"
    for name in ("run", "data"):
        (home / name).mkdir(parents=True, mode=0o700)
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "XDG_DATA_HOME": str(home / "data")}
    place = Place(folder, '[keys]\nprovider = "keyring"\n', environment)
    # Where there is no keyring nothing is begun that would stand in the way once there is one.
    away = {"DBUS_SESSION_BUS_ADDRESS": "unix:path=/nonexistent"}
    code, said = place.run("secrets", "set", "EARLY", given="canary-value\n", more=away)
    assert code == 3 and "no keyring answers" in said, said
    trial(place, "keyring")
    code, said = place.run("secrets", "list", more=away)
    assert code == 3 and "no keyring answers" in said, said


def inside_session(folder):
    """`keyring`, inside a session of its own that has an unlocked keyring."""
    script = (
        'echo -n canary | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1 || exit 9; '
        f'exec {sys.executable} {__file__} keyring {folder}'
    )
    home = pathlib.Path(folder) / "session"
    for name in ("run", "data"):
        (home / name).mkdir(parents=True, mode=0o700)
    environment = {"HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run"), "XDG_DATA_HOME": str(home / "data")}
    subprocess.run(
        ["dbus-run-session", "--", "sh", "-c", script], check=True, env={**os.environ, **environment}, timeout=300
    )


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "keyring":
        keyring(sys.argv[2])
        return
    assert MODULE, "SoftHSM2 is not there: run interop/setup.sh as root, or install `softhsm2`"
    with tempfile.TemporaryDirectory() as folder:
        pkcs11(folder)
        print("ok pkcs11: made, rotated, kept from a wrong PIN and another token")
    with tempfile.TemporaryDirectory() as folder:
        inside_session(folder)
        print("ok keyring: made, rotated, and a clear word where none answers")


main()
