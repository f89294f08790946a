"""The query server: answers, at least as fresh as asked."""
