"""The feed of row changes to the query servers."""
