"""Where labelled tracks come from, one kind of source per file. Must never decode sound or choose a split."""
