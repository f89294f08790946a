"""Contracts: from `.proto` files to Python modules and to one descriptor set.

A contract is compiled twice. `generate` writes the Python modules (`users_pb2.py`, its stub `users_pb2.pyi`,
and `users_pb2_grpc.py` where a file declares services) beside the package that is written by hand, so that
`protos/shop/v1/users.proto` becomes `shop/v1/users_pb2.py`. `descriptor_set` writes the same contract for all
other languages: one file that `protoc --descriptor_set_in`, `buf` and `@grpc/proto-loader` read.

A domain that lives elsewhere needs no copy of the engine's `.proto` files: they, and what they import, come
out of the descriptor set that is shipped with this package. For the same reason `google/*` and
`buf/validate/validate.proto` are never copied into a repository: installed packages bring them.

The build runs `python -P diptych/contract/generate.py build`. It runs the file, because the package around it cannot
be imported before its messages exist; `-P` keeps `diptych/contract/token.py` from hiding the standard module `token`.
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
    """A contract that cannot be compiled; the message is the compiler's and names file and line."""


def generate(proto_root: Path, out: Path, packages: Iterable[str] = ()) -> list[Path]:
    """Compile the `.proto` files below `proto_root` to Python modules below `out`; return those modules.

    A module lies under `out` where its file lies under `proto_root`. `packages` names folders below the root
    (`"shop"`, `"shop/v1"`) if not all of it is to be compiled. Only files whose content changed are written,
    each in one step, so that two builds may run at once; modules of files that are gone are removed.

    Raises `ContractError` if a file is wrong or imports something that is not there.
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
        wanted = {
            _place(path.relative_to(modules)): _rewritten(path.read_bytes())
            for path in sorted(modules.rglob("*.py*"))
            # The gRPC plugin writes an empty module for a file without services.
            if not path.name.endswith("_pb2_grpc.py")
            or path.relative_to(modules).as_posix().removesuffix("_grpc.py") in with_services
        }
    for place, content in wanted.items():
        _write(out / place, content)
    _remove_all_but(wanted, out)
    return [out / place for place in wanted]


def descriptor_set(
    proto_roots: Iterable[Path], packages: Iterable[str] = (), *, plain: bool = False, internal: bool = False
) -> bytes:
    """Return one serialised `google.protobuf.FileDescriptorSet` for the contracts below `proto_roots`.

    It holds these files, the engine's own (`diptych/v1`), `google/rpc/error_details.proto`, and all that they
    import, each file after what it imports; our files keep their comments. `packages` names folders below the roots
    if not all of them are to be compiled. `plain` leaves out the validation rules. `internal` adds what is for no
    client: the packages with a folder `internal` in their path.

    Raises `ContractError` if a file is wrong or imports something that is not there.
    """
    roots = list(proto_roots)
    folders = list(packages)
    found = dict.fromkeys(name for root in roots for name in _names_below(root, folders))
    names = [name for name in found if internal or "internal" not in PurePosixPath(name).parts]
    if not names:
        raise ContractError(f"There is no .proto file below {', '.join(map(str, roots))}.")
    if not _defines_engine(roots):
        engine = (file.name for file in _parsed(shipped()).file if file.package == "diptych.v1")
        names = [*engine, *names]
    compiled = _compile(roots, [*names, ERROR_DETAILS_FILE], "--include_imports", "--include_source_info")
    for file in compiled.file:
        if file.name not in names:
            file.ClearField("source_code_info")
    return without_rules(_serialised(compiled)) if plain else _serialised(compiled)


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


def without_rules(descriptors: bytes) -> bytes:
    """Return a serialised `FileDescriptorSet` without its validation rules, and else the same.

    For tools and languages that have no `buf/validate/validate.proto`. What only the rules needed goes too.
    """
    files = _parsed(descriptors)
    imported = {name for file in files.file for name in file.dependency}
    roots = {file.name for file in files.file} - imported
    if not any(RULES_FILE in file.dependency for file in files.file):
        return descriptors
    for file in files.file:
        if RULES_FILE in file.dependency:
            _strip(file)
    # A file stays if it was nobody's import, or if a file that stays imports it.
    kept: set[str] = set()
    for file in reversed(files.file):
        if file.name in roots or file.name in kept:
            kept |= {file.name, *file.dependency}
    for index in reversed(range(len(files.file))):
        if files.file[index].name not in kept:
            del files.file[index]
    _check_complete(files)
    return _serialised(files)


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


def _rules() -> descriptor_pb2.FileDescriptorProto:
    """Return the descriptor of `buf/validate/validate.proto`.

    No package publishes the `.proto` file itself. `protovalidate` has its descriptor, at a private name, so
    nothing but this function may know where; a test notices if a new version moves it.
    """
    from protovalidate._gen.buf.validate import validate_pb

    return descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())


def _compile(roots: Sequence[Path], names: Sequence[str], *options: str) -> Any:
    """Run protoc on the files `names` and return the descriptor set it makes; raise what it reports."""
    with tempfile.TemporaryDirectory(prefix="diptych-") as scratch:
        known = [Path(scratch, "rules.binpb")]
        known[0].write_bytes(descriptor_pb2.FileDescriptorSet(file=[_rules()]).SerializeToString())
        if not _defines_engine(roots):
            known.append(_SHIPPED)
            shipped()  # This says what to do if it is missing; protoc would not.
        result = Path(scratch, "result.binpb")
        command = [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            *(f"--proto_path={root.resolve()}" for root in roots),
            *_google_paths(),
            f"--descriptor_set_in={os.pathsep.join(map(str, known))}",
            f"--descriptor_set_out={result}",
            *options,
            *names,
        ]
        # `-m` looks in the working directory first, which must therefore be one without packages.
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ContractError(done.stderr.strip() or f"protoc ended with status {done.returncode}.")
        return _parsed(result.read_bytes())


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
    """Tell whether these roots hold the engine's own contract, so that the shipped one is not asked."""
    return any((root / ENGINE_PACKAGE).is_dir() for root in roots)


def _module(name: str) -> str:
    """Return the path of the module that protoc writes for the file `name`, without its suffix."""
    return name.removesuffix(".proto").replace("-", "_") + "_pb2"


def _place(path: Path) -> Path:
    """Return where a generated module goes: below its own package, but the rules below ours."""
    return Path("diptych", path) if path.as_posix().startswith("buf/validate/") else path


def _rewritten(source: bytes) -> bytes:
    """Return a generated module that finds the validation rules where we put them."""
    package = _RULES_PACKAGE.encode()
    source = _RULES_IMPORT.sub(b"from " + package + b" import ", source)
    return source.replace(b"'buf.validate.validate_pb2'", b"'" + package + b".validate_pb2'")


def _write(path: Path, content: bytes) -> None:
    """Give `path` this content in one step, and leave it alone if it has it already."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def _remove_all_but(wanted: Iterable[Path], out: Path) -> None:
    """Remove generated modules, in the folders of the `wanted` ones, whose `.proto` file is gone.

    Left behind, a module would register its messages a second time beside those of the file's new name.
    """
    keep = {out / place for place in wanted}
    for folder in {path.parent for path in keep}:
        for pattern in _GENERATED_NAMES:
            for path in set(folder.glob(pattern)) - keep:
                path.unlink(missing_ok=True)


def _parsed(descriptors: bytes) -> Any:
    """Parse a `FileDescriptorSet` in which the validation rules are known extensions.

    In the default pool they are known or unknown depending on what else is imported, and the bytes would be
    serialised in a different order. So this has a pool of its own.
    """
    pool = descriptor_pool.DescriptorPool()
    for module in (descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_rules().SerializeToString())
    message = pool.FindMessageTypeByName("google.protobuf.FileDescriptorSet")
    return message_factory.GetMessageClass(message).FromString(descriptors)


def _serialised(files: Message) -> bytes:
    return files.SerializeToString(deterministic=True)


def _strip(file: Any) -> None:
    """Take the validation rules, and all that refers to them, out of one file descriptor."""
    _strip_options(file)
    for index in reversed(range(len(file.extension))):
        if file.extension[index].extendee.startswith(".buf.validate."):  # A rule of the domain's own.
            del file.extension[index]
    rules_index = list(file.dependency).index(RULES_FILE)
    del file.dependency[rules_index]
    for indexes in (file.public_dependency, file.weak_dependency):
        indexes[:] = [index - (index > rules_index) for index in indexes if index != rules_index]
    _strip_locations(file, rules_index)


def _strip_options(message: Any) -> None:
    """Clear the rules in every `options` below `message`, and options that held nothing else."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if field.name != "options":
            for child in value if field.is_repeated else [value]:
                _strip_options(child)
            continue
        for extension, _ in value.ListFields():
            if extension.is_extension and extension.file.name == RULES_FILE:
                value.ClearExtension(extension)
        if not value.ByteSize():
            message.ClearField(field.name)


def _strip_locations(file: Any, rules_index: int) -> None:
    """Drop the source locations of what is gone, and renumber those of the imports behind it."""
    imports = file.DESCRIPTOR.fields_by_name["dependency"].number
    kept = []
    for location in file.source_code_info.location:
        if len(location.path) == 2 and location.path[0] == imports:
            if location.path[1] == rules_index:
                continue
            location.path[1] -= location.path[1] > rules_index
        if _leads_somewhere(location.path, file):
            kept.append(location)
    if file.HasField("source_code_info"):
        locations = [location.SerializeToString() for location in kept]
        del file.source_code_info.location[:]
        for content in locations:
            file.source_code_info.location.add().ParseFromString(content)


def _leads_somewhere(path: Sequence[int], message: Any) -> bool:
    """Tell whether a source location's path (field number, index, field number, ...) still has a target."""
    steps = iter(path)
    for number in steps:
        field = message.DESCRIPTOR.fields_by_number.get(number)
        if field is None:
            extension = message.DESCRIPTOR.file.pool.FindExtensionByNumber(message.DESCRIPTOR, number)
            return str(extension.file.name) != RULES_FILE
        value = getattr(message, field.name)
        if field.is_repeated:
            index = next(steps, None)
            if index is None:
                return True
            if index >= len(value):
                return False
            value = value[index]
        elif not message.HasField(field.name):
            return False
        if field.message_type is None:
            return True
        message = value
    return True


def _check_complete(files: Any) -> None:
    """Raise if a file still refers to the rules by other means than options, which nothing can leave out."""
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        try:
            pool.AddSerializedFile(file.SerializeToString())
        except TypeError as error:
            raise ContractError(f"{file.name} cannot do without {RULES_FILE}: {error}") from None


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
