"""Contracts compile to Python modules and to one descriptor set, also for a domain that is not ours."""

import importlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import protovalidate
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from diptych.contract import generate as contracts
from diptych.contract.plain_descriptors import without_rules

LIBRARY = """
// The contract of a very small library.
syntax = "proto3";

package {package}.v1;

import "buf/validate/validate.proto";
import "diptych/v1/commands.proto";
import "google/type/money.proto";

// Lends books.
service CommandService {{
  // Lends one.
  rpc LendBook(LendBookRequest) returns (LendBookResponse);
}}

// A book and who wants it.
message LendBookRequest {{
  diptych.v1.CommandContext context = 1;
  // The book's id.
  string book_id = 2 [
    deprecated = true,
    (buf.validate.field).string = {{min_len: 1, max_len: 8}}
  ];
  google.type.Money deposit = 3 [(buf.validate.field).required = true];
}}

message LendBookResponse {{
  diptych.v1.CommandResult result = 1;
}}
"""

NOTES = """
syntax = "proto3";
package {package}.v1;
message Note {{
  string text = 1;
}}
"""


@pytest.fixture
def protos(tmp_path: Path) -> Path:
    return _write_protos(tmp_path / "protos", "tinylibrary")


@pytest.fixture
def modules(tmp_path: Path) -> Iterator[Path]:
    """A folder for generated modules that Python imports from."""
    folder = tmp_path / "modules"
    folder.mkdir()
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    yield folder
    sys.path.remove(str(folder))


def _write_protos(root: Path, package: str) -> Path:
    folder = root / package / "v1"
    folder.mkdir(parents=True)
    (folder / "commands.proto").write_text(LIBRARY.format(package=package))
    (folder / "some-notes.proto").write_text(NOTES.format(package=package))
    return root


def _parse(descriptors: bytes) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    files = descriptor_pb2.FileDescriptorSet.FromString(descriptors).file
    return {file.name: file for file in files}


def _comments(file: descriptor_pb2.FileDescriptorProto) -> set[str]:
    return {place.leading_comments.strip() for place in file.source_code_info.location} - {""}


def _load(descriptors: bytes) -> descriptor_pool.DescriptorPool:
    """Load a set into a pool; this fails if a file is missing or comes before what it imports."""
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(descriptors).file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool


def test_validation_rules_are_generated_below_diptych() -> None:
    rules = importlib.import_module("diptych.buf.validate.validate_pb2")
    assert rules.DESCRIPTOR.name == contracts.RULES_FILE
    assert rules.FieldRules.__module__ == "diptych.buf.validate.validate_pb2"
    assert importlib.util.find_spec("buf") is None


def test_protovalidate_still_has_the_descriptor_of_its_rules() -> None:
    rules = contracts._rules_descriptor()
    assert rules.name == contracts.RULES_FILE
    assert {"field", "message", "oneof"} <= {extension.name for extension in rules.extension}


def test_domain_in_another_repository_is_generated_and_its_rules_apply(protos: Path, modules: Path) -> None:
    written = contracts.generate(protos, modules)
    assert {path.relative_to(modules).as_posix() for path in written} == {
        "tinylibrary/v1/commands_pb2.py",
        "tinylibrary/v1/commands_pb2.pyi",
        "tinylibrary/v1/commands_pb2_grpc.py",
        "tinylibrary/v1/some_notes_pb2.py",
        "tinylibrary/v1/some_notes_pb2.pyi",
    }
    messages = importlib.import_module("tinylibrary.v1.commands_pb2")
    services = importlib.import_module("tinylibrary.v1.commands_pb2_grpc")
    assert hasattr(services, "CommandServiceStub")
    with pytest.raises(protovalidate.ValidationError) as raised:
        protovalidate.validate(messages.LendBookRequest(book_id="nine chars"))
    broken = {violation.proto.rule_id for violation in raised.value.violations}
    assert broken == {"string.max_len", "required"}


def test_second_generation_writes_nothing(protos: Path, tmp_path: Path) -> None:
    first = contracts.generate(protos, tmp_path / "out")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in first}
    assert contracts.generate(protos, tmp_path / "out") == first
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in first} == before
    elsewhere = contracts.generate(protos, tmp_path / "elsewhere")
    assert [path.read_bytes() for path in elsewhere] == [path.read_bytes() for path in first]


def test_two_generations_run_at_once(protos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with ThreadPoolExecutor() as pool:
        first, *others = pool.map(lambda _: contracts.generate(protos, out), range(4))
    assert all(other == first for other in others)
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted(first)


def test_modules_of_a_removed_file_are_removed(protos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    contracts.generate(protos, out)
    by_hand = out / "tinylibrary" / "v1" / "by_hand.py"
    by_hand.write_text("")
    (protos / "tinylibrary/v1/some-notes.proto").unlink()
    kept = contracts.generate(protos, out)
    assert sorted(path for path in out.rglob("*") if path.is_file()) == sorted([*kept, by_hand])


def test_only_the_chosen_packages_are_generated(protos: Path, tmp_path: Path) -> None:
    _write_protos(protos, "tinybakery")
    written = contracts.generate(protos, tmp_path / "out", ["tinybakery"])
    assert {path.relative_to(tmp_path / "out").parts[0] for path in written} == {"tinybakery"}


def test_a_missing_import_is_reported_with_file_and_line(protos: Path, tmp_path: Path) -> None:
    wrong = protos / "tinylibrary/v1/wrong.proto"
    wrong.write_text('syntax = "proto3";\npackage tinylibrary.v1;\nimport "tinylibrary/v1/absent.proto";\n')
    out = tmp_path / "out"
    report = r"tinylibrary/v1/wrong\.proto:3:1: .*absent\.proto"
    with pytest.raises(contracts.ContractError, match=report):
        contracts.generate(protos, out)
    with pytest.raises(contracts.ContractError, match=report):
        contracts.descriptor_set([protos])
    assert not out.exists()


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    with pytest.raises(contracts.ContractError, match="absent"):
        contracts.generate(tmp_path / "absent", tmp_path / "out")
    with pytest.raises(contracts.ContractError, match=r"no \.proto file"):
        contracts.descriptor_set([tmp_path])


def test_shipped_set_is_complete_and_commented() -> None:
    _load(contracts.shipped("shop"))
    files = _parse(contracts.shipped("shop"))
    assert not [name for name in _parse(contracts.shipped()) if name.startswith("shop/")]
    assert set(_parse(contracts.shipped())) - {"google/protobuf/any.proto"} <= set(files)
    assert {"shop/v1/users.proto", contracts.ERROR_DETAILS_FILE, "diptych/v1/commands.proto"} <= set(files)
    assert not [name for name in files if "internal" in name]
    for name, file in files.items():
        assert bool(_comments(file)) == name.startswith(("diptych/", "shop/")), name


def test_set_of_another_domain_has_the_engine_and_not_the_shop(protos: Path) -> None:
    descriptors = contracts.descriptor_set([protos])
    _load(descriptors)
    files = _parse(descriptors)
    shipped = _parse(contracts.shipped())
    engine = {name for name in shipped if name.startswith("diptych/")}
    assert engine | {"tinylibrary/v1/commands.proto", contracts.RULES_FILE} <= set(files)
    assert not [name for name in files if name.startswith("shop/")]
    assert "The book's id." in _comments(files["tinylibrary/v1/commands.proto"])
    for name in engine:
        assert _comments(files[name]) == _comments(shipped[name])
    assert contracts.descriptor_set([protos]) == descriptors


def test_plain_set_is_the_same_without_the_rules(protos: Path) -> None:
    full = contracts.descriptor_set([protos])
    plain = without_rules(full)
    for name in (b"buf.validate", b"buf/validate"):
        assert name in full
        assert name not in plain
    assert without_rules(plain) == plain
    _load(plain)

    before, after = (_parse(descriptors)["tinylibrary/v1/commands.proto"] for descriptors in (full, plain))
    assert list(after.dependency) == [name for name in before.dependency if name != contracts.RULES_FILE]
    assert _comments(after) == _comments(before)
    request = after.message_type[0]
    assert [field.name for field in request.field] == ["context", "book_id", "deposit"]
    assert request.field[1].options == descriptor_pb2.FieldOptions(deprecated=True)
    assert not request.field[2].HasField("options")


def test_message_with_a_field_of_rules_cannot_be_plain(protos: Path) -> None:
    file = protos / "tinylibrary/v1/commands.proto"
    file.write_text(file.read_text() + "message Uses { buf.validate.Violations violations = 1; }\n")
    with pytest.raises(contracts.ContractError, match=r"tinylibrary/v1/commands\.proto cannot do without"):
        without_rules(contracts.descriptor_set([protos]))


def compiled(protos: Path, *, plain: bool) -> bytes:
    """A descriptor set of the contracts, with or without the validation rules."""
    descriptors = contracts.descriptor_set([protos])
    return without_rules(descriptors) if plain else descriptors


@pytest.mark.parametrize("plain", [False, True])
def test_protoc_reads_the_set_in_place_of_sources(protos: Path, tmp_path: Path, plain: bool) -> None:
    descriptors = tmp_path / "contracts.binpb"
    descriptors.write_bytes(compiled(protos, plain=plain))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--descriptor_set_in={descriptors}"]
    command += [f"--python_out={tmp_path}", "tinylibrary/v1/commands.proto", contracts.ERROR_DETAILS_FILE]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert (tmp_path / "tinylibrary/v1/commands_pb2.py").is_file()


FIELD = "string registration_source = 7"
SOURCE = f"  // The source of the registration. Empty: not given.\n  {FIELD};\n"
CHANGES = {
    "a field that is gone": (SOURCE, "", "registration_source"),
    "a field of another type": (FIELD, "int64 registration_source = 7", "changed type"),
    "a field of another number": (FIELD, "string registration_source = 70", "UserRegistered"),
    "an event that is gone": ("message UserRegistered {", "message UserSignedUp {", "UserRegistered"),
    "a field more": (
        SOURCE,
        f"{SOURCE}  // The source of the referral. Empty: not given.\n  string referrer = 70;\n",
        "",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_change_that_breaks_readers_of_the_last_release_is_refused(tmp_path: Path, what: str) -> None:
    """By `make contracts`, in a repository of its own that has a release."""
    root, programs = Path(__file__).resolve().parents[3], Path(sys.executable).parent
    if not (programs / "buf").exists() or shutil.which("make") is None:
        pytest.skip("buf or make is not installed.")
    (tmp_path / "diptych/contract").mkdir(parents=True)
    for name in ("Makefile", "buf.yaml", "diptych/contract/generate.py"):
        shutil.copy(root / name, tmp_path / name)
    shutil.copytree(root / "protos", tmp_path / "protos")
    git = ["git", "-c", "user.name=A Tester", "-c", "user.email=tester@example.com"]
    for step in (["init", "--quiet"], ["add", "protos"], ["commit", "--quiet", "--message=Release"], ["tag", "v1.0.0"]):
        subprocess.run([*git, *step], cwd=tmp_path, check=True)

    before, after, named = CHANGES[what]
    contract = tmp_path / "protos/shop/v1/user_events.proto"
    assert contract.read_text().count(before) == 1
    contract.write_text(contract.read_text().replace(before, after))
    # All is installed here, and what is generated is not looked at.
    (tmp_path / "generated").touch()
    make = ["make", "contracts", f"BIN={programs}", "GENERATED=generated", "--old-file=generated"]
    done = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert "Comparing the contracts with those of v1.0.0." in done.stdout, done.stdout + done.stderr
    assert done.returncode == (2 if named else 0), done.stdout + done.stderr
    assert named in done.stdout


@pytest.mark.parametrize("plain", [False, True])
def test_buf_reads_the_set_as_an_image(protos: Path, tmp_path: Path, plain: bool) -> None:
    buf = Path(sys.executable).with_name("buf")
    if not buf.exists():
        pytest.skip("buf is not installed beside this Python.")
    descriptors = tmp_path / "contracts.binpb"
    descriptors.write_bytes(compiled(protos, plain=plain))
    done = subprocess.run([buf, "build", descriptors, "--output", tmp_path / "image.binpb"], check=False)
    assert done.returncode == 0
