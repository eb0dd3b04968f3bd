"""Captions of all figures and tables of a report, in two sentences each.

docs/guide/reading-reports.md has the same sentences.
"""

CAPTIONS = {
    "explorer": (
        "Each chip is an edge: its colours are the operations' shares of the edge's importance, "
        "and its line is as thick as the edge's weight. Move the slider to another epoch; point "
        "at an edge, or reach it with the tab key, to see its course."
    ),
    "scores": (
        "Each line compares the cells with the backbone or a control, on the same patients: "
        "means of Dice, their difference with its bootstrap interval, and the p of a Wilcoxon "
        "signed-rank test, alone and adjusted after Holm over all comparisons of this report. "
        "False positives are classes predicted in cases that lack them, misses classes of which "
        "nothing is found; both are shown as backbone or control / cells. Not inferior means that "
        "the interval's lower end lies above \N{MINUS SIGN}{margin:g}, without more false "
        "positives or misses; epochs are those after the backbone's own training, cells / "
        "backbone or control."
    ),
    "controls": (
        "Each line compares a control with the backbone, as the table of comparisons does the "
        "cells; its p values are adjusted together with those. What a control gains by itself is "
        "no gain of the search."
    ),
    "comparisons": (
        "Each dot is the mean difference of Dice between the cells and the backbone or a control, "
        "the line its 95 % interval over patients. A mark is coloured where a difference is "
        "detected: the line lies wholly on one side of zero, and the adjusted p agrees."
    ),
    "source_and_target": (
        "Each line is a method that adapts a model: its Dice on the target and the difference from "
        "the model as it was, then its Dice on the model's own data set, the source, before and "
        "after. Forgetting is after minus before, with its bootstrap interval and the p of a "
        "Wilcoxon signed-rank test, adjusted over these lines; a retrofit of a frozen model "
        "forgets nothing with its cells off. Forward transfer is the target's Dice minus that of a "
        "stock trainer on the same cases without the model, where such a run exists; false "
        "positives and misses are before / after."
    ),
    "plane": (
        "Each mark is a method: right of zero it gains on the target, below zero it forgets, and "
        "the lines are 95 % intervals over patients. The hollow dot is the model as it was, and "
        "so are retrofits of a frozen model with their cells off."
    ),
    "cases": (
        "Each case has a hollow dot for the backbone and a filled mark for the network with "
        "cells: a blue triangle for a gain, an orange one upside down for a loss. Long lines of "
        "one colour show who gains; short lines of both mean that the cells change little."
    ),
    "importance": (
        "Each panel is an edge: the height of a colour is that operation's share of the edge's "
        "importance, a cross marks where it was pruned. Colours that keep their height from early "
        "on were decided early."
    ),
    "similarity": (
        "Each square compares the cells of two epochs: the cosine of their importances, and the "
        "share of equal entries of their one, two and three best operations per edge. Values near "
        "one between an early epoch and the last mean that the rest of the search changed little; "
        "at the end of the warm-up all operations are still alike, and their order is arbitrary."
    ),
    "convergence": (
        "The curve is the cosine between an epoch's importances and the last epoch's. Where it is "
        "close to one, the rest of the search changed little."
    ),
    "emergence": (
        "Each dot is an edge's final operation (or a node's final pair of edges) at the epoch "
        "after the warm-up in which it first was among the best three, two or one; the bar spans "
        "the quartiles. Dots far to the left mean that the result was reached long before the "
        "search ended."
    ),
    "emergence_lasting": (
        "As above, at the epoch since which the operation stayed among the best to the end. This "
        "is stricter, since an operation that was first once may be overtaken later."
    ),
    "emergence_table": (
        "The epochs behind the figures of emergence: that of the first appearance among the best "
        "three, two or one, and that since which it lasted. For a node they are those of its pair "
        "of edges."
    ),
    "difficulty": (
        "Each row is an edge, each dot a search, at the epoch after the warm-up in which the "
        "edge's final operation first came first. Edges at the top take longest to decide."
    ),
    "pruning": (
        "Above, the operations left in the cell after each epoch's pruning; below, the edges with "
        "one operation left. A full search prunes nothing and is flat until it ends."
    ),
    "entropy": (
        "Each line is the entropy of an edge's distribution over its operations, the thick one "
        "their mean. It starts at ln 7 (all alike) and is zero where one operation is left."
    ),
    "operations": (
        "The bars count how often each operation was chosen over all cells, the line is what "
        "equal chances would give. Cells of mostly identities and poolings are a known failure of "
        "such searches, called collapse."
    ),
    "agreement": (
        "Each square is the share of choices (above) or of kept edges (below) that two cells have "
        "in common. Compare it with the level of cells drawn at random, which is written above "
        "the squares: at that level folds and seeds agree by chance only."
    ),
    "overlays": (
        "The cases with the largest loss, the median change and the largest gain, each in its "
        "slice with the most foreground. Where yellow (truth) shows without blue (prediction), or "
        "blue without yellow, the two differ."
    ),
    "cost": (
        "Times are those of the epochs, validation included. The speed-up of the search is the "
        "time of the full search divided by that of the accelerated one, on the same fold; the "
        "speed-up of a whole run includes the finetuning. Training after the search is the "
        "finetuning, or the training of a control; parameters and multiply-accumulates are those "
        "of the final network, for one patch of the plans."
    ),
    "settings_chosen": (
        "The settings that differ from their default. Where runs differ, each value names its runs."
    ),
    "settings": (
        "All settings, defaults and presets filled in. They are those of the record of each run."
    ),
    "provenance": (
        "The hash covers all tensors of the backbone, buffers included, and was taken before and "
        "after the run. The commit is that of nnunet-iac, where it ran from a repository."
    ),
    "health": (
        "The events that were logged during the search. A dead edge does not learn, a collapse is "
        "a cell of mostly operations without parameters, a plateau a training loss that does not "
        "fall, a divergence one that rises, and non-finite a number that is not finite, which ends "
        "the run until it is resumed."
    ),
}
