"""Contracts: from `.proto` files to Python modules and to one descriptor set.

A contract is compiled twice. `generate` writes the Python modules (`users_pb2.py`, its stub `users_pb2.pyi`,
and `users_pb2_grpc.py` if a file declares services) beside the hand-written package: `protos/shop/v1/users.proto`
becomes `shop/v1/users_pb2.py`. `descriptor_set` returns the same contract for all other languages, as one file that
`protoc --descriptor_set_in`, `buf` and `@grpc/proto-loader` read.

A domain in another repository needs no copy of the engine's `.proto` files: this package ships a descriptor set with
them and their imports. Installed packages bring `google/*` and `buf/validate/validate.proto`.

The build runs `python -P diptych/contract/generate.py build`. It runs the file by path, because the package around it
cannot be imported before its messages exist. This is therefore one file, and it imports nothing of ours. `-P` keeps
`diptych/contract/token.py` from hiding the standard module `token`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    field_mask_pb2,
    message_factory,
    timestamp_pb2,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

ENGINE_PACKAGE = "diptych/v1"
RULES_FILE = "buf/validate/validate.proto"
ERROR_DETAILS_FILE = "google/rpc/error_details.proto"

# The module of the validation rules is generated under `diptych`: a top-level `buf` package in our wheel
# could overwrite that of another distribution.
_RULES_PACKAGE = "diptych.buf.validate"
_RULES_IMPORT = re.compile(rb"^from buf\.validate import ", re.MULTILINE)
_GENERATED_NAMES = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py")
_SHIPPED = Path(__file__).resolve().parents[1] / "contracts.binpb"


class ContractError(Exception):
    """A contract cannot be compiled. The message is the compiler's and names file and line."""


def generate(proto_root: Path, out: Path, packages: Iterable[str] = ()) -> list[Path]:
    """Compile `.proto` files to Python modules, and return the paths of the modules.

    Only files with changed content are written, each in one step, so that two builds may run at once. Modules whose
    `.proto` file no longer exists are removed.

    Args:
        proto_root: Folder of the contracts.
        out: Folder of the modules. A module has the same path below it as its file below `proto_root`.
        packages: Folders below the root to compile, such as `"shop"` or `"shop/v1"`. Empty: all.

    Raises:
        ContractError: A file is wrong, or imports a file that is missing.
    """
    names = _names_below(proto_root, packages)
    if not names:
        raise ContractError(f"There is no .proto file to compile below {proto_root}.")
    with tempfile.TemporaryDirectory(prefix="diptych-") as scratch:
        modules = Path(scratch, "modules")
        modules.mkdir()
        # Only the engine generates the module of the validation rules; every domain imports that one.
        inputs = [*names, RULES_FILE] if any(name.startswith(ENGINE_PACKAGE) for name in names) else names
        compiled = _compile(
            [proto_root],
            inputs,
            *(f"--{kind}_out={modules}" for kind in ("python", "pyi", "grpc_python")),
        )
        with_services = {_module(file.name) for file in compiled.file if file.service}
        expected = {
            _target(path.relative_to(modules)): _rewritten(path.read_bytes())
            for path in sorted(modules.rglob("*.py*"))
            # The gRPC plugin writes an empty module for a file without services.
            if not path.name.endswith("_pb2_grpc.py")
            or path.relative_to(modules).as_posix().removesuffix("_grpc.py") in with_services
        }
    for relative, content in expected.items():
        _write(out / relative, content)
    _remove_all_but(expected, out)
    return [out / relative for relative in expected]


def descriptor_set(proto_roots: Iterable[Path], packages: Iterable[str] = (), *, internal: bool = False) -> bytes:
    """Return one serialised `google.protobuf.FileDescriptorSet` for the contracts below `proto_roots`.

    It holds these files, the engine's own (`diptych/v1`), `google/rpc/error_details.proto`, and all their imports,
    each file after its imports. Our files keep their comments.

    Args:
        proto_roots: Folders of the contracts.
        packages: Folders below the roots to compile. Empty: all.
        internal: True to include packages that are for no client: those with a folder `internal` in their path.

    Raises:
        ContractError: A file is wrong, or imports a file that is missing.
    """
    roots = list(proto_roots)
    folders = list(packages)
    all_names = dict.fromkeys(name for root in roots for name in _names_below(root, folders))
    names = [name for name in all_names if internal or "internal" not in PurePosixPath(name).parts]
    if not names:
        raise ContractError(f"There is no .proto file below {', '.join(map(str, roots))}.")
    if not _defines_engine(roots):
        engine = (file.name for file in parse(shipped()).file if file.package == "diptych.v1")
        names = [*engine, *names]
    compiled = _compile(roots, [*names, ERROR_DETAILS_FILE], "--include_imports", "--include_source_info")
    for file in compiled.file:
        if file.name not in names:
            file.ClearField("source_code_info")
    return serialize(compiled)


def engine_protos() -> Path:
    """Return the folder of the engine's `.proto` files: that of the wheel, or that of the checkout.

    Raises:
        ContractError: The installation has none.
    """
    package = _SHIPPED.parent
    for folder in (package / "protos", package.parent / "protos"):
        if (folder / ENGINE_PACKAGE).is_dir():
            return folder
    raise ContractError(f"{package} has no .proto files: it was installed neither from a wheel nor in a checkout.")


def shipped(package: str = "diptych") -> bytes:
    """Return the descriptor set in an installed package: that of the engine, or of a domain with the engine's.

    Args:
        package: `diptych`, or the Python package of a domain.

    Raises:
        ContractError: The package is not installed, or has no descriptor set.
    """
    path = _SHIPPED
    if package != "diptych":
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ContractError(f"There is no Python package {package}. Install it, or give --protos DIR.")
        path = Path(spec.submodule_search_locations[0], _SHIPPED.name)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ContractError(
            f"{path} does not exist. In a checkout, `make generate` writes it; for other domains give --protos DIR."
        ) from None


def build(out: Path, proto_root: Path, packages: Iterable[str]) -> list[Path]:
    """Generate all files that some packages ship, and return them: modules and one `contracts.binpb` a package.

    Args:
        out: Folder above the packages.
        proto_root: Folder with the contracts of the engine and of these packages.
        packages: Names of packages, such as `diptych` and `shop`.

    Raises:
        ContractError: A file is wrong, or imports a file that is missing.
    """
    files = []
    for package in packages:
        files += generate(proto_root, out, [package])
        files.append(out / package / _SHIPPED.name)
        _write(files[-1], descriptor_set([proto_root], dict.fromkeys(["diptych", package])))
    return files


def _rules_descriptor() -> descriptor_pb2.FileDescriptorProto:
    """Return the descriptor of `buf/validate/validate.proto`.

    No package publishes the `.proto` file itself. `protovalidate` has its descriptor, at a private name that only
    this function uses. A test fails if a new version moves it.
    """
    from protovalidate._gen.buf.validate import validate_pb

    return descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())


def _compile(roots: Sequence[Path], names: Sequence[str], *options: str) -> Any:
    """Run protoc on the files `names` and return its descriptor set. Raise `ContractError` with its report."""
    with tempfile.TemporaryDirectory(prefix="diptych-") as scratch:
        sets = [Path(scratch, "rules.binpb")]
        sets[0].write_bytes(descriptor_pb2.FileDescriptorSet(file=[_rules_descriptor()]).SerializeToString())
        if not _defines_engine(roots):
            sets.append(_SHIPPED)
            shipped()  # This says what to do if it is missing; protoc would not.
        result = Path(scratch, "result.binpb")
        command = [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            *(f"--proto_path={root.resolve()}" for root in roots),
            *_google_paths(),
            f"--descriptor_set_in={os.pathsep.join(map(str, sets))}",
            f"--descriptor_set_out={result}",
            *options,
            *names,
        ]
        # `-m` looks in the working directory first, which must therefore be one without packages.
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ContractError(done.stderr.strip() or f"protoc ended with status {done.returncode}.")
        return parse(result.read_bytes())


def _google_paths() -> Iterator[str]:
    """Yield protoc's options for `google/*`: from `grpcio-tools`, then from `googleapis-common-protos`."""
    tools = importlib.util.find_spec("grpc_tools")
    if tools is None or not tools.submodule_search_locations:
        raise ContractError("The package grpcio-tools, which compiles contracts, is not installed.")
    yield f"--proto_path={Path(tools.submodule_search_locations[0], '_proto')}"
    # `google` is a namespace: several distributions put their folders into it, and not always in one place.
    # It is mapped by name so that nothing else in those places can be imported by a contract.
    google = importlib.util.find_spec("google")
    for location in (google and google.submodule_search_locations) or ():
        yield f"--proto_path=google={location}"


def _names_below(root: Path, packages: Iterable[str] = ()) -> list[str]:
    """Return the names of the `.proto` files below `root` as an import would write them, sorted."""
    if not root.is_dir():
        raise ContractError(f"The folder {root}, which should hold .proto files, does not exist.")
    folders = [root / package for package in packages] or [root]
    paths = {path for folder in folders for path in folder.rglob("*.proto")}
    return sorted(path.relative_to(root).as_posix() for path in paths)


def _defines_engine(roots: Iterable[Path]) -> bool:
    """Return True if these roots hold the engine's own contract, in place of the shipped one."""
    return any((root / ENGINE_PACKAGE).is_dir() for root in roots)


def _module(name: str) -> str:
    """Return the path of the module that protoc writes for the file `name`, without its suffix."""
    return name.removesuffix(".proto").replace("-", "_") + "_pb2"


def _target(path: Path) -> Path:
    """Return the path to write a generated module to: its own, or one below `diptych` for the rules."""
    return Path("diptych", path) if path.as_posix().startswith("buf/validate/") else path


def _rewritten(source: bytes) -> bytes:
    """Return a generated module with its import of the validation rules redirected to `diptych.buf`."""
    package = _RULES_PACKAGE.encode()
    source = _RULES_IMPORT.sub(b"from " + package + b" import ", source)
    return source.replace(b"'buf.validate.validate_pb2'", b"'" + package + b".validate_pb2'")


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step, unless it has this content already."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _remove_all_but(expected: Iterable[Path], out: Path) -> None:
    """Remove generated modules, in the folders of the `expected` ones, whose `.proto` file no longer exists.

    A module left behind would register its messages a second time, beside those of the file's new name.
    """
    keep = {out / relative for relative in expected}
    for folder in {path.parent for path in keep}:
        for pattern in _GENERATED_NAMES:
            for path in set(folder.glob(pattern)) - keep:
                path.unlink(missing_ok=True)


def parse(descriptors: bytes) -> Any:
    """Parse a `FileDescriptorSet` in which the validation rules are known extensions.

    In the default pool they are known only if another module has imported them, and the bytes are serialised in a
    different order then. This function therefore uses a pool of its own.
    """
    pool = descriptor_pool.DescriptorPool()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_rules_descriptor().SerializeToString())
    message = pool.FindMessageTypeByName("google.protobuf.FileDescriptorSet")
    return message_factory.GetMessageClass(message).FromString(descriptors)


def serialize(files: Message) -> bytes:
    """Return the bytes of a `FileDescriptorSet`, the same for the same content."""
    return files.SerializeToString(deterministic=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the build's own command line; `diptych contracts` is the one for users."""
    parser = argparse.ArgumentParser(prog="diptych/contract/generate.py", description="Compile contracts.")
    commands = parser.add_subparsers(dest="command", required=True)
    whole = commands.add_parser("build", help="generate all that this checkout ships")
    whole.add_argument("project", type=Path, nargs="?", default=Path(__file__).resolve().parents[2])
    one = commands.add_parser("generate", help="generate the Python modules of a domain")
    one.add_argument("proto_root", type=Path)
    one.add_argument("out", type=Path)
    image = commands.add_parser("image", help="write one descriptor set, internal packages included, for buf")
    image.add_argument("file", type=Path)
    image.add_argument("proto_roots", type=Path, nargs="+")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.command == "build":
            protos = chosen.project / "protos"
            build(chosen.project, protos, sorted(path.name for path in protos.iterdir() if path.is_dir()))
        elif chosen.command == "generate":
            generate(chosen.proto_root, chosen.out)
        else:
            _write(chosen.file, descriptor_set(chosen.proto_roots, internal=True))
    except ContractError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
