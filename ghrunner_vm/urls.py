"""URLs of servers, checked before a secret is sent to them."""

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit


def server_url(text: str) -> str:
    """A server's URL without a trailing slash. Raises ValueError when it is no plain http or https URL."""
    parts = _split(text)
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold a user name or a password")
    return text.rstrip("/")


def api_url(text: str) -> str:
    """The URL of GitHub's API. Plain http is for loopback only, since each request carries a secret."""
    url = server_url(text)
    parts = _split(url)
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ValueError("must begin with https:// (http:// is for loopback addresses only)")
    return url


def _split(text: str) -> SplitResult:
    wrong = ValueError("must be a URL such as https://host or https://host/path")
    if any(character <= " " for character in text):
        raise wrong
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 reading it checks it
    except ValueError:
        raise wrong from None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise wrong
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
