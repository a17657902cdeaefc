"""What a browser would load for a page beyond the page itself: nothing, or the page is not written."""

from __future__ import annotations

import base64
import gzip
import re
from functools import cache

from bs4 import BeautifulSoup
from plotly.offline import get_plotlyjs

PACKED = "application/gzip"  # type of an element whose script no browser runs as it stands
_LOADING = {"src", "srcset", "poster", "background", "data", "action", "formaction", "manifest", "ping", "xlink:href"}
_POLICY = "content-security-policy"
_FETCHES = re.compile(r"\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|importScripts|\bimport\b|\.src\s*=")
_CSS_LOADS = re.compile(r"@import[^;]*|url\(\s*[\"']?(?!data:|#)[^)]*\)", re.IGNORECASE)


def external_references(html: str) -> list[str]:
    """Return what a browser would load for a page beyond the page itself; links to follow are not meant.

    Relative addresses count: a page must hold everything. A script counts if it could fetch, except plotly's
    own library (`packed`), which holds addresses of maps that no figure here asks for.
    """
    found: list[str] = []
    for tag in BeautifulSoup(html, "html.parser", multi_valued_attributes=None).find_all(True):
        for name, value in ((name, str(value).strip()) for name, value in tag.attrs.items()):
            loads = name in _LOADING or (name == "href" and tag.name not in ("a", "area"))
            if loads and value and not value.startswith(("data:", "#")):
                found.append(f'<{tag.name} {name}="{value[:80]}">')
            if name == "style":
                found += _CSS_LOADS.findall(value)
            if name.startswith("on"):
                found += _FETCHES.findall(value)
        if tag.name == "meta" and str(tag.get("http-equiv", _POLICY)).lower() != _POLICY:
            found.append("<meta http-equiv>")
        if tag.name == "style":
            found += _CSS_LOADS.findall(tag.get_text())
        if tag.name == "script" and tag.get("type") == PACKED:
            found += [] if tag.get_text() == packed(get_plotlyjs()) else ["a packed script that is not plotly's"]
        elif tag.name == "script" and tag.get("type") != "application/json":
            found += [f"script with {name}" for name in _FETCHES.findall(tag.get_text())]
    return found


@cache
def packed(script: str) -> str:
    """Return a script as base64 of gzip, two fifths of its size, which the page unpacks."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()
