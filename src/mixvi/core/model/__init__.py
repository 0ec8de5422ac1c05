"""The bases of modules and models, and the verbs that every room shares."""
