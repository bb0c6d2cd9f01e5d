namespace XlstmLab.Tasks.Ruler;

/// <summary>Keys of needles: an adjective, a hyphen and a noun.</summary>
internal static class RulerWords
{
    private static readonly string[] Adjectives =
    [
        "able", "amber", "ancient", "autumn", "bitter", "blue", "bold", "brave", "brief", "bright", "brisk", "broad", "calm",
        "careful", "clear", "clever", "cold", "cosy", "crisp", "curious", "damp", "dark", "deep", "dense", "distant", "dry",
        "eager", "early", "easy", "equal", "faint", "fair", "famous", "fast", "fine", "firm", "fond", "frank", "free", "fresh",
        "gentle", "glad", "golden", "grand", "green", "happy", "hardy", "hasty", "heavy", "hidden", "high", "hollow", "honest",
        "humble", "icy", "idle", "keen", "kind", "large", "late", "lazy", "level", "light", "lively", "lonely", "long", "loud",
        "loyal", "lucky", "mellow", "merry", "mild", "misty", "modest", "narrow", "neat", "noble", "northern", "odd", "open",
        "pale", "patient", "plain", "polite", "proud", "quick", "quiet", "rapid", "rare", "ready", "rich", "ripe", "rough",
        "round", "royal", "rusty", "sandy", "secret", "sharp", "shiny", "short", "shy", "silent", "silver", "simple", "sleepy",
        "slim", "slow", "small", "smooth", "soft", "solid", "southern", "steady", "steep", "still", "strong", "sunny", "sweet",
        "swift", "tall", "tame", "thick", "tidy", "tiny", "tough", "vast", "vivid", "warm", "weary", "western", "wide", "wild",
        "wise", "young",
    ];

    private static readonly string[] Nouns =
    [
        "acorn", "anchor", "apple", "arrow", "attic", "badger", "ballad", "banjo", "barley", "basket", "beacon", "beetle", "bell",
        "birch", "blanket", "boat", "bottle", "branch", "bread", "bridge", "brook", "bucket", "butter", "button", "cabin",
        "camel", "candle", "canyon", "carpet", "castle", "cedar", "chair", "cherry", "chimney", "circle", "clock", "cloud",
        "clover", "coast", "comet", "copper", "coral", "corner", "cottage", "cotton", "cradle", "crane", "cricket", "crown",
        "curtain", "daisy", "desert", "dolphin", "donkey", "door", "dragon", "drum", "eagle", "ember", "engine", "falcon",
        "feather", "fence", "ferry", "fiddle", "field", "finch", "flute", "forest", "fountain", "fox", "garden", "garlic",
        "ginger", "glacier", "glove", "goose", "grape", "gravel", "hammer", "harbour", "hazel", "hedge", "helmet", "heron",
        "hill", "honey", "horse", "island", "ivory", "jacket", "jasmine", "jigsaw", "kettle", "kitchen", "kite", "ladder", "lake",
        "lamp", "lantern", "lemon", "lily", "lizard", "lobster", "magnet", "mango", "maple", "marble", "market", "meadow",
        "mirror", "monkey", "moon", "mosaic", "mountain", "mushroom", "needle", "nest", "nettle", "oak", "ocean", "olive",
        "onion", "orchard", "otter", "oyster", "paddle", "palace", "parrot", "pebble", "pencil", "pepper", "piano", "pigeon",
        "pillow", "pine", "planet", "plum", "pocket", "pony", "poplar", "quartz", "rabbit", "raven", "ribbon", "river", "rocket",
        "saddle", "sail", "salmon", "scarf", "shadow", "shell", "shovel", "spade", "spider", "spoon", "squirrel", "stable",
        "star", "stone", "summit", "swan", "table", "tailor", "teapot", "temple", "thistle", "thunder", "ticket", "tiger",
        "timber", "tower", "train", "trumpet", "tulip", "tunnel", "turnip", "valley", "velvet", "village", "violin", "wagon",
        "walnut", "walrus", "window", "winter", "wolf", "wool", "yarn",
    ];

    /// <summary>The number of pairs.</summary>
    public static int PairCount => Adjectives.Length * Nouns.Length;

    /// <summary>A pair of that index; beyond the last one, another pair stands before it.</summary>
    public static string Key(int index)
    {
        var pair = index % PairCount;
        var key = $"{Adjectives[pair / Nouns.Length]}-{Nouns[pair % Nouns.Length]}";
        return index < PairCount ? key : $"{Key(index / PairCount)}-{key}";
    }
}
