"""The wheels for a bare GPU machine: what is named, how it is repacked, gathered and installed."""

from __future__ import annotations

import csv
import os
import re
import shutil
import stat
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
GPU = ROOT / "tests" / "gpu"
PIN = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)
LOCKS = {
    "common": ["images/trl/cuda.lock", "images/unsloth/cuda.lock"],
    "host": ["tests/gpu/host.lock"],
    "trl": ["images/trl/cuda.lock"],
    "unsloth": ["images/unsloth/cuda.lock"],
}


def pins(path: str) -> dict[str, str]:
    return dict(PIN.findall((ROOT / path).read_text()))


def sections(path: Path = GPU / "wheels.txt") -> dict[str, list[str]]:
    """Names by section of the data file."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if line.startswith("["):
            names = found.setdefault(line.strip("[]"), [])
        elif line and not line.startswith("#"):
            names.append(line.split()[0])
    return found


class TestData:
    @pytest.mark.parametrize("section", LOCKS)
    def test_every_name_is_pinned_in_the_lock_of_its_section(self, section: str) -> None:
        names = sections()[section]
        assert names
        for lock in LOCKS[section]:
            assert set(names) <= set(pins(lock)), lock

    def test_there_is_no_other_section(self) -> None:
        assert set(sections()) == set(LOCKS)

    def test_the_locks_agree_in_what_both_backends_share(self) -> None:
        trl, unsloth = (pins(lock) for lock in LOCKS["common"])
        assert {name: trl[name] for name in sections()["common"]} == {
            name: unsloth[name] for name in sections()["common"]
        }

    def test_the_host_lock_agrees_with_the_images(self) -> None:
        host, image = pins("tests/gpu/host.lock"), pins("images/trl/cuda.lock")
        assert {name: host[name] for name in host if name in image} == {
            name: image[name] for name in host if name in image
        }

    def test_nothing_is_carried_that_the_machine_has(self) -> None:
        there = pins("tests/gpu/bare.txt")
        assert "torch" in there
        assert not {name for names in sections().values() for name in names} & set(there)

    @pytest.mark.parametrize("name", ["bare.txt", "host.lock", "wheels.txt"])
    def test_no_file_holds_an_address(self, name: str) -> None:
        assert not re.search(r"https?://|index-url|find-links", (GPU / name).read_text())


Wheel = Callable[..., Path]
Script = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def make_wheel(tmp_path: Path) -> Wheel:
    def made(name: str, files: dict[str, str] | None = None, folder: Path = tmp_path) -> Path:
        """A wheel of version 1.0 with a module of its name, and further files."""
        info = f"{name}-1.0.dist-info"
        contents = {
            f"{name}/__init__.py": f"NAME = {name!r}\n",
            **(files or {}),
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        lines = [
            f'"{path}",sha256={record_hash(text.encode())},{len(text)}'
            for path, text in contents.items()
        ]
        lines.append(f"{info}/RECORD,,")
        folder.mkdir(exist_ok=True, parents=True)
        wheel = folder / f"{name}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for path, text in contents.items():
                entry = zipfile.ZipInfo(path, (2026, 1, 2, 3, 4, 6))
                entry.external_attr = (0o755 if path.endswith(".so") else 0o644) << 16
                archive.writestr(entry, text)
            archive.writestr(f"{info}/RECORD", "\n".join(lines) + "\n")
        return wheel

    return made


def record_hash(content: bytes) -> str:
    return urlsafe_b64encode(sha256(content).digest()).rstrip(b"=").decode()


def verified(wheel: Path) -> list[str]:
    """The paths in a wheel, after holding RECORD to every file and every file to RECORD."""
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        (record,) = (name for name in names if name.endswith(".dist-info/RECORD"))
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        assert sorted(path for path, *_ in rows) == sorted(names)
        for path, digest, size in rows:
            content = archive.read(path)
            if path == record:
                assert (digest, size) == ("", "")
            else:
                assert (digest, size) == (f"sha256={record_hash(content)}", str(len(content)))
    return names


def repack(wheel: Path, folder: Path, *patterns: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, SCRIPTS / "repack_wheel.py", wheel, folder, *patterns],
        capture_output=True,
        text=True,
    )


LIBRARIES = {f"many/lib_{kind}.so": kind * 1000 for kind in ("cpu", "cuda118", "cuda130")}
ALL_BUT_TWO = ("many/lib_*.so", "!*_cuda130.so", "!*_cpu.so")


class TestRepacking:
    def test_record_names_what_stays_and_nothing_else(
        self, make_wheel: Wheel, tmp_path: Path
    ) -> None:
        wheel = make_wheel("many", {**LIBRARIES, "many/a,b.txt": "quoted in RECORD"})
        done = repack(wheel, tmp_path / "out", *ALL_BUT_TWO)
        assert done.stdout == "1 files of 0.0 MB\n", done.stderr
        before = verified(wheel)
        assert verified(tmp_path / "out" / wheel.name) == [
            name for name in before if name != "many/lib_cuda118.so"
        ]

    def test_what_stays_keeps_its_mode_and_time(self, make_wheel: Wheel, tmp_path: Path) -> None:
        wheel = make_wheel("many", LIBRARIES)
        repack(wheel, tmp_path / "out", *ALL_BUT_TWO)
        with zipfile.ZipFile(tmp_path / "out" / wheel.name) as archive:
            entry = archive.getinfo("many/lib_cpu.so")
        assert entry.external_attr >> 16 == 0o755
        assert entry.date_time == (2026, 1, 2, 3, 4, 6)

    def test_the_same_wheel_is_repacked_to_the_same_bytes(
        self, make_wheel: Wheel, tmp_path: Path
    ) -> None:
        wheel = make_wheel("many", LIBRARIES)
        copies = []
        for folder in (tmp_path / "one", tmp_path / "two"):
            repack(wheel, folder, *ALL_BUT_TWO)
            copies.append((folder / wheel.name).read_bytes())
        assert copies[0] == copies[1]

    def test_pip_installs_it(self, make_wheel: Wheel, tmp_path: Path) -> None:
        wheel = make_wheel("many", LIBRARIES)
        repack(wheel, tmp_path / "out", *ALL_BUT_TWO)
        target = tmp_path / "target"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        subprocess.run([*pip, "--target", target, tmp_path / "out" / wheel.name], check=True)
        assert sorted(path.name for path in (target / "many").glob("*.so")) == [
            "lib_cpu.so",
            "lib_cuda130.so",
        ]

    @pytest.mark.parametrize("pattern", ["studio/*", "!*_rocm.so"])
    def test_a_pattern_that_matches_nothing_is_an_error(
        self, make_wheel: Wheel, tmp_path: Path, pattern: str
    ) -> None:
        done = repack(make_wheel("many", LIBRARIES), tmp_path / "out", "many/*", pattern)
        assert done.returncode == 1
        assert done.stderr == f"many-1.0-py3-none-any.whl: no file matches {pattern}\n"

    def test_record_itself_stays(self, make_wheel: Wheel, tmp_path: Path) -> None:
        done = repack(make_wheel("many"), tmp_path / "out", "many-1.0.dist-info/*")
        assert done.returncode == 1
        assert "RECORD" in done.stderr


def write_program(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def python312(tmp_path: Path) -> Path:
    """This Python, which says that it is 3.12 and has torch."""
    return write_program(
        tmp_path / "bin" / "python3",
        f"""#!/usr/bin/env bash
case "$*" in
    *version_info*) exit "${{NOT_312:-0}}" ;;
    --version) echo "Python 3.10.1" ;;
    *find_spec*) exit "${{NO_TORCH:-0}}" ;;
    *) [[ -z ${{DISK_FULL:-}} ]] || {{
        mkdir -p "$TARGETS/trl"
        echo "ERROR: [Errno 28] No space left on device"
        exit 1
    }}
    exec {sys.executable} "$@" ;;
esac
""",
    )


@pytest.fixture
def kit(make_wheel: Wheel, tmp_path: Path) -> Path:
    folder = tmp_path / "kit"
    wheels = [
        make_wheel(f"{name}_only", folder=folder / name) for name in ("common", "trl", "unsloth")
    ]
    (folder / "CONTENTS").write_text(
        "".join(
            f"{sha256(wheel.read_bytes()).hexdigest()}  {wheel.stat().st_size:8d}"
            f"  {wheel.relative_to(folder)}  a lock, without 3 files\n"
            for wheel in wheels
        )
    )
    return folder


class TestInstalling:
    @pytest.fixture
    def install(self, kit: Path, python312: Path, tmp_path: Path) -> Script:
        def installed(*backends: str, **variables: str) -> subprocess.CompletedProcess[str]:
            targets = tmp_path / "targets"
            return subprocess.run(
                [SCRIPTS / "gpu_kit_install.sh", kit, targets, *backends],
                env={**os.environ, "PYTHON": str(python312), "TARGETS": str(targets), **variables},
                capture_output=True,
                text=True,
            )

        return installed

    def test_each_backend_gets_a_folder_with_what_both_need(
        self, install: Script, tmp_path: Path
    ) -> None:
        done = install()
        assert done.returncode == 0, done.stderr
        for backend in ("trl", "unsloth"):
            target = tmp_path / "targets" / backend
            assert {path.name for path in target.glob("*_only")} == {
                "common_only",
                f"{backend}_only",
            }
        assert done.stdout.count("installed 2 wheels") == 2

    def test_one_backend_may_be_asked_for(self, install: Script, tmp_path: Path) -> None:
        assert install("trl").returncode == 0
        assert [path.name for path in (tmp_path / "targets").iterdir()] == ["trl"]

    @pytest.mark.parametrize(
        ("variable", "complaint"),
        [
            ("NOT_312", "the wheels are for Python 3.12, and {python} is Python 3.10.1"),
            ("NO_TORCH", "{python} has no torch, which the kit does not carry"),
            ("DISK_FULL", "the disk is full: trl does not fit in {targets}"),
        ],
    )
    def test_a_machine_that_does_not_do_is_one_line(
        self,
        install: Script,
        python312: Path,
        tmp_path: Path,
        variable: str,
        complaint: str,
    ) -> None:
        done = install(**{variable: "1"})
        assert done.returncode == 1
        said = complaint.format(python=python312, targets=tmp_path / "targets")
        assert done.stderr == f"gpu kit: {said}\n"
        assert not (tmp_path / "targets" / "trl").exists()

    def test_a_damaged_wheel_is_named(self, install: Script, kit: Path) -> None:
        with (kit / "trl" / "trl_only-1.0-py3-none-any.whl").open("ab") as wheel:
            wheel.write(b"more")
        done = install()
        assert done.returncode == 1
        assert done.stderr.startswith("gpu kit: trl/trl_only-1.0-py3-none-any.whl in ")
        assert done.stderr.endswith("is damaged: its sha256 is not the one in CONTENTS\n")

    def test_a_missing_wheel_is_named(self, install: Script, kit: Path) -> None:
        (kit / "common" / "common_only-1.0-py3-none-any.whl").unlink()
        done = install()
        assert done.returncode == 1
        assert done.stderr == (
            f"gpu kit: common/common_only-1.0-py3-none-any.whl is missing from {kit}\n"
        )

    def test_a_kit_that_was_never_finished_is_refused(self, install: Script, kit: Path) -> None:
        (kit / "CONTENTS").unlink()
        done = install()
        assert done.returncode == 1
        assert done.stderr.startswith(f"gpu kit: {kit} has no CONTENTS")


class TestGathering:
    @pytest.fixture
    def gather(self, make_wheel: Wheel, tmp_path: Path) -> Script:
        """The script in a tree of its own, whose locks pin made-up wheels that lie in a folder."""
        root, wheels = tmp_path / "root", tmp_path / "wheels"
        shutil.copytree(SCRIPTS, root / "scripts")

        def lock(path: str, *names: str) -> None:
            text = "".join(
                f"{name}==1.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{digest}\n"
                "    # via somebody\n"
                for name in names
                for digest in [sha256(made[name].read_bytes()).hexdigest()]
            )
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)

        made = {name: make_wheel(name, folder=wheels) for name in ("apart", "dock", "torch", "two")}
        made["many"] = make_wheel("many", LIBRARIES, wheels)
        lock("images/trl/cuda.lock", "apart", "many", "torch")
        lock("images/unsloth/cuda.lock", "many", "torch", "two")
        lock("tests/gpu/host.lock", "dock")
        (root / "tests/gpu/bare.txt").write_text("# what is there\ntorch==0.9\n")
        (root / "tests/gpu/wheels.txt").write_text(
            f"[common]\nmany  {'  '.join(ALL_BUT_TWO)}\n\n[host]\ndock\n\n[trl]\napart\n\n"
            "[unsloth]\ntwo\n"
        )
        write_program(tmp_path / "bin" / "python3", f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        write_program(tmp_path / "bin" / "python3.12", "#!/bin/sh\nexit 1\n")
        plain = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}

        def gathered(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [root / "scripts" / "gpu_kit.sh", *arguments, tmp_path / "kit"],
                env={
                    **plain,
                    "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                    "HOME": str(tmp_path),
                    "PIP_CONFIG_FILE": os.devnull,
                    "PIP_NO_INDEX": "1",
                    "PIP_FIND_LINKS": str(wheels),
                    **variables,
                },
                capture_output=True,
                text=True,
            )

        return gathered

    def test_every_wheel_lies_in_its_folder_and_is_listed_with_size_hash_and_origin(
        self, gather: Script, tmp_path: Path
    ) -> None:
        done = gather("--no-check")
        assert done.returncode == 0, done.stderr
        kit = tmp_path / "kit"
        listed = [line.split(maxsplit=3) for line in (kit / "CONTENTS").read_text().splitlines()]
        for digest, size, path, _ in listed:
            content = (kit / path).read_bytes()
            assert (digest, int(size)) == (sha256(content).hexdigest(), len(content))
        assert {str(path.relative_to(kit)) for path in kit.rglob("*.whl")} == {
            path for *_, path, _ in listed
        }
        assert {path.split("-")[0]: origin for *_, path, origin in listed} == {
            "common/many": "images/trl/cuda.lock, without 1 files of 0.0 MB",
            "common/dock": "tests/gpu/host.lock",
            "trl/apart": "images/trl/cuda.lock",
            "unsloth/two": "images/unsloth/cuda.lock",
        }
        assert "the machine has another version: torch 1.0 (0.9);" in done.stdout

    def test_more_than_the_limit_is_an_error(self, gather: Script, tmp_path: Path) -> None:
        done = gather("--no-check", GPU_KIT_LIMIT="100")
        assert done.returncode == 1
        assert done.stderr.endswith(" bytes are more than the limit of 100\n")
        assert not (tmp_path / "kit" / "CONTENTS").exists()

    def test_a_wheel_of_another_hash_is_refused(
        self,
        gather: Script,
        make_wheel: Wheel,
        tmp_path: Path,
    ) -> None:
        make_wheel("apart", {"apart/evil.py": ""}, tmp_path / "wheels")
        done = gather("--no-check")
        assert done.returncode != 0
        assert "HASH" in done.stderr
        assert not (tmp_path / "kit" / "CONTENTS").exists()

    def test_a_name_that_no_lock_pins_is_an_error(self, gather: Script, tmp_path: Path) -> None:
        with (tmp_path / "root/tests/gpu/wheels.txt").open("a") as names:
            names.write("three\n")
        done = gather("--no-check")
        assert done.returncode == 1
        assert done.stderr == (
            "gpu kit: images/unsloth/cuda.lock does not pin every name of [unsloth]\n"
        )

    def test_without_python_312_the_kit_is_there_and_unchecked(
        self, gather: Script, tmp_path: Path
    ) -> None:
        done = gather()
        assert done.returncode == 1
        assert (tmp_path / "kit" / "CONTENTS").is_file()
        assert done.stderr.splitlines()[-1].startswith("gpu kit: imports were not checked")
