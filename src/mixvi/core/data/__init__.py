"""From an AnnData to minibatches: registered fields, checks of them, matrices, files."""
