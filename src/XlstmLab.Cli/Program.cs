using System.Diagnostics;

var watch = Stopwatch.StartNew();
Console.WriteLine(XlstmLab.Native.NativeTorch.Folder);
Console.WriteLine(watch.ElapsedMilliseconds);
Console.WriteLine(TorchSharp.torch.ones(2, 3).sum().item<float>());
