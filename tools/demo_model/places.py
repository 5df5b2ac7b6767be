"""Cities (English, Chinese, Japanese) and their IANA zones."""

from phrases import WORDINGS

CITIES = []  # (zone, {"en": name, "zh": name, "ja": name})
for _line in (WORDINGS / "places.txt").read_text().splitlines():
    _zone, *_names = _line.split("|")
    for _name in _names:
        CITIES.append((_zone, dict(zip(("en", "zh", "ja"), _name.split(","), strict=True))))
ZONES = sorted({zone for zone, _ in CITIES})


def city(rng, lang):
    """(zone, name in `lang`); Tokyo comes up more often than the rest."""
    zone, names = CITIES[0] if rng.random() < 0.05 else rng.choice(CITIES)
    return zone, names[lang]
