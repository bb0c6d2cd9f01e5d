using System.Globalization;
using System.Net;
using System.Text;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace XlstmLab.Notebooks;

/// <summary>
/// Draws a figure of plotly's as SVG without a browser, for places where no scripts run: lines, markers, bars, heat maps and violins over
/// one horizontal and any number of vertical axes.
/// </summary>
internal sealed partial class ChartSvg
{
    private const int UsualWidth = 820;
    private const int Levels = 48;
    private const int ViolinSteps = 60;
    private const int MostPoints = 1200;

    private static readonly string[] Kinds = ["scatter", "scattergl", "bar", "heatmap", "violin"];
    private static readonly string[] ViridisStops =
        ["#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58", "#b5de2b", "#fde725"];

    private readonly StringBuilder _svg = new();
    private readonly JsonObject _layout;
    private readonly List<JsonObject> _traces;
    private readonly ChartAxis _x;
    private readonly Dictionary<string, ChartAxis> _vertical;
    private readonly string[] _colors;
    private readonly string _font;
    private readonly string _ink;
    private readonly double _size;
    private readonly double _width;
    private readonly double _height;
    private double _left;
    private double _right;
    private double _top;
    private double _bottom;

    private ChartSvg(JsonObject figure, IReadOnlyList<JsonObject> traces)
    {
        _layout = figure["layout"] as JsonObject ?? [];
        _traces = [.. traces.Where(trace => !ChartJson.IsFalse(trace["visible"]))];
        _width = Layout("width").AsNumber() ?? UsualWidth;
        _height = Layout("height").AsNumber() ?? ChartHtml.Style.Height;
        _font = (Layout("font") as JsonObject)?["family"].AsText() ?? ChartStyle.Default.FontFamily;
        _ink = (Layout("font") as JsonObject)?["color"].AsText() ?? "#24292f";
        _size = (Layout("font") as JsonObject)?["size"].AsNumber() ?? ChartStyle.Default.FontSize;
        _colors = Layout("colorway") is JsonArray colorway ? [.. colorway.Select(color => color.AsText() ?? _ink)]
            : [.. ChartStyle.Default.Colors];
        _x = new ChartAxis(Axis("xaxis"), true);
        _vertical = _traces.Select(Vertical).Distinct().ToDictionary(name => name, name => new ChartAxis(Axis(name), false));
    }

    /// <summary>Draws a figure.</summary>
    /// <param name="figure">What plotly takes: data and layout.</param>
    /// <returns>The drawing; null if the figure has traces of another kind, or none.</returns>
    public static string? Draw(JsonObject figure)
    {
        List<JsonObject> traces = [.. (figure["data"] as JsonArray ?? []).OfType<JsonObject>()];
        bool IsFlat(JsonObject trace) => Kinds.Contains(trace["type"].AsText() ?? "scatter") && (trace["xaxis"].AsText() ?? "x") == "x";
        return traces.Count > 0 && traces.TrueForAll(IsFlat) ? new ChartSvg(figure, traces).Draw() : null;
    }

    private string Draw()
    {
        foreach (var trace in _traces)
        {
            Extend(trace);
        }

        _x.Settle();
        foreach (var axis in _vertical.Values)
        {
            axis.Settle();
        }

        bool hasScale = _traces.Exists(trace => trace["type"].AsText() == "heatmap" && !ChartJson.IsFalse(trace["showscale"]));
        double labels = _vertical.Values.Max(axis => axis.Ticks.Select(tick => Wide(tick.Label, _size)).DefaultIfEmpty(0).Max());
        bool hasTitles = _vertical.Values.Any(axis => axis.Title.Length > 0);
        _left = Math.Clamp(labels + 16 + (hasTitles ? 22 : 0), 40, _width / 2);
        bool turned = _x.IsCrowded(_width - _left - 40, label => Wide(label, _size));
        _right = _width - (hasScale ? 110 : _traces.Exists(t => t["type"].AsText() == "bar") ? 70 : 24);
        string? title = ((Layout("title") as JsonObject)?["text"] ?? Layout("title")).AsText();
        _top = (title is null ? 14 : 44) + Legend(draws: false, 0);
        _bottom = _height - (_x.Title.Length > 0 ? 54 : 34)
            - (turned ? Math.Min(90, _x.Ticks.Select(tick => Wide(tick.Label, _size)).DefaultIfEmpty(0).Max() - 8) : 0);
        _x.Place(_left, _right);
        foreach (var axis in _vertical.Values)
        {
            double[] domain = axis.Spec["domain"] is JsonArray { Count: 2 } part ? [part[0].AsNumber() ?? 0, part[1].AsNumber() ?? 1]
                : [0, 1];
            axis.Place(_bottom - domain[0] * (_bottom - _top), _bottom - domain[1] * (_bottom - _top));
        }

        _svg.Append(CultureInfo.InvariantCulture,
            $"""<svg xmlns="http://www.w3.org/2000/svg" width="{_width:0}" height="{_height:0}" viewBox="0 0 {_width:0} {_height:0}" font-family="{Attribute(_font)}" font-size="{_size:0.#}" fill="{Attribute(_ink)}">""");
        _svg.Append("<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n");
        if (title is not null)
        {
            Write(title, _left, 26, "start", _size + 3);
        }

        Legend(draws: true, title is null ? 12 : 42);
        DrawAxes(turned);

        // A range may leave out a part of the traces, which plotly cuts off at the frame: so does an SVG in an SVG.
        bool cuts = _vertical.Values.Any(axis => axis.Spec["range"] is JsonArray);
        _svg.Append(
            cuts
                ? $"<svg y=\"{Px(_top)}\" width=\"{Px(_width)}\" height=\"{Px(_bottom - _top)}\" "
                    + $"viewBox=\"0 {Px(_top)} {Px(_width)} {Px(_bottom - _top)}\">\n"
                : "");
        foreach (var (index, trace) in _traces.Index())
        {
            DrawTrace(trace, index);
        }

        _svg.Append(cuts ? "</svg>\n" : "");
        DrawShapes();
        return _svg.Append("</svg>\n").ToString();
    }

    /// <summary>A property of the layout, or of its template.</summary>
    private JsonNode? Layout(string name) => _layout[name] ?? (_layout["template"] as JsonObject)?["layout"]?[name];

    private JsonObject Axis(string name)
    {
        JsonObject axis = (_layout["template"] as JsonObject)?["layout"]?[name[..5]] is JsonObject template
            ? template.DeepClone().AsObject() : [];
        foreach (var (key, value) in _layout[name] as JsonObject ?? [])
        {
            axis[key] = value?.DeepClone();
        }

        return axis;
    }

    private static string Vertical(JsonObject trace) => trace["yaxis"].AsText() is { Length: > 1 } name ? "yaxis" + name[1..] : "yaxis";

    private ChartAxis YOf(JsonObject trace) => _vertical[Vertical(trace)];

    private static bool IsHorizontal(JsonObject trace) => trace["orientation"].AsText() == "h";

    private void Extend(JsonObject trace)
    {
        var (x, y) = (_x, YOf(trace));
        string kind = trace["type"].AsText() ?? "scatter";
        if (kind == "heatmap")
        {
            int rows = (trace["z"] as JsonArray)?.Count ?? 0;
            x.TakeCells(trace["x"] as JsonArray, rows == 0 ? 0 : (trace["z"]![0] as JsonArray)?.Count ?? 0);
            y.TakeCells(trace["y"] as JsonArray, rows);
            return;
        }

        x.Take(trace["x"] as JsonArray, kind == "scatter" && trace["mode"].AsText() == "lines" ? 0 : 0.03);
        y.Take(trace["y"] as JsonArray, 0.05);
        if (kind == "bar")
        {
            (IsHorizontal(trace) ? x : y).TakeZero();
        }
    }

    private void DrawAxes(bool turned)
    {
        double bottom = _vertical.Values.Max(axis => Math.Max(axis.Start, axis.End));
        foreach (var (axis, isX) in _vertical.Values.Select(axis => (axis, false)).Prepend((_x, true)))
        {
            bool grid = !ChartJson.IsFalse(axis.Spec["showgrid"]) && !axis.IsCategory;
            foreach (var (value, label) in axis.Ticks)
            {
                double at = axis.Pixel(value);
                if (isX)
                {
                    foreach (var y in _vertical.Values.Where(_ => grid))
                    {
                        Line(at, y.Start, at, y.End, "#e5e8ec");
                    }

                    Line(at, bottom, at, bottom + 4, "#8a9099");
                    string turn = turned ? $" transform=\"rotate(-45 {Px(at)} {Px(bottom + 14)})\"" : "";
                    Write(label, at, bottom + (turned ? 14 : 18), turned ? "end" : "middle", TickSize(axis), turn);
                }
                else
                {
                    if (grid)
                    {
                        Line(_left, at, _right, at, "#e5e8ec");
                    }

                    Line(_left - 4, at, _left, at, "#8a9099");
                    Write(label, _left - 7, at + _size * 0.35, "end", TickSize(axis));
                }
            }
        }

        foreach (var axis in _vertical.Values)
        {
            Line(_left, axis.Start, _left, axis.End, "#8a9099");
            double middle = (axis.Start + axis.End) / 2;
            Write(axis.Title, 14, middle, "middle", _size + 1, $" transform=\"rotate(-90 14 {Px(middle)})\"");
        }

        Line(_left, bottom, _right, bottom, "#8a9099");
        Write(_x.Title, (_left + _right) / 2, _height - 10, "middle", _size + 1);
    }

    private double TickSize(ChartAxis axis) => (axis.Spec["tickfont"] as JsonObject)?["size"].AsNumber() ?? _size;

    private void DrawTrace(JsonObject trace, int index)
    {
        switch (trace["type"].AsText() ?? "scatter")
        {
            case "bar":
                DrawBars(trace, index);
                break;
            case "heatmap":
                DrawCells(trace);
                break;
            case "violin":
                DrawViolins(trace, index);
                break;
            default:
                DrawPoints(trace, index);
                break;
        }
    }

    private string Color(JsonObject trace, int index) =>
        (trace["line"] as JsonObject)?["color"].AsText()
            ?? (trace["marker"] as JsonObject)?["color"].AsText() ?? _colors[index % _colors.Length];

    private void DrawPoints(JsonObject trace, int index)
    {
        var y = YOf(trace);
        string mode = trace["mode"].AsText() ?? "lines";
        string color = Color(trace, index);
        var line = trace["line"] as JsonObject;
        List<(double X, double Y)?> points = [];
        var (xs, ys) = (trace["x"] as JsonArray, trace["y"] as JsonArray);
        for (int i = 0; i < (ys?.Count ?? 0); i++)
        {
            var (px, py) = (_x.Pixel(xs is null ? i : _x.Value(xs[i])), y.Pixel(y.Value(ys![i])));
            points.Add(double.IsFinite(px) && double.IsFinite(py) ? (px, py) : null);
        }

        if (mode.Contains("lines", StringComparison.Ordinal))
        {
            var fill = trace["fill"].AsText() is "tozeroy" or "tonexty" ? trace["fillcolor"].AsText() ?? color : null;
            string path = Path(points);
            if (fill is not null && points.Exists(p => p is not null))
            {
                double zero = Math.Clamp(y.Pixel(0), Math.Min(y.Start, y.End), Math.Max(y.Start, y.End));
                _svg.Append(
                    $"<path d=\"{path}L{Px(points.FindLast(p => p is not null)!.Value.X)} "
                    + $"{Px(zero)}L{Px(points.Find(p => p is not null)!.Value.X)} {Px(zero)}Z\" fill=\"{Attribute(fill)}\" "
                    + "fill-opacity=\".3\"/>\n");
            }

            if (trace["fill"].AsText() == "toself" && points.Count > 2)
            {
                // A band: its colour says how much shows through.
                _svg.Append($"<path d=\"{path}Z\" fill=\"{Attribute(trace["fillcolor"].AsText() ?? color)}\"/>\n");
                if (line?["width"].AsNumber() is 0)
                {
                    return;
                }
            }

            string dash = line?["dash"].AsText() switch
            {
                "dot" => " stroke-dasharray=\"2 4\"",
                "dash" => " stroke-dasharray=\"8 5\"",
                "dashdot" => " stroke-dasharray=\"8 4 2 4\"",
                _ => "",
            };
            _svg.Append(
                $"<path d=\"{path}\" fill=\"none\" stroke=\"{Attribute(color)}\" stroke-width=\"{Px(line?["width"].AsNumber() ?? 2)}\" "
                + $"stroke-linejoin=\"round\"{dash}/>\n");
        }

        if (mode.Contains("markers", StringComparison.Ordinal))
        {
            var marker = trace["marker"] as JsonObject;
            var rim = marker?["line"] as JsonObject;
            string rims = rim?["width"].AsNumber() is > 0 and var width
                ? $" stroke=\"{Attribute(rim["color"].AsText() ?? color)}\" stroke-width=\"{Px(width)}\"" : "";
            _svg.Append($"<g fill=\"{Attribute(marker?["color"].AsText() ?? color)}\"{rims}>");
            foreach (var point in points.OfType<(double X, double Y)>())
            {
                _svg.Append($"<circle cx=\"{Px(point.X)}\" cy=\"{Px(point.Y)}\" r=\"{Px((marker?["size"].AsNumber() ?? 6) / 2)}\"/>");
            }

            _svg.Append("</g>\n");
        }

        if (mode.Contains("text", StringComparison.Ordinal) && trace["text"] is JsonArray texts)
        {
            foreach (var (i, point) in points.Index())
            {
                if (point is { } at && i < texts.Count)
                {
                    Write(texts[i].AsText() ?? "", at.X + 8, at.Y + _size * 0.35, "start", _size - 2);
                }
            }
        }
    }

    /// <summary>A line with gaps where there is no point; of a line with very many, the extremes in their order.</summary>
    private static string Path(List<(double X, double Y)?> points)
    {
        int group = Math.Max(1, points.Count / MostPoints * 2);
        StringBuilder path = new();
        bool isUp = true;
        foreach (var chunk in points.Chunk(group))
        {
            var shown = group == 1 || chunk.Contains(null) ? chunk
                : chunk.Index().Where(p => p.Item == chunk.MinBy(q => q!.Value.Y) || p.Item == chunk.MaxBy(q => q!.Value.Y))
                    .Select(p => p.Item);
            foreach (var point in shown)
            {
                if (point is { } at)
                {
                    path.Append(isUp ? 'M' : 'L').Append(Px(at.X)).Append(' ').Append(Px(at.Y));
                }

                isUp = point is null;
            }
        }

        return path.ToString();
    }

    private void DrawBars(JsonObject trace, int index)
    {
        bool isFlat = IsHorizontal(trace);
        var (along, across) = isFlat ? (_x, YOf(trace)) : (YOf(trace), _x);
        var (lengths, places) = isFlat ? (trace["x"] as JsonArray, trace["y"] as JsonArray)
            : (trace["y"] as JsonArray, trace["x"] as JsonArray);
        List<JsonObject> bars = [.. _traces.Where(t => t["type"].AsText() == "bar")];
        double step = across.Step;
        double width = step * 0.8 / Math.Max(1, bars.Count);
        double offset = (bars.IndexOf(trace) - (bars.Count - 1) / 2.0) * width;
        var colors = (trace["marker"] as JsonObject)?["color"] as JsonArray;
        for (int i = 0; i < (lengths?.Count ?? 0); i++)
        {
            double from = along.Pixel(0), to = along.Pixel(along.Value(lengths![i]));
            double at = across.Pixel(places is null ? i : across.Value(places[i])) + offset;
            if (!double.IsFinite(to) || !double.IsFinite(at))
            {
                continue;
            }

            string color = Attribute((colors is not null && i < colors.Count ? colors[i].AsText() : null) ?? Color(trace, index));
            string text = (trace["text"] as JsonArray)?.ElementAtOrDefault(i).AsText() ?? "";
            if (isFlat)
            {
                _svg.Append(
                    $"<rect x=\"{Px(Math.Min(from, to))}\" y=\"{Px(at - width / 2)}\" width=\"{Px(Math.Abs(to - from))}\" "
                    + $"height=\"{Px(width)}\" fill=\"{color}\"/>");
                Write(text, to + 5, at + _size * 0.35, "start", _size);
            }
            else
            {
                _svg.Append(
                    $"<rect x=\"{Px(at - width / 2)}\" y=\"{Px(Math.Min(from, to))}\" width=\"{Px(width)}\" "
                    + $"height=\"{Px(Math.Abs(to - from))}\" fill=\"{color}\"/>");
                Write(text, at, to - 5, "middle", _size);
            }
        }

        _svg.Append('\n');
    }

    private void DrawCells(JsonObject trace)
    {
        var y = YOf(trace);
        double[][] z = [.. (trace["z"] as JsonArray ?? []).Select(
            row => ((row as JsonArray) ?? []).Select(value => value.AsNumber() ?? double.NaN).ToArray())];
        var finite = z.SelectMany(row => row).Where(double.IsFinite).DefaultIfEmpty(0).ToArray();
        double low = trace["zmin"].AsNumber() ?? finite.Min(), high = trace["zmax"].AsNumber() ?? finite.Max();
        string[] scale = Scale(trace);
        double gap = trace["xgap"].AsNumber() ?? 0;

        // One path a colour: a rectangle a cell takes five times the room.
        StringBuilder[] paths = [.. Enumerable.Range(0, Levels).Select(_ => new StringBuilder())];
        for (int row = 0; row < z.Length; row++)
        {
            for (int column = 0; column < z[row].Length; column++)
            {
                if (!double.IsFinite(z[row][column]))
                {
                    continue;
                }

                int level = high > low ? (int)Math.Clamp((z[row][column] - low) / (high - low) * Levels, 0, Levels - 1) : 0;
                double x0 = _x.Edge(trace["x"] as JsonArray, column), x1 = _x.Edge(trace["x"] as JsonArray, column + 1);
                double y0 = y.Edge(trace["y"] as JsonArray, row), y1 = y.Edge(trace["y"] as JsonArray, row + 1);
                var (left, right) = (Math.Round(Math.Min(x0, x1)), Math.Round(Math.Max(x0, x1) - gap));
                var (top, bottom) = (Math.Round(Math.Min(y0, y1)), Math.Round(Math.Max(y0, y1) - gap));
                paths[level].Append(CultureInfo.InvariantCulture, $"M{left} {top}h{right - left}v{bottom - top}h{left - right}z");
            }
        }

        foreach (var (level, path) in paths.Index().Where(p => p.Item.Length > 0))
        {
            _svg.Append($"<path d=\"{path}\" fill=\"{scale[level]}\"/>\n");
        }

        WriteCells(trace, z, low, high);
        if (!ChartJson.IsFalse(trace["showscale"]))
        {
            DrawScale(trace, scale, low, high);
        }
    }

    private void WriteCells(JsonObject trace, double[][] z, double low, double high)
    {
        if (trace["texttemplate"] is null || trace["text"] is not JsonArray texts)
        {
            return;
        }

        var y = YOf(trace);
        double size = (trace["textfont"] as JsonObject)?["size"].AsNumber() ?? _size;
        for (int row = 0; row < z.Length; row++)
        {
            for (int column = 0; column < z[row].Length; column++)
            {
                double share = high > low ? (z[row][column] - low) / (high - low) : 0;
                bool onDark = trace["colorscale"] is JsonArray ? Math.Abs(share - 0.5) > 0.35 : share < 0.55;
                double x = (_x.Edge(trace["x"] as JsonArray, column) + _x.Edge(trace["x"] as JsonArray, column + 1)) / 2;
                double at = (y.Edge(trace["y"] as JsonArray, row) + y.Edge(trace["y"] as JsonArray, row + 1)) / 2;
                string text = (texts.ElementAtOrDefault(row) as JsonArray)?.ElementAtOrDefault(column).AsText() ?? "";
                Write(text, x, at + size * 0.35, "middle", size, onDark ? " fill=\"#fff\"" : "");
            }
        }
    }

    private void DrawScale(JsonObject trace, string[] scale, double low, double high)
    {
        double at = _right + 14, height = (_bottom - _top) / Levels;
        for (int level = 0; level < Levels; level++)
        {
            _svg.Append(
                $"<rect x=\"{Px(at)}\" y=\"{Px(_bottom - (level + 1) * height)}\" width=\"13\" height=\"{Px(height + 0.5)}\" "
                + $"fill=\"{scale[level]}\"/>");
        }

        var bar = trace["colorbar"] as JsonObject;
        foreach (var (value, label) in ChartAxis.Labels(bar ?? [], low, high, Math.Max(2, (int)((_bottom - _top) / 60))))
        {
            if (high > low)
            {
                Write(label, at + 18, _bottom - (value - low) / (high - low) * (_bottom - _top) + _size * 0.35, "start", _size - 1);
            }
        }

        string title = (bar?["title"] as JsonObject)?["text"].AsText() ?? "";
        double middle = (_top + _bottom) / 2;
        Write(title, _width - 8, middle, "middle", _size, $" transform=\"rotate(90 {Px(_width - 12)} {Px(middle)})\"");
    }

    /// <summary>The colours of as many levels.</summary>
    private static string[] Scale(JsonObject trace)
    {
        (double At, string Color)[] stops = trace["colorscale"] is JsonArray own
            ? [.. own.OfType<JsonArray>().Select(stop => (stop[0].AsNumber() ?? 0, stop[1].AsText() ?? "#000"))]
            : [.. ViridisStops.Select((color, i) => (i / (ViridisStops.Length - 1.0), color))];
        return [.. Enumerable.Range(0, Levels).Select(level => Between(stops, level / (Levels - 1.0)))];
    }

    /// <summary>The colour of a share of the usual scale, from dark to bright.</summary>
    public static string Viridis(double share) => Between(
        [.. ViridisStops.Select((color, i) => (i / (ViridisStops.Length - 1.0), color))], share);

    private static string Between((double At, string Color)[] stops, double share)
    {
        int above = Math.Clamp(Array.FindIndex(stops, stop => stop.At >= share), 1, stops.Length - 1);
        var (from, to) = (stops[above - 1], stops[above]);
        double between = to.At > from.At ? (share - from.At) / (to.At - from.At) : 0;
        var (a, b) = (Rgb(from.Color), Rgb(to.Color));
        return "#" + string.Concat(
            a.Zip(b, (p, q) => ((int)Math.Round(p + (q - p) * between)).ToString("x2", CultureInfo.InvariantCulture)));
    }

    private static int[] Rgb(string color) => color.StartsWith('#') && color.Length == 7
        ? [.. Enumerable.Range(0, 3).Select(
            i => int.Parse(color.AsSpan(1 + 2 * i, 2), NumberStyles.HexNumber, CultureInfo.InvariantCulture))]
        : Numbers().Matches(color) is { Count: >= 3 } parts
            ? [.. parts.Take(3).Select(part => (int)double.Parse(part.Value, CultureInfo.InvariantCulture))] : [0, 0, 0];

    private void DrawViolins(JsonObject trace, int index)
    {
        var y = YOf(trace);
        var (xs, ys) = (trace["x"] as JsonArray, trace["y"] as JsonArray);
        if (ys is null)
        {
            return;
        }

        List<JsonObject> violins = [.. _traces.Where(t => t["type"].AsText() == "violin")];
        bool isGrouped = xs is not null && Layout("violinmode").AsText() == "group";
        double width = _x.Step * 0.85 / (isGrouped ? violins.Count : 1);
        double offset = isGrouped ? (violins.IndexOf(trace) - (violins.Count - 1) / 2.0) * width : 0;
        string color = Color(trace, index);
        var groups = ys.Select((value, i) => (X: xs is null ? index : _x.Value(xs[i]), Y: value.AsNumber() ?? double.NaN))
            .Where(p => double.IsFinite(p.Y)).GroupBy(p => p.X);
        foreach (var group in groups)
        {
            double[] values = [.. group.Select(p => p.Y).Order()];
            double middle = _x.Pixel(group.Key) + offset, low = values[0], high = values[^1];
            double mean = values.Average();
            double deviation = Math.Sqrt(values.Sum(v => (v - mean) * (v - mean)) / values.Length);
            double bandwidth = Math.Max(1.06 * deviation * Math.Pow(values.Length, -0.2), 1e-9 + (high - low) / 200);
            double[] levels = [.. Enumerable.Range(0, ViolinSteps + 1).Select(i => low + (high - low) * i / ViolinSteps)];
            double[] density = [.. levels.Select(level => values.Sum(v => Math.Exp(-0.5 * Math.Pow((level - v) / bandwidth, 2))))];
            double most = density.Max();
            var outline = levels.Zip(density, (level, d) => (Y: y.Pixel(level), Half: width / 2 * 0.95 * d / most)).ToList();
            string path = string.Concat(outline.Select((p, i) => $"{(i == 0 ? 'M' : 'L')}{Px(middle + p.Half)} {Px(p.Y)}"))
                + string.Concat(outline.AsEnumerable().Reverse().Select(p => $"L{Px(middle - p.Half)} {Px(p.Y)}"));
            _svg.Append($"<path d=\"{path}Z\" fill=\"{Attribute(trace["fillcolor"].AsText() ?? color)}\" stroke=\"{Attribute(color)}\"/>");
            double Quantile(double q) => y.Pixel(values[(int)Math.Round(q * (values.Length - 1))]);
            double box = width * 0.12;
            _svg.Append(
                $"<rect x=\"{Px(middle - box)}\" y=\"{Px(Quantile(0.75))}\" width=\"{Px(2 * box)}\" "
                + $"height=\"{Px(Quantile(0.25) - Quantile(0.75))}\" fill=\"none\" stroke=\"{Attribute(color)}\"/>");
            Line(middle - box, Quantile(0.5), middle + box, Quantile(0.5), color);
        }
    }

    private void DrawShapes()
    {
        foreach (var shape in (Layout("shapes") as JsonArray ?? []).OfType<JsonObject>().Where(shape => shape["type"].AsText() == "line"))
        {
            var line = shape["line"] as JsonObject;
            var (x0, y0, x1, y1) = (X(shape, "x0"), Y(shape, "y0"), X(shape, "x1"), Y(shape, "y1"));
            if (!double.IsFinite(x0 + y0 + x1 + y1))
            {
                continue;
            }

            _svg.Append(
                $"<path d=\"M{Px(x0)} {Px(y0)}L{Px(x1)} {Px(y1)}\" stroke=\"{Attribute(line?["color"].AsText() ?? _ink)}\" "
                + $"stroke-width=\"{Px(line?["width"].AsNumber() ?? 2)}\"{(line?["dash"] is null ? "" : " stroke-dasharray=\"2 4\"")}/>\n");
        }

        foreach (var note in (Layout("annotations") as JsonArray ?? []).OfType<JsonObject>())
        {
            string anchor = note["xanchor"].AsText() switch { "left" => "start", "right" => "end", _ => "middle" };
            double down = note["yanchor"].AsText() switch { "top" => _size, "bottom" => -3, _ => _size * 0.35 };
            double x = note["xref"].AsText() == "paper" ? X(note, "x") : _x.PixelOfRange(note["x"].AsNumber() ?? 0);
            double y = note["yref"].AsText() == "paper" ? Y(note, "y") : _vertical.Values.First().PixelOfRange(note["y"].AsNumber() ?? 0);
            Write(note["text"].AsText() ?? "", x, y + down, anchor, (note["font"] as JsonObject)?["size"].AsNumber() ?? _size);
        }

        double X(JsonObject of, string key) =>
            of["xref"].AsText() == "paper" ? _left + (of[key].AsNumber() ?? 0) * (_right - _left) : _x.Pixel(_x.Value(of[key]));
        double Y(JsonObject of, string key) =>
            of["yref"].AsText() == "paper" ? _bottom - (of[key].AsNumber() ?? 0) * (_bottom - _top) : _vertical.Values.First().Pixel(
                _vertical.Values.First().Value(of[key]));
    }

    /// <summary>Names the traces above the chart.</summary>
    /// <returns>The height that it takes.</returns>
    private double Legend(bool draws, double top)
    {
        var named = _traces.Index().Where(t => t.Item["name"].AsText() is { Length: > 0 } && !ChartJson.IsFalse(t.Item["showlegend"])
            && t.Item["type"].AsText() != "heatmap").ToList();
        if (ChartJson.IsFalse(Layout("showlegend")) || (named.Count < 2 && !named.Exists(t => t.Item["showlegend"] is not null)))
        {
            return 0;
        }

        double line = _size + 7, x = _left, y = top + 6;
        foreach (var (index, trace) in named)
        {
            string name = trace["name"].AsText()!;
            double wide = 34 + Wide(name, _size - 1);
            if (x > _left && x + wide > _width - 10)
            {
                (x, y) = (_left, y + line);
            }

            if (draws)
            {
                string color = Attribute(Color(trace, index));
                string dash = (trace["line"] as JsonObject)?["dash"].AsText() is "dash" or "dot" ? " stroke-dasharray=\"4 3\"" : "";
                _svg.Append($"<path d=\"M{Px(x)} {Px(y)}h20\" stroke=\"{color}\" stroke-width=\"3\"{dash}/>");
                Write(name, x + 25, y + _size * 0.35, "start", _size - 1);
            }

            x += wide + 8;
        }

        return y - top + line;
    }

    private void Line(double x0, double y0, double x1, double y1, string color) =>
        _svg.Append($"<path d=\"M{Px(x0)} {Px(y0)}L{Px(x1)} {Px(y1)}\" stroke=\"{Attribute(color)}\"/>");

    /// <summary>Text with the raised parts that plotly's labels may have; other marks are left out.</summary>
    private void Write(string text, double x, double y, string anchor, double size, string more = "")
    {
        if (text.Length == 0 || !double.IsFinite(x + y))
        {
            return;
        }

        string raised = Raised().Replace(text, "\u0001$1\u0002").Replace("<br>", " ", StringComparison.Ordinal);
        string plain = WebUtility.HtmlEncode(WebUtility.HtmlDecode(Tag().Replace(raised, "")));
        string marked = plain.Replace("\u0001", "<tspan dy=\"-.4em\" font-size=\"75%\">", StringComparison.Ordinal).Replace(
            "\u0002", "</tspan>", StringComparison.Ordinal);
        string sized = Math.Abs(size - _size) < 0.01 ? "" : $" font-size=\"{Px(size)}\"";
        _svg.Append($"<text x=\"{Px(x)}\" y=\"{Px(y)}\" text-anchor=\"{anchor}\"{sized}{more}>{marked}</text>\n");
    }

    /// <summary>About how wide a text is.</summary>
    private static double Wide(string text, double size) => Tag().Replace(text, "").Length * size * 0.57;

    private static string Attribute(string text) => WebUtility.HtmlEncode(text);

    private static string Px(double value) => Math.Round(value, 1).ToString(CultureInfo.InvariantCulture);

    [GeneratedRegex("<sup>(.*?)</sup>")]
    private static partial Regex Raised();

    [GeneratedRegex("<[^>]*>")]
    private static partial Regex Tag();

    [GeneratedRegex(@"[\d.]+")]
    private static partial Regex Numbers();
}

/// <summary>Reads what a figure may or may not say.</summary>
internal static class ChartJson
{
    public static string? AsText(this JsonNode? node) => MultilineText.IsString(node) ? node!.GetValue<string>() : null;

    public static double? AsNumber(this JsonNode? node) => node is JsonValue value && value.TryGetValue(out double number) ? number : null;

    public static bool IsFalse(JsonNode? node) => node is JsonValue value && value.TryGetValue(out bool flag) && !flag;
}
