"""The facts and words that the tasks are made of."""

# (country, capital, a well-known city of the same country that is not the capital)
CAPITALS = (
    ("France", "Paris", "Lyon"),
    ("Italy", "Rome", "Milan"),
    ("Spain", "Madrid", "Barcelona"),
    ("Germany", "Berlin", "Munich"),
    ("Poland", "Warsaw", "Krakow"),
    ("Greece", "Athens", "Patras"),
    ("Turkey", "Ankara", "Istanbul"),
    ("Egypt", "Cairo", "Alexandria"),
    ("Kenya", "Nairobi", "Mombasa"),
    ("India", "New Delhi", "Mumbai"),
    ("China", "Beijing", "Shanghai"),
    ("Japan", "Tokyo", "Osaka"),
    ("Australia", "Canberra", "Sydney"),
    ("Canada", "Ottawa", "Toronto"),
    ("Brazil", "Brasilia", "Sao Paulo"),
    ("Peru", "Lima", "Cusco"),
    ("Norway", "Oslo", "Bergen"),
    ("Sweden", "Stockholm", "Gothenburg"),
    ("Finland", "Helsinki", "Tampere"),
    ("Denmark", "Copenhagen", "Aarhus"),
    ("Ireland", "Dublin", "Cork"),
    ("Scotland", "Edinburgh", "Glasgow"),
    ("Hungary", "Budapest", "Szeged"),
    ("Pakistan", "Islamabad", "Karachi"),
)

# (word, its opposite, a word close to the opposite that is not it)
OPPOSITES = (
    ("hot", "cold", "cool"),
    ("big", "small", "short"),
    ("fast", "slow", "lazy"),
    ("happy", "sad", "angry"),
    ("light", "dark", "dim"),
    ("open", "closed", "ajar"),
    ("rich", "poor", "cheap"),
    ("strong", "weak", "soft"),
    ("wet", "dry", "damp"),
    ("loud", "quiet", "calm"),
    ("old", "young", "recent"),
    ("clean", "dirty", "dusty"),
    ("sharp", "blunt", "round"),
    ("thick", "thin", "slim"),
    ("day", "night", "evening"),
    ("win", "lose", "draw"),
    ("push", "pull", "lift"),
    ("north", "south", "west"),
    ("buy", "sell", "lend"),
    ("rise", "fall", "lean"),
    ("love", "hate", "dislike"),
    ("wide", "narrow", "tight"),
    ("brave", "cowardly", "shy"),
    ("awake", "asleep", "sleepy"),
)

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

# No word here has two equal letters side by side, or is one swap of neighbours away from its own reverse.
WORDS = (
    "banana", "tomato", "potato", "animal", "parade", "window", "guitar", "winter", "candle", "market",
    "garden", "river", "planet", "camera", "pirate", "volcano", "tornado", "dragon", "castle", "salad",
    "pencil", "monkey", "lemon", "rocket", "papaya", "cocoa", "elevator", "december", "onion", "pajama",
)  # fmt: skip
