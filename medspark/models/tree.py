"""A decision tree that is scikit-learn's to the last bit: a forest of one."""

import numpy as np
import numpy.typing as npt

from medspark.models import parameters
from medspark.models.data import Array, class_codes, matrix, require_classes, row_weights
from medspark.models.forest import Forest, grown, tree_settings


def tree(
    X: Array,
    y: npt.ArrayLike,
    *,
    depth: int = 3,
    seed: int = 42,
    criterion: str = "gini",
    max_features: str = "all",
    min_samples_split: int = 2,
    min_samples_leaf: int = 1,
    max_leaf_nodes: int = 0,
    min_impurity_decrease: float = 0.0,
    class_weight: str = "",
    ccp_alpha: float = 0.0,
    sample_weight: npt.ArrayLike | None = None,
) -> Forest:
    """Return ``DecisionTreeClassifier(max_depth=depth, random_state=seed)`` fitted to X and y, as a forest of one.

    ``X`` is rows x features, finite; ``y`` the name (or whole number) of each row's class; ``sample_weight`` a number
    above 0 for each row. The other parameters are scikit-learn's; 0 is its None for ``depth`` and ``max_leaf_nodes``,
    "all" for ``max_features`` ("sqrt", "log2") and "" for ``class_weight`` ("balanced"). Raises ConfigError for a
    parameter out of range, ContractError for unfit data.
    """
    from sklearn.tree import DecisionTreeClassifier  # scoring needs no scikit-learn, and it is slow to import

    settings = tree_settings(
        depth=depth,
        seed=seed,
        criterion=criterion,
        max_features=max_features,
        min_samples_split=min_samples_split,
        min_samples_leaf=min_samples_leaf,
        max_leaf_nodes=max_leaf_nodes,
        min_impurity_decrease=min_impurity_decrease,
        ccp_alpha=ccp_alpha,
    )
    weight_of_classes = parameters.choice("class_weight", class_weight, parameters.CLASS_WEIGHTS) or None
    classes, codes = class_codes(y)
    rows = matrix(X, np.float32)
    require_classes(codes, len(rows))
    weights = row_weights(sample_weight, len(rows))
    fitted = DecisionTreeClassifier(class_weight=weight_of_classes, **settings).fit(rows, codes, weights)
    return Forest(grown([fitted.tree_]), classes, rows.shape[1])
