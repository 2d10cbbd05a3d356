"""Own headers: which headers of a message are its application's, and go to its consumers as headers of an answer.

A consumer's answer is one of HTTP, and between broker and consumer there may be a proxy, a cache or a browser. What any
of them acts on is the broker's to say, or nobody's: a producer must not set cookies for the broker's site, redirect,
have nginx send a file (`x-accel-redirect`), or have a cache keep what is one consumer's. So what HTTP acts on is left
out, by its registry of names and by the families that proxies, clouds and page libraries have made; of what describes
the body, DESCRIBING goes along. Other names mean something to applications only.

Pure.
"""

from functools import lru_cache
from typing import Final

DESCRIBING: Final = frozenset({"content-type", "content-encoding", "content-language"})
"""What the body is: without it nobody could read it."""
_ACTED_ON: Final = frozenset({
    "accept", "activate-storage-access", "age", "allow", "alt-svc", "alt-used", "attribution-reporting-eligible",
    "authorization", "available-dictionary", "cache-control", "cache-status", "clear-site-data", "close",
    "connection", "cookie", "cookie2", "critical-ch", "date", "document-policy", "dpop", "dpop-nonce", "early-data",
    "etag", "expect", "expect-ct", "expires", "feature-policy", "forwarded", "host", "http2-settings", "keep-alive",
    "last-event-id", "last-modified", "link", "link-template", "location", "max-forwards", "memento-datetime",
    "negotiate", "nel", "observe-browsing-topics", "origin", "origin-agent-cluster", "p3p", "permissions-policy",
    "pingback", "pragma", "prefer", "preference-applied", "priority", "public-key-pins",
    "public-key-pins-report-only", "range", "referer", "referrer-policy", "refresh", "replay-nonce", "report-to",
    "reporting-endpoints", "retry-after", "server", "server-timing", "service-worker-allowed",
    "service-worker-navigation-preload", "set-cookie", "set-cookie2", "set-login", "sourcemap", "speculation-rules",
    "status", "strict-transport-security", "supports-loading-mode", "tcn", "te", "timing-allow-origin", "tk",
    "traffic-advice", "trailer", "transfer-encoding", "upgrade", "upgrade-insecure-requests", "use-as-dictionary",
    "user-agent", "variant-vary", "vary", "via", "warning", "www-authenticate",
})  # fmt: skip
"""Of the registry of HTTP fields (IANA), and of what browsers have besides."""
_FAMILIES: Final = (
    "accept-", "access-control-", "authentication-", "cdn-", "cf-", "content-", "cross-origin-", "document-isolation-",
    "fastly-", "grpc-", "hx-", "if-", "no-vary-", "optional-www-", "proxy-", "require-document-", "sec-", "surrogate-",
    "turbo-", "turbolinks-", "x-accel-", "x-amz-", "x-cache", "x-cdn-", "x-content-", "x-csp", "x-dns-", "x-download-",
    "x-envoy-", "x-forwarded-", "x-frame-", "x-goog-", "x-http-method", "x-internal-redirect", "x-litespeed-",
    "x-lighttpd-", "x-middleware-", "x-ms-", "x-nextjs-", "x-original-", "x-permitted-", "x-pingback", "x-real-ip",
    "x-redirect", "x-reproxy-", "x-rewrite-", "x-robots-", "x-send", "x-sourcemap", "x-ua-", "x-up-", "x-varnish",
    "x-vercel-", "x-webkit-", "x-xss-", "x-inertia",
)  # fmt: skip
"""Beginnings of names: what follows is acted on as well."""


@lru_cache(maxsize=1024)
def is_own(name: str) -> bool:
    """Say whether a header, by its name in any case, is the application's, or describes the body."""
    name = name.lower()
    if name in DESCRIBING:
        return True
    return name not in _ACTED_ON and not name.startswith(_FAMILIES)
