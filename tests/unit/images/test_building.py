"""Building: where packages come from, which client builds, and what a failure says."""

from __future__ import annotations

import re
import stat
from hashlib import sha256
from pathlib import Path

import pytest

from aligntune.errors import ImageError
from aligntune_run.images import find_buildkit_client, find_torch_wheel, images_dir
from aligntune_run.images.builder import Client, _checked, _mirror
from aligntune_run.images.indexes import CA_VARIABLES, ca_bundle, index_settings
from aligntune_run.subprocesses import Finished, capture

IMAGES = images_dir()

WHEEL = "torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which nobody configured pip or uv; its home directory."""
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "UV_INDEX",
                 "UV_EXTRA_INDEX_URL", "UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL",
                 "PIP_CONFIG_FILE", "XDG_CONFIG_HOME", *CA_VARIABLES):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("aligntune_run.images.indexes.SITE_CONFIG", ())
    return home


@pytest.fixture
def cpu_lock(tmp_path: Path) -> Path:
    """A lock that names a wheel of the content b"torch"."""
    lock = tmp_path / "cpu.lock"
    good = sha256(b"torch").hexdigest()
    lock.write_text(
        f"sympy==1.14.0 \\\n    --hash=sha256:{'0' * 64}\n"
        f"torch==2.13.0+cpu \\\n    --hash=sha256:{good}\n    # via trl\n"
        f"trl==1.16.0 \\\n    --hash=sha256:{'1' * 64}\n"
    )
    return lock


def folder_with(path: Path, content: bytes) -> str:
    path.mkdir()
    (path / WHEEL).write_bytes(content)
    return str(path)


class TestWheels:
    def test_a_lock_without_a_cpu_build_needs_none(self) -> None:
        assert find_torch_wheel(IMAGES / "trl" / "cuda.lock").files == ()

    def test_it_is_found_by_name_and_hash(self, bare: Path, cpu_lock: Path) -> None:
        folder = folder_with(bare / "wheels", b"torch")
        found = find_torch_wheel(cpu_lock, [folder])
        assert found.files == (Path(folder, WHEEL),)

    def test_a_wrong_hash_is_refused(self, bare: Path, cpu_lock: Path) -> None:
        folder = folder_with(bare / "wheels", b"something else")
        with pytest.raises(ImageError, match="sha256 differs"):
            find_torch_wheel(cpu_lock, [folder])

    def test_the_next_place_is_tried_after_a_wrong_hash(self, bare: Path, cpu_lock: Path) -> None:
        wrong = folder_with(bare / "wrong", b"something else")
        right = folder_with(bare / "right", b"torch")
        assert find_torch_wheel(cpu_lock, [wrong, right]).files == (Path(right, WHEEL),)

    def test_nowhere_is_an_error_with_a_remedy(self, bare: Path, cpu_lock: Path) -> None:
        with pytest.raises(ImageError, match="--find-links"):
            find_torch_wheel(cpu_lock)

    def test_pips_own_settings_are_read(
        self, bare: Path, cpu_lock: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = folder_with(bare / "wheels", b"torch")
        config = bare / ".config" / "pip" / "pip.conf"
        config.parent.mkdir(parents=True)
        config.write_text(f"[global]\nfind-links =\n    /nowhere\n    {folder}\n")
        assert find_torch_wheel(cpu_lock).files == (Path(folder, WHEEL),)
        config.unlink()
        monkeypatch.setenv("PIP_FIND_LINKS", f"/nowhere file://{folder}")
        assert find_torch_wheel(cpu_lock).files == (Path(folder, WHEEL),)

    def test_an_address_goes_to_the_build(self, bare: Path, cpu_lock: Path) -> None:
        found = find_torch_wheel(cpu_lock, ["https://wheels.example/"])
        assert found.urls == ("https://wheels.example/",)
        assert "UV_FIND_LINKS=https://wheels.example/" in index_settings(found)


class TestPackageSettings:
    def test_an_index_with_a_password_survives_the_shell(self, bare: Path) -> None:
        url = "https://me:a$b'c@index.example/simple"
        settings = index_settings(
            find_torch_wheel(IMAGES / "trl/cuda.lock"), {"PIP_INDEX_URL": url}
        )
        said = capture(["sh", "-c", f"{settings}printenv UV_DEFAULT_INDEX PIP_INDEX_URL"])
        assert said.out.split() == [url, url]

    def test_a_folder_of_this_host_is_no_index_for_a_build(self, bare: Path) -> None:
        nothing = find_torch_wheel(IMAGES / "trl/cuda.lock")
        assert index_settings(nothing, {"PIP_EXTRA_INDEX_URL": "file:///srv/simple"}) == ""

    def test_the_ca_bundle_is_the_one_that_programs_were_told(self, bare: Path) -> None:
        bundle = bare / "ca.crt"
        bundle.touch()
        assert ca_bundle({}) is None
        assert ca_bundle({"SSL_CERT_FILE": "/gone", "PIP_CERT": str(bundle)}) == bundle


class TestBuilding:
    @pytest.fixture
    def path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """The only folder in which programs are looked for."""
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr("aligntune_run.images.builder.USUAL_FOLDERS", ())
        return tmp_path

    def docker(self, folder: Path, version: str, buildx: bool) -> Path:
        path = folder / "docker"
        path.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}"\n'
            f'[ "$1" = buildx ] && exit {int(not buildx)}\nexit 0\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    @pytest.mark.parametrize(
        ("version", "buildx"),
        [
            ("Docker version 20.10.24+dfsg1, build 297e128", False),
            ("Docker version 28.2.2, build e6534b4", True),
        ],
    )
    def test_a_client_with_buildkit_is_found(self, path: Path, version: str, buildx: bool) -> None:
        program = self.docker(path, version, buildx)
        assert find_buildkit_client() == Client(program)

    def test_a_newer_client_without_buildx_is_passed_over(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (path / "old").mkdir()
        self.docker(path, "Docker version 28.2.2, build e6534b4", buildx=False)
        old = self.docker(path / "old", "Docker version 20.10.24, build 1", buildx=False)
        monkeypatch.setenv("PATH", f"{path}:{path / 'old'}")
        assert find_buildkit_client() == Client(old)

    def test_a_folder_of_the_path_that_is_closed_to_us_is_passed_over(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, ordinary_user: None
    ) -> None:
        monkeypatch.setenv("PATH", "/proc/1/cwd")
        with pytest.raises(ImageError, match="docker client, and there is none"):
            find_buildkit_client()

    def test_what_is_missing_is_named(self, path: Path) -> None:
        with pytest.raises(ImageError, match="docker client, and there is none"):
            find_buildkit_client()
        program = self.docker(path, "Docker version 28.2.2, build e6534b4", buildx=False)
        with pytest.raises(ImageError, match=f"{program} .*28.2.2.*buildx plugin"):
            find_buildkit_client()

    @pytest.mark.parametrize(
        ("line", "remedy"),
        [
            ("write /x: no space left on device", "docker builder prune"),
            ("invalid peer certificate: UnknownIssuer", "SSL_CERT_FILE"),
            ("failed to lookup address information: Temporary failure", "DNS"),
            ("Hash mismatch for `filelock==4.2.12`", "mirror"),
            ("no version of torch==2.13.0+cpu", "--find-links"),
            ("something nobody foresaw", "The lines above"),
        ],
    )
    def test_a_failed_build_says_what_to_do(self, line: str, remedy: str) -> None:
        with pytest.raises(ImageError, match=re.escape(line)) as caught:
            _checked(Finished(("docker", "build"), 1, f"#5 ok\n#6 ERROR: {line}\n"))
        assert remedy in caught.value.remedy

    def test_the_mirror_is_the_one_that_apt_uses(self, tmp_path: Path) -> None:
        lists = tmp_path / "sources.list.d"
        lists.mkdir()
        assert _mirror(tmp_path) == []
        (lists / "debian.sources").write_text(
            "Types: deb\n# http://snapshot.example/debian/1\nURIs: http://mirror.example/debian\n"
        )
        assert _mirror(tmp_path) == ["http://mirror.example/debian"]
        (tmp_path / "sources.list").write_text(
            "deb [arch=amd64] http://other.example/debian/ x main\n"
        )
        assert _mirror(tmp_path) == ["http://other.example/debian/"]
