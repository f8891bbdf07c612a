"""Packages, the native sources and the native library; everything else is in pyproject.toml.

With PyTorch and a C++ compiler at hand (``pip install --no-build-isolation .``) the library and its
extension are compiled into the package. Otherwise, or when that fails, they are built at first
use from the sources that the package carries; with FUSED_REPARAM_REQUIRE_NATIVE=1 a failure of the
library is an error. With FUSED_REPARAM_NO_EXTENSION=1 the extension is left out, so that one wheel
is for every PyTorch and Python.
"""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent


def load_build_description():
    """``build.py`` by path: the package itself can't be imported here, PyTorch may be missing."""
    path = HERE / "fused_reparam" / "backends" / "cpu" / "build.py"
    spec = importlib.util.spec_from_file_location("_fused_reparam_build", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


native = load_build_description()


def reason_not_to_compile():
    """None when everything needed to compile the library is here."""
    try:
        native.torch_root()
        native.compiler()
    except native.BuildError as error:
        return str(error)
    return None


class CopySources(build_py):
    """The package carries the sources of the library, to build it where it will run."""

    def run(self):
        if self.editable_mode:
            super().run()
            return
        # What an earlier build left here would be packed: modules since removed, an older library.
        shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        target = Path(self.build_lib) / "fused_reparam" / "_kernels"
        for path in native.source_files(HERE / "kernels"):
            copy = target / path.relative_to(HERE / "kernels")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)


class BuildLibrary(build_ext):
    """The library is no Python extension: it's named and compiled as build.py says."""

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext):
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        # Not beside the output: what an interrupted build leaves would be packed by the next one.
        made = Path(self.build_temp).resolve() / output.name
        build = native.build_extension if ext is host else native.build
        try:
            build(made)
            output.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(made, output)
        except native.BuildError as error:
            if REQUIRED and ext is library:
                raise
            print(f"warning: {error}\nThe library will be built at first use.", file=sys.stderr)


class PlatformWheel(bdist_wheel):
    """One wheel for every Python: with the library it depends on the platform only."""

    def get_tag(self):
        python, abi, platform = super().get_tag()
        return (python, abi, platform) if self.root_is_pure else ("py3", "none", platform)


def is_set(variable):
    return os.environ.get(variable, "0") not in ("", "0")


def extension(file_name):
    name = "fused_reparam.backends.cpu." + file_name.removesuffix(".so")
    return Extension(name, sources=[], optional=True)


REQUIRED = is_set("FUSED_REPARAM_REQUIRE_NATIVE")
missing = reason_not_to_compile()
if missing and REQUIRED:
    raise SystemExit(f"FUSED_REPARAM_REQUIRE_NATIVE is set, and {missing}")
if missing:
    print(f"The native library is left to first use: {missing}", file=sys.stderr)

library = extension(native.library_name())
host = None
if not missing and not is_set("FUSED_REPARAM_NO_EXTENSION"):
    host = extension(native.extension_name())

setup(
    packages=find_packages(include=["fused_reparam", "fused_reparam.*"]),
    ext_modules=[] if missing else [library, *([host] if host else [])],
    cmdclass={"build_py": CopySources, "build_ext": BuildLibrary, "bdist_wheel": PlatformWheel},
)
