"""Keyed pseudonyms: the same patient is the same word everywhere, and nobody without the key learns which."""

import hashlib
import hmac
import os
import secrets
import tempfile
import warnings
from pathlib import Path

from medspark.errors import ConfigError

KEY_VARIABLE = "MEDSPARK_KEY"
_SHORTEST = 16


def pseudonym(key: bytes, value: str | None) -> str | None:
    """Return the HMAC-SHA-256 of a patient's or object's identifier as 64 hexadecimal digits, or None for none."""
    stripped = (value or "").strip(" \0")
    return hmac.new(key, stripped.encode(), hashlib.sha256).hexdigest() if stripped else None


def load_key(key_file: str = "") -> bytes:
    """Return the key from a file, or from the environment variable MEDSPARK_KEY, or else one made for this user.

    The made one is kept in the user's configuration directory, so that the pseudonyms stay the same from run to run.
    """
    if key_file:
        try:
            return _checked(Path(key_file).read_bytes().strip(), f"privacy.key_file {key_file}")
        except OSError as error:
            raise ConfigError(f"privacy.key_file {key_file}: {os.strerror(error.errno or 0)}") from None
    if KEY_VARIABLE in os.environ:
        return _checked(os.environ[KEY_VARIABLE].encode(), f"environment variable {KEY_VARIABLE}")
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "medspark" / "key"
    if not home.exists():
        _make(home)
    return _checked(home.read_bytes().strip(), str(home))


def _make(home: Path) -> None:
    warnings.warn(
        f"no key for pseudonyms was given: made one in {home}. For an archive that matters, set privacy.key_file"
        f" or {KEY_VARIABLE} to a key that is kept safe: who has it can find patients again, without it nobody can.",
        stacklevel=3,
    )
    home.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=home.parent)  # for its owner only
    with os.fdopen(handle, "w") as file:
        file.write(secrets.token_hex(32))
    try:
        home.hardlink_to(draft)  # there is a whole key or none
    except FileExistsError:  # another process was quicker
        pass
    finally:
        Path(draft).unlink()


def _checked(key: bytes, where: str) -> bytes:
    if len(key) < _SHORTEST:
        raise ConfigError(f"{where}: the key has {len(key)} bytes, at least {_SHORTEST} are needed")
    return key
