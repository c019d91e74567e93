"""Items by their pixels, as they are written, changed and deleted."""

from anchorage.items import Item
from anchorage.serving.copies import Copies


def test_items_with_the_same_pixels():
    copies = Copies()
    copies.apply([Item("a", pixels="p"), Item("b", pixels="p"), Item("c"), Item("d", pixels="q")])
    assert copies.ids("p") == ["a", "b"]
    assert copies.ids("q", ["base", "d"]) == ["base", "d"]
    assert copies.ids("") == []
    assert (copies.pixels("a"), copies.pixels("c"), copies.pixels("e")) == ("p", "", None)


def test_the_latest_state_counts():
    copies = Copies()
    copies.apply([Item("a", pixels="p"), Item("b", pixels="p")])
    copies.apply([Item("a", pixels="q"), Item("b", deleted=True), Item("base", pixels="q")])
    copies.apply([Item("a", pixels="q")])  # again, as for an index that was rebuilt
    assert copies.ids("p", ["base", "other"]) == ["other"]
    assert copies.ids("q") == ["a", "base"]
