"""The projector: follows the log, folds its events into rows, and tells the query servers."""
