"""Testing a domain without a server: deciders, folds, queries and processes, each from the events that came before."""

from diptych.testing.given import LOG_START, NOW, Decision, Given, GivenProcess, ask, fold, given, log_of, recorded

__all__ = ["LOG_START", "NOW", "Decision", "Given", "GivenProcess", "ask", "fold", "given", "log_of", "recorded"]
