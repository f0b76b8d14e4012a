"""Tables in HTML for notebooks, with escaped content, and in Markdown for pages."""

import re
from collections.abc import Callable, Iterable, Mapping
from html import escape


def table_html(title: str, rows: Mapping[str, object]) -> str:
    """Return a table of names and values with a title in HTML.

    Example:
        >>> "<b>" in table_html("<b>", {"x": 1})
        False
    """
    cells = "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in rows.items()
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{cells}</tbody></table>"


def table_markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a table in Markdown, without a final line break.

    Example:
        >>> print(table_markdown(["a", "b"], [["1", "2"]]))
        | a | b |
        | --- | --- |
        | 1 | 2 |
    """
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def fill(page: str, texts: Mapping[str, Callable[[], str]]) -> str:
    r"""Return a page with new texts between the comments that name them.

    Args:
        page: Markdown, in which the comments ``<!-- NAME -->`` and ``<!-- end -->`` enclose a text.
        texts: the functions that make the texts, by name. Other comments keep their texts.

    Example:
        >>> print(fill("<!-- x -->\nold\n<!-- end -->", {"x": lambda: "new"}))
        <!-- x -->
        new
        <!-- end -->
    """
    names = "|".join(map(re.escape, texts))
    block = re.compile(rf"(<!-- ({names}) -->\n).*?(\n<!-- end -->)", re.DOTALL)
    return block.sub(lambda found: found[1] + texts[found[2]]().strip() + found[3], page)
