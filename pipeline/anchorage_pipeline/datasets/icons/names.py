"""Map icon names to concepts with hand-made tables."""

import re
from importlib import resources

_SUFFIXES = {  # style and size, per family
    "phosphor": r"-(thin|light|bold|fill|duotone)$",
    "fluent": r"(-\d+)?-(regular|filled)$",
    "mdi": r"-outline$",
    "bootstrap": r"-fill$",
    "iconoir": r"-solid$",
    "ionicons": r"-(outline|strong)$",
    "eva": r"-outline$",
    "remix": r"-(fill|line)$",
    "octicons": r"-fill$",
}
_PREFIXES = {
    "fluent": r"^ic-fluent-",
    "ionicons": r"^(ion-)?((ios|md|android)-)?",
    "eva": r"^eva-",
    "remix": r"^ri-",
    "weather": r"^wi-",
}


class ConceptNames:
    """Maps icon names to concepts with the tables `aliases.txt`, `misleading.txt` and `excluded.txt`.

    Example:
        >>> names = ConceptNames()
        >>> names.concept("ionicons", "ion-md-trash"), names.concept("mdi", "delete-outline")
        ('trash', 'trash')
        >>> names.concept("lucide", "bolt") is None  # Lucide's bolt is a hex nut
        True
    """

    def __init__(self) -> None:
        self._everywhere: dict[str, str] = {}
        self._in_family: dict[tuple[str, str], str] = {}
        for line in _lines("aliases.txt"):
            concept, others = line.split(":", 1)
            for other in others.split():
                if ":" in other:
                    family, name = other.split(":")
                    self._in_family[family, name] = concept
                else:
                    self._everywhere[other] = concept
        self._misleading = {tuple(word.split(":")) for line in _lines("misleading.txt") for word in line.split()}
        self._excluded = {word for line in _lines("excluded.txt") for word in line.split()}

    def concept(self, family: str, name: str) -> str | None:
        """The concept of an icon, or None if it is excluded."""
        plain = name.lower().replace("_", "-").replace(" ", "-")
        plain = re.sub(_PREFIXES.get(family, "^"), "", plain)
        plain = re.sub(_SUFFIXES.get(family, "$"), "", plain)
        if (family, plain) in self._in_family:
            return self._in_family[family, plain]
        if (family, plain) in self._misleading:
            return None
        concept = self._everywhere.get(plain, plain)
        return None if concept in self._excluded else concept


def _lines(file: str) -> list[str]:
    text = resources.files("anchorage_pipeline.datasets.icons").joinpath(file).read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]
