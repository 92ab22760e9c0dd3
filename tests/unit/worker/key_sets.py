"""JWKs of freshly made keys, as an identity provider publishes them."""

import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

RSA = rsa.generate_private_key(65_537, 2_048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    """The public JWK of a private key, or the private one with `private=True`; a member of None is left out."""
    shown = key if members.pop("private", False) else key.public_key()
    if isinstance(key, rsa.RSAPrivateKey):
        text = RSAAlgorithm.to_jwk(shown)
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        text = ECAlgorithm.to_jwk(shown)
    else:
        text = OKPAlgorithm.to_jwk(shown)
    values: dict[str, Any] = json.loads(text)
    values.pop("key_ops", None)
    return {name: value for name, value in (values | members).items() if value is not None}


def key_set(*jwks: Any) -> bytes:
    return json.dumps({"keys": list(jwks)}).encode()
