"""`diptych call`: any rpc with JSON, from the command line."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from tests.support.pair import Pair
from tests.support.programs import ROOT

REGISTER = "shop.v1.CommandService/RegisterUser"
GET_USER = "shop.v1.QueryService/GetUser"


async def call(pair: Pair, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `diptych call` to its end."""
    servers = {"--commands": pair.command, "--query": pair.query, "--projector": pair.projector}
    options = [f"{option}={server.address}" for option, server in servers.items()]
    command = [sys.executable, "-m", "diptych.cli", "call", *options, *arguments]
    return await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )


async def register(pair: Pair, user_id: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Register a user whose email follows from the id."""
    return await call(pair, REGISTER, json.dumps({"user_id": user_id, "email": f"{user_id}@example.com"}), *options)


async def test_call_writes_and_reads_with_the_token(shared_pair: Pair) -> None:
    written = await register(shared_pair, "zoe")
    assert written.returncode == 0, written.stderr
    token = json.loads(written.stdout)["result"]["token"]
    assert written.stderr == f"token: {token}\n"
    read = await call(shared_pair, GET_USER, '{"userId": "zoe"}', f"--token={token}")
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout)["email"] == "zoe@example.com"


async def test_call_with_a_request_id_takes_effect_once(shared_pair: Pair) -> None:
    first = await register(shared_pair, "once", "--request-id=once-1")
    second = await register(shared_pair, "once", "--request-id=once-1")
    assert (first.returncode, second.returncode) == (0, 0), second.stderr
    assert json.loads(second.stdout)["result"].pop("duplicate") is True


async def test_call_prints_reason_sentence_and_metadata_of_a_refusal(shared_pair: Pair) -> None:
    await register(shared_pair, "taken")
    refused = await register(shared_pair, "taken")
    assert (refused.returncode, refused.stdout) == (1, "")
    first, *rest = refused.stderr.splitlines()
    assert first == "ALREADY_EXISTS USER_EXISTS: User taken is registered already."
    assert "  user_id: taken" in rest


async def test_call_prints_violations(shared_pair: Pair) -> None:
    refused = await call(shared_pair, REGISTER, '{"user_id": "bad", "email": "bad"}')
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("INVALID_ARGUMENT INVALID_REQUEST: ")
    assert "  violation of email: must be a valid email address" in refused.stderr


async def test_call_names_similar_services_and_methods(shared_pair: Pair) -> None:
    method = await call(shared_pair, "shop.v1.CommandService/RegisterUsers")
    assert (method.returncode, "Did you mean RegisterUser?" in method.stderr) == (2, True)
    service = await call(shared_pair, "shop.v1.ComandService/RegisterUser")
    assert (service.returncode, "Did you mean shop.v1.CommandService?" in service.stderr) == (2, True)


async def test_call_refuses_a_malformed_request(shared_pair: Pair) -> None:
    for text in ("{", '{"usr": 1}', "[]", "7"):
        malformed = await call(shared_pair, REGISTER, text)
        assert (malformed.returncode, "Traceback" in malformed.stderr) == (2, False), malformed.stderr
        assert malformed.stderr.startswith("diptych call: ")


async def test_call_finds_the_server_of_each_service(shared_pair: Pair) -> None:
    for service in ("ReadModelService/GetStatus", "ProjectionService/ListProjections", "ProcessService/ListProcesses"):
        done = await call(shared_pair, f"diptych.v1.{service}")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)


async def test_call_streams_requests_and_answers_with_messages_in_any(shared_pair: Pair) -> None:
    command = {"@type": "type.googleapis.com/shop.v1.RegisterUserRequest", "userId": "any", "email": "any@example.com"}
    requests = json.dumps([{"commands": [{"command": command}]}, {"commands": [{"command": command}]}])
    done = await call(shared_pair, "diptych.v1.CommandStreamService/Execute", requests)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"outcomes"') == 2
    assert "USER_EXISTS" in done.stdout
    events = await call(shared_pair, "diptych.v1.EventService/ReadStream", '{"aggregate":{"type":"user","id":"any"}}')
    assert json.loads(events.stdout)["events"][0]["event"]["email"] == "any@example.com"


async def test_call_names_a_server_that_does_not_answer(shared_pair: Pair) -> None:
    done = await call(shared_pair, GET_USER, "--address=127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("The server at 127.0.0.1:1 did not answer: UNAVAILABLE")
