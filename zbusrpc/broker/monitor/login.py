"""Login: a page shows a token once, and the browser keeps it in a cookie that no script can read.

Pure.
"""

import re
from http import HTTPStatus
from typing import Any, Final

import orjson

from zbusrpc.broker.access import ALL, Access, Operation, Rights
from zbusrpc.broker.monitor.api import Asked
from zbusrpc.errors import Code, RpcError
from zbusrpc.transport.http import HttpResponse

_FORGET: Final = "token=; Max-Age=0"
_IN_COOKIE: Final = re.compile(r"[!#-+\--:<-\[\]-~]+")
"""What may stand in a cookie (RFC 6265, 4.1.1)."""


def answer(asked: Asked, access: Access | None, *, is_login: bool, is_secure: bool) -> tuple[HttpResponse, str]:
    """Return the answer to a login or logout, and the token that holds from now on.

    Args:
        is_secure: Whether the cookie is for TLS alone.

    Raises:
        RpcError: UNAUTHENTICATED: the token is unknown; INVALID_ARGUMENT.
    """
    token, rights = "", access.anonymous if access is not None else None
    if is_login:
        token = asked.body.get("token", "")
        if not isinstance(token, str) or not _IN_COOKIE.fullmatch(token):
            raise RpcError(Code.INVALID_ARGUMENT, 'write {"token": "..."}, of letters without blanks and ; , " \\')
        rights = access.rights_of(token) if access is not None else None
        if access is not None and rights is None:
            raise RpcError(Code.UNAUTHENTICATED, "this broker does not know the token")
    cookie = f"token={token}" if is_login else _FORGET
    cookie += "; Path=/; HttpOnly; SameSite=Strict" + ("; Secure" if is_secure else "")
    body = orjson.dumps({"result": rights_row(rights, access)})
    headers = {"Set-Cookie": cookie, "Cache-Control": "no-store"}
    return HttpResponse(status=HTTPStatus.OK, body=body, headers=headers), token


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
