using System.CommandLine;
using XlstmLab.Text;

namespace XlstmLab.Cli;

/// <summary>The options by which commands name text and its tokens, and what they mean.</summary>
internal static class TextOptions
{
    /// <summary>The name of the tokenizer that is no file.</summary>
    public const string Bytes = "bytes";

    /// <summary>The option for a tokenizer; without it, commands choose.</summary>
    public static Option<string?> TokenizerOption(string without) => new("--tokenizer")
    {
        Description = $"'{Bytes}', or a byte-level BPE tokenizer.json or its folder. {without}",
        HelpName = "bytes|PATH",
    };

    /// <summary>The option for the token that opens documents.</summary>
    public static Option<string?> EndOfDocumentOption() => new("--end-of-document")
    {
        Description = $"The token of a tokenizer.json that opens documents. Default: <|endoftext|>.",
        HelpName = "TOKEN",
    };

    /// <summary>The option for a part of a corpus.</summary>
    public static Option<string> SplitOption(string usual) =>
        new Option<string>("--split") { Description = "The part of the text.", DefaultValueFactory = _ => usual }
            .OneOf("train", "validation", "test");

    /// <summary>The option for the field of JSON lines and the column of Parquet files.</summary>
    public static Option<string> TextFieldOption() => new("--text-field")
    {
        Description = "The field of a JSON line, or the column of a Parquet file, that holds the text.",
        DefaultValueFactory = _ => "text",
        HelpName = "NAME",
    };

    /// <summary>The part of that name.</summary>
    public static Split Split(string name) => Enum.Parse<Split>(name, ignoreCase: true);

    /// <summary>The text that --data names.</summary>
    /// <exception cref="UsageException">It is a mixture with a part that is none.</exception>
    public static TextSource Named(Func<TextSource> open)
    {
        try
        {
            return open();
        }
        catch (ArgumentException e)
        {
            throw new UsageException($"--data: {e.Message}");
        }
    }

    /// <summary>The tokenizer of that name.</summary>
    /// <exception cref="FileNotFoundException">There is no such file.</exception>
    public static ITokenizer Tokenizer(string name, string? endOfDocument)
    {
        if (name == Bytes)
        {
            return new ByteTokenizer();
        }

        var path = TokenizerFile(name);
        if (!File.Exists(path))
        {
            throw new FileNotFoundException($"There is no tokenizer file '{path}'.{NearestName.Hint(name, [Bytes])}", path);
        }

        return endOfDocument is null ? BpeTokenizer.Load(path) : BpeTokenizer.Load(path, endOfDocument);
    }

    /// <summary>The file of a tokenizer that was named by its path or its folder.</summary>
    public static string TokenizerFile(string name) => Directory.Exists(name) ? Path.Combine(name, "tokenizer.json") : name;
}
