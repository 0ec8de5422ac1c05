"""Registry keys of mixvi beside scvi-tools' own."""

CONDITION_KEY = "condition"
SOFT_LABELS_KEY = "soft_labels"
COMPONENTS_KEY = "components"
CALLS_KEY = "calls"

PREDICTION_KEY = "mixvi_prediction"
"""``uns`` key of predicted cells: the model, the layer it reads and the scale of the values."""

UNLABELLED = -1
"""Label of a pixel that nobody annotated: it may be predicted and learn from pseudo-labels."""

VOID = -2
"""Label of a pixel that the annotator excludes: never a target and never evaluated."""
