"""Signs for a GitHub App, as a program of its own: the key and the claims on standard input, the token on its output.

The libraries that this takes weigh more than the rest of a run, which signs once an hour. So they live in a process
that is over in a moment, and so does the key in its usable form.
"""

import json
import sys
from typing import TextIO

import jwt
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

BAD_KEY = 3
"""Exit code: the key is not one to sign with."""


def main(given: TextIO, told: TextIO) -> int:
    """`{"key": PEM, "claims": {…}}` in, a JSON Web Token signed with RS256 out; nothing for nothing."""
    asked = given.read()
    if not asked:
        return 0
    order = json.loads(asked)
    try:
        # Whether its numbers belong together takes long to tell, and GitHub will: no stranger gave us this key.
        key = load_pem_private_key(order["key"].encode(), password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError):
        return BAD_KEY
    if not isinstance(key, RSAPrivateKey):
        return BAD_KEY
    told.write(jwt.encode(order["claims"], key, algorithm="RS256"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.stdin, sys.stdout))
