namespace XlstmLab.Tasks;

/// <summary>The 15 formal-language tasks with the first paper's parameters.</summary>
public static class FormalTasks
{
    /// <summary>All of them, in the order of their names.</summary>
    public static IReadOnlyList<FormalTask> All { get; } =
    [
        new BucketSort(), new CycleNavigation(), new EvenPairs(), new Majority(), new MajorityCount(), new MissingDuplicate(),
        new ModularArithmetic(), new ModularArithmeticBrackets(), new OddsFirst(), new Parity(), new Repetition(), new ReverseString(),
        new SetTask(), new SolveEquation(), new StackManipulation(),
    ];
}
