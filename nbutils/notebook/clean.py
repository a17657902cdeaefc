"""What of a stranger's HTML and figures may be on a page: what is listed here, and nothing else.

A list of what is allowed does not have to know how the next browser runs a script. Text is kept where its element goes,
except that of elements whose text no reader sees. A content security policy says the same to the browser.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from bs4 import BeautifulSoup, Tag
from bs4.element import PreformattedString

_TEXT = (
    "a abbr b blockquote br caption cite code col colgroup dd del details dfn div dl dt em figcaption figure h1 h2 h3"
    " h4 h5 h6 hr i img ins kbd li mark ol p pre q s samp small span strong style sub summary sup table tbody td tfoot"
    " th thead tr u ul var"
)
_MATH = (
    "math mfrac mi mn mo mover mpadded mphantom mroot mrow mspace msqrt mstyle msub msubsup msup mtable mtd mtext mtr"
    " munder munderover"
)
_DRAWING = "svg circle defs ellipse g line lineargradient marker path polygon polyline radialgradient rect stop text"
_DRAWING += " tspan clippath"
# Whose text is no text, or is another one for another parser.
_DROPPED = [
    *("script", "link", "iframe", "object", "embed", "base", "meta", "form", "applet", "audio", "video", "canvas"),
    *("frameset", "head", "noembed", "noframes", "noscript", "option", "template", "textarea", "title", "xmp"),
    *("annotation", "annotation-xml", "animate", "desc", "foreignobject", "metadata", "set", "use"),
]

_CELL = "colspan rowspan scope align valign halign"
_OWN = {"a": "href", "img": "src alt width", "details": "open", "ol": "start type reversed", "table": "border"}
_OWN |= {"col": "span", "td": _CELL, "th": _CELL}
_ON_ALL = "id class style title lang dir aria-hidden aria-label"
_ON_MATH = (
    "accent accentunder alttext columnalign columnlines columnspacing depth display displaystyle fence form frame"
    " height largeop linethickness lspace mathbackground mathcolor mathsize mathvariant maxsize minsize movablelimits"
    " notation rowalign rowlines rowspacing rspace scriptlevel separator stretchy symmetric voffset width xmlns"
)
_ON_DRAWING = (
    "clip-path clip-rule color cx cy d dominant-baseline dx dy fill fill-opacity fill-rule font-family font-size"
    " font-style font-weight fx fy gradienttransform gradientunits height marker-end marker-mid marker-start"
    " markerheight markerunits markerwidth offset opacity orient points preserveaspectratio r refx refy rx ry"
    " stop-color stop-opacity stroke stroke-dasharray stroke-dashoffset stroke-linecap stroke-linejoin"
    " stroke-miterlimit stroke-opacity stroke-width text-anchor transform version viewbox width x x1 x2 y y1 y2"
)
_EVERYWHERE, _DRAWN = frozenset(_ON_ALL.split()), frozenset(_DRAWING.split())
_ALLOWED = {name: _EVERYWHERE.union(_OWN.get(name, "").split()) for name in _TEXT.split()}
_ALLOWED |= dict.fromkeys(_MATH.split(), _EVERYWHERE.union(_ON_MATH.split()))
_ALLOWED |= dict.fromkeys(_DRAWN, _EVERYWHERE.union(_ON_DRAWING.split()))

# Names that pandas, Pygments and this project give; others could borrow a look or a script from the page.
_CLASS = re.compile(
    r"[a-z]{1,2}\d?|(?:row|col|level)\d+|(?:row|col)_heading|highlight|dataframe|figure-(?:description|caption)|data|blank|"
    r"index_name|cards|math|inline|display|language-[\w+-]+"
)
_ANY = re.compile("(?s:.*)")
_VALUES = dict.fromkeys(["colspan", "rowspan", "span", "start"], re.compile(r"\d{1,4}"))
_VALUES["id"] = re.compile(r"(?!(?:content|dark-theme)$)[\w.:·-]+")  # not those of the page
_PROPERTY = re.compile(
    r"background(?:-color)?|border(?:-[a-z-]+)?|caption-side|color|display|float|font(?:-[a-z-]+)?|height|line-height|"
    r"(?:max|min)-(?:width|height)|(?:margin|padding)(?:-[a-z]+)?|opacity|overflow(?:-[xy])?|text-[a-z-]+|"
    r"vertical-align|visibility|white-space|width|fill(?:-opacity)?|stroke(?:-[a-z]+)?"
)
_COLOUR = re.compile(r"\b(?:rgb|hsl)a?\([\d\s.,%/]*\)")
_UNPLAIN = re.compile(r"[\\@<>(){}\"]|//|/\*")
_SELECTOR = re.compile(r"#([\w-]+)(?:[\w\s.#:>()-]*)")
_REFERENCE = re.compile(r"\burl\(#[\w-]+\)")


def parsed(html: str) -> BeautifulSoup:
    """Return a fragment of HTML as a tree, in a time that grows with its length.

    For every tag or comment that does not end the parser would read on to the last character.
    """
    for start, end in (("<!--", "-->"), ("<", ">")):
        closed = html.rfind(end) + 1
        html = html[:closed] + html[closed:].replace(start, start.replace("<", "&lt;"))
    return BeautifulSoup(html, "html.parser")


def clean(soup: BeautifulSoup) -> None:
    """Take out all that is not allowed: elements, attributes, styles, comments and their kin.

    Addresses are left to whoever knows which are meant: those of `<a href>` and `<img src>`.
    """
    for node in soup.find_all(string=lambda text: isinstance(text, PreformattedString)):
        node.extract()
    for tag in soup.find_all(_DROPPED):
        tag.decompose()
    identifiers = {str(tag["id"]) for tag in soup.find_all(id=True)}
    for tag in soup.find_all(True):
        if tag.name not in _ALLOWED:
            tag.unwrap()
        elif tag.name == "style":
            _sheet(tag, identifiers)
        else:
            _attributes(tag)


def _attributes(tag: Tag) -> None:
    for name, value in list(tag.attrs.items()):
        text = " ".join(value) if isinstance(value, list) else str(value)
        if name == "class":
            text = " ".join(part for part in text.split() if _CLASS.fullmatch(part))
        elif name == "style":
            text = style(text)
        elif name not in _ALLOWED[tag.name] or not _VALUES.get(name, _ANY).fullmatch(text):
            del tag[name]
            continue
        elif tag.name in _DRAWN and name not in _EVERYWHERE and re.search(r"[\\:]|//|url", _REFERENCE.sub("", text)):
            text = ""
        if text or name in ("alt", "open", "reversed"):
            tag[name] = text
        else:
            del tag[name]


def style(declarations: str) -> str:
    """Return the declarations of plain properties: colours, sizes, fonts; nothing that loads or leaves its place."""
    kept = [part for part in declarations.split(";") if not part.strip() or _is_plain(part)]
    return ";".join(kept) if any(part.strip() for part in kept) else ""


def _is_plain(declaration: str) -> bool:
    name, colon, value = declaration.partition(":")
    known = _PROPERTY.fullmatch(name.strip().lower())
    return bool(colon and known) and not _UNPLAIN.search(_COLOUR.sub("", value))


def _sheet(tag: Tag, identifiers: Iterable[str]) -> None:
    """Keep the rules of a style sheet that are for elements of the same output, named by their identifiers."""
    rules = []
    for block in tag.get_text().split("}") if "scoped" not in tag.attrs else ():  # pandas; no browser honours it
        selectors, brace, declarations = block.partition("{")
        found = [_SELECTOR.fullmatch(selector.strip()) for selector in selectors.split(",")]
        if brace and all(match and match[1] in identifiers for match in found) and (kept := style(declarations)):
            rules.append(f"{selectors.strip()} {{ {kept.strip()} }}")
    if rules:
        tag.attrs, tag.string = {}, "\n".join(rules)
    else:
        tag.decompose()


def scheme(address: str) -> str:
    """Return the scheme of an address as a browser reads it, `"//"` for another machine's, empty for a relative one."""
    text = re.sub(r"[\x00-\x20]", "", address).replace("\\", "/").lower()
    if text.startswith("//"):
        return "//"
    path = re.split(r"[/?#]", text, maxsplit=1)[0]
    return path.split(":")[0] if ":" in path else ""


_MAPS = {"choropleth", "choroplethmap", "choroplethmapbox", "densitymap", "densitymapbox"}
_MAPS |= {"scattergeo", "scattermap", "scattermapbox"}
# Of these plotly writes code for the graphics card, and compiles it.
_COMPILED = {"heatmapgl", "parcoords", "scattergl", "scatterpolargl", "splom"}


def _kinds(figure: object) -> set[str]:
    """Return the kinds of traces of a plotly figure, and of whatever else of it has a type."""
    if isinstance(figure, Mapping):
        found = {figure["type"]} if isinstance(figure.get("type"), str) else set()
        return found.union(*map(_kinds, figure.values()))
    return set().union(*map(_kinds, figure)) if isinstance(figure, list) else set()


def drawable(figure: object) -> bool:
    """Tell whether a plotly figure can be drawn from what it holds; a map fetches its coasts and tiles."""
    if not isinstance(figure, Mapping) or not isinstance(figure.get("layout", {}), Mapping):
        return False
    return isinstance(figure.get("data"), list) and not _kinds(figure["data"]) & _MAPS


def compiled(figure: Mapping[str, Any]) -> bool:
    """Tell whether plotly compiles code to draw a figure, which a content security policy must allow."""
    return bool(_kinds(figure["data"]) & _COMPILED)


def figure_parts(value: Any) -> Any:
    """Return a plotly figure, or a part of one, without the addresses of pictures."""
    if isinstance(value, Mapping):
        return {key: figure_parts(item) for key, item in value.items() if not _fetched(str(key), item)}
    return [figure_parts(item) for item in value] if isinstance(value, list) else value


def _fetched(key: str, value: object) -> bool:
    return key.endswith("source") and isinstance(value, str) and not value.startswith("data:image/")


def policy(scripts: Iterable[str], *, compiles: bool = False) -> str:
    """Return a content security policy for a page that holds everything and runs these scripts only.

    Args:
        scripts: what stands in the page's `<script>` elements, to the last byte.
        compiles: they make code of their own.
    """
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts]
    allowed = " ".join([*hashes, *(["'unsafe-eval'"] if compiles and hashes else [])]) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )
