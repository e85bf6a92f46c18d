"""Breaks manifests, one document or field at a time, to show that some rule sees it."""

from collections.abc import Iterator
from typing import Any, Final

from scripts.manifests.model import Document, title

# Kubernetes' own defaults: a field with this value may as well be away.
_DEFAULTS: Final = {
    "protocol": "TCP",
    "periodSeconds": 10,
    "failureThreshold": 3,
    "backoffLimit": 6,
    "kind": "ServiceAccount",
    "type": "ClusterIP",
}


def mutations(documents: list[Document], chosen: list[Document]) -> Iterator[tuple[Document, str]]:
    """Take away each chosen one, then break each of its fields; yield it with what is done to it.

    The documents themselves are changed, and are whole again when the next one is asked for.
    """
    for index, document in enumerate(list(documents)):
        if document not in chosen:
            continue
        del documents[index]
        yield document, f"{title(document)} taken away"
        documents.insert(index, document)
        for what in _mutate(document, title(document)):
            yield document, what


def _mutate(node: Any, path: str) -> Iterator[str]:
    """Break a container's entries, each by taking it away and by another value."""
    if isinstance(node, dict):
        for key, value in list(node.items()):
            place = f"{path} {key}" if " " not in path else f"{path}.{key}"
            if key not in _DEFAULTS or _DEFAULTS[key] != value:
                del node[key]
                yield f"{place} taken away"
                node[key] = value
            for other in _others(value):
                node[key] = other
                yield f"{place}: {value!r} -> {other!r}"
                node[key] = value
            yield from _mutate(value, place)
    elif isinstance(node, list):
        for index, value in enumerate(list(node)):
            place = f"{path}[{index}]"
            del node[index]
            yield f"{place} taken away"
            node.insert(index, value)
            for other in _others(value):
                node[index] = other
                yield f"{place}: {value!r} -> {other!r}"
                node[index] = value
            yield from _mutate(value, place)


def _others(value: Any) -> list[Any]:
    """Return a wrong value of the same type for one that is no container."""
    match value:
        case bool():
            return [not value]
        case int():
            return [0 if value else 1]
        case str():
            return ["broken"]
        case _:
            return []
