"""Login: a page shows a token once, and the browser keeps a cookie that no script can read: see `access/logins.py`.

Pure.
"""

from http import HTTPStatus
from typing import Any, Final

import orjson

from zbusrpc.broker.access.rights import ALL, Access, Operation, Rights
from zbusrpc.broker.monitor.asked import Asked
from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.http import HttpResponse

TOKEN_CHARACTERS_MAX: Final = 1024


def token_in(asked: Asked, access: Access | None) -> tuple[str, Rights | None]:
    """Return the token that a login shows, and its rights; None where the broker has no tokens.

    Raises:
        RpcError: UNAUTHENTICATED: the token is unknown; INVALID_ARGUMENT.
    """
    token = asked.body.get("token", "")
    if not isinstance(token, str) or not token or len(token) > TOKEN_CHARACTERS_MAX:
        raise RpcError(Code.INVALID_ARGUMENT, 'write {"token": "..."}')
    rights = access.rights_of(token) if access is not None else None
    if access is not None and rights is None:
        raise RpcError(Code.UNAUTHENTICATED, "this broker does not know the token")
    return token, rights


def nobody(access: Access | None) -> Rights | None:
    """Return the rights of who is not logged in."""
    return access.anonymous if access is not None else None


def cookie(name: str, id_: str, *, is_secure: bool) -> str:
    """Return the cookie of a login, or what has a browser forget it where there is no id.

    Args:
        is_secure: Whether it is for TLS alone, that of the broker or of a proxy.
    """
    kept = f"{name}={id_}" if id_ else f"{name}=; Max-Age=0"
    return kept + "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if is_secure else "")


def answer(rights: Rights | None, access: Access | None, set_cookie: str = "") -> HttpResponse:
    """Return the answer to a login or logout."""
    headers = {"Cache-Control": "no-store"} | ({"Set-Cookie": set_cookie} if set_cookie else {})
    return HttpResponse(
        status=HTTPStatus.OK, body=orjson.dumps({"result": rights_row(rights, access)}), headers=headers
    )


def rights_row(rights: Rights | None, access: Access | None) -> dict[str, Any]:
    """Return what somebody may do: `rules` exactly, the rest all of them together."""
    rules = [(rule.operations, rule.topics, rule.groups) for rule in rights.rules] if rights is not None else []
    if rights is None:
        rules = [(frozenset({Operation.ADMIN}), (ALL,), (ALL,))]
    everything = {Operation.ADMIN: (frozenset(Operation), (ALL,), (ALL,))}
    rules = [everything[Operation.ADMIN] if Operation.ADMIN in rule[0] else rule for rule in rules]
    return {
        "name": rights.name if rights is not None else "",
        "has_tokens": access is not None,
        "is_anonymous": rights is None or not rights.digest,
        "operations": sorted({str(one) for operations, _, _ in rules for one in operations}),
        "topics": sorted({topic for _, topics, _ in rules for topic in topics}),
        "rules": [
            {"operations": sorted(map(str, operations)), "topics": list(topics), "groups": list(groups)}
            for operations, topics, groups in rules
        ],
    }
