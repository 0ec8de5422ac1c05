"""Classes of variable stars and strange ones among them, from light curves of irregular times."""
