"""The closed world that the small model knows: its people, things, places and words."""

from __future__ import annotations

GIRLS = [
    "Mia",
    "Anna",
    "Lily",
    "Zoe",
    "Emma",
    "Nora",
    "Ruby",
    "Ella",
    "Clara",
    "Ivy",
    "Rosa",
    "Tina",
]
BOYS = ["Tom", "Ben", "Sam", "Max", "Leo", "Jack", "Oscar", "Finn", "Hugo", "Paul", "Omar", "Nick"]
NAMES = GIRLS + BOYS

COLOURS = ["red", "blue", "green", "yellow", "orange", "purple", "pink", "brown", "black", "white"]
SIZES = ["small", "big", "tiny", "old", "new", "shiny", "heavy", "soft"]
THINGS = [
    "ball", "key", "book", "cup", "hat", "box", "kite", "lamp", "coin", "drum", "boat", "bell",
    "shoe", "ring", "map", "pen", "toy", "clock", "spoon", "basket", "rope", "stone", "coat", "car",
]  # fmt: skip
ANIMALS = [
    "dog",
    "cat",
    "bird",
    "fish",
    "horse",
    "cow",
    "duck",
    "frog",
    "fox",
    "bear",
    "mouse",
    "owl",
]
FOODS = ["apple", "bread", "cake", "soup", "pear", "cheese", "rice", "egg", "plum", "carrot"]
DRINKS = ["water", "milk", "tea", "juice"]
ROOMS = ["kitchen", "garden", "attic", "garage", "bedroom", "cellar", "hall", "barn"]
TOWN = ["park", "school", "library", "market", "station", "harbour", "museum", "bakery"]
NATURE = ["forest", "river", "lake", "hill", "beach", "cave", "field", "island"]
PLACES = ROOMS + TOWN + NATURE
CITIES = ["Paris", "Rome", "Oslo", "Berlin", "Madrid", "Lima", "Tokyo", "Cairo", "Delhi", "Boston"]
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
]  # fmt: skip
WEATHER = ["sunny", "rainy", "cloudy", "windy", "snowy", "foggy"]
JOBS = ["teacher", "baker", "doctor", "farmer", "sailor", "painter", "driver", "singer"]
NUMBER_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
]


def pronoun(name: str) -> str:
    """He or she."""
    return "she" if name in GIRLS else "he"


def possessive(name: str) -> str:
    """His or her."""
    return "her" if name in GIRLS else "his"


def a(noun: str) -> str:
    """A noun phrase with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


# Words of the text generators.
PETS = [
    "Pip", "Bo", "Coco", "Rex", "Luna", "Momo", "Lulu", "Toby", "Kiki", "Spot", "Teddy", "Daisy",
]  # fmt: skip
SOUNDS = {
    "cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "bird": "tweet", "horse": "neigh",
    "mouse": "squeak", "owl": "hoot", "frog": "croak", "bear": "growl",
}  # fmt: skip
OPPOSITES = [
    ("big", "small"), ("hot", "cold"), ("old", "new"), ("happy", "sad"), ("fast", "slow"),
    ("day", "night"), ("up", "down"), ("wet", "dry"), ("open", "closed"), ("long", "short"),
    ("good", "bad"), ("heavy", "light"), ("black", "white"), ("full", "empty"), ("left", "right"),
]  # fmt: skip
