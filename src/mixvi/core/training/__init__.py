"""One run of training: the plan, the settings of ``train``, checkpoints, threads."""
