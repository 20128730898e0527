"""Keys, signatures and serials: what is accepted is exactly what was signed."""

import base64
import json
import stat
import sys
from pathlib import Path
from subprocess import run  # noqa: TID251 what a fresh interpreter loads is tested

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from ghrunner_vm.config import load
from ghrunner_vm.errors import ExitCode, GhvmError, PermanentError, UsageError
from ghrunner_vm.images import signing
from ghrunner_vm.images.errors import ImageUntrusted
from ghrunner_vm.images.keys import PublicKey
from ghrunner_vm.images.manifest import Manifest
from ghrunner_vm.images.serials import FILE, Serials
from ghrunner_vm.images.signature import MAX_SERIAL, MAX_SIGNATURE_BYTES, Signature, SignedManifest, verified
from ghrunner_vm.images.signing import SigningKey
from ghrunner_vm.images.trust import Trust, tell_once, trust
from tests.integration.images_site import bundle, disk

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
SERIAL = 1_790_000_000
ARTIFACTS = {"ubuntu.qcow2": disk(size=1 << 16), "ubuntu.kernel": b"kernel" * 100}
MANIFEST = bundle("ubuntu", ARTIFACTS)
CONTENT = MANIFEST.to_json()
FILE_OF_IT = KEY.sign(SERIAL, CONTENT)
SIGNED = SignedManifest(CONTENT, FILE_OF_IT.to_json())


def refused(signed: SignedManifest, *keys: PublicKey) -> str:
    with pytest.raises(ImageUntrusted) as caught:
        verified("ubuntu", signed, keys or (KEY.public,))
    assert caught.value.exit_code == ExitCode.INFRASTRUCTURE
    assert caught.value.resolution
    return f"{caught.value.brief}. {caught.value.details}"


def flipped(content: bytes, bit: int) -> bytes:
    bit %= len(content) * 8
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def test_what_was_signed_is_accepted_by_any_of_several_keys() -> None:
    assert verified("ubuntu", SIGNED, (OTHER.public, KEY.public)) == FILE_OF_IT
    assert (FILE_OF_IT.serial, FILE_OF_IT.key) == (SERIAL, KEY.public.id)
    assert len(SIGNED.signature) <= MAX_SIGNATURE_BYTES


@given(st.integers(min_value=0))
def test_any_flipped_bit_of_the_manifest_is_refused(bit: int) -> None:
    assert "is wrong" in refused(SignedManifest(flipped(CONTENT, bit), SIGNED.signature))


@given(st.integers(min_value=0))
def test_any_flipped_bit_of_the_signature_is_refused(bit: int) -> None:
    made = base64.b64decode(FILE_OF_IT.signature)
    text = base64.b64encode(flipped(made, bit)).decode()
    changed = FILE_OF_IT.model_copy(update={"signature": text})
    assert "is wrong" in refused(SignedManifest(CONTENT, changed.to_json()))


@given(st.integers(min_value=0))
def test_any_flipped_bit_of_the_signature_file_changes_nothing_that_is_accepted(bit: int) -> None:
    """A change in it is refused, or means the same: white space, say."""
    try:
        accepted = verified("ubuntu", SignedManifest(CONTENT, flipped(SIGNED.signature, bit)), (KEY.public,))
    except ImageUntrusted:
        return
    assert accepted == FILE_OF_IT


def test_a_signature_is_written_in_one_way_only() -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    text = FILE_OF_IT.signature
    other = f"{text[:-3]}{letters[letters.index(text[-3]) + 1]}=="
    assert base64.b64decode(other) == base64.b64decode(text)
    changed = FILE_OF_IT.model_copy(update={"signature": other})
    assert "is none" in refused(SignedManifest(CONTENT, changed.to_json()))


@given(st.integers(min_value=1, max_value=MAX_SERIAL).filter(lambda serial: serial != SERIAL))
def test_any_other_serial_is_refused(serial: int) -> None:
    changed = FILE_OF_IT.model_copy(update={"serial": serial})
    assert "is wrong" in refused(SignedManifest(CONTENT, changed.to_json()))


@given(st.integers(min_value=0))
def test_any_flipped_bit_of_the_key_is_refused(bit: int) -> None:
    assert "not trusted" in refused(SIGNED, PublicKey(flipped(KEY.public.raw, bit)))


def test_a_signature_under_the_id_of_another_key_is_refused() -> None:
    forged = OTHER.sign(SERIAL, CONTENT).model_copy(update={"key": KEY.public.id})
    assert "is wrong" in refused(SignedManifest(CONTENT, forged.to_json()))
    assert "not trusted" in refused(SignedManifest(CONTENT, OTHER.sign(SERIAL, CONTENT).to_json()))


def test_the_bytes_alone_are_no_signature_of_a_manifest() -> None:
    """What the key signs elsewhere, say the manifest as a file, does not pass."""
    bare = base64.b64encode(KEY.private.sign(CONTENT)).decode()
    changed = FILE_OF_IT.model_copy(update={"signature": bare})
    assert "is wrong" in refused(SignedManifest(CONTENT, changed.to_json()))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[]"])
def test_what_is_no_signature_file_is_refused(content: bytes) -> None:
    assert "It is not a file as ghvm writes it" in refused(SignedManifest(CONTENT, content))


@pytest.mark.parametrize(
    "change",
    [
        *({"serial": serial} for serial in (0, True, 1.5, "1", MAX_SERIAL + 1)),
        *({"signature": text} for text in ("AAAA", "?", 1)),
        *({"schema": 2}, {"key": "short"}, {"more": 1}),
    ],
)
def test_each_part_of_a_signature_file_is_as_it_must_be(change: dict[str, object]) -> None:
    content = json.dumps({**json.loads(SIGNED.signature), **change}).encode()
    assert "It is not a file as ghvm writes it" in refused(SignedManifest(CONTENT, content))


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:AAAA", f"rsa:{'A' * 43}=", f"ed25519:{'A' * 42}B=", "x y"])
def test_what_is_no_public_key_is_no_setting(text: str) -> None:
    with pytest.raises(UsageError, match="images-trusted-keys"):
        load({"images_trusted_keys": (text,)}, environ={}, files=[])
    with pytest.raises(ValueError, match="is no public key"):
        PublicKey.parse(text)


def test_keys_come_from_a_list_or_from_text_with_commas(tmp_path: Path) -> None:
    keys = f"{KEY.public},{OTHER.public}"
    environ = {"GHVM_IMAGES_TRUSTED_KEYS": keys, "GHVM_STATE_DIR": str(tmp_path)}
    assert trust(load({}, environ=environ, files=[])).keys == (KEY.public, OTHER.public)
    file = tmp_path / "config.toml"
    file.write_text(f'images-trusted-keys = ["{KEY.public}"]\n')
    assert trust(load({}, environ={}, files=[file])).keys == (KEY.public,)


def test_nobody_without_keys_waits_for_the_library_that_verifies() -> None:
    script = (
        "import sys, ghrunner_vm.commands.supervise, ghrunner_vm.commands.images\n"
        "print(*[name for name in sys.modules if name.startswith('cryptography')])"
    )
    done = run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "\n"


# ---- the files of whoever signs ----


def test_a_new_key_is_ours_alone_and_never_made_over_another(tmp_path: Path) -> None:
    path = tmp_path / "images.key"
    public = signing.make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert (tmp_path / "images.key.pub").read_text() == f"{public}\n"
    assert signing.read_key(path).public == public
    before = path.read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        signing.make_key(path)
    path.unlink()
    with pytest.raises(UsageError, match=r"images\.key\.pub is there already"):
        signing.make_key(path)
    assert not path.exists()
    assert before


def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.key"
    signing.make_key(path)
    for mode in (0o640, 0o604, 0o660):
        path.chmod(mode)
        with pytest.raises(PermanentError, match="Others may use the key"):
            signing.read_key(path)
    path.chmod(0o600)
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    rsa_key = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    unknown = b"-----BEGIN PRIVATE KEY-----\nMBECAQAwBwYFKgMEBQYEAwQBAA==\n-----END PRIVATE KEY-----\n"
    for content in (b"", b"rubbish", rsa_key, unknown):
        path.write_bytes(content)
        with pytest.raises(UsageError, match="no key to sign images with"):
            signing.read_key(path)
    path.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        signing.read_key(path)


def written(directory: Path) -> Path:
    for file, content in ARTIFACTS.items():
        (directory / file).write_bytes(content)
    path = directory / "ubuntu.json"
    path.write_bytes(CONTENT)
    return path


def test_a_bundle_is_signed_and_its_serial_only_grows(tmp_path: Path) -> None:
    path = written(tmp_path)
    first = signing.checked(path)
    assert signing.next_serial(first, None, 1000.9) == 1000
    made = signing.sign(first, KEY, 1000)
    file = tmp_path / "ubuntu.json.sig"
    assert Signature.parse(file.read_bytes()) == made
    assert verified("ubuntu", SignedManifest(path.read_bytes(), file.read_bytes()), (KEY.public,)) == made
    again = signing.checked(path)
    assert [signing.next_serial(again, None, now) for now in (10.0, 1000.0, 1001.0, 2000.0)] == [1001, 1001, 1001, 2000]
    assert signing.next_serial(again, 1001, 0.0) == 1001
    for serial in (999, 1000, MAX_SERIAL + 1):
        with pytest.raises(UsageError, match="cannot be the serial"):
            signing.next_serial(again, serial, 0.0)


def test_a_bundle_that_is_not_what_its_manifest_says_is_not_signed(tmp_path: Path) -> None:
    path = written(tmp_path)
    kernel = tmp_path / "ubuntu.kernel"
    for content in (b"kernel" * 99, b"lernel" * 100):
        kernel.write_bytes(content)
        with pytest.raises(GhvmError, match="not what the manifest says"):
            signing.checked(path)
    kernel.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        signing.checked(path)
    kernel.symlink_to(tmp_path / "ubuntu.qcow2")
    with pytest.raises(UsageError, match="cannot be read"):
        signing.checked(path)
    path.rename(tmp_path / "debian.json")
    with pytest.raises(UsageError, match="the manifest of ubuntu"):
        signing.checked(tmp_path / "debian.json")
    path.write_bytes(b"{}")
    with pytest.raises(UsageError, match="no manifest"):
        signing.checked(path)


def test_a_broken_signature_is_not_signed_over(tmp_path: Path) -> None:
    """Its serial may have been higher than the one that would be chosen."""
    path = written(tmp_path)
    (tmp_path / "ubuntu.json.sig").write_bytes(b"rubbish")
    with pytest.raises(UsageError, match="its serial cannot be told"):
        signing.checked(path)


# ---- what this host remembers ----


def signed(serial: int, key: SigningKey = KEY) -> SignedManifest:
    return SignedManifest(CONTENT, key.sign(serial, CONTENT).to_json())


def used(trust: Trust, serial: int, key: SigningKey = KEY) -> None:
    trust.remember("ubuntu", trust.check(MANIFEST, signed(serial, key)))


def test_an_older_serial_is_refused_once_a_newer_one_was_used(tmp_path: Path) -> None:
    host = Trust((KEY.public, OTHER.public), Serials(tmp_path / "trust"))
    assert host.check(MANIFEST, signed(5)) is not None
    used(host, 7)
    used(host, 7)
    with pytest.raises(ImageUntrusted, match="older than one that this host has used"):
        host.check(MANIFEST, signed(6))
    with pytest.raises(ImageUntrusted, match="older"):
        host.check(MANIFEST, signed(6, OTHER))
    used(host, 8, OTHER)
    with pytest.raises(ImageUntrusted) as caught:
        host.check(MANIFEST, signed(7))
    assert caught.value.details == "Its serial is 7, the highest so far is 8."
    another = MANIFEST.model_copy(update={"name": "debian"})
    assert host.check(another, signed(1)) is not None


def test_what_a_killed_process_staged_goes(tmp_path: Path) -> None:
    host = Trust((KEY.public,), Serials(tmp_path / "trust"))
    host.remember("ubuntu", host.check(MANIFEST, signed(10)))
    (tmp_path / "trust" / f".{FILE}.0123abcd").touch()
    host.remember("ubuntu", host.check(MANIFEST, signed(11)))
    assert {path.name for path in (tmp_path / "trust").iterdir()} == {FILE, ".lock"}


def test_what_is_only_looked_at_is_not_remembered(tmp_path: Path) -> None:
    host = Trust((KEY.public,), Serials(tmp_path / "trust"))
    host.check(MANIFEST, signed(9))
    assert host.check(MANIFEST, signed(1)) is not None
    assert not (tmp_path / "trust").exists()


def test_a_stolen_key_that_is_trusted_no_more_shuts_nothing_out(tmp_path: Path) -> None:
    both = Trust((KEY.public, OTHER.public), Serials(tmp_path / "trust"))
    used(both, MAX_SERIAL, OTHER)
    assert not both.allows(MANIFEST, signed(10))
    assert Trust((KEY.public,), Serials(tmp_path / "trust")).allows(MANIFEST, signed(10))


@pytest.mark.parametrize("damage", ["rubbish", "link", "directory"])
def test_a_record_that_cannot_be_believed_is_no_empty_one(tmp_path: Path, damage: str) -> None:
    host = Trust((KEY.public,), Serials(tmp_path / "trust"))
    used(host, 7)
    record = tmp_path / "trust" / FILE
    record.unlink()
    match damage:
        case "rubbish":
            record.write_bytes(b"{}}")
        case "link":
            record.symlink_to("nowhere")
        case _:
            record.mkdir()
    with pytest.raises(PermanentError, match="cannot be believed") as caught:
        host.check(MANIFEST, signed(8))
    assert str(record) in caught.value.brief


def test_nothing_unsigned_passes_where_keys_are_trusted() -> None:
    host = Trust((KEY.public,))
    with pytest.raises(ImageUntrusted, match="is not signed"):
        host.check(MANIFEST, None)
    plain = Manifest.plain("ubuntu", sha256="0" * 64, size=5)
    with pytest.raises(ImageUntrusted, match="a plain disk, which nobody can sign"):
        host.check(plain, None)
    assert Trust().check(plain, None) is None
    assert Trust().check(MANIFEST, SignedManifest(CONTENT, b"rubbish")) is None


def test_a_host_without_keys_says_once_whom_it_believes(tmp_path: Path) -> None:
    heard: list[str] = []
    without = load({"state_dir": tmp_path / "state", "images_server": "http://images"}, environ={}, files=[])
    for _ in range(2):
        tell_once(without, heard.append)
    assert len(heard) == 1
    assert "what http://images serves is booted as it comes" in heard[0]
    keys = load({"images_trusted_keys": (str(KEY.public),), "state_dir": tmp_path / "new"}, environ={}, files=[])
    tell_once(keys, heard.append)
    assert len(heard) == 1
    assert not (tmp_path / "new").exists()
