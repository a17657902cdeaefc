"""Show a table with a caption, so that the supplement numbers it and the prose can refer to it."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from pandas.io.formats.style import Styler


def show_table(table: pd.DataFrame | Styler, name: str, caption: str) -> None:
    """Display a table with its caption.

    Args:
        table: a data frame, or a styled one.
        name: lower-case letters, digits and hyphens; `[Table](#table-name)` refers to it.
        caption: what is shown; `$…$` is a formula.

    Raises:
        ValueError: `name` has another form, or `caption` is empty.
        TypeError: `table` is neither a data frame nor a styled one.

    >>> import nbutils as nb, pandas as pd
    >>> nb.show_table(pd.DataFrame({"r": [0.5]}), "correlations", "Correlation by seed.")  # doctest: +SKIP
    """
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name):
        raise ValueError(f"a table's name takes lower-case letters, digits and hyphens, got {name!r}")
    caption = " ".join(caption.split())
    if not caption:
        raise ValueError(f"table {name!r} needs a caption that says what it shows")
    import pandas as pd
    from IPython.display import display

    with pd.option_context("display.max_colwidth", None, "display.max_rows", None):  # all that the caption promises
        try:
            markup: str = table._repr_html_()
        except AttributeError:
            raise TypeError(f"expected a data frame or a styled one, got {type(table).__name__}") from None
        plain = f"{caption}\n{table!r}"

    text = f'<caption id="table-{name}">{html.escape(caption)}</caption>'
    bundle = {"text/html": re.sub(r"<table\b[^>]*>", lambda tag: tag[0] + text, markup, count=1), "text/plain": plain}
    display(bundle, raw=True)
