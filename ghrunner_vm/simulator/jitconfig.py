"""The just-in-time configuration of one runner, in the form and size in which GitHub sends it."""

import base64
import json
from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric import rsa

from ghrunner_vm.simulator.model import Runner


def encode(runner: Runner, service_url: str, work_folder: str, key: rsa.RSAPrivateKey) -> str:
    """`encoded_jit_config`: base64 of a JSON object that maps file names to base64 of their content.

    The listener finds the service at `service_url` and shows `runner.bearer`, the credentials' clientId.
    """
    files = {
        ".runner": _settings(runner, service_url, work_folder),
        ".credentials": _credentials(runner, service_url),
        ".credentials_rsaparams": _rsa_parameters(key),
    }
    return _base64(_json({name: _base64(_json(content)) for name, content in files.items()}))


def _settings(runner: Runner, service_url: str, work_folder: str) -> dict[str, object]:
    return {
        "AgentId": str(runner.id),
        "AgentName": runner.name,
        "DisableUpdate": "True",
        "Ephemeral": "True",
        "GitHubUrl": "",
        "PoolId": str(runner.group_id),
        "PoolName": None,
        "ServerUrl": service_url,
        "ServerUrlV2": service_url,
        "SkipSessionRecover": "True",
        "UseRunnerAdminFlow": "True",
        "UseV2Flow": "True",
        "WorkFolder": work_folder,
        "MonitorSocketAddress": "",
        "IsHostedServer": "True",
    }


def _credentials(runner: Runner, service_url: str) -> dict[str, object]:
    data = {
        "clientId": runner.bearer,
        "authorizationUrl": f"{service_url}/_apis/oauth2/token/{runner.bearer}",
        "requireFipsCryptography": "True",
        "enableAuthMigrationByDefault": "False",
    }
    return {"Scheme": "OAuth", "Data": data}


def _rsa_parameters(key: rsa.RSAPrivateKey) -> dict[str, object]:
    private = key.private_numbers()
    size = key.key_size // 8
    return {
        "d": _integer(private.d, size),
        "dp": _integer(private.dmp1, size // 2),
        "dq": _integer(private.dmq1, size // 2),
        "exponent": _integer(private.public_numbers.e, 3),
        "inverseQ": _integer(private.iqmp, size // 2),
        "modulus": _integer(private.public_numbers.n, size),
        "p": _integer(private.p, size // 2),
        "q": _integer(private.q, size // 2),
    }


def _integer(value: int, size: int) -> str:
    return _base64(value.to_bytes(size, "big"))


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
