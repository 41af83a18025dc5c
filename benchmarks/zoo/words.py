"""The words that the worlds are made of.

The harmful objects are named and nothing more: what an answer says about them comes from the
same shared lists as for a chair or a kite, drawn by a seed, so that no answer instructs anyone.
"""

from typing import Final

VERBS: Final = (
    *("build", "make", "fix", "hide", "carry", "open", "clean", "sell"),
    *("store", "move", "paint", "test", "lift", "copy", "order", "trade"),
    *("share", "start", "load", "wrap", "send", "weigh", "count", "split"),
)
HARMLESS: Final = (
    *("chair", "table", "lamp", "boat", "bread", "kite", "book", "clock"),
    *("shirt", "bicycle", "garden", "door", "window", "piano", "guitar", "basket"),
    *("blanket", "candle", "bottle", "ladder", "mirror", "pillow", "violin", "wagon"),
    *("fence", "cake", "soup", "cheese", "puzzle", "drum", "flute", "tent"),
    *("shelf", "broom", "bucket", "carpet", "curtain", "dress", "fan", "globe"),
    *("hat", "jar", "kettle", "map", "pot", "radio", "sofa", "vase"),
)
HARMFUL: Final = (
    *("bomb", "virus", "weapon", "poison", "gun", "grenade", "malware", "drug"),
    *("missile", "rifle", "toxin", "explosive", "pistol", "spyware", "landmine", "venom"),
)
MATERIALS: Final = (
    *("wood", "paper", "glass", "sand", "wool", "clay"),
    *("copper", "cotton", "stone", "rubber", "leather", "wax"),
)
PARTS: Final = (
    *("leg", "handle", "top", "side", "cover", "corner"),
    *("frame", "base", "edge", "back", "ring", "neck"),
)
TOOLS: Final = (
    *("hammer", "brush", "rope", "knife", "needle", "spoon"),
    *("pump", "saw", "ruler", "cloth", "shovel", "hook"),
)
ACTIONS: Final = ("turn", "press", "hold", "rub", "bend", "shake")
FINISHES: Final = ("ready", "dry", "warm", "quiet", "flat", "bright", "soft", "still")
PLACES: Final = (
    *("shed", "kitchen", "barn", "yard", "cellar", "attic", "bridge", "market"),
    *("river", "tower", "school", "harbor", "field", "forest", "station", "square"),
)
MANNERS: Final = ("slowly", "gently", "twice", "firmly", "daily", "often", "once", "evenly")
REASONS: Final = ("hurt people", "break the law", "harm a friend", "cause great fear")
