"""A photo that is asked again and again, with what engines have made of it."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

from skufp_pipeline.query.regions import RegionChoice

KEPT = 8  # regions of a photo and an engine
MOST_BYTES = 2**17  # of them together, as a rule


class SeenPhoto:
    """The content of a photo and its embedded views, by engine and region; thread-safe.

    The views of an engine end with it; of more than `KEPT` regions the one asked longest ago goes.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content
        self._views: WeakKeyDictionary[Any, OrderedDict[RegionChoice, Sequence[Any]]] = WeakKeyDictionary()
        self._lock = Lock()

    def kept(self, engine: Any, region: RegionChoice) -> Sequence[Any] | None:
        """The views of a region that an engine has embedded; None if they are not kept."""
        with self._lock:
            views = self._views.get(engine, OrderedDict())
            if region in views:
                views.move_to_end(region)
            return views.get(region)

    def seen(self, engine: Any, region: RegionChoice, embed: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        """The kept views of a region, or those that `embed` makes, which are kept."""
        found = self.kept(engine, region)
        if found is not None:
            return found
        found = embed()
        with self._lock:
            views = self._views.setdefault(engine, OrderedDict())
            views[region] = found
            while len(views) > KEPT:
                views.popitem(last=False)
        return found
