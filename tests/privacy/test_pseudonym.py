import hashlib
import os
import stat
import subprocess
import sys

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from medspark.errors import ConfigError
from medspark.privacy.pseudonym import KEY_VARIABLE, load_key, pseudonym

KEY = b"a key of sixteen bytes or more"


def hmac_by_hand(key, message):
    """RFC 2104, written out: H(K xor opad, H(K xor ipad, text)) with blocks of 64 bytes."""
    key = (hashlib.sha256(key).digest() if len(key) > 64 else key).ljust(64, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in key) + message).digest()
    return hashlib.sha256(bytes(byte ^ 0x5C for byte in key) + inner).hexdigest()


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    return tmp_path / "config" / "medspark" / "key"


def test_it_is_hmac_sha_256_as_rfc_4231_has_it():
    assert pseudonym(b"\x0b" * 20, "Hi There") == "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    assert pseudonym(b"Jefe", "what do ya want for nothing?") == (
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    )


@given(st.binary(min_size=16, max_size=100), st.text(st.characters(codec="utf-8"), min_size=1))
def test_it_equals_hmac_by_hand(key, value):
    assume(value.strip(" \0"))
    assert pseudonym(key, value) == hmac_by_hand(key, value.strip(" \0").encode())


@pytest.mark.parametrize("padded", ["P1 ", "P1\0", " P1", "P1 \0 "])
def test_padding_does_not_make_another_patient(padded):
    assert pseudonym(KEY, padded) == pseudonym(KEY, "P1")


@pytest.mark.parametrize("nothing", [None, "", " ", "\0", " \0 "])
def test_no_identifier_has_no_pseudonym(nothing):
    assert pseudonym(KEY, nothing) is None


def test_another_patient_or_another_key_is_another_word():
    words = {pseudonym(key, value) for key in (KEY, KEY[::-1]) for value in ("P1", "p1", "P10", "患者")}
    assert len(words) == 8


def test_a_key_file_comes_before_the_environment(tmp_path, monkeypatch, home):
    (tmp_path / "key").write_bytes(KEY + b"\n")
    monkeypatch.setenv(KEY_VARIABLE, "another key of enough bytes")
    assert load_key(str(tmp_path / "key")) == KEY
    assert load_key() == b"another key of enough bytes"
    assert not home.exists()


def test_a_key_that_is_not_there_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match=r"privacy.key_file .*none: No such file"):
        load_key(str(tmp_path / "none"))
    with pytest.raises(ConfigError, match="Is a directory"):
        load_key(str(tmp_path))


@pytest.mark.parametrize("short", [b"", b"\n", b"fifteen bytes..", b"   too short      "])
def test_a_short_key_is_refused_and_not_shown(short, tmp_path, monkeypatch):
    (tmp_path / "key").write_bytes(short)
    with pytest.raises(ConfigError, match="at least 16 are needed") as caught:
        load_key(str(tmp_path / "key"))
    assert not short.strip() or short.strip().decode() not in str(caught.value)
    monkeypatch.setenv(KEY_VARIABLE, "short")
    with pytest.raises(ConfigError, match=f"environment variable {KEY_VARIABLE}: the key has 5 bytes"):
        load_key()


def test_a_made_key_is_announced_kept_and_for_its_owner_only(home):
    old = os.umask(0)
    try:
        with pytest.warns(UserWarning, match="no key for pseudonyms was given: made one in"):
            made = load_key()
    finally:
        os.umask(old)
    assert len(made) == 64
    assert stat.S_IMODE(home.stat().st_mode) == 0o600
    assert load_key() == made  # without a warning: those are errors here


def test_others_never_see_half_a_key(home, monkeypatch):
    seen = []
    monkeypatch.setattr("secrets.token_hex", lambda n_bytes: seen.append(home.exists()) or "k" * 2 * n_bytes)
    with pytest.warns(UserWarning, match="made one"):
        assert load_key() == b"k" * 64
    assert seen == [False]
    assert list(home.parent.iterdir()) == [home]


def test_made_keys_differ(home):
    keys = []
    for _ in range(2):
        with pytest.warns(UserWarning, match="made one"):
            keys.append(load_key())
        home.unlink()
    assert keys[0] != keys[1]


def test_processes_that_make_a_key_at_the_same_time_agree(home):
    code = "import warnings; warnings.simplefilter('ignore')\n"
    code += "from medspark.privacy.pseudonym import load_key; print(load_key().decode())"
    started = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = {process.communicate(timeout=60)[0] for process in started}
    assert len(answers) == 1
    assert answers == {home.read_text() + "\n"}
