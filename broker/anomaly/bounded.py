"""Memory with a bound: what was used last stays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """A mapping that forgets what was not used for longest. Equal calls in equal order leave equal contents."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: K) -> bool:
        return key in self._held

    def __iter__(self) -> Iterator[K]:
        return iter(self._held)

    def items(self) -> Iterator[tuple[K, V]]:
        """Oldest use first."""
        return iter(self._held.items())

    def values(self) -> Iterator[V]:
        """Oldest use first."""
        return iter(self._held.values())

    def get(self, key: K) -> V | None:
        """What is held, without counting as a use."""
        return self._held.get(key)

    def put(self, key: K, value: V) -> None:
        """Hold it as the newest; the oldest goes when there is no room."""
        held = self._held
        held[key] = value
        held.move_to_end(key)
        if len(held) > self._most:
            held.popitem(last=False)

    def use(self, key: K, make: Callable[[], V]) -> V:
        """What is held, or what `make` gives; the newest from now on."""
        held = self._held.get(key)
        if held is not None:
            self._held.move_to_end(key)
            return held
        value = make()
        self.put(key, value)
        return value

    def drop(self, key: K) -> None:
        """Forget it, if it is held."""
        self._held.pop(key, None)


class Said:
    """What was found before, so that one cause makes one finding. Forgets the oldest: a finding may then come again."""

    def __init__(self, most: int) -> None:
        self._keys: Recent[tuple[str, ...], bool] = Recent(most)

    def __len__(self) -> int:
        return len(self._keys)

    def first_time(self, *key: str) -> bool:
        """Whether this was not said yet; it is from now on."""
        new = key not in self._keys
        self._keys.put(key, True)  # noqa: FBT003 - a set, held as a mapping
        return new
