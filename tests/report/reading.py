"""The page as a strict reader takes it: every tag closed, every id once, nothing fetched."""

from __future__ import annotations

from html.parser import HTMLParser

_VOID = {"meta", "input", "br", "link", "img"}
_INLINE = {"code", "bdi", "span"}
_FETCHING = {"src", "srcset", "data", "poster", "action", "formaction", "background", "ping"}


class Page(HTMLParser):
    """Text, elements and faults of a page."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._stack: list[str] = []
        self._ids: set[str] = set()
        self._texts: list[str] = []
        self.feed(source)
        self.close()
        self.faults += [f"<{tag}> is never closed" for tag in self._stack]

    @property
    def text(self) -> str:
        """What is read, white space folded, without script and style."""
        return " ".join("".join(self._texts).split())

    def all(self, tag: str, class_: str = "") -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and (not class_ or class_ in (attributes.get("class") or "").split())
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if len(attributes) != len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        for name, value in attrs:
            if name in _FETCHING or (name == "href" and not (value or "").startswith("#")):
                self.faults.append(f"<{tag} {name}={value!r}> asks for something else")
            if name.startswith("on"):
                self.faults.append(f"<{tag}> carries code in {name}")
        identity = attributes.get("id")
        if identity:
            if identity in self._ids:
                self.faults.append(f"id {identity!r} is used twice")
            self._ids.add(identity)
        if tag in ("link", "iframe", "object", "embed", "base", "img"):
            self.faults.append(f"<{tag}> has no place in a single file")
        self.elements.append((tag, attributes))
        if tag not in _INLINE:
            self._texts.append(" ")
        if tag not in _VOID:
            self._stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._stack or self._stack.pop() != tag:
            self.faults.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        if not self._stack or self._stack[-1] not in ("script", "style"):
            self._texts.append(data)
