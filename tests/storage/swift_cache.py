"""A cache of Swift's proxy in its own memory: without one, each request asks anew who asks and whose bucket it is.

Operators give Swift a memcached, which tests have not. This has what the proxy asks of it; nothing grows old in it,
as a Swift of the tests does not either.
"""

from collections.abc import Callable
from typing import Any


class Cache:
    """The part of `swift.common.memcached.MemcacheRing` that the proxy's filters call."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def get(self, key: str, *_: Any, **__: Any) -> Any:
        return self._kept.get(key)

    def set(self, key: str, value: Any, *_: Any, **__: Any) -> None:
        self._kept[key] = value

    def delete(self, key: str, *_: Any, **__: Any) -> None:
        self._kept.pop(key, None)


def filter_factory(*_: Any, **__: Any) -> Callable[[Callable], Callable]:
    """What `paste.filter_factory` asks for: a filter that puts the cache where Swift looks for it."""
    cache = Cache()

    def with_cache(app: Callable) -> Callable:
        def answer(environ: dict[str, Any], start_response: Callable) -> Any:
            environ["swift.cache"] = cache
            return app(environ, start_response)

        return answer

    return with_cache
