# SPDX-FileCopyrightText: The Veneer authors
# SPDX-License-Identifier: Apache-2.0
"""The build as a product: installed, found by another project, incremental, and honest about the torch it fits."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import veneer
from veneer import _build_info, _core

ROOT = Path(__file__).parents[2]
BUILD = Path(_build_info.CMAKE_DIR).parent  # an in-place build says where its tree is
CMAKE = shutil.which("cmake", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
CACHE = [f"-DCMAKE_CXX_COMPILER_LAUNCHER={ccache}"] if (ccache := shutil.which("ccache")) else []

pytestmark = pytest.mark.skipif(
    not (BUILD / "CMakeCache.txt").exists() or CMAKE is None, reason="runs from an in-place build, with CMake"
)


def run(*command, env=None, cwd=None):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False, env=env, cwd=cwd)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def without_toolkit():
    """An environment in which nothing leads to a CUDA toolkit, and CMake's options to the same end."""
    hidden = {"CUDACXX", "CUDA_HOME", "CUDA_PATH", "CUDAToolkit_ROOT", "LIBRARY_PATH", "LD_LIBRARY_PATH"}
    env = {name: value for name, value in os.environ.items() if name not in hidden}
    folders = [p for p in env["PATH"].split(os.pathsep) if not (Path(p) / "nvcc").exists()]
    env["PATH"] = os.pathsep.join(folders)
    if shutil.which("c++", path=env["PATH"]) is None:
        pytest.skip("the compiler and nvcc share a folder")
    return env, ["-DCMAKE_CUDA_COMPILER=NOTFOUND", "-DCMAKE_DISABLE_FIND_PACKAGE_CUDAToolkit=ON"]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory):
    path = tmp_path_factory.mktemp("prefix")
    run(CMAKE, "--install", BUILD, "--prefix", path)
    return path


def test_install_has_headers_library_and_package(prefix):
    installed = {p.relative_to(prefix).as_posix() for p in prefix.rglob("*") if p.is_file()}
    headers = {f"include/{p.relative_to(ROOT / 'include').as_posix()}" for p in (ROOT / "include").rglob("*.h")}
    assert headers <= installed
    (library,) = (p for p in installed if p.endswith("/libveneer.so"))
    package = f"{library.split('/')[0]}/cmake/veneer"
    for name in ("veneerConfig.cmake", "veneerConfigVersion.cmake", "veneerTargets.cmake", "FindVeneerTorch.cmake"):
        assert f"{package}/{name}" in installed
    assert not [p for p in installed if p.endswith(".py") or "_core" in p]


@pytest.fixture(scope="module", params=["visible", "hidden"])
def example(prefix, tmp_path_factory, request):
    """(program, environment): examples/cpp as a project of its own against the installed package."""
    build = tmp_path_factory.mktemp(request.param)
    env, options = (None, []) if request.param == "visible" else without_toolkit()
    run(
        CMAKE, "-S", ROOT / "examples" / "cpp", "-B", build, "-DCMAKE_BUILD_TYPE=Debug",
        f"-DCMAKE_PREFIX_PATH={prefix}", *options, *CACHE, env=env,
    )  # fmt: skip
    run(CMAKE, "--build", build, env=env)
    return build / "digits", env


def test_example_runs(example, tmp_path):
    program, env = example
    assert "merged and unmerged with equal outputs" in run(program, "--smoke", env=env, cwd=tmp_path)


def accuracies(text):
    return [float(line.rpartition(" ")[2]) for line in text.splitlines() if "accuracy on new digits" in line]


def test_adapters_pass_between_cpp_and_python(example, tmp_path, monkeypatch):
    """On real digits: what either program trains and saves the other loads, with the same accuracy and merged weights."""
    program, env = example
    python = [sys.executable, ROOT / "examples" / "python" / "digits_twin.py"]
    monkeypatch.syspath_prepend(ROOT / "examples" / "python")
    import digits_twin
    from quickstart import write_digits

    data, base = ["--data", tmp_path / "digits.csv"], ["--base", tmp_path / "cpp/base.safetensors"]
    write_digits(tmp_path / "digits.csv", seed=0)
    # The accuracies printed: of a new head alone, and of each adapter.
    output = run(program, *data, "--out", tmp_path / "cpp", "--base-epochs", 3, "--epochs", 4, env=env)
    head, *trained = accuracies(output)
    assert len(trained) == 3
    assert max(trained) > head
    for method, accuracy in zip(("lora", "circulant", "bottleneck"), trained, strict=True):
        assert accuracies(run(*python, *data, *base, "--adapter", tmp_path / "cpp" / method)) == [accuracy]
        saved = tmp_path / "python" / method
        ours = accuracies(run(*python, *data, *base, "--train", method, "--epochs", 2, "--save", saved))
        output = run(program, *data, *base, "--method", "none", "--load", saved, env=env)
        assert accuracies(output) == ours
        assert len(ours) == 1
        if method != "bottleneck":
            net = digits_twin.base_net(base[1])
            merged = veneer.PeftModel.from_pretrained(net, tmp_path / "cpp" / method).merge_and_unload().state_dict()
            for name, tensor in load_file(tmp_path / "cpp" / method / "merged.safetensors").items():
                torch.testing.assert_close(merged[name], tensor, rtol=1e-5, atol=1e-6)


def test_configures_without_the_toolkit(tmp_path):
    env, options = without_toolkit()
    output = run(
        CMAKE, "-S", ROOT, "-B", tmp_path, f"-DPython_EXECUTABLE={sys.executable}", "-DVENEER_TESTS=OFF",
        "-DVENEER_BENCHMARKS=OFF", "-DVENEER_EXAMPLES=OFF", *options, env=env,
    )  # fmt: skip
    assert "CUDA kernels: off" in output


def test_a_torch_of_another_version_is_refused_by_cmake(prefix, tmp_path):
    fake = tmp_path / "torch"
    header = fake / "include" / "torch" / "csrc" / "api" / "include" / "torch" / "version.h"
    header.parent.mkdir(parents=True)
    header.write_text(
        "".join(f"#define TORCH_VERSION_{n} {v}\n" for n, v in (("MAJOR", 2), ("MINOR", 1), ("PATCH", 0)))
    )
    (fake / "lib").mkdir()
    shutil.copy(Path(torch.__file__).parent / "lib" / "libc10.so", fake / "lib")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(user CXX)\nfind_package(veneer CONFIG REQUIRED)\n"
    )
    result = subprocess.run(
        [CMAKE, "-S", tmp_path, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}", f"-DTorch_ROOT={fake}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    message = " ".join(result.stderr.split())
    assert f"veneer was built with torch {_build_info.TORCH_VERSION}, found torch 2.1.0" in message


def test_a_second_build_has_nothing_to_do():
    ninja = next(
        line.split("=", 1)[1]
        for line in (BUILD / "CMakeCache.txt").read_text().splitlines()
        if line.startswith("CMAKE_MAKE_PROGRAM:")
    )
    # Not a dry run (-n): in one the globbed folders always count as changed.
    assert "no work to do" in run(ninja, "-C", BUILD, "veneer", "_core")


def test_build_id_follows_the_sources(tmp_path):
    source, listed, output = tmp_path / "a.cpp", tmp_path / "list.txt", tmp_path / "id.cpp"
    listed.write_text(f"{source}\n")
    ids = set()
    for text in ("int a;\n", "int b;\n", "int a;\n"):
        source.write_text(text)
        run(
            CMAKE, f"-DSOURCES={listed}", f"-DROOT={tmp_path}", "-DVERSION=1.2.3", f"-DOUTPUT={output}",
            "-P", ROOT / "cmake" / "BuildId.cmake",
        )  # fmt: skip
        assert '"1.2.3"' in output.read_text()
        ids.add(output.read_text())
    assert len(ids) == 2
    assert _core.build_id() in (BUILD / "build_id.cpp").read_text()


def test_kernels_include_no_torch_header(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    import check_sources

    assert check_sources.check("src/kernels/cpu/x.cpp", "#include <ATen/ATen.h>\n")[0]
    errors = {name: check_sources.check(name, text)[0] for name, text in check_sources.files()}
    assert {name: found for name, found in errors.items() if found and name.startswith("src/")} == {}
    assert any(name.startswith("src/kernels/") for name in errors)


def test_import_refuses_another_torch_and_names_both():
    other = "2.1.0"
    code = (
        "import sys, types\n"
        "info = types.ModuleType('veneer._build_info')\n"
        f"info.TORCH_VERSION, info.CMAKE_DIR = {other!r}, ''\n"
        "sys.modules['veneer._build_info'] = info\n"
        "import veneer\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError")
    assert other in last
    assert torch.__version__ in last


def test_the_command_is_installed():
    command = Path(sys.executable).with_name("veneer")
    assert run(command, "--version") == run(sys.executable, "-m", "veneer", "--version")
    assert "layer/lora-r8/768x768/N2048/float32/p0" in run(command, "bench", "--targets", "--list")


def test_cmake_dir_is_a_package():
    folder = Path(run(Path(sys.executable).with_name("veneer"), "--cmake-dir").strip())
    assert (folder / "veneerConfig.cmake").exists()
    assert (folder / "veneerTargets.cmake").exists()
